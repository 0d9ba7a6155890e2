from __future__ import annotations

import asyncio

import pytest

from ingestor.config import DAY_MS, RetentionConfig
from ingestor.retention import Retainer
from schemas.errors import RetryableError
from schemas.metric_defs import Metrics
from tests.fakes.maintenance import MemoryMaintenance

TODAY = 20_000
NOW_MS = TODAY * DAY_MS + 7


def retainer(maintenance: MemoryMaintenance, keep_days: int = 30, **bounds: int) -> Retainer:
    return Retainer(
        maintenance=maintenance, config=RetentionConfig(**bounds), keep_days=keep_days, metrics=Metrics()
    )


@pytest.mark.parametrize("keep_days", [1, 30, 548])
async def test_what_ended_before_the_retention_goes_and_nothing_else(keep_days: int) -> None:
    days = range(TODAY - 600, TODAY + 3)
    maintenance = MemoryMaintenance(NOW_MS, days)
    dropped = await retainer(maintenance, keep_days).pass_over(asyncio.Event())
    assert len(dropped) == 2 * (600 - keep_days)
    left = await maintenance.partitions()
    assert min(each.from_ms for each in left) == (TODAY - keep_days) * DAY_MS
    assert len(left) == 2 * (keep_days + 3)


async def test_records_go_before_their_enrichments_and_the_oldest_first() -> None:
    maintenance = MemoryMaintenance(NOW_MS, [TODAY - 40, TODAY - 41])
    dropped = await retainer(maintenance).pass_over(asyncio.Event())
    assert dropped == [
        f"audit_{table}_{TODAY - age}" for age in (41, 40) for table in ("records", "enrichments")
    ]


async def test_the_database_never_drops_earlier_than_it_was_told_to_keep() -> None:
    maintenance = MemoryMaintenance(NOW_MS, [TODAY - 100], recorded_days=548)
    assert await retainer(maintenance, 1).pass_over(asyncio.Event()) == []


async def test_rows_beside_the_log_go_in_batches() -> None:
    maintenance = MemoryMaintenance(NOW_MS, [])
    maintenance.rows = [40] * 23 + [3] * 5
    await retainer(maintenance, pruned_rows_max=10).pass_over(asyncio.Event())
    assert maintenance.rows == [3] * 5


async def test_what_is_in_use_is_tried_again_soon() -> None:
    maintenance = MemoryMaintenance(NOW_MS, [TODAY - 40])
    maintenance.in_use = 2
    with pytest.raises(RetryableError):
        await retainer(maintenance).pass_over(asyncio.Event())
    stop = asyncio.Event()
    run = asyncio.create_task(retainer(maintenance, retry_wait_ms=1).run(stop))
    while await maintenance.partitions():
        await asyncio.sleep(0.001)
    stop.set()
    await asyncio.wait_for(run, 5)
