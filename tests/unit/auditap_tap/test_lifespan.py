"""A tap in a server process of its own, which ends by a signal: the last heartbeat must have left by then."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from auditap_tap.lifespan import Lifespan
from schemas.heartbeat import TapState
from tests.unit.auditap_tap.apps import sends
from tests.unit.auditap_tap.tapped import Collector, listening
from tests.unit.gateway_tap.servers import FakeSink

ROOT = Path(__file__).parents[3]
# Serves an application that does `{lifespan}` with its lifespan scope, and prints the port.
PROGRAM = """
import signal, sys, uvicorn
from auditap_tap import AuditTapMiddleware

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
{lifespan}
    await send({{"type": "http.response.start", "status": 200, "headers": []}})
    await send({{"type": "http.response.body", "body": b""}})

tap = AuditTapMiddleware(app, collector=sys.argv[1], tap_id="t", state_dir=None, linger_ms=60_000, close_ms_max=1_000)
config = uvicorn.Config(tap, lifespan=sys.argv[2], log_config=None)
listener = config.bind_socket()
listener.listen()
if len(sys.argv) > 3:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
print(listener.getsockname()[1], flush=True)
uvicorn.Server(config).run([listener])
"""
RAISES = "raise ValueError"
RAISES_LATER = "await receive(); raise ValueError"
RAISES_AFTER_STARTUP = "await send({'type': (await receive())['type'] + '.complete'}); raise ValueError"
RAISES_IN_SHUTDOWN = (
    "await send({'type': (await receive())['type'] + '.complete'}); await receive(); raise ValueError"
)
RETURNS = "return"
RETURNS_LATER = "await receive(); return"


@asynccontextmanager
async def server(
    socket: Path, lifespan: str, mode: str, *more: str
) -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
    """Run the program; yield its process and its port."""
    program = PROGRAM.format(lifespan=f"        {lifespan}")
    command = [sys.executable, "-c", program, f"unix:{socket}", mode, *more]
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=asyncio.subprocess.PIPE)
    try:
        assert process.stdout is not None
        yield process, int(await process.stdout.readline())
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def get(port: int) -> None:
    async with httpx.AsyncClient(timeout=60) as client:
        assert (await client.get(f"http://127.0.0.1:{port}/")).status_code == 200


@pytest.mark.processes
@pytest.mark.parametrize(
    ("lifespan", "mode"),
    [
        (RAISES, "auto"),
        (RAISES_LATER, "auto"),
        (RAISES_AFTER_STARTUP, "auto"),
        (RAISES_IN_SHUTDOWN, "auto"),
        (RAISES_IN_SHUTDOWN, "on"),
        (RETURNS, "auto"),
        (RETURNS, "on"),
        (RETURNS_LATER, "on"),
    ],
)
async def test_the_tap_reports_its_end_whatever_the_application_does_with_lifespan(
    collector: Collector, sink: FakeSink, lifespan: str, mode: str
) -> None:
    """uvicorn kills its process by the signal that ended it, so an orderly end looked like a crash."""
    async with server(collector.path, lifespan, mode) as (process, port):
        await get(port)
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == -signal.SIGTERM
    last = sink.heartbeats[-1]
    assert (last.state, last.highest, last.pending_from) == (TapState.ENDED, 1, 2)
    assert len(collector.captures) == 1


@pytest.mark.processes
@pytest.mark.parametrize("lifespan", [RAISES, RAISES_LATER])
async def test_a_server_that_requires_lifespan_does_not_start_without(
    collector: Collector, sink: FakeSink, lifespan: str
) -> None:
    async with server(collector.path, lifespan, "on") as (process, _):
        assert await process.wait() == 3


@pytest.mark.processes
async def test_without_lifespan_a_handler_of_the_signal_lets_the_tap_report_its_end(
    collector: Collector, sink: FakeSink
) -> None:
    """The way out that docs/completeness.md shows."""
    async with server(collector.path, RETURNS, "off", "handler") as (process, port):
        await get(port)
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
    assert sink.heartbeats[-1].state is TapState.ENDED


@pytest.mark.processes
async def test_a_hung_collector_delays_the_end_no_longer_than_the_bound(socket_dir: Path) -> None:
    path = socket_dir / "hung.sock"
    with listening(path):
        async with server(path, RAISES, "auto") as (process, port):
            await get(port)
            began = time.monotonic()
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == -signal.SIGTERM
            # The bound is one second; a response of the collector would be waited for five.
            assert time.monotonic() - began < 4


async def test_what_the_application_left_unanswered_is_answered_once() -> None:
    received = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])
    seen: list[Any] = []

    async def receive() -> Any:
        return next(received)

    async def send(message: Any) -> None:
        seen.append(message["type"])

    async def close() -> None:
        seen.append("closed")

    await Lifespan(receive, send, close).run(
        sends({"type": "lifespan.startup.complete"}), {"type": "lifespan"}
    )
    assert seen == ["lifespan.startup.complete", "closed", "lifespan.shutdown.complete"]
    await Lifespan(receive, send, close).run(sends({"type": "lifespan.startup.failed"}), {"type": "lifespan"})
    assert seen[3:] == ["closed", "lifespan.startup.failed"]
