from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from gateway_tap.receivers.received_tap import ReceivedTap
from tests.gateways.collected import collecting
from tests.unit.gateway_tap.receivers.received import Received


@pytest_asyncio.fixture
async def received() -> AsyncIterator[Received]:
    with tempfile.TemporaryDirectory(prefix="auditap-") as folder:
        async with collecting(Path(folder)) as collected:
            tap = ReceivedTap(
                "edge",
                collector_socket=collected.socket,
                state_dir=Path(folder, "state"),
            )
            yield Received(tap, collected)
            await asyncio.to_thread(tap.close)
