"""A receiver beside a gateway under test, which sends to the test's collector."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from gateway_tap.receivers.received_tap import ReceivedTap, Receiver
from tests.gateways.beside import served_beside
from tests.gateways.gateway import Place

RECEIVER_SOCKET = "receiver.sock"
"""Where in its folder a gateway under test finds the receiver, or writes its file for one."""
IN_MEMORY = Path("/dev/shm")  # noqa: S108  tests make private folders in it


@asynccontextmanager
async def receiving(receiver: Receiver | None, tap_id: str, place: Place) -> AsyncIterator[None]:
    """Run a receiver whose gateway numbers what it sends; with None, nothing."""
    if receiver is None:
        yield
        return
    with served_beside(_taking(receiver, tap_id, place)):
        yield


@asynccontextmanager
async def _taking(receiver: Receiver, tap_id: str, place: Place) -> AsyncIterator[None]:
    tap = ReceivedTap(tap_id, collector_socket=place.collector_socket, state_dir=place.folder)
    work = asyncio.gather(receiver.run(tap), tap.keep_watching())
    try:
        yield
    finally:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        await asyncio.to_thread(tap.close)
