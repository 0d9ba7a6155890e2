"""Postgres ends, hangs, refuses and fills up, under load."""

from __future__ import annotations

import pytest

from tests.faults import faults
from tests.faults.conftest import Weather
from tests.faults.faults import Inflict
from tests.faults.system import System


@pytest.mark.parametrize(
    ("inflict", "lasting_s"),
    [
        (faults.postgres_killed, 1),
        (faults.postgres_frozen, 3),
        (faults.postgres_silent, 3),
        (faults.postgres_out_of_connections, 3),
        (faults.postgres_conflicts, 3),
    ],
)
async def test_what_the_store_does_is_waited_for(
    weather: Weather, inflict: Inflict, lasting_s: float
) -> None:
    assert not (await weather(inflict, lasting_s)).dead_letters


async def test_connections_cut_in_the_middle_of_a_batch(weather: Weather, system: System) -> None:
    cuts = system.proxy.cuts
    assert not (await weather(faults.postgres_connections_cut, 3)).dead_letters
    assert system.proxy.cuts > cuts


async def test_the_stores_disk_full(weather: Weather, system: System) -> None:
    if not system.postgres_disk.mounted:
        pytest.skip("this user may not mount a small disk: run the tests as root to see Postgres' disk full")
    assert not (await weather(faults.postgres_disk_full, 3)).dead_letters
