"""A small gateway: an ASGI application that passes everything on to the upstream, with the middleware around it."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import httpx

from auditap_tap import AuditTapMiddleware

_HOP_BY_HOP = {b"connection", b"transfer-encoding", b"host", b"expect"}


class _Proxy:
    """An ASGI application that passes requests on to the upstream, and responses back, as they come."""

    def __init__(self, upstream_port: int) -> None:
        self._client = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{upstream_port}", timeout=60, trust_env=False, limits=httpx.Limits()
        )

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        headers = [(name, value) for name, value in scope["headers"] if name not in _HOP_BY_HOP]
        target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
        messages = [await receive()]
        while messages[-1].get("more_body"):
            messages.append(await receive())
        body = b"".join(message.get("body", b"") for message in messages)
        request = self._client.build_request(scope["method"], target.decode(), headers=headers, content=body)
        exchange = asyncio.create_task(self._pass_back(request, send))
        left = asyncio.create_task(self._client_left(receive))
        await asyncio.wait({exchange, left}, return_when=asyncio.FIRST_COMPLETED)
        for task in (exchange, left):
            task.cancel()
        await asyncio.gather(exchange, left, return_exceptions=True)

    async def _client_left(self, receive: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    async def _pass_back(self, request: httpx.Request, send: Any) -> None:
        response = await self._client.send(request, stream=True)
        try:
            headers = [(name.lower(), value) for name, value in response.headers.raw]
            kept = [each for each in headers if each[0] not in _HOP_BY_HOP]
            await send({"type": "http.response.start", "status": response.status_code, "headers": kept})
            async for part in response.aiter_raw():
                await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            await response.aclose()


def tapped_proxy() -> AuditTapMiddleware:
    """Return the application that the environment describes."""
    return AuditTapMiddleware(
        _Proxy(int(os.environ["UPSTREAM_PORT"])),
        collector=f"unix:{os.environ['COLLECTOR_SOCKET']}",
        tap_id="middleware",
        state_dir=os.environ["STATE_DIR"],
        heartbeat_ms=100,
    )


app = tapped_proxy()
