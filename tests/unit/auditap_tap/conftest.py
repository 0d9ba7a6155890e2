from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from auditap_tap import AuditTapMiddleware
from tests.unit.auditap_tap.apps import answers
from tests.unit.auditap_tap.tapped import Collector, Wrap
from tests.unit.gateway_tap.servers import FakeSink


@pytest.fixture
async def collector(socket_dir: Path) -> AsyncIterator[Collector]:
    running = Collector(socket_dir / "collector.sock")
    async with running.running():
        yield running


@pytest.fixture
def sink(collector: Collector) -> FakeSink:
    return collector.sink


@pytest.fixture
async def wrap(socket_dir: Path) -> AsyncIterator[Wrap]:
    """Wraps an application in a tap that sends to this test's collector, and closes it after the test."""
    taps: list[AuditTapMiddleware] = []

    def make(app: Any = answers, **options: Any) -> AuditTapMiddleware:
        defaults: dict[str, Any] = {
            "collector": f"unix:{socket_dir}/collector.sock",
            "tap_id": "t-1",
            "linger_ms": 1,
            "timeout_ms": 60_000,
            "close_ms_max": 200,
            "state_dir": None,
        }
        taps.append(AuditTapMiddleware(app, **{**defaults, **options}))
        return taps[-1]

    yield make
    for tap in taps:
        await asyncio.to_thread(tap.close)
        # Past the time that closing takes at most: a thread that works on would see what the next test patches.
        if tap._run is not None:
            await asyncio.to_thread(tap._run._thread.join, 120)
            assert not tap._run._thread.is_alive()
