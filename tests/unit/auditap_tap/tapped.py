"""A collector that runs, clients of a tapped application, and what a tap holds."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from auditap_tap import AuditTapMiddleware
from gateway_tap.collector import collector_app
from gateway_tap.limits import IntakeLimits
from gateway_tap.ports import IdentifiedCapture
from gateway_tap.unix_socket import bind_unix_socket
from schemas.capture import Capture
from schemas.metric_defs import Metrics
from tests.unit.gateway_tap.servers import FakeSink, loopback, serving

Wrap = Callable[..., AuditTapMiddleware]
CANARY = "c4n4ry-5up3r-53cr3t"


class Collector:
    """A real collector on a Unix socket, and what it accepted."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sink = FakeSink()
        self.metrics = Metrics()

    @property
    def captures(self) -> list[Capture]:
        return [identified.capture for identified in self.accepted]

    @property
    def accepted(self) -> list[IdentifiedCapture]:
        return self.sink.accepted

    @property
    def drops_reported(self) -> float:
        return self.metrics.registry.get_sample_value("auditap_captures_dropped_by_taps_total") or 0.0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        app = collector_app(
            self.sink,
            identity_key=b"k",
            limits=IntakeLimits(),
            tokens=None,
            metrics=self.metrics,
            clock_ms=lambda: 0,
        )
        async with serving(app, bind_unix_socket(self.path)):
            try:
                yield
            finally:
                self.sink.gate.set()


def held_bytes(tap: AuditTapMiddleware) -> int:
    assert tap._run is not None
    return tap._run.buffer._bytes


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait until what another thread does has been done; the bound is there to fail, not to measure."""
    async with asyncio.timeout(120):
        while not condition():
            await asyncio.sleep(0.005)


@asynccontextmanager
async def client_of(app: Any, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    listener, url = loopback()
    async with serving(app, listener, **options), httpx.AsyncClient(base_url=url, timeout=120) as client:
        yield client


@contextlib.contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        # Room for every connection: with a full backlog, connecting would fail at once instead of hanging.
        listener.listen(128)
        yield listener


def files_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]
