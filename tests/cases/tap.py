"""Cases of the middleware."""

from __future__ import annotations

import ast
import asyncio
import json
import runpy
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import msgspec

import auditap_tap
from auditap_tap.exchange import Message, Receive, Scope, Send
from tests.cases.case import Bench, counted
from tests.cases.redaction import ANY_PATH, events
from tests.unit.auditap_tap.apps import END, call
from tests.unit.auditap_tap.tapped import Collector, eventually


class _Response:
    def __init__(self, body: object, status: int, headers: dict[str, str]) -> None:
        self.body = json.dumps(body).encode()
        self.status = status
        self.headers = {"content-type": "application/json", "content-length": str(len(self.body)), **headers}


class _Sanic:
    """As much of Sanic as the case needs: one route, and response headers that are a generator."""

    def __init__(self, name: str) -> None:
        self._handler: Callable[[object], Awaitable[_Response]] | None = None

    def post(self, path: str) -> Callable[..., Any]:
        def take(handler: Callable[[object], Awaitable[_Response]]) -> Callable[..., Any]:
            self._handler = handler
            return handler

        return take

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert self._handler is not None
        response = await self._handler(None)
        headers = ((name.encode(), value.encode()) for name, value in response.headers.items())
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        await send({**END, "body": response.body})


def _imports() -> dict[str, Any]:
    """The modules that the case imports: Sanic, and the middleware by the name that it had."""
    sanic, response = ModuleType("sanic"), ModuleType("sanic.response")
    sanic.Sanic = _Sanic  # type: ignore[attr-defined]
    response.json = _Response  # type: ignore[attr-defined]
    return {"sanic": sanic, "sanic.response": response, "gateway_tap.middleware": auditap_tap}


async def generator_headers(bench: Bench) -> str:
    with mock.patch.dict(sys.modules, _imports()):
        apps = runpy.run_path(str(bench.inputs / "app.py"))
    try:
        plain, tapped = [_headers(await call(apps[name])) for name in ("api", "tapped")]
    finally:
        await asyncio.to_thread(apps["tapped"].close)
    return counted(len([each for each in tapped if each in plain]), len(plain), "headers reach the client")


def _headers(sent: list[Message]) -> list[tuple[bytes, bytes]]:
    return list(sent[0]["headers"])


async def utf8_actors(bench: Bench) -> str:
    """The actors of emails.py, through the middleware and `auditap redact`."""
    actors = _listed_texts((bench.inputs / "emails.py").read_text())
    spec, captures = bench.scratch / "any.yaml", bench.scratch / "captures.ndjson"
    spec.write_text(ANY_PATH)
    async with _tap() as (collector, wrap):
        for number, actor in enumerate(actors, 1):
            await call(wrap(_service_of(actor)), {"path": "/x", "raw_path": b"/x", "method": "POST"})
            await eventually(lambda number=number: len(collector.captures) == number)  # type: ignore[misc]
        captures.write_bytes(b"\n".join(msgspec.json.encode(each) for each in collector.captures))
    found = await events(bench, captures, spec)
    return " ".join(str(each["actor"].get("id")) for each in found)


def _listed_texts(program: str) -> list[str]:
    """Return the texts of the first list that a program loops over."""
    loops = (node.iter for node in ast.walk(ast.parse(program)) if isinstance(node, ast.For))
    texts: list[str] = ast.literal_eval(next(loops))
    return texts


def _service_of(actor: str) -> Callable[[Scope, Receive, Send], Awaitable[None]]:
    async def service(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"x-actor-id", actor.encode()), (b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({**END, "body": b"{}"})

    return service


@asynccontextmanager
async def _tap() -> AsyncIterator[tuple[Collector, Callable[[Any], auditap_tap.AuditTapMiddleware]]]:
    """Yield a collector and what puts a tap in front of an application."""
    taps: list[auditap_tap.AuditTapMiddleware] = []
    # A path that is short enough for a Unix socket.
    with tempfile.TemporaryDirectory(prefix="auditap-") as folder:
        collector = Collector(Path(folder) / "collector.sock")

        def wrap(app: Any) -> auditap_tap.AuditTapMiddleware:
            taps.append(
                auditap_tap.AuditTapMiddleware(
                    app, collector=f"unix:{collector.path}", tap_id="t", state_dir=None, timeout_ms=60_000
                )
            )
            return taps[-1]

        async with collector.running():
            yield collector, wrap
            for tap in taps:
                await asyncio.to_thread(tap.close)
