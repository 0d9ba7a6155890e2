"""What the tests of this folder run against: a real uvicorn in the test's own loop, and a sink that can fail."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import uvicorn

from gateway_tap.ports import IdentifiedCapture
from schemas.capture import TapPosition
from schemas.heartbeat import Heartbeat


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()
        self.stop = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    async def main_loop(self) -> None:
        await self.stop.wait()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        # The signals belong to pytest.
        yield


@asynccontextmanager
async def serving(app: Callable[..., Any], listener: socket.socket, **options: Any) -> AsyncIterator[None]:
    """Serve `app` on `listener`, and close it."""
    # No connection is closed for being idle while the machine is busy with something else.
    options = {"timeout_keep_alive": 600} | options
    config = uvicorn.Config(app, log_config=None, access_log=False, **options)
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        await asyncio.wait_for(server.ready.wait(), 120)
        yield
    finally:
        server.stop.set()
        await task
        listener.close()


def loopback() -> tuple[socket.socket, str]:
    """Return a socket bound to a free loopback port, and its URL."""
    # asyncio switches Nagle's delays off for sockets that name their protocol only.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    return listener, f"http://127.0.0.1:{listener.getsockname()[1]}"


class FakeSink:
    """Keeps what it takes. `failures` are raised first, one a batch; `entered`, `waiting` and `gate` show and hold batches."""

    def __init__(self) -> None:
        self.batches: list[tuple[list[IdentifiedCapture], int]] = []
        self.refused: list[TapPosition] = []
        self.heartbeats: list[Heartbeat] = []
        self.heartbeat_failures: list[Exception] = []
        self.failures: list[Exception] = []
        self.entered = asyncio.Event()
        self.waiting = 0
        self.gate = asyncio.Event()
        self.gate.set()

    @property
    def accepted(self) -> list[IdentifiedCapture]:
        return [each for batch, _ in self.batches for each in batch]

    async def accept(
        self,
        captures: Sequence[IdentifiedCapture],
        received_ms: int,
        refused: Sequence[TapPosition] = (),
    ) -> None:
        self.entered.set()
        self.waiting += 1
        await self.gate.wait()
        self.waiting -= 1
        if self.failures:
            raise self.failures.pop(0)
        if captures:
            self.batches.append((list(captures), received_ms))
        self.refused += refused

    async def report(self, heartbeats: Sequence[Heartbeat], received_ms: int) -> None:
        if self.heartbeat_failures:
            raise self.heartbeat_failures.pop(0)
        self.heartbeats += heartbeats
