"""Clocks an hour off: each of a tap, of the collector and of an ingestor."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.faults.conftest import Weather
from tests.faults.ledger import count
from tests.faults.system import System, wrong_clock

_HOUR_S = 3_600


@asynccontextmanager
async def nothing(_system: System) -> AsyncIterator[None]:
    yield


async def test_a_tap_an_hour_behind_is_recorded_as_it_says(weather: Weather, system: System) -> None:
    load = system.load(clock_ahead_ms=-_HOUR_S * 1000)
    assert not (await weather(nothing, 0, load)).dead_letters


async def test_what_a_tap_an_hour_ahead_sends_is_buried_for_that(weather: Weather, system: System) -> None:
    load = system.load(clock_ahead_ms=_HOUR_S * 1000)
    found = await weather(nothing, 0, load)
    assert found.reasons == Counter({"clock_ahead": found.accepted})


@pytest.mark.parametrize("ahead_s", [_HOUR_S, -_HOUR_S])
async def test_a_collector_with_a_wrong_clock_loses_nothing(weather: Weather, ahead_s: int) -> None:
    @asynccontextmanager
    async def wrong(system: System) -> AsyncIterator[None]:
        await system.collector.stop()
        await system.pipeline.start_collector(**wrong_clock(ahead_s))
        yield
        await system.collector.stop()
        await system.pipeline.start_collector()

    assert not (await weather(wrong, 1)).dead_letters


@pytest.mark.parametrize("ahead_s", [_HOUR_S, -_HOUR_S])
async def test_an_ingestor_with_a_wrong_clock_loses_nothing(
    weather: Weather, system: System, ahead_s: int
) -> None:
    """One that is behind takes everything to be ahead and buries it: retried, all of it becomes records."""
    load = system.load()

    @asynccontextmanager
    async def wrong(system: System) -> AsyncIterator[None]:
        await system.end_ingestor(0, signal.SIGTERM)
        late = await system.pipeline.start_ingestor(**wrong_clock(ahead_s))
        yield
        system.ingestors.remove(late)
        assert await late.stop() == 0
        await system.pipeline.start_ingestor()

    found = await weather(wrong, 4, load)
    assert set(found.reasons) == ({"clock_ahead"} if ahead_s < 0 else set())

    retry = system.pipeline.process("dead-letters", "retry", "--reason", "clock_ahead")
    await retry.start(None)
    await retry.wait()
    after = await count(system, load)
    assert after.balanced, after
    assert after.records == found.accepted
