"""The service that names ids hangs, fails, dawdles and lies, under load."""

from __future__ import annotations

import pytest

from tests.e2e.pipeline import until
from tests.faults.conftest import Weather
from tests.faults.faults import enrichment, lasting_until
from tests.faults.load import Load
from tests.faults.system import System

# A waiting record is tried again after 5 minutes at last.
_WITHIN_S = 600


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

    async def stored() -> bool:
        return bool(await states(system, load))

    system.directory.mode = mode
    found = await weather(lasting_until(enrichment(mode), stored, "a record without names"), 3, load)
    assert not found.dead_letters

    async def complete() -> bool:
        return await states(system, load) == {"complete": found.records}

    await until(complete, _WITHIN_S, "names for every record")
    names = await system.pipeline.fetch(
        "SELECT DISTINCT account_name, right(actor_email, 12) AS host FROM auditap.audit_log WHERE tap_id = $1",
        load.tap,
    )
    assert [tuple(row) for row in names] == [("Example Industries", "@example.com")]
