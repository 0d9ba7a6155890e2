"""Postgres ends, hangs, refuses and fills up, under load."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.e2e.pipeline import until
from tests.faults import faults
from tests.faults.conftest import Weather
from tests.faults.faults import Inflict
from tests.faults.system import PARTITIONS, System
from tests.faults.watch import resident_bytes

_GROWTH_BYTES_MAX = 50 * 1024 * 1024


@pytest.mark.parametrize(
    ("inflict", "lasting_s"),
    [
        (faults.postgres_killed, 1),
        (faults.postgres_frozen, 3),
        (faults.postgres_silent, 3),
        (faults.postgres_out_of_connections, 3),
        (faults.postgres_conflicts, 3),
        (faults.postgres_locked, 3),
    ],
)
async def test_what_the_store_does_is_waited_for(
    weather: Weather, inflict: Inflict, lasting_s: float
) -> None:
    assert not (await weather(inflict, lasting_s)).dead_letters


async def test_while_the_store_is_away_partitions_stay_and_memory_is_flat(
    weather: Weather, system: System
) -> None:
    async def partitions() -> list[float]:
        return [await each.metric("auditap_partitions_assigned") for each in system.ingestors]

    def assignments() -> int:
        return sum(each.log_file.read_text().count("partitions_assigned") for each in system.ingestors)

    async def shared() -> bool:
        return min(await partitions()) > 0 and sum(await partitions()) == PARTITIONS

    @asynccontextmanager
    async def stopped(system: System) -> AsyncIterator[None]:
        await until(shared, 60, "partitions for every ingestor")
        shares, told = await partitions(), assignments()
        before = [resident_bytes(each.pid) for each in system.ingestors]
        async with faults.postgres_stopped(system):
            yield
            assert (await partitions(), assignments()) == (shares, told)
            retries = [await each.metric("auditap_store_retries_total") for each in system.ingestors]
            in_flight = [await each.metric("auditap_batches_in_flight") for each in system.ingestors]
        grown = [
            (resident_bytes(each.pid) or 0) - (was or 0)
            for each, was in zip(system.ingestors, before, strict=True)
        ]
        assert sum(retries) > 0
        assert max(in_flight) <= 4
        assert max(grown) < _GROWTH_BYTES_MAX

    assert not (await weather(stopped, 6)).dead_letters


async def test_connections_cut_in_the_middle_of_a_batch(weather: Weather, system: System) -> None:
    cuts = system.proxy.cuts
    assert not (await weather(faults.postgres_connections_cut, 3)).dead_letters
    assert system.proxy.cuts > cuts


async def test_the_stores_disk_full(weather: Weather, system: System) -> None:
    if not system.postgres_disk.mounted:
        pytest.skip("this user may not mount a small disk: run the tests as root to see Postgres' disk full")
    assert not (await weather(faults.postgres_disk_full, 3)).dead_letters
