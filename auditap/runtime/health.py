"""The health routes that every process serves: `/healthz`, `/readyz`, `/metrics`."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp

from auditap.runtime.http_limits import HttpLimits
from auditap.runtime.http_server import HttpServer, bind_tcp_socket
from auditap.settings import Address
from schemas.metric_defs import Metrics

Readiness = Mapping[str, Callable[[], Awaitable[bool]]]
"""Of each dependency, by name, a check of whether it can be used."""
Degraded = Callable[[], Sequence[str]]


# Longer than a dependency that works takes on a busy host, and short enough for who asks.
_CHECK_MS_MAX = 2_000


@dataclass(frozen=True, slots=True)
class HealthStatus:
    """Of each dependency, by name, whether it can be used; and what the process does without for now."""

    parts: Mapping[str, bool]
    degraded: Sequence[str] = ()

    @property
    def is_ready(self) -> bool:
        """Whether every dependency can be used."""
        return all(self.parts.values())


class HealthSource(Protocol):
    """What `/readyz` and `/metrics` show."""

    async def status(self) -> HealthStatus:
        """Return what can be used now, within seconds whatever hangs."""
        ...

    async def exposition(self) -> bytes:
        """Return the metrics as they are after this call, in Prometheus' text format; nothing where they cannot be known."""
        ...


class Exposition:
    """The metrics as text, made once for all who ask at the same time: it takes milliseconds of the event loop."""

    def __init__(self, make: Callable[[], Awaitable[bytes]]) -> None:
        self._make_text = make
        self._next: asyncio.Task[bytes] | None = None
        self._latest: asyncio.Task[bytes] | None = None

    async def text(self) -> bytes:
        """Return the metrics as they are after this call."""
        if self._next is None:
            self._next = asyncio.create_task(self._make(self._latest))
        return await asyncio.shield(self._next)

    async def _make(self, before: asyncio.Task[bytes] | None) -> bytes:
        # Whoever asks in the same turn of the loop, or while the one before is made, joins first.
        await asyncio.sleep(0)
        if before is not None:
            await asyncio.wait([before])
        self._latest, self._next = self._next, None
        return await self._make_text()


class _Check:
    """A check of one dependency, made once for all who ask at the same time: each takes a connection."""

    def __init__(self, check: Callable[[], Awaitable[bool]]) -> None:
        self._check = check
        self._checking: asyncio.Future[bool] | None = None

    async def passes(self) -> bool:
        """Return whether the dependency can be used; False where that is not known within `_CHECK_MS_MAX`."""
        if self._checking is None or self._checking.done():
            self._checking = asyncio.ensure_future(self._check())
        checking = self._checking
        # Left running: what is stuck is found stuck by the next who asks, at no further cost.
        done, _ = await asyncio.wait([checking], timeout=_CHECK_MS_MAX / 1000)
        return bool(done) and checking.result()


class OwnHealth:
    """The health of this process: its checks, and the metrics of its registry."""

    def __init__(self, metrics: Metrics, readiness: Readiness, degraded: Degraded = tuple) -> None:
        self._metrics = metrics
        self._checks = {name: _Check(check) for name, check in readiness.items()}
        self._degraded = degraded

    async def status(self) -> HealthStatus:
        """See `HealthSource.status`."""
        passed = await asyncio.gather(*(check.passes() for check in self._checks.values()))
        return HealthStatus(dict(zip(self._checks, passed, strict=True)), self._degraded())

    async def exposition(self) -> bytes:
        """See `HealthSource.exposition`."""
        return generate_latest(self._metrics.registry)


@dataclass(frozen=True)
class Health:
    """What a process tells of itself.

    `/healthz` is 200 as long as the event loop runs. `/readyz` is 200 where every check of `readiness` passes, and 503 where
    one does not, or takes more than two seconds; it also lists what `degraded` returns, which the process can do without for
    some time.
    `/metrics` is Prometheus' text format. With a `token`, all three are 401 without it. `of_all`: where this process is one of
    several that share a listener, what answers for all of them.
    """

    metrics: Metrics
    readiness: Readiness
    degraded: Degraded = tuple
    token: str | None = None
    of_all: HealthSource | None = None

    def routes(self) -> list[BaseRoute]:
        """Return the three routes."""
        source = self.of_all or OwnHealth(self.metrics, self.readiness, self.degraded)
        exposition = Exposition(source.exposition)

        async def exposed(_request: Request) -> Response:
            text = await exposition.text()
            return Response(text, status_code=200 if text else 503, media_type=CONTENT_TYPE_LATEST)

        async def ready(_request: Request) -> Response:
            found = await source.status()
            content: dict[str, object] = {"ready": found.is_ready, "parts": dict(found.parts)}
            if found.degraded:
                content["degraded"] = list(found.degraded)
            return JSONResponse(content, status_code=200 if found.is_ready else 503)

        handlers = {"/healthz": self._healthz, "/readyz": ready, "/metrics": exposed}
        return [Route(path, self._guarded(handler)) for path, handler in handlers.items()]

    def _guarded(
        self, handler: Callable[[Request], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def guarded(request: Request) -> Response:
            if self.token is None or _presents(request, self.token):
                return await handler(request)
            challenge = {"WWW-Authenticate": 'Bearer realm="auditap health"'}
            return JSONResponse({"error": "a valid bearer token is required"}, 401, challenge)

        return guarded

    async def _healthz(self, _request: Request) -> Response:
        return JSONResponse({"status": "ok"})


def with_health_routes(app: ASGIApp, health: Health) -> Starlette:
    """Return `app` with the health routes before its own."""
    return Starlette(routes=[*health.routes(), Mount("/", app)])


def health_server(address: Address, health: Health, limits: HttpLimits, setting: str) -> HttpServer:
    """Bind `address`, which `setting` gives, and return a server of the health routes alone. Raises StartupError."""
    return HttpServer(
        Starlette(routes=health.routes()),
        [bind_tcp_socket(address.host, address.port, setting)],
        name="health",
        limits=limits,
        metrics=health.metrics,
        tls=address.tls,
    )


def _presents(request: Request, token: str) -> bool:
    scheme, _, presented = request.headers.get("authorization", "").partition(" ")
    # Of equal length, so that the comparison takes the same time whatever is presented.
    digests = [hashlib.sha256(each.encode()).digest() for each in (presented.strip(), token)]
    return scheme.lower() == "bearer" and hmac.compare_digest(*digests)
