"""How many dead letters wait for a decision is a metric, of a role that may not read them."""

from __future__ import annotations

import asyncio
import time

from auditap.database.connection import administrator
from eventlog.ports import Partition
from ingestor.dead_letters.gauge import UnresolvedDeadLettersGauge
from ingestor.dead_letters.ports import DeadLetter
from ingestor.periodic_task import run_periodically
from ingestor.postgres_store import PostgresStore
from schemas.errors import DeadLetterReason, RetryableError, UnprocessableEvent
from schemas.metric_defs import Metrics
from tests.audit_database import AuditDatabase, assert_denied


async def write_dead_letter(postgres_store: PostgresStore, offset: int, reason: DeadLetterReason) -> None:
    now_ms = time.time_ns() // 1_000_000
    await postgres_store.write_dead_letters(
        [DeadLetter(Partition("log", 0), offset, now_ms, b"no json", UnprocessableEvent(reason))]
    )


def gauges(metrics: Metrics) -> dict[str, float]:
    [family] = metrics.dead_letters_unresolved.collect()
    return {sample.labels["reason"]: sample.value for sample in family.samples}


async def test_unresolved_dead_letters_are_counted_by_reason(
    audit_database: AuditDatabase, postgres_store: PostgresStore
) -> None:
    metrics = Metrics()
    gauge = UnresolvedDeadLettersGauge(postgres_store, metrics)
    none = dict.fromkeys(map(str, DeadLetterReason), 0.0)
    await gauge.refresh()
    assert gauges(metrics) == none

    for offset, reason in enumerate(
        [DeadLetterReason.EXPIRED, DeadLetterReason.EXPIRED, DeadLetterReason.TOO_LARGE]
    ):
        await write_dead_letter(postgres_store, offset, reason)
    await gauge.refresh()
    assert gauges(metrics) == none | {"expired": 2, "too_large": 1}

    async with administrator(audit_database.admin_dsn) as connection:
        await connection.execute("UPDATE auditap.dead_letters SET stored_at = now() WHERE source_offset = 0")
        await connection.execute(
            "UPDATE auditap.dead_letters SET discarded_at = now() WHERE source_offset = 2"
        )
    await gauge.refresh()
    assert gauges(metrics) == none | {"expired": 1}


async def test_they_are_counted_up_to_the_maximum(postgres_store: PostgresStore) -> None:
    for offset in range(5):
        await write_dead_letter(postgres_store, offset, DeadLetterReason.MALFORMED)
    assert (await postgres_store.count_unresolved_dead_letters(3))["malformed"] == 3


async def test_the_writer_can_count_but_not_read_them(
    audit_database: AuditDatabase, postgres_store: PostgresStore
) -> None:
    await write_dead_letter(postgres_store, 1, DeadLetterReason.MALFORMED)
    await assert_denied(audit_database.writer_dsn, "SELECT event FROM auditap.dead_letters")


class _Away:
    """Away at first, then there."""

    def __init__(self, stop: asyncio.Event) -> None:
        self._stop = stop
        self.asked = 0

    async def count_unresolved_dead_letters(self, count_max: int) -> dict[str, int]:
        self.asked += 1
        if self.asked < 3:
            raise RetryableError("the store is away")
        self._stop.set()
        return {"expired": count_max}


async def test_counting_goes_on_after_a_store_was_away() -> None:
    stop, metrics = asyncio.Event(), Metrics()
    away = _Away(stop)
    refresh = UnresolvedDeadLettersGauge(away, metrics).refresh
    await run_periodically(refresh, 1, stop, "dead_letters_not_counted")
    assert (away.asked, gauges(metrics)) == (3, {"expired": 100_000})
