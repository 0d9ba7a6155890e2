"""Postgres ends, hangs, refuses and fills up, under load."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.e2e.pipeline import until
from tests.faults import faults
from tests.faults.conftest import Weather
from tests.faults.sampler import resident_bytes
from tests.faults.system import LONG_SESSION, PARTITIONS, System

_GROWTH_BYTES_MAX = 50 * 1024 * 1024


@pytest.mark.parametrize(
    ("fault", "lasting_s"),
    [
        ("Postgres killed", 1),
        ("Postgres frozen", 3),
        ("Postgres behind a silent network", 3),
        ("Postgres out of connections", 3),
        ("deadlocks and serialization failures", 3),
        ("the table locked", 3),
    ],
)
async def test_what_the_store_does_is_waited_for(weather: Weather, fault: str, lasting_s: float) -> None:
    assert not (await weather(faults.BY_NAME[fault], lasting_s)).dead_letters


async def test_while_the_store_is_away_partitions_stay_and_memory_is_flat(
    weather: Weather, system: System
) -> None:
    async def partitions() -> list[float]:
        return [await each.metric("auditap_partitions_assigned") for each in system.ingestors]

    def assignments() -> int:
        return sum(each.log_file.read_text().count("partitions_assigned") for each in system.ingestors)

    async def shared() -> bool:
        return min(await partitions()) > 0 and sum(await partitions()) == PARTITIONS

    async def retries() -> float:
        return sum([await each.metric("auditap_store_retries_total") for each in system.ingestors])

    @asynccontextmanager
    async def stopped(system: System) -> AsyncIterator[None]:
        await until(shared, 120, "partitions for every ingestor")
        shares, assigned = await partitions(), assignments()
        before, retried = [resident_bytes(each.pid) for each in system.ingestors], await retries()

        async def retried_again() -> bool:
            return await retries() > retried

        async with faults.postgres_stopped(system):
            yield
            assert (await partitions(), assignments()) == (shares, assigned)
            await until(retried_again, 120, "a batch stored again")
            in_flight = [await each.metric("auditap_batches_in_flight") for each in system.ingestors]
        grown = [
            (resident_bytes(each.pid) or 0) - (was or 0)
            for each, was in zip(system.ingestors, before, strict=True)
        ]
        assert max(in_flight) <= 4
        assert max(grown) < _GROWTH_BYTES_MAX

    # Whoever stands still for longer than a session loses partitions as well.
    await system.replace_ingestors(**LONG_SESSION)
    try:
        assert not (await weather(stopped, 6)).dead_letters
    finally:
        await system.replace_ingestors()


async def test_connections_cut_in_the_middle_of_a_batch(weather: Weather, system: System) -> None:
    cuts = system.proxy.cuts

    async def cut() -> bool:
        return system.proxy.cuts > cuts

    inflict = faults.lasting_until(faults.postgres_connections_cut, cut, "a connection cut")
    assert not (await weather(inflict, 3)).dead_letters


async def test_the_stores_disk_full(weather: Weather, system: System) -> None:
    if not system.postgres_disk.mounted:
        pytest.skip("this user may not mount a small disk: run the tests as root to see Postgres' disk full")
    assert not (await weather(faults.postgres_disk_full, 3)).dead_letters
