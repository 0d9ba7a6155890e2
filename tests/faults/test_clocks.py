"""Clocks an hour off: each of a tap, of the collector and of an ingestor."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from schemas.identity import id_ms
from tests.e2e.pipeline import until
from tests.faults.conftest import Weather
from tests.faults.load import Load
from tests.faults.system import System, wrong_clock
from tests.ports import free_port

_HOUR_S = 3_600


@asynccontextmanager
async def nothing(_system: System) -> AsyncIterator[None]:
    yield


async def test_a_tap_an_hour_behind_is_recorded_as_it_says(weather: Weather, system: System) -> None:
    load = system.load(clock_ahead_ms=-_HOUR_S * 1000)
    assert not (await weather(nothing, 0, load)).dead_letters


async def test_what_a_tap_an_hour_ahead_sends_is_recorded_when_it_came_and_marked(
    weather: Weather, system: System
) -> None:
    load = system.load(clock_ahead_ms=_HOUR_S * 1000)
    found = await weather(nothing, 0, load)
    assert not found.dead_letters
    marked = await clamped(system, load)
    assert len(marked) == found.records
    assert all(at_ms < claimed_ms - _HOUR_S * 900 for at_ms, claimed_ms in marked)


@asynccontextmanager
async def wrong_collector(system: System, load: Load, ahead_s: int) -> AsyncIterator[None]:
    await system.collector.stop()
    await system.pipeline.start_collector(**wrong_clock(ahead_s))
    await load.accepts(100)
    yield
    await system.collector.stop()
    await system.pipeline.start_collector()


@pytest.mark.parametrize("ahead_s", [_HOUR_S, -_HOUR_S])
async def test_a_collector_with_a_wrong_clock_loses_nothing(
    weather: Weather, system: System, ahead_s: int
) -> None:
    """To one that is behind every tap is ahead; what is sent again to the right clock is the same record."""
    load = system.load()
    assert not (await weather(lambda system: wrong_collector(system, load, ahead_s), 1, load)).dead_letters
    assert bool(await clamped(system, load)) == (ahead_s < 0)


@asynccontextmanager
async def wrong_ingestor(system: System) -> AsyncIterator[None]:
    """In place of one of two ingestors, one that is an hour ahead, until it has events and waits with them."""
    await system.end_ingestor(0, signal.SIGTERM)
    port = free_port()
    late = system.pipeline.process("ingest", AUDITAP_INGEST__ADDRESS__PORT=str(port), **wrong_clock(_HOUR_S))
    await late.start(None)
    late.port = port

    async def waits() -> bool:
        try:
            waiting = await late.metric("auditap_batches_in_flight") > 0
            return waiting and await late.metric("auditap_ingest_clocks_apart") == 1
        except httpx.TransportError:
            return False

    await until(waits, 180, "events at the wrong clock", late.log)
    yield
    assert await late.metric("auditap_ingest_clocks_apart") == 1
    assert await late.metric("auditap_records_stored_total") == 0
    assert not await late.ready()
    assert await late.stop() == 0
    await system.pipeline.start_ingestor()


async def test_an_ingestor_with_a_wrong_clock_loses_nothing(weather: Weather, system: System) -> None:
    """It waits; the next one, whose clock is right, reads everything."""
    load = system.load()
    assert not (await weather(wrong_ingestor, 1, load)).dead_letters
    assert not await clamped(system, load)


async def clamped(system: System, load: Load) -> list[tuple[int, int]]:
    """Return the times of the load's records that were clamped, and what their tap claimed (Unix ms)."""
    rows = await system.pipeline.fetch(
        "SELECT id, clamped_from_ms FROM auditap.audit_records WHERE tap_id = $1 AND clamped_from_ms IS NOT NULL",
        load.tap,
    )
    return [(id_ms(row["id"].hex), row["clamped_from_ms"]) for row in rows]
