"""The gap ledger bounds numbers and spans whoever calls it, and its upkeep never deadlocks with ingest."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import asyncpg
import pytest

from auditap.database.connection import administrator
from auditap.database.roles import ROLES
from ingestor.config import DAY_MS, GapLedgerWaits
from ingestor.postgres_store import PostgresStore
from schemas.heartbeat import SEQ_MAX
from tests.audit_database import AuditDatabase, assert_denied
from tests.ledger import Ledger, Tap, clock, now_ms
from tests.records import record

_TIDY = "SELECT auditap.tidy_completeness(20000, 300000, 600000, 0, 50)"
_NUMBERS = "SELECT auditap.note_numbers($1, $2, $3, $4, $4, $4)"


@pytest.fixture
async def ledger(audit_database: AuditDatabase, postgres_store: PostgresStore) -> AsyncIterator[Ledger]:
    async with administrator(audit_database.admin_dsn) as connection:
        yield Ledger(postgres_store, connection)


@pytest.mark.parametrize(
    ("statement", "arguments"),
    [
        (_NUMBERS, [["t"], [1], ["{(,)}"], [1]]),
        (_NUMBERS, [["t"], [1], ["{[0,3)}"], [1]]),
        (_NUMBERS, [["t"], [1], [f"{{[5,{SEQ_MAX + 2})}}"], [1]]),
        (_NUMBERS, [["t"], [-1], ["{[1,3)}"], [1]]),
        ("SELECT auditap.note_lost_offsets('l', 0, $1, $2, NULL, 1)", [-1, 5]),
        ("SELECT auditap.note_lost_offsets('l', 0, $1, $2, NULL, 1)", [0, (1 << 63) - 1]),
        ("SELECT auditap.note_count('t', 1, '{}', 1, $1, $2, '{x}', '{1}', '{1}')", [[0], [5]]),
        ("SELECT auditap.note_count('t', 1, '{}', 1, $1, $2, '{x}', '{1}', '{1}')", [[5], [SEQ_MAX + 1]]),
        *(
            (
                "SELECT auditap.note_heartbeat('t', 1, $1, 1, 1, $2, $3, 1, 100, 'alive', 1, '{}', '{}', '{}', '{}', '{}')",
                numbers,
            )
            for numbers in (
                [1, SEQ_MAX + 1, 1],
                [1, 1, SEQ_MAX + 2],
                [1, 1, 0],
                [SEQ_MAX + 1, 1, 1],
                [-1, 1, 1],
            )
        ),
    ],
)
async def test_numbers_that_no_tap_has_are_refused(
    ledger: Ledger, audit_database: AuditDatabase, statement: str, arguments: list[object]
) -> None:
    async with administrator(audit_database.writer_dsn) as writer:
        with pytest.raises(asyncpg.CheckViolationError):
            await writer.execute(statement, *arguments)
    assert await ledger.gaps() == []


async def test_the_highest_numbers_that_there_are_overflow_nothing(ledger: Ledger) -> None:
    """Regression: sums beyond a bigint ended the gauges, and the upkeep with them."""
    at_ms = now_ms()
    await ledger.note(clock(at_ms))
    await ledger.connection.execute(
        "SELECT auditap.note_heartbeat('liar', epoch, 1, $1, $1, $2, $2::bigint + 1, $1, 100, 'killed', $1::bigint,"
        " '{}', '{}', '{}', '{}', '{}') FROM generate_series(1, 1100) AS epoch",
        at_ms - 40_000,
        SEQ_MAX,
    )
    assert (await ledger.store.refresh_gap_ledger(GapLedgerWaits())).missing == (1 << 63) - 1
    for last in ((1 << 63) - 2, (1 << 63) - 3):
        await ledger.connection.execute(
            "SELECT auditap.note_lost_offsets('l', 0, (1::bigint << 62) + $1::bigint % 2, $1, NULL, 1)", last
        )
        await ledger.connection.execute(
            "SELECT auditap.note_lost_offsets('l', 0, $1::bigint % 2, $1, NULL, 1)", last
        )
    await ledger.store.refresh_gap_ledger(GapLedgerWaits())
    closed = await ledger.connection.fetch("SELECT gaps, missing FROM auditap.closed_gaps")
    assert [tuple(row) for row in closed] == [(4, (1 << 63) - 1)]


@pytest.mark.parametrize(
    ("from_ago_ms", "to_ago_ms"),
    [(None, 0), (0, None), (None, None), (1_001 * DAY_MS, 0), (2_000 * DAY_MS, -DAY_MS)],
)
async def test_partitions_are_made_for_a_known_span_of_bounded_length(
    ledger: Ledger, audit_database: AuditDatabase, from_ago_ms: int | None, to_ago_ms: int | None
) -> None:
    """Regression: without an end, one call made partitions until it was cancelled."""
    times = [None if ago_ms is None else now_ms() - ago_ms for ago_ms in (from_ago_ms, to_ago_ms)]
    async with administrator(audit_database.writer_dsn) as writer:
        await writer.execute("SET statement_timeout = '30s'")
        with pytest.raises(asyncpg.DataError):
            await writer.execute("SELECT auditap.ensure_partitions($1, $2)", *times)
    assert await ledger.connection.fetchval("SELECT count(*) FROM auditap.partitions()") == 0


async def test_no_role_can_hold_up_ingest_and_upkeep(ledger: Ledger, audit_database: AuditDatabase) -> None:
    """Regression: any login could take the advisory locks that they waited for."""
    async with administrator(audit_database.reader_dsn) as reader:
        for name in ("clamped_ids", "tidy_completeness", "ensure_partitions"):
            await reader.execute("SELECT pg_advisory_lock(hashtext($1))", f"auditap.{name}")
        async with asyncio.timeout(60):
            ahead = record(now_ms(), clamped_from_ms=now_ms() + 3_600_000)
            assert (await ledger.store.store([record(now_ms()), ahead])).stored == 2
            waits = GapLedgerWaits(watermark_lag_ms=1_234)
            await ledger.store.refresh_gap_ledger(waits)
    settle = "SELECT settle_ms FROM auditap.completeness_clock"
    assert await ledger.connection.fetchval(settle) == 1_234
    for role in ROLES:
        dsn = getattr(audit_database, f"{role.removeprefix('auditap_')}_dsn")
        for table in ("clamped_ids_lock", "upkeep_lock"):
            for mode in ("ROW SHARE", "EXCLUSIVE"):
                await assert_denied(dsn, f"BEGIN; LOCK TABLE auditap.{table} IN {mode} MODE")


async def holed(ledger: Ledger, name: str, gaps: int) -> None:
    """Let a tap have so many gaps."""
    await ledger.note(Tap(name).heartbeat(2 * gaps, now_ms() - 25_000), clock(now_ms()))
    await ledger.connection.execute(
        "UPDATE auditap.tap_epochs SET seen = (SELECT range_agg(int8range(number, number + 1))"
        " FROM generate_series(1, $2::bigint * 2, 2) AS number) WHERE tap_id = $1",
        name,
        gaps,
    )


async def test_folding_takes_time_in_proportion_to_the_gaps(ledger: Ledger) -> None:
    gaps = 40_000
    await holed(ledger, "t-1", gaps)
    await ledger.connection.execute("SET statement_timeout = '30s'")
    await ledger.connection.execute(_TIDY)
    found = await ledger.gaps()
    assert sum(count for _, _, count, _ in found) == gaps
    assert len(found) <= 50


Step = Callable[[asyncpg.Connection], Awaitable[object]]


async def sees(name: str, number: int, connection: asyncpg.Connection) -> None:
    await connection.execute(_NUMBERS, [name], [7], [f"{{[{number},{number + 1})}}"], [now_ms()])


async def upkeep_meets(audit: AuditDatabase, first: Step, second: Step) -> None:
    """Let a batch take a step, then the upkeep begin, which has to wait for it, then the batch take another."""
    async with (
        administrator(audit.admin_dsn) as observer,
        administrator(audit.writer_dsn) as ingest,
        administrator(audit.writer_dsn) as upkeep,
    ):
        async with ingest.transaction():
            await first(ingest)
            tidying = asyncio.create_task(upkeep.execute(_TIDY))
            async with asyncio.timeout(120):
                while not await observer.fetchval("SELECT pg_blocking_pids($1)", upkeep.get_server_pid()):
                    await asyncio.sleep(0.01)
            await second(ingest)
        await tidying


async def old_tap(ledger: Ledger, name: str) -> None:
    tap = Tap(name, began_ago_ms=40 * DAY_MS)
    await ledger.note(tap.heartbeat(3, tap.started_ms + 10))
    await ledger.connection.execute(
        "UPDATE auditap.tap_epochs SET heard_ms = 1, latest_ms = 1 WHERE tap_id = $1", name
    )


async def test_upkeep_locks_old_and_holed_taps_in_one_order(
    ledger: Ledger, audit_database: AuditDatabase
) -> None:
    """Regression: it locked the old ones first, and deadlocked with a batch of both."""
    await holed(ledger, "a", 60)
    await old_tap(ledger, "z")
    await upkeep_meets(audit_database, lambda batch: sees("a", 2, batch), lambda batch: sees("z", 2, batch))


async def test_upkeep_locks_taps_without_numbers_after_the_others(
    ledger: Ledger, audit_database: AuditDatabase
) -> None:
    await holed(ledger, "a", 60)
    await ledger.connection.execute("INSERT INTO auditap.unnumbered_taps VALUES ('u', 1, 1)")
    note = "SELECT auditap.note_unnumbered(ARRAY['u'], $1)"
    await upkeep_meets(
        audit_database, lambda batch: sees("a", 2, batch), lambda batch: batch.execute(note, now_ms())
    )
