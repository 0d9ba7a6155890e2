"""A receiver beside a gateway under test, which sends to the test's collector."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from gateway_tap.formats.port import LineFormat
from gateway_tap.receivers.line_stream import LineStream
from gateway_tap.receivers.received_tap import ReceivedTap
from tests.gateways.beside import served_beside
from tests.gateways.gateway import Place


@asynccontextmanager
async def receiving(line_format: LineFormat, socket: Path, place: Place) -> AsyncIterator[None]:
    """Take lines at `socket`."""
    with served_beside(_taking(line_format, socket, place)):
        yield


@asynccontextmanager
async def _taking(line_format: LineFormat, socket: Path, place: Place) -> AsyncIterator[None]:
    tap = ReceivedTap(
        line_format.name, collector_socket=place.collector_socket, state_dir=place.folder, gateway_counts=True
    )
    stream = LineStream(socket, line_format)
    work = asyncio.gather(stream.run(tap), tap.keep_watching())
    try:
        yield
    finally:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        await asyncio.to_thread(tap.close)
