"""The contract of `RecordStore` and `DeadLetterWriter`, for the real store and the fake alike."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from auditap.database.connection import administrator
from eventlog.ports import Partition
from ingestor.config import DAY_MS
from ingestor.dead_letters.ports import DeadLetter
from ingestor.ports import LostOffsets
from ingestor.postgres_store import PostgresStore
from schemas.errors import DeadLetterReason, RetryableError, UnprocessableEvent
from schemas.event import encode_event
from schemas.identity import with_ms
from schemas.record import Record, event_id_of, with_id
from tests.audit_database import AuditDatabase, assert_denied
from tests.fakes.record_store import MemoryRecordStore
from tests.ledger import Tap, clock, now_ms
from tests.records import event, record


def some_records(count: int) -> list[Record]:
    return [record(now_ms() - 1000 * number, resource_request='{"a":1.10}') for number in range(count)]


async def test_the_clock_of_a_store_is_kept_in_time(store: Any) -> None:
    before_ms = now_ms()
    at_ms = await store.clock_ms()
    assert before_ms - 300_000 < at_ms < now_ms() + 300_000


async def test_stores_each_record_once(store: Any) -> None:
    records = some_records(50)
    assert (await store.store(records))[:2] == (50, 0)
    assert (await store.store(records))[:2] == (0, 50)


async def test_part_of_a_batch_may_be_stored_already(store: Any) -> None:
    records = some_records(20)
    await store.store(records[:5])
    assert (await store.store(records))[:2] == (15, 5)


async def test_the_same_id_twice_in_one_batch_is_stored_once(store: Any) -> None:
    one = some_records(1)
    assert (await store.store([*one, *one]))[:2] == (1, 1)


async def test_the_same_id_with_another_digest_is_refused(store: Any) -> None:
    first, second = some_records(2)
    await store.store([first])
    other = record(now_ms(), id=first.id, event_digest=b"another digest..")
    outcome = await store.store([second, other])
    assert (outcome.stored, outcome.repeated) == (1, 0)
    assert [(index, why.reason) for index, why in outcome.refused] == [(1, DeadLetterReason.ID_CONFLICT)]


def clamped(one: Record, to_ms: int) -> Record:
    """The record of the same event, clamped."""
    return with_id(one, with_ms(event_id_of(one), to_ms))


def ahead(**changes: Any) -> Record:
    """A record of an event dated an hour ahead, as it is."""
    return record(now_ms() + 3_600_000, **changes)


async def stored(store: Any, audit: AuditDatabase) -> list[tuple[UUID, int | None]]:
    """Return the ids of all records and what they were clamped from, in order."""
    if isinstance(store, MemoryRecordStore):
        return sorted((each.id, each.clamped_from_ms) for each in store.records.values())
    connection = await asyncpg.connect(audit.admin_dsn)
    try:
        rows = await connection.fetch("SELECT id, clamped_from_ms FROM auditap.audit_records ORDER BY id")
    finally:
        await connection.close()
    return [(UUID(int=row["id"].int), row["clamped_from_ms"]) for row in rows]


@pytest.mark.parametrize(
    "at_ms",
    [now_ms() + 3_600_000, now_ms() + 400 * DAY_MS, (1 << 48) - 1],
    ids=["an hour", "400 days", "the last millisecond"],
)
async def test_an_event_clamped_twice_is_one_record_under_the_first_id(
    store: Any, audit_database: AuditDatabase, at_ms: int
) -> None:
    one = record(at_ms)
    first, later = clamped(one, now_ms() - 60_000), clamped(one, now_ms())
    assert (await store.store([first, *some_records(3)]))[:2] == (4, 0)
    assert (await store.store([later, *some_records(3)]))[:2] == (3, 1)
    found = await stored(store, audit_database)
    assert len(found) == 7
    assert [each for each in found if each[1] is not None] == [(first.id, at_ms)]


async def test_an_event_clamped_and_sent_again_when_its_time_has_come_is_one_record(
    store: Any, audit_database: AuditDatabase
) -> None:
    one = ahead()
    first = clamped(one, now_ms())
    assert (await store.store([first]))[:2] == (1, 0)
    assert (await store.store([*some_records(2), one]))[:2] == (2, 1)
    assert (await store.store([one]))[:2] == (0, 1)
    assert len(found := await stored(store, audit_database)) == 3
    assert (first.id, first.clamped_from_ms) in found


async def test_an_event_stored_as_it_is_and_clamped_later_is_one_record(
    store: Any, audit_database: AuditDatabase
) -> None:
    one = ahead()
    assert (await store.store([one]))[:2] == (1, 0)
    assert (await store.store([clamped(one, now_ms()), *some_records(2)]))[:2] == (2, 1)
    assert (one.id, None) in await stored(store, audit_database)


async def test_an_event_clamped_twice_in_one_batch_is_one_record(
    store: Any, audit_database: AuditDatabase
) -> None:
    one = ahead()
    batch = [clamped(one, now_ms()), one, clamped(one, now_ms() - 1_000)]
    assert (await store.store(batch))[:2] == (1, 2)
    assert len(await stored(store, audit_database)) == 1


async def test_another_event_with_the_id_of_a_clamped_one_is_refused(store: Any) -> None:
    one = ahead()
    await store.store([clamped(one, now_ms())])
    other = ahead(id=one.id, event_digest=b"another digest..")
    for given in (clamped(other, now_ms() + 1_000), other):
        outcome = await store.store([given])
        assert (outcome.stored, outcome.repeated) == (0, 0)
        assert [(index, why.reason) for index, why in outcome.refused] == [(0, DeadLetterReason.ID_CONFLICT)]


async def test_a_clamped_row_that_cannot_be_stored_takes_no_other_with_it(store: Any) -> None:
    records = [clamped(ahead(), now_ms()) for _ in range(9)]
    records[4] = clamped(ahead(resource_request="{"), now_ms())
    outcome = await store.store(records)
    assert (outcome.stored, outcome.repeated) == (8, 0)
    assert [(index, why.reason) for index, why in outcome.refused] == [(4, DeadLetterReason.UNSTORABLE)]


async def test_sessions_on_either_side_of_the_bound_store_an_event_once(
    audit_database: AuditDatabase, postgres_store: PostgresStore
) -> None:
    """Ours, one more that clamps to another time, and one that takes the events as they are."""
    other = await PostgresStore.connect(
        audit_database.writer_dsn, connections_max=2, command_timeout_ms=60_000
    )
    try:
        for number in range(100):
            ours = [ahead() for _ in range(10)]
            sides = [
                postgres_store.store([clamped(each, now_ms()) for each in ours]),
                other.store([clamped(each, now_ms() - 5_000) for each in ours[::-1]]),
                other.store(ours),
            ]
            order = sides[number % 3 :] + sides[: number % 3]
            # One side ends before the others begin in the first three turns, so that every way is taken, whoever wins the races.
            outcomes = [await order.pop(0)] if number < 3 else []
            outcomes += await asyncio.gather(*order)
            assert sum(outcome.stored for outcome in outcomes) == 10
            assert sum(outcome.repeated for outcome in outcomes) == 20
    finally:
        await other.close()
    found = await stored(postgres_store, audit_database)
    assert len({each.int & (1 << 80) - 1 for each, _ in found}) == len(found) == 1_000
    assert {from_ms is None for _, from_ms in found} == {True, False}


async def test_no_clamped_id_is_noted_while_its_event_is_being_stored(
    audit_database: AuditDatabase, postgres_store: PostgresStore
) -> None:
    holder = await asyncpg.connect(audit_database.writer_dsn)
    try:
        async with holder.transaction():
            assert not await holder.fetchval("SELECT auditap.hold_clamped_ids($1, $1)", ahead().id)
            storing = asyncio.create_task(postgres_store.store([clamped(ahead(), now_ms())]))
            waits = "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'relation' AND NOT granted)"
            while not await holder.fetchval(waits):
                await asyncio.sleep(0.01)
            assert not storing.done()
        assert (await storing).stored == 1
    finally:
        await holder.close()


async def test_an_empty_batch_is_stored_at_once(store: Any) -> None:
    assert (await store.store([]))[:2] == (0, 0)


@pytest.mark.parametrize(
    "hostile",
    [{"raw_user_agent": "a\0b"}, {"resource_request": "{"}, {"resource_response": "[1,"}],
    ids=["nul", "request", "response"],
)
async def test_a_row_that_cannot_be_stored_takes_no_other_with_it(
    store: Any, hostile: dict[str, Any]
) -> None:
    records = some_records(33)
    records[17] = record(now_ms(), **hostile)
    outcome = await store.store(records)
    assert (outcome.stored, outcome.repeated) == (32, 0)
    assert [(index, why.reason) for index, why in outcome.refused] == [(17, DeadLetterReason.UNSTORABLE)]


async def test_dead_letters_are_written_once_per_position(store: Any) -> None:
    value = encode_event(event(now_ms()))
    dead_letters = [
        DeadLetter(Partition("log", 0), offset, now_ms(), value, UnprocessableEvent(DeadLetterReason.EXPIRED))
        for offset in range(3)
    ]
    await store.write_dead_letters(dead_letters)
    await store.write_dead_letters(dead_letters)


async def test_reports_are_noted_idempotently(store: Any) -> None:
    tap = Tap()
    reports = [tap.heartbeat(5, now_ms()), tap.count(now_ms(), excluded=((1, 2),)), clock(now_ms())]
    lost = [LostOffsets(Partition("log", 0), 1, 5, now_ms())]
    assert list(await store.note(reports, lost)) == []
    assert list(await store.note(reports[::-1], lost)) == []


async def test_sessions_with_overlapping_batches_in_opposite_order_never_deadlock(
    audit_database: AuditDatabase,
) -> None:
    stores = [
        await PostgresStore.connect(audit_database.writer_dsn, connections_max=1, command_timeout_ms=60_000)
        for _ in range(2)
    ]
    try:
        for _ in range(200):
            records = some_records(40)
            outcomes = await asyncio.gather(stores[0].store(records), stores[1].store(records[::-1]))
            assert sum(outcome.stored for outcome in outcomes) == 40
            assert sum(outcome.repeated for outcome in outcomes) == 40
    finally:
        for store in stores:
            await store.close()


async def test_partitions_are_created_on_demand_and_after_a_drop(
    audit_database: AuditDatabase, postgres_store: PostgresStore
) -> None:
    # At midnight another record would be of another day.
    records = some_records(2)
    await postgres_store.store(records[:1])
    connection = await asyncpg.connect(audit_database.admin_dsn)
    try:
        for child in await connection.fetch(
            "SELECT inhrelid::regclass::text AS name FROM pg_inherits WHERE inhparent = 'auditap.audit_records'::regclass"
        ):
            await connection.execute(f"DROP TABLE {child['name']}")
    finally:
        await connection.close()
    with pytest.raises(RetryableError):
        await postgres_store.store(records)
    assert (await postgres_store.store(records)).stored == 2


async def test_the_writer_can_neither_change_nor_read_what_was_recorded(
    audit_database: AuditDatabase,
) -> None:
    await assert_denied(
        audit_database.writer_dsn,
        "UPDATE auditap.audit_records SET action_result = 'success'",
        "DELETE FROM auditap.audit_records",
        "TRUNCATE auditap.audit_records",
        "SELECT resource_request FROM auditap.audit_records",
        "SELECT raw_uri FROM auditap.audit_records",
        "SELECT event FROM auditap.dead_letters",
        "SELECT * FROM auditap.api_tokens",
        "INSERT INTO auditap.clamped_ids VALUES (gen_random_uuid(), gen_random_uuid())",
        "UPDATE auditap.clamped_ids SET clamped_id = event_id",
        "DELETE FROM auditap.clamped_ids",
        "CREATE TABLE auditap.more (id int)",
    )
    async with administrator(audit_database.writer_dsn) as writer:
        with pytest.raises(asyncpg.DataError):
            await writer.execute("SELECT auditap.ensure_partitions(0, 9000000000000000)")


async def test_a_database_that_is_away_is_retryable(audit_database: AuditDatabase) -> None:
    away = audit_database.writer_dsn.replace(
        f":{audit_database.writer_dsn.rsplit(':', 1)[1].split('/')[0]}/", ":1/"
    )
    store = await PostgresStore.connect(away, connections_max=1, command_timeout_ms=1000)
    with pytest.raises(RetryableError):
        await store.store(some_records(1))
    assert not await store.ready()
    await store.close()
