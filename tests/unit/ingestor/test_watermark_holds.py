"""Where the watermark goes back, it stays for its hold, whatever the clocks do meanwhile."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from auditap.database.completeness import list_watermark_bounds
from auditap.database.connection import administrator
from ingestor.config import GapLedgerWaits
from ingestor.postgres_store import PostgresStore
from tests.audit_database import AuditDatabase
from tests.ledger import Ledger, Tap, clock, now_ms, set_clocks, set_database_clock

HOLD_MS = 600_000
DAY_MS = 86_400_000
WAITS = GapLedgerWaits(watermark_lag_ms=20_000, gap_wait_ms=300_000, watermark_hold_ms=HOLD_MS)


@pytest.fixture
async def ledger(audit_database: AuditDatabase, postgres_store: PostgresStore) -> AsyncIterator[Ledger]:
    await postgres_store.refresh_gap_ledger(WAITS)
    async with administrator(audit_database.admin_dsn) as connection:
        yield Ledger(postgres_store, connection)


async def is_held(ledger: Ledger) -> bool:
    await ledger.store.refresh_gap_ledger(WAITS)
    listed = any(bound.state == "late" for bound in await list_watermark_bounds(ledger.connection))
    complete_ms = await ledger.complete_before()
    assert complete_ms is not None
    assert listed == (complete_ms < await ledger.log_ms() - 1_000_000)
    return listed


async def arrive_late(ledger: Ledger, late: Tap | None = None) -> int:
    """Let captures of a tap arrive late; return the log's own time before."""
    late = late or Tap("late", began_ago_ms=2_000_000)
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
async def test_a_database_s_clock_that_jumps_ahead_ends_no_hold(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, jump_ms: int
) -> None:
    """Regression: a hold went by this clock alone, so that a poller could miss what had arrived late."""
    log_ms = await arrive_late(ledger)
    await set_clocks(ledger, monkeypatch, jump_ms)
    assert await is_held(ledger)
    await pass_by(ledger, log_ms, HOLD_MS - 1_000)
    assert await is_held(ledger)
    await pass_by(ledger, log_ms, HOLD_MS + 60_000)
    assert not await is_held(ledger)


async def test_a_log_whose_time_jumps_ahead_ends_no_hold(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_ms = await arrive_late(ledger)
    await pass_by(ledger, log_ms, HOLD_MS + 60_000)
    assert await is_held(ledger)
    await set_clocks(ledger, monkeypatch, HOLD_MS + 60_000)
    assert not await is_held(ledger)


@pytest.mark.parametrize("jump_ms", [3_600_000, 4_000 * DAY_MS])
async def test_what_arrives_while_the_clock_is_ahead_is_held_as_long(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, jump_ms: int
) -> None:
    await set_clocks(ledger, monkeypatch, jump_ms)
    log_ms = await arrive_late(ledger)
    # It comes back: nothing is held for as long as the jump was.
    await set_clocks(ledger, monkeypatch, 0)
    assert await is_held(ledger)
    await pass_by(ledger, log_ms, HOLD_MS + 60_000)
    assert await is_held(ledger)
    await set_clocks(ledger, monkeypatch, HOLD_MS + 60_000)
    assert not await is_held(ledger)


async def test_a_clock_that_stays_ahead_for_years_holds_for_a_week_at_most(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    await set_clocks(ledger, monkeypatch, 4_000 * DAY_MS)
    log_ms = await arrive_late(ledger)
    await pass_by(ledger, log_ms, 7 * DAY_MS + HOLD_MS - 1_000)
    assert await is_held(ledger)
    await pass_by(ledger, log_ms, 7 * DAY_MS + HOLD_MS + 1_000)
    assert not await is_held(ledger)


async def test_a_log_that_catches_up_ends_no_hold(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    behind_ms = 2 * DAY_MS
    await set_clocks(ledger, monkeypatch, behind_ms)
    log_ms = await arrive_late(ledger)
    await pass_by(ledger, log_ms, behind_ms)
    assert await is_held(ledger)
    await pass_by(ledger, log_ms, behind_ms + HOLD_MS + 60_000)
    await set_clocks(ledger, monkeypatch, behind_ms + HOLD_MS + 60_000)
    assert not await is_held(ledger)


async def test_a_log_whose_time_goes_back_holds_the_watermark(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: who had read a watermark from the future, and polled again once the clocks had caught up, missed what came between."""
    hour_ms = 3_600_000
    await set_clocks(ledger, monkeypatch, hour_ms)
    tap = Tap()
    await ledger.note(tap.heartbeat(0, now_ms() + hour_ms), clock(now_ms() + hour_ms))
    await set_clocks(ledger, monkeypatch, 0)
    await ledger.note(tap.heartbeat(0, now_ms()), clock(now_ms()))
    back_ms = await ledger.complete_before()
    assert back_ms is not None
    assert back_ms < now_ms()
    for passed_ms in (HOLD_MS // 2, HOLD_MS - 10_000):
        await set_clocks(ledger, monkeypatch, passed_ms)
        await ledger.note(tap.heartbeat(0, now_ms() + passed_ms), clock(now_ms() + passed_ms))
        await ledger.store.refresh_gap_ledger(WAITS)
        assert await ledger.complete_before() == back_ms
    # Its first heartbeat after the clocks were right again is held, too, and by the log's time before.
    much_later_ms = 2 * HOLD_MS
    await set_clocks(ledger, monkeypatch, much_later_ms)
    await ledger.note(tap.heartbeat(0, now_ms() + much_later_ms), clock(now_ms() + much_later_ms))
    assert await ledger.complete_before() == await ledger.log_ms() - WAITS.watermark_lag_ms


@pytest.mark.parametrize("ahead_ms", [-3_600_000, -400_000, 400_000, 3_600_000])
async def test_a_database_s_clock_that_the_ingestor_contradicts_moves_no_time(
    ledger: Ledger, ahead_ms: int
) -> None:
    """Regression: until ingestors noticed, the log's time went back with the database's, and no hold with it."""
    await ledger.note(Tap().heartbeat(0, now_ms()), clock(now_ms()))
    log_ms, complete_ms = await ledger.log_ms(), await ledger.complete_before()
    await set_database_clock(ledger, ahead_ms)
    await ledger.note(clock(now_ms() + 5_000))
    assert (await ledger.log_ms(), await ledger.complete_before()) == (log_ms, complete_ms)


async def test_a_clock_that_is_set_back_a_little_holds_nothing(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    tap = Tap()
    await ledger.note(tap.heartbeat(0, now_ms()), clock(now_ms()))
    log_ms = await ledger.log_ms()
    await set_clocks(ledger, monkeypatch, -WAITS.watermark_lag_ms // 4)
    await ledger.note(clock(now_ms()))
    assert await ledger.log_ms() == log_ms
    assert not await ledger.connection.fetchval("SELECT count(*) FROM auditap.late_arrivals")


async def test_a_hold_that_is_about_to_end_holds_for_nothing_that_arrives(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: it could end between the last look at it and the moment at which the late record became visible."""
    late = Tap("late", began_ago_ms=2_000_000)
    log_ms = await arrive_late(ledger, late)
    await set_clocks(ledger, monkeypatch, HOLD_MS - 3_000)
    await pass_by(ledger, log_ms, HOLD_MS - 3_000)
    assert await is_held(ledger)
    await ledger.store.store(late.records(6, 9))
    await set_clocks(ledger, monkeypatch, HOLD_MS + 3_000)
    await pass_by(ledger, log_ms, HOLD_MS + 3_000)
    held_ms = await ledger.complete_before()
    assert held_ms is not None
    assert held_ms <= late.started_ms + 6
