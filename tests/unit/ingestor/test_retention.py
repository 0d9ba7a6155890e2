from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from ingestor.config import DAY_MS, RetentionConfig
from ingestor.retention import (
    PartitionInfo,
    Retainer,
    RetentionEvidence,
    RetentionRefused,
    plan_retention,
)
from schemas.errors import RetryableError
from schemas.metric_defs import Metrics
from tests.fakes.maintenance import MemoryMaintenance

TODAY = 20_000
NOW_MS = TODAY * DAY_MS + 7
HOUR_MS = 3_600_000


def retainer(
    maintenance: MemoryMaintenance,
    keep_days: int = 30,
    *,
    metrics: Metrics | None = None,
    share_max: float = 1,
    ahead_ms: int = 0,
    **bounds: int,
) -> Retainer:
    return Retainer(
        maintenance=maintenance,
        config=RetentionConfig(**bounds),
        keep_days=keep_days,
        share_max=share_max,
        metrics=metrics or Metrics(),
        clock_ms=lambda: NOW_MS + ahead_ms,
    )


def days(rows_by_day: dict[int, int]) -> Sequence[PartitionInfo]:
    """The partitions of days, by their age, with as many rows of records and of enrichments."""
    return [
        PartitionInfo(parent, f"{parent}_{age}", (TODAY - age) * DAY_MS, (TODAY - age + 1) * DAY_MS, rows, 0)
        for age, rows in sorted(rows_by_day.items(), reverse=True)
        for parent in ("audit_records", "audit_enrichments")
    ]


def evidence(
    database_ahead_ms: int = 0,
    received_ago_ms: int | None = 0,
    *,
    own_ahead_ms: int = 0,
    same_host: bool = False,
) -> RetentionEvidence:
    received_ms = None if received_ago_ms is None else NOW_MS - received_ago_ms
    return RetentionEvidence(NOW_MS + database_ahead_ms, NOW_MS + own_ahead_ms, received_ms, 30, same_host)


@pytest.mark.parametrize(
    "found",
    [
        evidence(),
        evidence(HOUR_MS),
        evidence(-HOUR_MS),
        evidence(received_ago_ms=None, same_host=True),
        evidence(received_ago_ms=DAY_MS, same_host=True),
        # The clocks of two hosts agree, so the log is quiet.
        evidence(received_ago_ms=300 * DAY_MS),
        evidence(received_ago_ms=-HOUR_MS),
    ],
)
def test_what_has_expired_by_the_earlier_of_two_clocks_that_agree_is_dropped(
    found: RetentionEvidence,
) -> None:
    planned = plan_retention(found, days({32: 1, 31: 1, 30: 1, 0: 1}), 0.5)
    names = {each.child for each in planned if each.parent == "audit_records"}
    # Where one clock is an hour behind, it is still the day before.
    behind = found.before_ms < (TODAY - 30) * DAY_MS
    assert names == {"audit_records_32"} | (set() if behind else {"audit_records_31"})


@pytest.mark.parametrize(
    ("found", "why", "confirmable"),
    [
        (evidence(40 * DAY_MS), "960 hours ahead of this host's", False),
        (evidence(own_ahead_ms=40 * DAY_MS), "960 hours behind this host's", False),
        (evidence(HOUR_MS + 1), "is 1 hour ahead", False),
        (evidence(received_ago_ms=-40 * DAY_MS), "newest receipt is 960 hours ahead", True),
        (evidence(received_ago_ms=DAY_MS + 1, same_host=True), "last 24 hours", True),
    ],
)
def test_nothing_is_dropped_where_clocks_and_receipts_disagree(
    found: RetentionEvidence, why: str, confirmable: bool
) -> None:
    partitions = days({75: 1, 0: 999})
    with pytest.raises(RetentionRefused, match=why):
        plan_retention(found, partitions, 0.5)
    if confirmable:
        assert len(plan_retention(found, partitions, 0.5, confirmed=True)) == 2
    else:
        with pytest.raises(RetentionRefused, match=why):
            plan_retention(found, partitions, 0.5, confirmed=True)


def test_a_quiet_log_of_which_nothing_has_expired_is_no_reason_to_refuse() -> None:
    """An embedded log that was off for a weekend raised the alert on retention at each start."""
    quiet = evidence(received_ago_ms=3 * DAY_MS, same_host=True)
    assert plan_retention(quiet, days({29: 1, 3: 1}), 0.5) == []


@pytest.mark.parametrize(
    ("expired", "kept", "share_max", "is_refused"),
    [(50, 50, 0.5, False), (51, 49, 0.5, True), (1, 0, 1, False), (1, 0, 0.99, True), (0, 0, 0, False)],
)
def test_the_share_counts_rows_of_records_and_needs_a_confirmation(
    expired: int, kept: int, share_max: float, is_refused: bool
) -> None:
    partitions = days({40: expired, 39: 0, 38: 0, 0: kept})
    if is_refused:
        with pytest.raises(RetentionRefused, match=f"{expired} of {expired + kept} records"):
            plan_retention(evidence(), partitions, share_max)
    assert len(plan_retention(evidence(), partitions, share_max, confirmed=is_refused)) == 6


@pytest.mark.parametrize("keep_days", [1, 30, 548])
async def test_only_expired_partitions_are_dropped(keep_days: int) -> None:
    maintenance = MemoryMaintenance(NOW_MS, range(TODAY - 600, TODAY + 3))
    dropped = await retainer(maintenance, keep_days).pass_over(asyncio.Event())
    assert len(dropped) == 2 * (600 - keep_days)
    left = await maintenance.partitions(0)
    assert min(each.from_ms for each in left) == (TODAY - keep_days) * DAY_MS
    assert len(left) == 2 * (keep_days + 3)


async def test_records_are_dropped_before_their_enrichments_oldest_first() -> None:
    maintenance = MemoryMaintenance(NOW_MS, [TODAY - 40, TODAY - 41])
    dropped = await retainer(maintenance).pass_over(asyncio.Event())
    assert dropped == [
        f"audit_{table}_{TODAY - age}" for age in (41, 40) for table in ("records", "enrichments")
    ]


async def test_the_database_never_drops_earlier_than_its_recorded_retention() -> None:
    maintenance = MemoryMaintenance(NOW_MS, [TODAY - 100], recorded_days=548)
    assert await retainer(maintenance, 1).pass_over(asyncio.Event()) == []


async def test_rows_are_deleted_in_batches() -> None:
    maintenance = MemoryMaintenance(NOW_MS, [])
    maintenance.rows = [40] * 23 + [3] * 5
    await retainer(maintenance, pruned_rows_max=10).pass_over(asyncio.Event())
    assert maintenance.rows == [3] * 5


async def test_rows_are_kept_while_the_receipts_contradict_the_one_clock() -> None:
    maintenance = MemoryMaintenance(NOW_MS, [])
    maintenance.rows = [40, 3]
    maintenance.quiet_ms, maintenance.same_host = 3 * DAY_MS, True
    assert await retainer(maintenance).pass_over(asyncio.Event()) == ()
    assert maintenance.rows == [40, 3]


async def test_a_partition_in_use_is_retried_soon() -> None:
    maintenance = MemoryMaintenance(NOW_MS, [TODAY - 40])
    maintenance.in_use = 2
    with pytest.raises(RetryableError):
        await retainer(maintenance).pass_over(asyncio.Event())
    stop = asyncio.Event()
    run = asyncio.create_task(retainer(maintenance, retry_wait_ms=1).run(stop))
    while await maintenance.partitions(0):
        await asyncio.sleep(0.001)
    stop.set()
    await asyncio.wait_for(run, 120)


async def test_a_refused_pass_keeps_everything_and_is_made_once_the_clocks_agree() -> None:
    maintenance = MemoryMaintenance(NOW_MS + 40 * DAY_MS, [TODAY - 40, TODAY])
    maintenance.rows = [50]
    metrics, stop = Metrics(), asyncio.Event()
    run = asyncio.create_task(retainer(maintenance, metrics=metrics, refused_wait_ms=1).run(stop))

    while not metrics.registry.get_sample_value("auditap_retention_refused"):
        await asyncio.sleep(0.001)
    assert len(await maintenance.partitions(0)) == 4
    assert maintenance.rows
    maintenance.now_ms = NOW_MS
    while maintenance.rows:
        await asyncio.sleep(0.001)
    stop.set()
    await asyncio.wait_for(run, 120)
    assert metrics.registry.get_sample_value("auditap_retention_refused") == 0
    assert {each.from_ms for each in await maintenance.partitions(0)} == {TODAY * DAY_MS}
