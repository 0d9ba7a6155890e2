"""The service that names ids hangs, fails, dawdles and lies, under load."""

from __future__ import annotations

import asyncio

import pytest

from tests.faults.conftest import Weather
from tests.faults.faults import enrichment
from tests.faults.load import Load
from tests.faults.system import System

_WITHIN_S = 60


async def states(system: System, load: Load) -> dict[str, int]:
    rows = await system.pipeline.fetch(
        "SELECT enrichment, count(*) FROM auditap.audit_log WHERE tap_id = $1 GROUP BY enrichment", load.tap
    )
    return {row["enrichment"]: row["count"] for row in rows}


@pytest.mark.parametrize("mode", ["hung", "failing", "slow", "lying"])
async def test_no_record_waits_for_its_names_and_every_one_gets_them(
    weather: Weather, system: System, mode: str
) -> None:
    load = system.load()
    stored_meanwhile = 0

    async def stored() -> None:
        nonlocal stored_meanwhile
        while not stored_meanwhile:
            await asyncio.sleep(0.05)
            stored_meanwhile = sum((await states(system, load)).values())

    system.directory.mode = mode
    watching = asyncio.create_task(stored())
    found = await weather(enrichment(mode), 3, load)
    await watching
    assert not found.dead_letters
    async with asyncio.timeout(_WITHIN_S):
        while (await states(system, load)) != {"complete": found.records}:
            await asyncio.sleep(0.2)
    names = await system.pipeline.fetch(
        "SELECT DISTINCT account_name, right(actor_email, 12) AS host FROM auditap.audit_log WHERE tap_id = $1",
        load.tap,
    )
    assert [tuple(row) for row in names] == [("Example Industries", "@example.com")]
