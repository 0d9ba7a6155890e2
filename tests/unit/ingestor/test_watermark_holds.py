"""The watermark stays back for late events for its hold, whatever the database's clock does meanwhile."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from auditap.database.completeness import list_watermark_bounds
from auditap.database.connection import administrator
from ingestor.config import GapLedgerWaits
from ingestor.postgres_store import PostgresStore
from tests.audit_database import AuditDatabase
from tests.ledger import Ledger, Tap, clock, now_ms

HOLD_MS = 600_000
DAY_MS = 86_400_000
WAITS = GapLedgerWaits(watermark_lag_ms=20_000, gap_wait_ms=300_000, watermark_hold_ms=HOLD_MS)


@pytest.fixture
async def ledger(audit_database: AuditDatabase, postgres_store: PostgresStore) -> AsyncIterator[Ledger]:
    await postgres_store.refresh_gap_ledger(WAITS)
    async with administrator(audit_database.admin_dsn) as connection:
        yield Ledger(postgres_store, connection)


async def set_clock(ledger: Ledger, ahead_ms: int) -> None:
    """Let the database's clock be ahead of the right one."""
    await ledger.connection.execute(
        "CREATE OR REPLACE FUNCTION auditap.now_ms() RETURNS bigint LANGUAGE sql VOLATILE AS"
        f" $$ SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint + {ahead_ms} $$"
    )


async def is_held(ledger: Ledger) -> bool:
    await ledger.store.refresh_gap_ledger(WAITS)
    listed = any(bound.state == "late" for bound in await list_watermark_bounds(ledger.connection))
    complete_ms = await ledger.complete_before()
    assert complete_ms is not None
    assert listed == (complete_ms < await ledger.log_ms() - 1_000_000)
    return listed


async def arrive_late(ledger: Ledger) -> int:
    """Let a capture arrive late; return the log's own time before."""
    late = Tap("late", began_ago_ms=2_000_000)
    await ledger.note(Tap("known").heartbeat(0, now_ms()), clock(now_ms()))
    await ledger.store.store(late.records(1, 5))
    await ledger.note(late.heartbeat(5, now_ms()))
    assert await is_held(ledger)
    return await ledger.log_ms()


async def pass_by(ledger: Ledger, log_ms: int, passed_ms: int) -> None:
    """Let time pass by the collectors' clocks alone, in which a tap still sends heartbeats."""
    await ledger.connection.execute(
        "UPDATE auditap.completeness_clock SET received_ms = $1", log_ms + passed_ms
    )
    await ledger.connection.execute(
        "UPDATE auditap.tap_epochs SET pending_since_ms = $1, lease_until_ms = $1::bigint + 60000, waits_until_ms = $1::bigint + 60000",
        log_ms + passed_ms,
    )


@pytest.mark.parametrize("jump_ms", [3_600_000, 40 * DAY_MS, 4_000 * DAY_MS])
async def test_a_database_s_clock_that_jumps_ahead_ends_no_hold(ledger: Ledger, jump_ms: int) -> None:
    """Regression: a hold went by this clock alone, so that a poller could miss what had arrived late."""
    log_ms = await arrive_late(ledger)
    await set_clock(ledger, jump_ms)
    assert await is_held(ledger)
    await pass_by(ledger, log_ms, HOLD_MS - 1_000)
    assert await is_held(ledger)
    await pass_by(ledger, log_ms, HOLD_MS + 60_000)
    assert not await is_held(ledger)


async def test_a_log_whose_time_jumps_ahead_ends_no_hold(ledger: Ledger) -> None:
    log_ms = await arrive_late(ledger)
    await pass_by(ledger, log_ms, HOLD_MS + 60_000)
    assert await is_held(ledger)
    await set_clock(ledger, HOLD_MS + 60_000)
    assert not await is_held(ledger)


@pytest.mark.parametrize("jump_ms", [3_600_000, 4_000 * DAY_MS])
async def test_what_arrives_while_the_clock_is_ahead_is_held_as_long(ledger: Ledger, jump_ms: int) -> None:
    await set_clock(ledger, jump_ms)
    log_ms = await arrive_late(ledger)
    # It comes back: nothing is held for as long as the jump was.
    await set_clock(ledger, 0)
    assert await is_held(ledger)
    await pass_by(ledger, log_ms, HOLD_MS + 60_000)
    assert await is_held(ledger)
    await set_clock(ledger, HOLD_MS + 60_000)
    assert not await is_held(ledger)


async def test_a_clock_that_stays_ahead_for_years_holds_for_a_week_at_most(ledger: Ledger) -> None:
    await set_clock(ledger, 4_000 * DAY_MS)
    log_ms = await arrive_late(ledger)
    await pass_by(ledger, log_ms, 7 * DAY_MS + HOLD_MS - 1_000)
    assert await is_held(ledger)
    await pass_by(ledger, log_ms, 7 * DAY_MS + HOLD_MS + 1_000)
    assert not await is_held(ledger)


async def test_a_log_that_catches_up_ends_no_hold(ledger: Ledger) -> None:
    behind_ms = 2 * DAY_MS
    await set_clock(ledger, behind_ms)
    log_ms = await arrive_late(ledger)
    await pass_by(ledger, log_ms, behind_ms)
    assert await is_held(ledger)
    await pass_by(ledger, log_ms, behind_ms + HOLD_MS + 60_000)
    await set_clock(ledger, behind_ms + HOLD_MS + 60_000)
    assert not await is_held(ledger)
