"""The health routes that every process serves: `/healthz`, `/readyz`, `/metrics`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp

from auditap.runtime.http_server import HttpServer, bind_tcp_socket
from auditap.settings import Address
from schemas.metric_defs import Metrics

Readiness = Callable[[], Awaitable[Mapping[str, bool]]]
Degraded = Callable[[], Sequence[str]]


def with_health_routes(
    app: ASGIApp | None, metrics: Metrics, readiness: Readiness, degraded: Degraded = tuple
) -> Starlette:
    """Return `app` (None: no application) with the health routes before its own.

    `/healthz` is 200 as long as the event loop runs. `/readyz` is 200 where `readiness` finds every dependency, by name,
    and 503 otherwise; it also lists what `degraded` returns, which the process can do without for some time.
    `/metrics` is Prometheus' text format.
    """

    async def healthz(_request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def readyz(_request: Request) -> Response:
        parts = dict(await readiness())
        ready = all(parts.values())
        content: dict[str, object] = {"ready": ready, "parts": parts}
        if without := degraded():
            content["degraded"] = list(without)
        return JSONResponse(content, status_code=200 if ready else 503)

    async def exposition(_request: Request) -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    routes: list[BaseRoute] = [
        Route("/healthz", healthz),
        Route("/readyz", readyz),
        Route("/metrics", exposition),
    ]
    if app is not None:
        routes.append(Mount("/", app))
    return Starlette(routes=routes)


def health_server(address: Address, metrics: Metrics, readiness: Readiness) -> HttpServer:
    """Bind `address` and return the server of a process that serves its health routes alone. Raises StartupError."""
    app = with_health_routes(None, metrics, readiness)
    return HttpServer(app, [bind_tcp_socket(address.host, address.port)], tls=address.tls)
