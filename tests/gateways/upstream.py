"""The service behind the gateways under test: HTTP/1.1, a path for each way in which a response can be sent."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import h11

BIG_BYTES = 3 * 1024 * 1024
ACTOR = "ops@example.com"
_HELD_S_MAX = 30
_READ_BYTES = 65_536


@dataclass
class Upstream:
    """What runs: `port`; `release` lets responses go on that are held; `held` counts the requests that wait for one.

    `gave_up` is set once a response went on although nobody had released it.
    """

    port: int = 0
    release: threading.Event = field(default_factory=threading.Event)
    gave_up: threading.Event = field(default_factory=threading.Event)
    held: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))


@dataclass(frozen=True)
class _Call:
    method: str
    path: str
    headers: dict[bytes, bytes]
    body: bytes


class _Exchange:
    """One connection's side of h11."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._http = h11.Connection(h11.SERVER)

    async def call(self) -> _Call | None:
        """Return the next request with its body; None once the client has closed."""
        head: h11.Request | None = None
        body = bytearray()
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                if self._http.they_are_waiting_for_100_continue:
                    await self.send(h11.InformationalResponse(status_code=100, headers=[]))
                self._http.receive_data(await self._reader.read(_READ_BYTES))
            elif isinstance(event, h11.Request):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                assert head is not None
                target = head.target.decode()
                return _Call(head.method.decode(), target.partition("?")[0], dict(head.headers), bytes(body))
            else:
                return None

    async def send(self, *events: h11.Event) -> None:
        for event in events:
            self._writer.write(self._http.send(event) or b"")
        await self._writer.drain()

    async def switch(self, words: bytes) -> None:
        """Say something in another protocol, and end the connection."""
        self._writer.write(words)
        await self._writer.drain()
        raise ConnectionAbortedError

    async def respond(self, status: int, body: bytes = b"", **headers: str) -> None:
        """Send a whole response with this status, a JSON body unless `content_type` says otherwise."""
        named = {"content_type": "application/json", "x_actor_email": ACTOR, **headers}
        fields = [(name.replace("_", "-"), value) for name, value in named.items()]
        if status != 204:
            fields.append(("content-length", str(len(body))))
        await self.send(
            h11.Response(status_code=status, headers=fields), h11.Data(data=body), h11.EndOfMessage()
        )

    def next(self) -> bool:
        """Make ready for the connection's next request; whether there can be one."""
        if self._http.our_state is h11.MUST_CLOSE or self._http.their_state is h11.MUST_CLOSE:
            return False
        self._http.start_next_cycle()
        return True


@asynccontextmanager
async def running_upstream() -> AsyncIterator[Upstream]:
    """Serve on a free loopback port."""
    upstream = Upstream()
    writers: set[asyncio.StreamWriter] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.add(writer)
        exchange = _Exchange(reader, writer)
        with contextlib.suppress(ConnectionError, h11.ProtocolError):
            while (call := await exchange.call()) is not None:
                await _respond(upstream, exchange, call)
                if not exchange.next():
                    break
        writer.close()
        writers.discard(writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    upstream.port = server.sockets[0].getsockname()[1]
    try:
        yield upstream
    finally:
        server.close()
        for writer in writers:
            writer.close()


async def _respond(upstream: Upstream, exchange: _Exchange, call: _Call) -> None:
    match call.path:
        case "/unavailable":
            await exchange.respond(503, b'{"error":"s3cret-reason"}', retry_after="1")
        case "/early-hints":
            await exchange.send(
                h11.InformationalResponse(status_code=103, headers=[("link", "</style.css>")])
            )
            await exchange.respond(200, _widget(call))
        case "/compressed":
            await exchange.respond(200, gzip.compress(_widget(call), mtime=0), content_encoding="gzip")
        case path if path in _WHOLE_BODIES:
            await exchange.respond(200, _WHOLE_BODIES[path](call))
        case "/events" | "/half":
            await _stream(
                upstream, exchange, "text/event-stream" if call.path == "/events" else "application/json"
            )
        case "/upgrade":
            headers = [("upgrade", call.headers[b"upgrade"].decode()), ("connection", "upgrade")]
            await exchange.send(h11.InformationalResponse(status_code=101, headers=headers))
            await exchange.switch(b"hello")
        case "/cut":
            head = h11.Response(
                status_code=200, headers=[("content-type", "application/json"), ("content-length", "99")]
            )
            await exchange.send(head, h11.Data(data=b'{"id":'))
            raise ConnectionAbortedError
        case "/silent":
            upstream.held.release()
            await asyncio.to_thread(upstream.release.wait, _HELD_S_MAX)
            await exchange.respond(200, b"{}")
        case _ if call.method == "DELETE":
            await exchange.respond(204)
        case _:
            await exchange.respond(201 if call.method == "POST" else 200, _widget(call))


async def _stream(upstream: Upstream, exchange: _Exchange, content_type: str) -> None:
    """Send the first part of a stream, and the rest once it is released."""
    head = h11.Response(
        status_code=200, headers=[("content-type", content_type), ("transfer-encoding", "chunked")]
    )
    await exchange.send(head, h11.Data(data=b"data: first\n\n"))
    if not await asyncio.to_thread(upstream.release.wait, _HELD_S_MAX):
        upstream.gave_up.set()
    await exchange.send(h11.Data(data=b"data: last\n\n"), h11.EndOfMessage())


def big_body() -> bytes:
    """Return JSON of about 3 MB."""
    return json.dumps({"id": "big", "filler": "x" * BIG_BYTES}).encode()


def _asked_upgrade(call: _Call) -> bytes:
    return json.dumps({"upgrade": call.headers.get(b"upgrade", b"").decode()}).encode()


_WHOLE_BODIES: dict[str, Callable[[_Call], bytes]] = {
    "/big": lambda _: big_body(),
    "/echo": lambda call: call.body,
    "/asked-upgrade": _asked_upgrade,
}


def _widget(call: _Call) -> bytes:
    if call.method == "HEAD":
        return b""
    return json.dumps(
        {"id": "w-1", "name": "bolt", "secret": "s3cret-key", "received_bytes": len(call.body)}
    ).encode()
