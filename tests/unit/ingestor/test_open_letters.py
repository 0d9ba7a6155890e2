"""How many dead letters wait for a decision is a metric, of a role that may not read them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import asyncpg
import pytest

from auditap.database import administrator
from ingestor.open_letters import OpenLettersWatch
from ingestor.ports import DeadLetter, Partition
from ingestor.postgres_store import PostgresStore
from schemas.errors import BuriedEvent, DeadLetterReason, RetryableError
from schemas.metric_defs import Metrics
from tests.audit_database import AuditDatabase, migrated


@pytest.fixture
async def audit(database: str) -> AuditDatabase:
    return await migrated(database)


@pytest.fixture
async def store(audit: AuditDatabase) -> AsyncIterator[PostgresStore]:
    held = await PostgresStore.connect(audit.writer_dsn, connections_max=1, command_timeout_ms=20_000)
    yield held
    await held.close()


async def bury(store: PostgresStore, offset: int, reason: DeadLetterReason) -> None:
    now_ms = time.time_ns() // 1_000_000
    await store.bury([DeadLetter(Partition("log", 0), offset, now_ms, b"no json", BuriedEvent(reason))])


def gauges(metrics: Metrics) -> dict[str, float]:
    [family] = metrics.dead_letters_open.collect()
    return {sample.labels["reason"]: sample.value for sample in family.samples}


async def test_open_letters_are_counted_by_reason_until_somebody_decides(
    audit: AuditDatabase, store: PostgresStore
) -> None:
    metrics = Metrics()
    watch = OpenLettersWatch(store, metrics, interval_ms=1)
    none = dict.fromkeys(map(str, DeadLetterReason), 0.0)
    await watch.look()
    assert gauges(metrics) == none

    for offset, reason in enumerate(
        [DeadLetterReason.EXPIRED, DeadLetterReason.EXPIRED, DeadLetterReason.TOO_LARGE]
    ):
        await bury(store, offset, reason)
    await watch.look()
    assert gauges(metrics) == none | {"expired": 2, "too_large": 1}

    async with administrator(audit.admin_dsn) as connection:
        await connection.execute("UPDATE auditap.dead_letters SET stored_at = now() WHERE source_offset = 0")
        await connection.execute(
            "UPDATE auditap.dead_letters SET discarded_at = now() WHERE source_offset = 2"
        )
    await watch.look()
    assert gauges(metrics) == none | {"expired": 1}


async def test_they_are_counted_as_far_as_was_asked(store: PostgresStore) -> None:
    for offset in range(5):
        await bury(store, offset, DeadLetterReason.MALFORMED)
    assert (await store.open_letters(3))["malformed"] == 3


async def test_the_writer_counts_them_and_reads_none(audit: AuditDatabase, store: PostgresStore) -> None:
    await bury(store, 1, DeadLetterReason.MALFORMED)
    connection = await asyncpg.connect(audit.writer_dsn)
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.fetch("SELECT event FROM auditap.dead_letters")
    finally:
        await connection.close()


class _Away:
    """Away at first, then there."""

    def __init__(self, stop: asyncio.Event) -> None:
        self._stop = stop
        self.asked = 0

    async def open_letters(self, letters_max: int) -> dict[str, int]:
        self.asked += 1
        if self.asked < 3:
            raise RetryableError("the store is away")
        self._stop.set()
        return {"expired": letters_max}


async def test_while_the_store_is_away_counting_goes_on() -> None:
    stop, metrics = asyncio.Event(), Metrics()
    away = _Away(stop)
    await OpenLettersWatch(away, metrics, interval_ms=1).run(stop)
    assert (away.asked, gauges(metrics)) == (3, {"expired": 100_000})
