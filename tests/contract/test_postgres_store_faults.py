"""What the store makes of a database that fails in the middle of a batch."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from auditap.database.connection import administrator
from ingestor.postgres_store import PostgresStore
from schemas.errors import DeadLetterReason, RetryableError
from schemas.record import Record
from tests.audit_database import AuditDatabase
from tests.records import record

_INSERT = (
    "INSERT INTO auditap.audit_records (id, action_result, action_type, receipt, received_ms, event_digest, enrichment)"
    " VALUES ($1, 'success', 'update', '{}', 0, '', 'complete')"
)


def records(count: int) -> list[Record]:
    """Records in the order of their ids."""
    now_ms = time.time_ns() // 1_000_000 - count
    return [record(now_ms + number, resource_id=str(number)) for number in range(count)]


@asynccontextmanager
async def breaking(admin_dsn: str, body: str) -> AsyncIterator[None]:
    """Run PL/pgSQL for each row that is inserted."""
    async with administrator(admin_dsn) as admin:
        await admin.execute(
            f"CREATE FUNCTION public.breaks() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} RETURN NEW; END $$;"
            "CREATE TRIGGER breaks BEFORE INSERT ON auditap.audit_records FOR EACH ROW EXECUTE FUNCTION public.breaks()"
        )
        yield
        await admin.execute("DROP FUNCTION public.breaks() CASCADE")


async def test_a_deadlock_is_retried(postgres_store: PostgresStore, audit_database: AuditDatabase) -> None:
    first, second = batch = records(2)
    await postgres_store.ensure_partitions(first.received_ms, second.received_ms)
    # A session looks for a deadlock once, a second after it has begun to wait. So the store begins last: between its two
    # rows it waits for the gate, until the rival waits for it.
    at_the_gate = "IF NEW.resource_id = '1' THEN PERFORM pg_advisory_xact_lock(1); END IF;"
    async with (
        administrator(audit_database.admin_dsn) as rival,
        administrator(audit_database.admin_dsn) as gate,
    ):
        # The rival never looks for deadlocks itself, so that the store is the one to be ended.
        await rival.execute("SET deadlock_timeout = '1h'")
        async with breaking(audit_database.admin_dsn, at_the_gate), rival.transaction():
            await gate.execute("SELECT pg_advisory_lock(1)")
            await rival.execute(_INSERT, second.id)
            storing = asyncio.create_task(postgres_store.store(batch))
            await _until_waiting(gate, 1)
            inserting = asyncio.create_task(rival.execute(_INSERT, first.id))
            await _until_waiting(gate, 2)
            await gate.execute("SELECT pg_advisory_unlock(1)")
            with pytest.raises(RetryableError, match="DeadlockDetectedError"):
                await storing
            await inserting
            # What the rival began, it takes back.
            await rival.execute("ROLLBACK; BEGIN")
    assert (await postgres_store.store(batch))[:2] == (2, 0)


async def _until_waiting(admin: asyncpg.Connection, sessions: int) -> None:
    """Wait until so many sessions wait for a lock."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    async with asyncio.timeout(120):
        while await admin.fetchval(waiting) < sessions:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("code", ["40001", "40P01", "53100", "53300", "57014", "57P01", "58030", "XX000"])
async def test_transient_errors_are_retried_and_dead_letter_nothing(
    postgres_store: PostgresStore, audit_database: AuditDatabase, code: str
) -> None:
    batch = records(10)
    async with breaking(audit_database.admin_dsn, f"RAISE EXCEPTION 'x' USING ERRCODE = '{code}';"):
        with pytest.raises(RetryableError):
            await postgres_store.store(batch)
    assert await postgres_store.store(batch) == (10, 0, ())


@pytest.mark.parametrize("code", ["22P02", "22003", "23502", "23514", "54000"])
async def test_bad_rows_are_found_by_halving_and_refused_alone(
    postgres_store: PostgresStore, audit_database: AuditDatabase, code: str
) -> None:
    batch = records(100)
    body = (
        f"IF NEW.resource_id IN ('0', '41', '42', '99') THEN RAISE EXCEPTION 'x' USING ERRCODE = '{code}',"
        " CONSTRAINT = 'ours'; END IF;"
    )
    async with breaking(audit_database.admin_dsn, body):
        stored, repeated, refused = await postgres_store.store(batch)
    assert (stored, repeated) == (96, 0)
    assert sorted((index, why.reason) for index, why in refused) == [
        (index, DeadLetterReason.UNSTORABLE) for index in (0, 41, 42, 99)
    ]


async def test_an_operators_own_constraint_refuses_its_rows_alone(
    postgres_store: PostgresStore, audit_database: AuditDatabase
) -> None:
    """It was taken for a partition that is missing, and the batch tried again for ever."""
    batch = records(10)
    async with administrator(audit_database.admin_dsn) as admin:
        await admin.execute(
            "ALTER TABLE auditap.audit_records ADD CONSTRAINT ours CHECK (resource_id <> '5')"
        )
    stored, _, refused = await postgres_store.store(batch)
    assert stored == 9
    assert [index for index, _ in refused] == [5]


async def test_a_dropped_partition_is_created_again(
    postgres_store: PostgresStore, audit_database: AuditDatabase
) -> None:
    batch = records(10)
    await postgres_store.store(batch)
    async with administrator(audit_database.admin_dsn) as admin:
        for (name,) in await admin.fetch(
            "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'auditap.audit_records'::regclass"
        ):
            await admin.execute(f"DROP TABLE {name}")
    with pytest.raises(RetryableError):
        await postgres_store.store(batch)
    assert (await postgres_store.store(batch))[:2] == (10, 0)


async def test_a_broken_protocol_is_retried(
    postgres_store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Postgres killed in the middle of a COPY ended the ingestor: asyncpg calls that an error of its own."""

    async def breaks(*_: object, **__: object) -> None:
        raise asyncpg.InternalClientError("cannot switch to state 12")

    batch = records(3)
    await postgres_store.ensure_partitions(batch[0].received_ms, batch[-1].received_ms)
    with monkeypatch.context() as patched:
        patched.setattr(asyncpg.Connection, "copy_records_to_table", breaks)
        with pytest.raises(RetryableError, match="InternalClientError"):
            await postgres_store.store(batch)
    assert (await postgres_store.store(batch))[:2] == (3, 0)


async def test_a_certificate_that_cannot_be_verified_is_an_outage_and_no_fault_of_a_row(
    postgres_store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Python's error is a ValueError as well, as are those of rows that cannot be encoded.
    first, second = records(2)
    await postgres_store.store([first])

    async def fail(*_arguments: object) -> None:
        raise ssl.SSLCertVerificationError

    with monkeypatch.context() as patch:
        patch.setattr("ingestor.postgres_store._hold_ids", fail)
        with pytest.raises(RetryableError, match="certificate cannot be verified"):
            await postgres_store.store([second])
    assert (await postgres_store.store([second])).stored == 1
