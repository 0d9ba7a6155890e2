"""The workload: what a client sends through a gateway, and the pair that the tap has to bring of it."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import cramjam
import httpx

from tests.gateways.gateway import Running
from tests.gateways.upstream import BIG_BYTES, Upstream, big_body

AGENT = "gateway-suite/1.0"
JSON = "application/json"
WIDGET = b'{"id":"w-9","name":"bolt","secret":"s3cret-name"}'
_WITHIN_S = 60


@dataclass(frozen=True)
class Through:
    """A gateway as a client sees it, and the upstream behind it. `marker` is this request's id."""

    gateway: Running
    upstream: Upstream
    marker: str

    def client(self, *, http2: bool = False) -> httpx.AsyncClient:
        port = self.gateway.h2_port if http2 else self.gateway.port
        return httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}",
            headers={"user-agent": AGENT, "x-request-id": self.marker},
            http1=not http2,
            http2=http2,
            timeout=_WITHIN_S,
            trust_env=False,
        )


@dataclass(frozen=True)
class Expected:
    """The pair. A body is None where there is none to copy: of a GET or HEAD, or with a status without body."""

    method: str
    target: str
    status: int
    request_body: bytes | None = None
    response_body: bytes | None = None
    request_headers: dict[str, str] = field(default_factory=dict)
    response_headers: dict[str, str] = field(default_factory=lambda: {"content-type": JSON})
    complete: bool = True
    other_statuses: tuple[int, ...] = ()
    """Statuses that a gateway may report in place of `status`, because the response did not end."""


@dataclass(frozen=True)
class Exchange:
    """One request. `send` performs it, and fails where the client's side is not as without a gateway."""

    name: str
    send: Callable[[Through], Awaitable[None]]
    expected: Expected
    client_leaves: bool = False
    is_chunked: bool = False
    needs_early_hints: bool = False


def _widget(received_bytes: int) -> bytes:
    return json.dumps(
        {"id": "w-1", "name": "bolt", "secret": "s3cret-key", "received_bytes": received_bytes}
    ).encode()


def _plain(
    method: str,
    target: str,
    expected_status: int,
    *,
    body: bytes = b"",
    headers: dict[str, str] | None = None,
    http2: bool = False,
    answer: bytes | None = None,
) -> Callable[[Through], Awaitable[None]]:
    async def send(through: Through) -> None:
        async with through.client(http2=http2) as client:
            given = {"content-type": JSON, **(headers or {})} if body else headers
            response = await client.request(method, target, content=body or None, headers=given)
            assert response.status_code == expected_status
            assert response.http_version == ("HTTP/2" if http2 else "HTTP/1.1")
            if answer is not None:
                assert response.content == answer

    return send


async def _chunked_upload(through: Through) -> None:
    async def parts() -> object:
        for start in range(0, len(WIDGET), 10):
            yield WIDGET[start : start + 10]
            await asyncio.sleep(0.01)

    async with through.client() as client:
        response = await client.post("/widgets", content=parts(), headers={"content-type": JSON})  # type: ignore[arg-type]
        assert response.status_code == 201
        assert response.json()["received_bytes"] == len(WIDGET)


async def _streamed(through: Through) -> None:
    """The first event arrives while the service still holds the second."""
    through.upstream.gave_up.clear()
    through.upstream.release.clear()
    async with through.client() as client, client.stream("GET", "/events") as response:
        received = response.aiter_raw()
        first = await asyncio.wait_for(anext(received), _WITHIN_S)
        assert b"data: first" in first
        assert not through.upstream.gave_up.is_set()
        through.upstream.release.set()
        rest = b"".join([part async for part in received])
        assert b"data: last" in rest


async def _left_in_the_middle(through: Through) -> None:
    """The client leaves in the middle of a response."""
    through.upstream.release.clear()
    async with through.client() as client, client.stream("POST", "/half", content=WIDGET) as response:
        assert response.status_code == 200
        await anext(response.aiter_raw())
    await asyncio.sleep(0.2)
    through.upstream.release.set()


async def _left_before_the_response(through: Through) -> None:
    """The client leaves before the service has responded."""
    through.upstream.release.clear()
    async with through.client() as client:
        request = asyncio.create_task(client.post("/silent", content=WIDGET, headers={"content-type": JSON}))
        assert await asyncio.to_thread(through.upstream.held.acquire, timeout=_WITHIN_S)
        request.cancel()
        await asyncio.wait({request})
    await asyncio.sleep(0.2)
    through.upstream.release.set()


async def _expects_continue(through: Through) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", through.gateway.port)
    head = (
        f"POST /widgets HTTP/1.1\r\nhost: 127.0.0.1\r\nuser-agent: {AGENT}\r\nx-request-id: {through.marker}\r\n"
        f"content-type: {JSON}\r\ncontent-length: {len(WIDGET)}\r\nexpect: 100-continue\r\nconnection: close\r\n\r\n"
    )
    writer.write(head.encode())
    received = await asyncio.wait_for(reader.readline(), _WITHIN_S)
    assert b" 100 " in received
    writer.write(WIDGET)
    answer = await asyncio.wait_for(reader.read(), _WITHIN_S)
    assert b" 201 " in answer
    writer.close()


_GZIPPED = gzip.compress(WIDGET, mtime=0)
_BROTLI = bytes(cramjam.brotli.compress(WIDGET))
_ZSTD = bytes(cramjam.zstd.compress(WIDGET))
_LARGE = json.dumps({"id": "large", "filler": "y" * BIG_BYTES}).encode()
_SENT = {"content-type": JSON}


def _encoded(coding: str, body: bytes) -> Exchange:
    return Exchange(
        f"{coding} bodies",
        _plain("POST", "/compressed", 200, body=body, headers={"content-encoding": coding}),
        Expected(
            "POST",
            "/compressed",
            200,
            request_body=body,
            response_body=gzip.compress(_widget(len(body)), mtime=0),
            request_headers={**_SENT, "content-encoding": coding},
            response_headers={"content-type": JSON, "content-encoding": "gzip"},
        ),
    )


def _written(body: bytes = WIDGET) -> Expected:
    return Expected("POST", "/widgets", 201, body, _widget(len(body)), _SENT)


EXCHANGES = (
    Exchange(
        "POST with JSON",
        _plain("POST", "/widgets", 201, body=WIDGET, answer=_widget(len(WIDGET))),
        _written(),
    ),
    Exchange(
        "GET with a query",
        _plain("GET", "/widgets?name=%C3%A9&x=a%20b&y=", 200),
        Expected("GET", "/widgets?name=%C3%A9&x=a%20b&y=", 200),
    ),
    Exchange(
        "POST without a body",
        _plain("POST", "/widgets", 201),
        Expected("POST", "/widgets", 201, None, _widget(0)),
    ),
    Exchange("chunked upload", _chunked_upload, _written(), is_chunked=True),
    Exchange(
        "server-sent events",
        _streamed,
        Expected("GET", "/events", 200, response_headers={"content-type": "text/event-stream"}),
    ),
    Exchange(
        "3 MB bodies",
        _plain("PUT", "/big", 200, body=_LARGE, answer=big_body()),
        Expected("PUT", "/big", 200, _LARGE, big_body(), _SENT),
    ),
    _encoded("gzip", _GZIPPED),
    _encoded("br", _BROTLI),
    _encoded("zstd", _ZSTD),
    Exchange(
        "client leaves in the middle",
        _left_in_the_middle,
        Expected("POST", "/half", 200, WIDGET, b"the beginning", complete=False, other_statuses=(499,)),
        client_leaves=True,
    ),
    Exchange(
        "client leaves before the response",
        _left_before_the_response,
        Expected("POST", "/silent", 499, WIDGET, None, _SENT, {}, complete=False),
        client_leaves=True,
    ),
    Exchange(
        "503 of the service",
        _plain("POST", "/unavailable", 503, body=WIDGET),
        Expected("POST", "/unavailable", 503, WIDGET, b'{"error":"s3cret-reason"}', _SENT),
    ),
    Exchange("HTTP/2", _plain("POST", "/widgets", 201, body=WIDGET, http2=True), _written()),
    Exchange("100 Continue", _expects_continue, _written()),
    Exchange(
        "103 Early Hints",
        _plain("POST", "/early-hints", 200, body=WIDGET),
        Expected("POST", "/early-hints", 200, WIDGET, _widget(len(WIDGET)), _SENT),
        needs_early_hints=True,
    ),
    Exchange("204", _plain("DELETE", "/widgets", 204), Expected("DELETE", "/widgets", 204)),
    Exchange("HEAD", _plain("HEAD", "/widgets", 200), Expected("HEAD", "/widgets", 200)),
)
