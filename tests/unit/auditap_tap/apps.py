"""Small applications for the tap's tests to wrap, and calls of them as a server makes them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from auditap_tap.exchange import Message, Receive, Scope, Send


async def echo(request: Request) -> Response:
    body = await request.body()
    return Response(body, media_type=request.headers.get("content-type"), headers={"x-actor-id": "u1"})


def one_route(handler: Callable[[Request], Awaitable[Response]]) -> Starlette:
    methods = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
    return Starlette(routes=[Route("/{rest:path}", handler, methods=methods)])


START = {"type": "http.response.start", "status": 200, "headers": []}


END = {"type": "http.response.body", "body": b"", "more_body": False}


def sends(*messages: dict[str, Any]) -> Callable[[Scope, Receive, Send], Awaitable[None]]:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(dict(message))

    return app


async def call(
    app: Any,
    scope: dict[str, Any] | None = None,
    messages: list[dict[str, Any]] | None = None,
    failing_at: int | None = None,
) -> list[Message]:
    """Call an application as a server would, and return what it sent."""
    sent: list[Message] = []
    incoming = iter(messages or [{"type": "http.request", "body": b"", "more_body": False}])

    async def receive() -> Message:
        return next(incoming, {"type": "http.disconnect"})

    async def send(message: Message) -> None:
        if len(sent) == failing_at:
            raise OSError
        sent.append(message)

    base: dict[str, Any] = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "scheme": "https",
        "path": "/a",
        "raw_path": b"/a",
        "query_string": b"",
        "headers": [(b"host", b"api.example.com")],
        "client": None,
        "server": ("10.0.0.1", 443),
        "extensions": {},
    }
    await app({**base, **(scope or {})}, receive, send)
    return sent


async def answers(_scope: Any, _receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"{}"})


async def request(tap: Any, times: int = 1) -> None:
    """Call an application with a small PUT, one after another."""
    for _ in range(times):
        scope = {"method": "PUT", "headers": [(b"host", b"api.example.com"), (b"content-length", b"1")]}
        await call(tap, scope, [{"type": "http.request", "body": b"x", "more_body": False}])
