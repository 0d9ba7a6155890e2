"""The contract of `BackfillStore`, for the real store and the fake alike."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from auditap.database.connection import administrator
from ingestor.config import DAY_MS
from ingestor.postgres_store import PostgresStore
from schemas.errors import RetryableError
from schemas.record import EnrichmentResult, EnrichmentState, PartialRecord, Record
from schemas.sql import query
from tests.audit_database import AuditDatabase
from tests.fakes.record_store import MemoryRecordStore
from tests.records import record


def some_records(count: int, **changes: Any) -> list[Record]:
    now_ms = time.time_ns() // 1_000_000
    made = [record(now_ms - 1000 * number, **{"account_id": "a", **changes}) for number in range(count)]
    return sorted(made, key=lambda each: each.id)


def named(one: PartialRecord, state: EnrichmentState = EnrichmentState.COMPLETE) -> EnrichmentResult:
    return EnrichmentResult(one.id, None, "Acme", None, None, None, state)


@pytest.fixture
def pass_s(store: Any, request: pytest.FixtureRequest) -> Callable[[float], Awaitable[None]]:
    """Let so many seconds pass for what waits."""

    async def in_memory(seconds: float) -> None:
        store.postponed = {
            each: (due_s - seconds, wait_s) for each, (due_s, wait_s) in store.postponed.items()
        }

    async def in_postgres(seconds: float) -> None:
        async with administrator(request.getfixturevalue("audit_database").admin_dsn) as admin:
            await admin.execute(
                "UPDATE auditap.partial_records SET due_at = due_at - $1::interval",
                timedelta(seconds=seconds),
            )

    return in_memory if isinstance(store, MemoryRecordStore) else in_postgres


class Resolving:
    """Finds out everything but what `failing` names, and keeps what it was asked."""

    def __init__(self, *failing: UUID) -> None:
        self.failing = set(failing)
        self.asked: Counter[UUID] = Counter()

    async def __call__(self, records: Sequence[PartialRecord]) -> list[EnrichmentResult]:
        self.asked.update(each.id for each in records)
        await asyncio.sleep(0.001)
        partial = EnrichmentState.PARTIAL
        return [named(each, partial) if each.id in self.failing else named(each) for each in records]


async def test_partial_records_come_by_ascending_id_in_bounded_steps(store: Any) -> None:
    records = some_records(5)
    await store.store(records)
    resolve = Resolving()
    step = await store.backfill_next(2, resolve)
    assert [each.id for each in step.enriched] == [each.id for each in records[:2]]
    assert step.tried == 2
    step = await store.backfill_next(9, resolve)
    assert [each.id for each in step.enriched] == [each.id for each in records[2:]]


async def test_enriched_records_are_not_resolved_again_and_failed_ones_are(
    store: Any, pass_s: Callable[[float], Awaitable[None]]
) -> None:
    records = some_records(6)
    await store.store(records)
    failing = {records[1].id, records[4].id}
    step = await store.backfill_next(100, Resolving(*failing))
    assert (step.tried, len(step.enriched)) == (6, 4)
    again = Resolving()
    await pass_s(5)
    await store.backfill_next(100, again)
    assert set(again.asked) == failing
    assert await store.backfill_next(100, again) is None


async def test_a_record_that_stays_partial_is_due_less_and_less_often(
    store: Any, pass_s: Callable[[float], Awaitable[None]]
) -> None:
    [waiting] = some_records(1)
    await store.store([waiting])
    resolve = Resolving(waiting.id)
    for wait_s in (5, 10, 20, 40, 80, 160, 300, 300):
        assert (await store.backfill_next(9, resolve)).tried == 1
        # So that the time that the test itself takes makes nothing due.
        await pass_s(-3_600)
        assert await store.backfill_next(9, resolve) is None
        # What is stored a second time is not due sooner.
        await store.store([waiting])
        assert await store.backfill_next(9, resolve) is None
        await pass_s(3_600 + wait_s)


async def test_a_note_waits_twice_as_long_each_time_up_to_five_minutes(
    audit_database: AuditDatabase, postgres_store: PostgresStore
) -> None:
    [waiting] = some_records(1)
    await postgres_store.store([waiting])
    async with administrator(audit_database.admin_dsn) as admin:
        for wait_s in (5, 10, 20, 40, 80, 160, 300, 300):
            await admin.execute("UPDATE auditap.partial_records SET due_at = '2001-01-01'")
            before = await admin.fetchval("SELECT clock_timestamp()")
            await postgres_store.backfill_next(9, Resolving(waiting.id))
            after = await admin.fetchval("SELECT clock_timestamp()")
            due_at = await admin.fetchval("SELECT due_at FROM auditap.partial_records")
            assert before + timedelta(seconds=wait_s) <= due_at <= after + timedelta(seconds=wait_s)


async def test_complete_records_are_not_resolved(store: Any) -> None:
    await store.store(some_records(3, enrichment="complete"))
    assert await store.backfill_next(100, Resolving()) is None


async def test_a_repeated_record_that_was_enriched_is_not_resolved_again(store: Any) -> None:
    records = some_records(3)
    await store.store(records)
    await store.backfill_next(100, Resolving())
    await store.store(records)
    again = Resolving()
    step = await store.backfill_next(100, again)
    assert not again.asked
    assert step is None or step.tried == 0
    assert await store.backfill_next(100, again) is None


async def test_concurrent_backfills_share_the_work(store: Any) -> None:
    records = some_records(400)
    await store.store(records)
    resolve = Resolving()

    async def one() -> None:
        while await store.backfill_next(30, resolve):
            pass

    await asyncio.gather(*(one() for _ in range(4)))
    assert resolve.asked == Counter(each.id for each in records)


async def test_a_cancelled_step_changes_nothing(store: Any) -> None:
    records = some_records(4)
    await store.store(records)
    begun = asyncio.Event()

    async def hang(_records: Sequence[PartialRecord]) -> list[EnrichmentResult]:
        begun.set()
        await asyncio.Event().wait()
        return []

    step = asyncio.create_task(store.backfill_next(100, hang))
    await begun.wait()
    step.cancel()
    await asyncio.wait((step,))
    assert (await store.backfill_next(100, Resolving())).tried == 4


async def test_a_step_spans_few_partitions(
    postgres_store: PostgresStore,
) -> None:
    now_ms = time.time_ns() // 1_000_000
    records = [record(now_ms - days * DAY_MS, account_id="a") for days in (200, 199, 100, 1)]
    await postgres_store.store(records)
    spans = []
    while step := await postgres_store.backfill_next(100, Resolving()):
        spans.append(len(step.enriched))
    assert spans == [2, 1, 1]


async def test_found_names_are_in_the_audit_log_view(
    audit_database: AuditDatabase, postgres_store: PostgresStore
) -> None:
    records = some_records(2)
    await postgres_store.store(records)
    await postgres_store.backfill_next(100, Resolving(records[0].id))
    connection = await asyncpg.connect(audit_database.admin_dsn)
    try:
        rows = await connection.fetch("SELECT account_name, enrichment FROM auditap.audit_log ORDER BY id")
        assert [tuple(row) for row in rows] == [(None, "partial"), ("Acme", "complete")]
        assert await connection.fetchval("SELECT count(*) FROM auditap.partial_records") == 1
    finally:
        await connection.close()


async def test_a_store_that_is_away_is_retryable(postgres_store: PostgresStore) -> None:
    await postgres_store.store(some_records(1))
    away = await PostgresStore.connect(
        "postgresql://auditap_writer@127.0.0.1:1/none", connections_max=1, command_timeout_ms=1_000
    )
    with pytest.raises(RetryableError):
        await away.backfill_next(1, Resolving())
    await away.close()


@pytest.mark.parametrize("name", ["partial_records", "stored_digests"])
async def test_many_ids_are_looked_up_by_primary_key(
    audit_database: AuditDatabase, postgres_store: PostgresStore, name: str
) -> None:
    # Among millions of records the index on ranges of pages took longer than the statement's time limit.
    records = some_records(3_000)
    await postgres_store.store(records)
    ids = [each.id for each in records]
    connection = await asyncpg.connect(audit_database.admin_dsn)
    try:
        await connection.execute("VACUUM ANALYZE auditap.audit_records")
        await connection.execute("SET enable_seqscan = off")
        plan = await connection.fetch(f"EXPLAIN {query(name)}", ids, ids[0], ids[-1])
    finally:
        await connection.close()
    text = "\n".join(row[0] for row in plan)
    assert "_pkey on audit_records_" in text
    assert "(id = wanted.id)" in text
    assert "ANY" not in text
