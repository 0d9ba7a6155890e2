"""A lease ends by the reports of the collectors that granted it, however far they are behind the log's own time."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from auditap.database.completeness import list_watermark_bounds
from auditap.database.connection import administrator
from ingestor.config import GapLedgerWaits
from ingestor.ports import ReceivedReport
from ingestor.postgres_store import PostgresStore
from tests.audit_database import AuditDatabase
from tests.ledger import LEASE_MS, Ledger, Tap, clock, now_ms

CURRENT, BEHIND = "a" * 32, "b" * 32
BEHIND_MS, STEP_MS, GIVE_UP_MS = 600_000, 5_000, 300_000
WAITS = GapLedgerWaits(watermark_lag_ms=20_000, gap_wait_ms=GIVE_UP_MS, watermark_hold_ms=600_000)


class Log:
    """Moves on in steps. One collector reports about the present, the other about the time ten minutes before."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        # So long ago that all of it is over.
        self.at_ms = now_ms() - 7_200_000
        self.reports: list[ReceivedReport] = []

    @property
    def behind_ms(self) -> int:
        return self.at_ms - BEHIND_MS

    async def step(self, *reports: ReceivedReport, collector_is_behind: bool = True) -> None:
        self.at_ms += STEP_MS
        behind = [clock(self.behind_ms, BEHIND)] if collector_is_behind else []
        await self.note(clock(self.at_ms, CURRENT), *behind, *reports)

    async def note(self, *reports: ReceivedReport) -> None:
        self.reports += reports
        await self.ledger.note(*reports)

    async def steps_until_cut_off(self, steps_max: int, *, collector_is_behind: bool = True) -> int:
        """Return how many steps it takes until a tap is reported as cut off."""
        for step in range(steps_max):
            if await self.ledger.gaps():
                return step
            await self.step(collector_is_behind=collector_is_behind)
        return steps_max


@pytest.fixture
async def ledger(audit_database: AuditDatabase, postgres_store: PostgresStore) -> AsyncIterator[Ledger]:
    await postgres_store.refresh_gap_ledger(WAITS)
    async with administrator(audit_database.admin_dsn) as connection:
        yield Ledger(postgres_store, connection)


@pytest.fixture
async def log(ledger: Ledger) -> Log:
    log = Log(ledger)
    await log.note(clock(log.at_ms, CURRENT), clock(log.behind_ms, BEHIND))
    return log


def began(log: Log, name: str = "t-1") -> Tap:
    return Tap(name, began_ago_ms=now_ms() - log.behind_ms)


async def lives(log: Log, tap: Tap, steps: int, collector: str = BEHIND) -> None:
    """Let a tap send a heartbeat in each step, of which none may show it as cut off."""
    for _ in range(steps):
        at_ms = (log.behind_ms if collector == BEHIND else log.at_ms) + STEP_MS
        await log.step(tap.heartbeat(0, at_ms, collector=collector))
        assert await log.ledger.gaps() == []


async def test_a_tap_whose_collector_is_ten_minutes_behind_is_not_cut_off(log: Log) -> None:
    """Regression: the lease ended by the log's time, although the reports that renewed it were on their way."""
    tap, current = began(log), Tap("current", began_ago_ms=now_ms() - log.at_ms)
    for _ in range(100):
        at_ms = log.behind_ms + STEP_MS
        await log.step(
            tap.heartbeat(0, at_ms, collector=BEHIND),
            current.heartbeat(0, log.at_ms + STEP_MS, collector=CURRENT),
        )
        assert await log.ledger.gaps() == []
        # What may still come of it is waited for.
        await log.ledger.connection.execute("DELETE FROM auditap.late_arrivals")
        assert await log.ledger.complete_before() == at_ms
    counts = await log.ledger.store.refresh_gap_ledger(WAITS)
    assert (counts.taps_alive, counts.taps_expired) == (2, 0)
    states = {bound.state for bound in await list_watermark_bounds(log.ledger.connection)}
    assert states == {"alive"}


async def test_a_tap_that_is_gone_is_cut_off_when_its_collector_has_passed_its_lease(log: Log) -> None:
    tap = began(log)
    await lives(log, tap, 30)
    assert await log.steps_until_cut_off(100) == LEASE_MS // STEP_MS + 1
    assert await log.ledger.gaps() == [(1, None, None, "unknown")]
    counts = await log.ledger.store.refresh_gap_ledger(WAITS)
    assert (counts.taps_alive, counts.taps_expired) == (0, 1)
    [bound] = await list_watermark_bounds(log.ledger.connection)
    assert bound.state == "expired"


async def test_a_tap_whose_collector_is_gone_with_its_spool_is_cut_off_after_the_wait(log: Log) -> None:
    tap = began(log)
    await lives(log, tap, 30)
    taken = await log.steps_until_cut_off(200, collector_is_behind=False)
    assert taken == GIVE_UP_MS // STEP_MS + 1
    # When its spool was found again, the tap is alive.
    await lives(log, tap, 3)


async def test_a_collector_that_falls_further_behind_is_not_waited_for_longer_than_the_watermark_waits(
    log: Log,
) -> None:
    tap = began(log)
    await lives(log, tap, 30)
    last_ms = log.behind_ms
    for step in range(1, 80):
        await log.step(clock(last_ms + step, BEHIND), collector_is_behind=False)
        waits = (LEASE_MS + GIVE_UP_MS) // STEP_MS
        assert bool(await log.ledger.gaps()) == (step >= waits)


async def test_a_tap_that_moves_to_a_collector_that_is_behind_is_not_cut_off(log: Log) -> None:
    """A load balancer gives it both collectors, and later only the one that is behind."""
    tap, behind_steps, moves = Tap(began_ago_ms=now_ms() - log.at_ms), BEHIND_MS // STEP_MS, 140
    for step in range(moves + behind_steps + 20):
        reports = []
        if step < moves:
            reports += [tap.heartbeat(0, log.at_ms + STEP_MS, collector=CURRENT, beat=2 * step)]
        if step >= behind_steps:
            # For long, these beats are lower than those that are there.
            beat = 2 * (step - behind_steps) + 1
            reports += [tap.heartbeat(0, log.behind_ms + STEP_MS, collector=BEHIND, beat=beat)]
        await log.step(*reports)
        assert await log.ledger.gaps() == [], step


async def test_reports_that_are_repeated_prolong_nothing(log: Log) -> None:
    tap = began(log)
    await lives(log, tap, 30)
    repeated = list(log.reports)
    waits = "SELECT waits_until_ms, (SELECT max(heard_ms) FROM auditap.tap_marks) FROM auditap.tap_epochs"
    before = await log.ledger.connection.fetch(waits)
    for step in range(GIVE_UP_MS // STEP_MS + 1):
        assert await log.ledger.gaps() == [], step
        await log.step(collector_is_behind=False)
        await log.ledger.note(*repeated)
    assert await log.ledger.gaps() == [(1, None, None, "unknown")]
    assert await log.ledger.connection.fetch(waits) == before


async def test_a_lease_of_a_collector_that_does_not_say_who_it_is_ends_by_the_time_of_the_log(
    log: Log,
) -> None:
    tap = Tap(began_ago_ms=now_ms() - log.at_ms)
    await log.step(tap.heartbeat(0, log.at_ms + STEP_MS))
    assert await log.steps_until_cut_off(100) == LEASE_MS // STEP_MS + 1


async def test_a_capture_that_was_in_a_spool_is_waited_for_as_one_of_a_new_tap(log: Log) -> None:
    tap = began(log)
    await log.ledger.store.store([tap.record(1, log.behind_ms), tap.record(3, log.behind_ms)])
    await log.step()
    assert await log.ledger.gaps() == []
    for _ in range(60_000 // STEP_MS):
        await log.step()
    assert await log.ledger.gaps() == [(2, 2, 1, "missing")]
    # Its lease is that of its heartbeats from the first one on.
    await lives(log, tap, 1)
    until_ms = await log.ledger.connection.fetchval("SELECT lease_until_ms FROM auditap.tap_epochs")
    assert until_ms == log.behind_ms + LEASE_MS


async def test_what_a_heartbeat_out_of_a_spool_acknowledges_becomes_a_gap_after_the_lag(log: Log) -> None:
    tap = began(log)
    for highest in (0, 4, 4):
        await log.step(tap.heartbeat(highest, log.behind_ms + STEP_MS, collector=BEHIND))
        assert await log.ledger.gaps() == []
    for _ in range(WAITS.watermark_lag_ms // STEP_MS):
        await log.step(tap.heartbeat(4, log.behind_ms + STEP_MS, collector=BEHIND))
    assert await log.ledger.gaps() == [(1, 4, 4, "missing")]


async def test_beats_are_kept_in_few_ranges(log: Log) -> None:
    tap = began(log)
    for beat in range(1, 1_200, 2):
        await log.note(tap.heartbeat(0, log.behind_ms, collector=BEHIND, beat=beat))
    beats = "SELECT count(*) FROM auditap.tap_epochs, unnest(beats)"
    assert await log.ledger.connection.fetchval(beats) <= 512
    assert await log.ledger.connection.fetchval("SELECT beats @> 1199::bigint FROM auditap.tap_epochs")


async def test_collectors_are_bounded_and_forgotten(log: Log, audit_database: AuditDatabase) -> None:
    noting = "SELECT auditap.note_time(NULL, $1, $2)"
    bad: list[str | None] = [None, "", "a", "A" * 32, "g" * 32, "a" * 33, "a" * 32 + "\n", "b" * 1_000_000]
    async with administrator(audit_database.writer_dsn) as writer:
        await writer.execute(noting, bad, [log.at_ms] * len(bad))
        await writer.execute(noting, ["c" * 32] * 2, [None, 0])
        await writer.execute(noting, None, None)
        known = await log.ledger.connection.fetch("SELECT id FROM auditap.collectors ORDER BY id")
        assert [row["id"] for row in known] == [CURRENT, BEHIND]
        for first in range(0, 24_000, 2_000):
            ids = [f"{number:032x}" for number in range(first, first + 2_000)]
            await writer.execute(noting, ids, [log.at_ms] * len(ids))
    counting = "SELECT count(*) FROM auditap.collectors"
    assert 9_000 < await log.ledger.connection.fetchval(counting) <= 10_000
    # Those that are known are still noted.
    await log.step()
    assert await log.ledger.connection.fetchval(
        "SELECT received_ms FROM auditap.collectors WHERE id = $1", BEHIND
    ) == (log.behind_ms)
    await log.ledger.connection.execute(
        "UPDATE auditap.collectors SET noted_ms = $1 WHERE id <> $2", log.at_ms - 86_400_001, BEHIND
    )
    await log.ledger.store.refresh_gap_ledger(WAITS)
    assert await log.ledger.connection.fetchval(counting) == 1


async def test_a_tap_keeps_the_collectors_that_granted_it_leases_last(log: Log) -> None:
    tap = Tap(began_ago_ms=now_ms() - log.at_ms)
    ids = [f"{number:032x}" for number in range(12)]
    for each in [*ids, ids[-2]]:
        await log.note(tap.heartbeat(0, log.at_ms, collector=each))
    kept = await log.ledger.connection.fetchval("SELECT collectors FROM auditap.tap_epochs")
    assert kept == [ids[-2], ids[-1], *ids[-3:-9:-1]]
