"""An `HttpServer` in a thread with a loop of its own, of either kind, and clients that send bytes; and what stands in for both."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvloop
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from auditap.runtime.http_connection import HttpConnection
from auditap.runtime.http_limits import EndReason, HttpLimits
from auditap.runtime.http_server import HttpServer, TlsFiles, bind_tcp_socket
from schemas.metric_defs import Metrics

WITHIN_S = 120
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}
UNHURRIED = {"head_ms_max": 600_000, "body_ms_max": 600_000, "idle_ms_max": 600_000, "write_ms_max": 600_000}
"""For tests that are not about time."""
GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"


@dataclass
class App:
    """What the server serves; its events are those of the server's loop."""

    gate: asyncio.Event = field(default_factory=asyncio.Event)
    entered: int = 0
    disconnected: int = 0
    streams: int = 0
    headers: list[list[tuple[bytes, bytes]]] = field(default_factory=list)
    states: list[dict[str, Any]] = field(default_factory=list)

    async def hello(self, request: Request) -> Response:
        self.headers.append(request.scope["headers"])
        self.states.append(dict(request.scope["state"]))
        return PlainTextResponse("hello")

    async def echo(self, request: Request) -> Response:
        try:
            body = await request.body()
        except ClientDisconnect:
            self.disconnected += 1
            raise
        self.headers.append(request.scope["headers"])
        return PlainTextResponse(body)

    async def wait(self, _request: Request) -> Response:
        self.entered += 1
        await self.gate.wait()
        return PlainTextResponse("waited")

    async def early(self, _request: Request) -> Response:
        return JSONResponse({}, 401)

    async def long(self, _request: Request) -> Response:
        return PlainTextResponse("x" * 60_000)

    async def stream(self, _request: Request) -> Response:
        return StreamingResponse(self._chunks(b"x" * 65_536, 0))

    async def tail(self, _request: Request) -> Response:
        return StreamingResponse(self._chunks(b"line\n", 0.05))

    async def _chunks(self, chunk: bytes, pause_s: float) -> AsyncIterator[bytes]:
        self.streams += 1
        try:
            while True:
                yield chunk
                await asyncio.sleep(pause_s)
        finally:
            self.streams -= 1

    def asgi(self) -> Starlette:
        gets = {
            "/": self.hello,
            "/wait": self.wait,
            "/long": self.long,
            "/stream": self.stream,
            "/tail": self.tail,
        }
        routes = [Route(path, handler) for path, handler in gets.items()]
        posts = {"/echo": self.echo, "/early": self.early}
        return Starlette(
            routes=[*routes, *(Route(path, handler, methods=["POST"]) for path, handler in posts.items())]
        )


class Client:
    """One connection."""

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        connected.settimeout(WITHIN_S)

    def send(self, data: bytes) -> None:
        """Send what the server takes; it may have closed the connection."""
        with contextlib.suppress(ConnectionError):
            self.socket.sendall(data)

    def response(self) -> tuple[int, bytes]:
        """Return status and body of the next response that has a length."""
        head = self._until(b"\r\n\r\n")
        lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        return int(head.split()[1]), self._exactly(int(lengths[0].partition(b":")[2]))

    def get(self, path: str = "/") -> tuple[int, bytes]:
        self.send(f"GET {path} HTTP/1.1\r\nhost: a\r\n\r\n".encode())
        return self.response()

    def rest(self) -> bytes:
        """Return what comes until the server ends the connection."""
        received = b""
        with contextlib.suppress(ConnectionError):
            while piece := self.socket.recv(65_536):
                received += piece
        return received

    def statuses(self) -> list[int]:
        """Return the statuses of all responses until the server ends the connection."""
        pieces = self.rest().split(b"HTTP/1.1 ")
        return [int(piece[:3]) for piece in pieces[1:]]

    def _until(self, end: bytes) -> bytes:
        received = b""
        while not received.endswith(end):
            received += self._exactly(1)
        return received

    def _exactly(self, size: int) -> bytes:
        received = b""
        while len(received) < size:
            piece = self.socket.recv(size - len(received))
            assert piece, received
            received += piece
        return received


@dataclass
class Running:
    """A server that runs, and what it serves."""

    app: App
    metrics: Metrics
    loop: asyncio.AbstractEventLoop
    address: Any
    clients: list[socket.socket] = field(default_factory=list)

    def connect(self, source: str = "127.0.0.1", *, receive_bytes: int | None = None) -> Client:
        family = socket.AF_UNIX if isinstance(self.address, str) else socket.AF_INET
        client = socket.socket(family, socket.SOCK_STREAM)
        self.clients.append(client)
        if receive_bytes is not None:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        if family == socket.AF_INET:
            client.bind((source, 0))
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.settimeout(WITHIN_S)
        client.connect(self.address)
        return Client(client)

    def open_gate(self) -> None:
        self.loop.call_soon_threadsafe(self.app.gate.set)

    def ended(self, reason: str, name: str = "tcp") -> float:
        return self._sample("http_connections_ended_total", name, reason=reason)

    def refused(self, reason: str, name: str = "tcp") -> float:
        return self._sample("http_connections_refused_total", name, reason=reason)

    def connections(self, name: str = "tcp") -> float:
        return self._sample("http_connections", name)

    def _sample(self, metric: str, name: str, **labels: str) -> float:
        found = self.metrics.registry.get_sample_value(f"auditap_{metric}", {"listener": name, **labels})
        return found or 0.0


class Wire(asyncio.Transport):
    """Keeps what the server writes."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closing = self.paused = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        # The client ends its side, too.
        self.closing = True

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = True

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


class Owner:
    """The listener: keeps why the connection was ended."""

    def __init__(self) -> None:
        self.reasons: list[EndReason] = []

    def began_to_wait(self, connection: HttpConnection) -> None:
        pass

    def stopped_waiting(self, connection: HttpConnection) -> None:
        pass

    def is_surplus(self) -> bool:
        return False

    def ended(self, reason: EndReason) -> None:
        self.reasons.append(reason)

    def lost(self, connection: HttpConnection) -> None:
        pass


def until(condition: Callable[[], bool]) -> None:
    """Return once the condition holds."""
    deadline = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextmanager
def running(
    loop_kind: str = "asyncio",
    *,
    listening: socket.socket | None = None,
    path: str | None = None,
    tls: TlsFiles | None = None,
    name: Any = "tcp",
    **limits: int,
) -> Iterator[Running]:
    """Serve `App` within limits on time that no test meets unless it sets them; check that no place is left taken.

    `path`: that of the Unix socket `listening`.
    """
    listening = listening or bind_tcp_socket("127.0.0.1", 0)
    address = path or listening.getsockname()
    started, stop = threading.Event(), asyncio.Event()
    made: list[Running] = []

    async def serve() -> None:
        app, metrics = App(), Metrics()
        server = HttpServer(
            app.asgi(),
            [listening],
            name=name,
            limits=HttpLimits(**{**UNHURRIED, **limits}),
            metrics=metrics,
            tls=tls,
            drain_wait_s=1,
        )
        await server.start()
        made.append(Running(app, metrics, asyncio.get_running_loop(), address))
        started.set()
        try:
            await stop.wait()
        finally:
            app.gate.set()
            await server.stop()

    def run() -> None:
        try:
            with asyncio.Runner(loop_factory=LOOPS[loop_kind]) as runner:
                runner.run(serve())
        finally:
            started.set()

    thread = threading.Thread(target=run)
    thread.start()
    started.wait()
    server = made[0]
    try:
        yield server
        for client in server.clients:
            client.close()
        until(lambda: server.connections(name) == 0)
    finally:
        for client in server.clients:
            client.close()
        server.loop.call_soon_threadsafe(stop.set)
        thread.join()
