"""The contract of `RecordStore` and `DeadLetters`, for the real store and the fake alike."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from ingestor.ports import DeadLetter, LostOffsets, Partition
from ingestor.postgres_store import PostgresStore
from schemas.errors import BuriedEvent, DeadLetterReason, RetryableError
from schemas.event import encode_event
from schemas.record import Record
from tests.audit_database import AuditDatabase, migrated
from tests.fakes.record_store import MemoryRecordStore
from tests.ledger import Tap, clock, now_ms
from tests.records import event, record


@pytest.fixture
async def audit_database(database: str) -> AuditDatabase:
    return await migrated(database)


@pytest.fixture
async def postgres_store(audit_database: AuditDatabase) -> AsyncIterator[PostgresStore]:
    store = await PostgresStore.connect(
        audit_database.writer_dsn, connections_max=4, command_timeout_ms=20_000
    )
    yield store
    await store.close()


@pytest.fixture(params=["memory", "postgres"])
def store(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue("postgres_store") if request.param == "postgres" else MemoryRecordStore()


def some_records(count: int) -> list[Record]:
    return [record(now_ms() - 1000 * number, resource_request='{"a":1.10}') for number in range(count)]


async def test_stores_each_record_once(store: Any) -> None:
    records = some_records(50)
    assert (await store.store(records))[:2] == (50, 0)
    assert (await store.store(records))[:2] == (0, 50)


async def test_part_of_a_batch_may_be_there_already(store: Any) -> None:
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


async def test_letters_are_buried_once_per_place(store: Any) -> None:
    value = encode_event(event(now_ms()))
    letters = [
        DeadLetter(Partition("log", 0), offset, now_ms(), value, BuriedEvent(DeadLetterReason.EXPIRED))
        for offset in range(3)
    ]
    await store.bury(letters)
    await store.bury(letters)


async def test_reports_are_noted_as_often_as_they_come(store: Any) -> None:
    tap = Tap()
    reports = [tap.heartbeat(5, now_ms()), tap.count(now_ms(), excluded=((1, 2),)), clock(now_ms())]
    lost = [LostOffsets(Partition("log", 0), 1, 5, now_ms())]
    assert list(await store.note(reports, lost)) == []
    assert list(await store.note(reports[::-1], lost)) == []


async def test_sessions_with_overlapping_batches_in_opposite_order_never_deadlock(
    audit_database: AuditDatabase,
) -> None:
    stores = [
        await PostgresStore.connect(audit_database.writer_dsn, connections_max=1, command_timeout_ms=20_000)
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


async def test_partitions_are_made_on_demand_and_again_after_they_were_dropped(
    audit_database: AuditDatabase, postgres_store: PostgresStore
) -> None:
    await postgres_store.store(some_records(1))
    connection = await asyncpg.connect(audit_database.admin_dsn)
    try:
        for child in await connection.fetch(
            "SELECT inhrelid::regclass::text AS name FROM pg_inherits WHERE inhparent = 'auditap.audit_records'::regclass"
        ):
            await connection.execute(f"DROP TABLE {child['name']}")
    finally:
        await connection.close()
    records = some_records(2)
    with pytest.raises(RetryableError):
        await postgres_store.store(records)
    assert (await postgres_store.store(records)).stored == 2


async def test_the_writer_can_neither_change_nor_read_what_was_recorded(
    audit_database: AuditDatabase,
) -> None:
    connection = await asyncpg.connect(audit_database.writer_dsn)
    try:
        for statement in (
            "UPDATE auditap.audit_records SET action_result = 'success'",
            "DELETE FROM auditap.audit_records",
            "TRUNCATE auditap.audit_records",
            "SELECT resource_request FROM auditap.audit_records",
            "SELECT raw_uri FROM auditap.audit_records",
            "SELECT event FROM auditap.dead_letters",
            "SELECT * FROM auditap.api_tokens",
            "CREATE TABLE auditap.more (id int)",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)
        with pytest.raises(asyncpg.DataError):
            await connection.execute("SELECT auditap.ensure_partitions(0, 9000000000000000)")
    finally:
        await connection.close()


async def test_a_database_that_is_away_is_retryable(audit_database: AuditDatabase) -> None:
    away = audit_database.writer_dsn.replace(
        f":{audit_database.writer_dsn.rsplit(':', 1)[1].split('/')[0]}/", ":1/"
    )
    store = await PostgresStore.connect(away, connections_max=1, command_timeout_ms=1000)
    with pytest.raises(RetryableError):
        await store.store(some_records(1))
    assert not await store.ready()
    await store.close()
