"""A real collector for the gateways under test, which keeps what it takes, on a Unix socket and on TCP with a token."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from gateway_tap.collector import collector_app
from gateway_tap.limits import IntakeLimits
from gateway_tap.tokens import TapToken, TapTokens
from gateway_tap.unix_socket import bind_unix_socket
from schemas.capture import Capture
from schemas.metric_defs import Metrics
from tests.unit.gateway_tap.servers import FakeSink, loopback, serving

TOKEN = "gateway-suite-token"
_ARRIVES_WITHIN_S = 240
_POLL_S = 0.02
# A condition can go through thousands of captures. The collector is in the same loop, and must have most of it.
_PAUSE_PER_LOOK = 4
_MARKER = "x-request-id"


class Collected:
    """What a collector has accepted. `socket` and `port` are where it listens."""

    def __init__(self, socket: Path, port: int, sink: FakeSink) -> None:
        self.socket = socket
        self.port = port
        self.sink = sink

    def of(self, marker: str) -> list[Capture]:
        """Return the captures of requests with this id."""
        captures = [identified.capture for identified in self.sink.accepted]
        return [each for each in captures if each.request.headers.get(_MARKER) == marker]

    async def one_of(self, marker: str) -> Capture:
        """Wait for the only capture of a request with this id."""
        await self.until(lambda: bool(self.of(marker)), f"the capture of {marker}")
        [capture] = self.of(marker)
        return capture

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        try:
            async with asyncio.timeout(_ARRIVES_WITHIN_S):
                while not await self._is_met(condition):
                    pass
        except TimeoutError:
            raise AssertionError(f"{what} did not arrive") from None

    async def _is_met(self, condition: Callable[[], bool]) -> bool:
        """Return whether the condition holds; if not, wait before the next look."""
        began_s = time.perf_counter()
        if condition():
            return True
        await asyncio.sleep(max(_POLL_S, _PAUSE_PER_LOOK * (time.perf_counter() - began_s)))
        return False


@asynccontextmanager
async def collecting(folder: Path) -> AsyncIterator[Collected]:
    """Run a collector whose Unix socket is in `folder`."""
    sink, path = FakeSink(), folder / "collector.sock"
    digest = hashlib.sha256(TOKEN.encode()).digest()
    unix = bind_unix_socket(path)
    tcp, _ = loopback()

    def app(tokens: TapTokens | None) -> Callable[..., object]:
        return collector_app(
            sink,
            identity_key=b"k",
            limits=IntakeLimits(),
            tokens=tokens,
            metrics=Metrics(),
            clock_ms=lambda: 0,
        )

    async with serving(app(None), unix), serving(app(TapTokens([TapToken(digest, ("*",))])), tcp):
        yield Collected(path, tcp.getsockname()[1], sink)
