"""Processes of auditap end in every way, come and go, under load."""

from __future__ import annotations

import signal
from collections.abc import Callable

import httpx
import pytest

from tests.e2e.pipeline import until
from tests.faults import faults
from tests.faults.conftest import Weather
from tests.faults.ledger import Count, count_when_stored
from tests.faults.reading import listed
from tests.faults.system import INGESTORS, PARTITIONS, System


@pytest.mark.parametrize(
    ("fault", "lasting_s"),
    [
        ("collector killed", 0.5),
        ("collector terminated", 0.5),
        ("collector frozen", 2),
        ("an ingestor killed", 0.5),
        ("an ingestor terminated", 0.5),
        ("all ingestors killed", 1),
        ("partitions revoked in the middle of a batch", 1),
        ("ingestors killed in the middle of a batch", 0),
    ],
)
async def test_an_end_under_load_loses_nothing(weather: Weather, fault: str, lasting_s: float) -> None:
    assert not (await weather(faults.BY_NAME[fault], lasting_s)).dead_letters


async def test_an_ingestor_that_wakes_up_after_others_took_its_partitions_stores_nothing_twice(
    weather: Weather, system: System
) -> None:
    """Frozen until the group has waited long enough for a sign of life (10 s)."""

    async def taken() -> bool:
        return await system.ingestors[1].metric("auditap_partitions_assigned") == PARTITIONS

    inflict = faults.lasting_until(faults.ingestor_frozen, taken, "its partitions at the other")
    assert not (await weather(inflict, 0)).dead_letters


async def test_a_log_api_killed_shows_every_record_when_it_is_back(weather: Weather, system: System) -> None:
    load = system.load()
    found = await weather(faults.api_killed, 0.5, load)
    assert len(await listed(system, load)) == found.records


async def test_one_more_ingestor_joins_under_load_and_leaves_again(weather: Weather, system: System) -> None:
    shares: list[float] = []

    async def shared() -> bool:
        shares[:] = [await each.metric("auditap_partitions_assigned") for each in system.ingestors]
        return min(shares) > 0 and sum(shares) == PARTITIONS

    joined = faults.lasting_until(faults.more_ingestors, shared, "partitions for every ingestor")
    assert not (await weather(joined, 1)).dead_letters
    assert len(shares) == INGESTORS + 1


async def test_one_three_one_ingestors(system: System, report: Callable[[Count], None]) -> None:
    load = system.load()
    await load.start()
    await system.end_ingestor(0, signal.SIGTERM)
    await load.accepts(200)
    for _ in range(2):
        await system.pipeline.start_ingestor()
    await load.accepts(600)
    shares: list[float] = []

    async def shared() -> bool:
        shares[:] = [await each.metric("auditap_partitions_assigned") for each in system.ingestors]
        return min(shares) > 0 and sum(shares) == PARTITIONS

    await until(shared, 120, "partitions for every ingestor", lambda: str(shares))
    for _ in range(2):
        assert await system.end_ingestor(0, signal.SIGTERM) == 0
    await load.accepts(600)
    await system.pipeline.start_ingestor()
    await load.finish()
    found = await count_when_stored(system, load)
    report(found)
    assert found.balanced, found


async def test_a_frozen_collector_answers_when_it_wakes_up(system: System) -> None:
    async with faults.collector_frozen(system):
        with pytest.raises(httpx.TransportError):
            async with httpx.AsyncClient(timeout=0.5) as client:
                await client.get(f"http://127.0.0.1:{system.collector.port}/healthz")
    await faults.ready(system)
