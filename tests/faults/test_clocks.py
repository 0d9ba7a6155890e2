"""Clocks an hour off: of a tap, the collector, an ingestor, the database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from schemas.identity import id_ms
from tests.faults import wrong_clocks
from tests.faults.conftest import Weather
from tests.faults.load import Load
from tests.faults.system import System
from tests.faults.wrong_clocks import HOUR_S


@asynccontextmanager
async def nothing(_system: System) -> AsyncIterator[None]:
    yield


async def test_a_tap_an_hour_behind_is_recorded_as_it_says(weather: Weather, system: System) -> None:
    load = system.load(clock_ahead_ms=-HOUR_S * 1000)
    assert not (await weather(nothing, 0, load)).dead_letters


async def test_what_a_tap_an_hour_ahead_sends_is_recorded_when_it_came_and_marked(
    weather: Weather, system: System
) -> None:
    load = system.load(clock_ahead_ms=HOUR_S * 1000)
    found = await weather(nothing, 0, load)
    assert not found.dead_letters
    marked = await clamped(system, load)
    assert len(marked) == found.records
    assert all(at_ms < claimed_ms - HOUR_S * 900 for at_ms, claimed_ms in marked)


@pytest.mark.parametrize("ahead_s", [HOUR_S, -HOUR_S])
async def test_a_collector_with_a_wrong_clock_loses_nothing(
    weather: Weather, system: System, ahead_s: int
) -> None:
    """To one that is behind every tap is ahead; what is sent again to the right clock is the same record."""
    load = system.load()

    @asynccontextmanager
    async def inflict(system: System) -> AsyncIterator[None]:
        async with wrong_clocks.collector(ahead_s)(system):
            await load.accepts(100)
            yield

    assert not (await weather(inflict, 1, load)).dead_letters
    assert bool(await clamped(system, load)) == (ahead_s < 0)


@pytest.mark.parametrize("ahead_s", [HOUR_S, -HOUR_S])
async def test_an_ingestor_with_a_wrong_clock_loses_nothing(
    weather: Weather, system: System, ahead_s: int
) -> None:
    """It waits; the next one, whose clock is right, reads everything."""
    load = system.load()
    assert not (await weather(wrong_clocks.ingestor(ahead_s), 1, load)).dead_letters
    assert not await clamped(system, load)


@pytest.mark.parametrize("ahead_s", [HOUR_S, -HOUR_S])
async def test_a_database_whose_clock_jumps_and_comes_back_loses_nothing(
    weather: Weather, system: System, ahead_s: int
) -> None:
    """Every ingestor waits, and goes on."""
    load = system.load()
    assert not (await weather(wrong_clocks.database(ahead_s), 1, load)).dead_letters
    assert not await clamped(system, load)


async def clamped(system: System, load: Load) -> list[tuple[int, int]]:
    """Return the times of the load's records that were clamped, and what their tap claimed (Unix ms)."""
    rows = await system.pipeline.fetch(
        "SELECT id, clamped_from_ms FROM auditap.audit_records WHERE tap_id = $1 AND clamped_from_ms IS NOT NULL",
        load.tap,
    )
    return [(id_ms(row["id"].hex), row["clamped_from_ms"]) for row in rows]
