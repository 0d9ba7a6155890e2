"""What the database derives of heartbeats and of what is stored: gaps, and before when everything is there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import msgspec
import pytest

from auditap.database.completeness import retire_tap
from auditap.database.connection import administrator
from eventlog.ports import Partition
from ingestor.config import GapLedgerWaits
from ingestor.dead_letters.ports import DeadLetter
from ingestor.ports import LostOffsets, ReceivedReport
from ingestor.postgres_store import PostgresStore
from schemas.errors import DeadLetterReason, StartupError, UnprocessableEvent
from schemas.event import Tap as EventTap
from schemas.event import encode_event
from schemas.heartbeat import SEQ_MAX, TapReport, TapState
from schemas.sql import query
from tests.audit_database import AuditDatabase
from tests.ledger import LEASE_MS, Ledger, Tap, clock, now_ms, set_clocks
from tests.records import event, record

WAITS = GapLedgerWaits(watermark_lag_ms=20_000, gap_wait_ms=300_000, watermark_hold_ms=600_000)


@pytest.fixture
async def ledger(audit_database: AuditDatabase, postgres_store: PostgresStore) -> AsyncIterator[Ledger]:
    async with administrator(audit_database.admin_dsn) as connection:
        yield Ledger(postgres_store, connection)


async def test_without_sequence_numbers_there_is_no_watermark(ledger: Ledger) -> None:
    await ledger.note(clock(now_ms()))
    assert await ledger.complete_before() is None


async def test_without_gaps_the_watermark_is_the_last_heartbeat(ledger: Ledger) -> None:
    tap = Tap()
    at_ms = now_ms() - 50_000
    await ledger.note(tap.heartbeat(0, tap.started_ms))
    await ledger.store.store(tap.records(1, 100))
    await ledger.note(tap.heartbeat(100, at_ms), clock(now_ms()))
    assert await ledger.gaps() == []
    assert await ledger.complete_before() == at_ms


async def test_the_watermark_trails_by_its_lag(ledger: Ledger) -> None:
    tap, at_ms = Tap(), now_ms() - 1_000
    await ledger.note(tap.heartbeat(0, at_ms))
    assert await ledger.complete_before() == at_ms - WAITS.watermark_lag_ms


async def test_a_pending_number_holds_the_watermark(ledger: Ledger) -> None:
    tap = Tap()
    open_since_ms, at_ms = tap.started_ms + 51, now_ms() - 40_000
    await ledger.store.store(tap.records(1, 50) + tap.records(52, 100))
    await ledger.note(tap.heartbeat(100, at_ms, pending_from=51, since_ms=open_since_ms), clock(now_ms()))
    assert await ledger.complete_before() == open_since_ms
    assert await ledger.gaps() == []
    await ledger.store.store(tap.records(51, 51))
    await ledger.note(tap.heartbeat(100, at_ms + 5_000))
    assert await ledger.complete_before() == at_ms + 5_000


async def test_an_acknowledged_number_that_is_not_stored_holds_the_watermark_and_is_a_gap(
    ledger: Ledger,
) -> None:
    tap = Tap()
    first_ms, second_ms = tap.started_ms + 50, tap.started_ms + 1_000
    await ledger.note(tap.heartbeat(49, first_ms), tap.heartbeat(100, second_ms))
    await ledger.store.store(tap.records(1, 49) + tap.records(61, 100))
    await ledger.note(tap.heartbeat(100, now_ms() - 3_000), clock(now_ms()))
    assert await ledger.complete_before() == first_ms
    assert await ledger.gaps() == [(50, 60, 11, "missing")]
    assert await ledger.spans() == [(first_ms, second_ms)]
    await ledger.store.store(tap.records(50, 57))
    assert await ledger.gaps() == [(58, 60, 3, "missing")]
    await ledger.store.store(tap.records(58, 60))
    assert await ledger.gaps() == []


async def test_a_gap_past_its_wait_releases_the_watermark_and_stays_a_gap(ledger: Ledger) -> None:
    tap = Tap(began_ago_ms=600_000)
    await ledger.note(tap.heartbeat(100, tap.started_ms + 1_000))
    await ledger.store.store(tap.records(1, 49) + tap.records(61, 100))
    at_ms = now_ms() - 25_000
    await ledger.note(tap.heartbeat(100, at_ms), clock(now_ms()))
    assert await ledger.gaps() == [(50, 60, 11, "missing")]
    assert await ledger.complete_before() == at_ms


async def test_the_watermark_goes_back_for_a_late_event(ledger: Ledger) -> None:
    tap = Tap(began_ago_ms=600_000)
    await ledger.note(tap.heartbeat(100, tap.started_ms + 1_000))
    await ledger.store.store(tap.records(1, 49) + tap.records(61, 100))
    at_ms = now_ms() - 25_000
    await ledger.note(tap.heartbeat(100, at_ms), clock(now_ms()))
    late = tap.records(55, 56)
    await ledger.store.store(late)
    assert await ledger.complete_before() == tap.started_ms + 55
    assert await ledger.gaps() == [(50, 54, 5, "missing"), (57, 60, 4, "missing")]
    await ledger.connection.execute("UPDATE auditap.late_arrivals SET held_until_ms = 0")
    # The same again is nothing that a reader could have missed.
    await ledger.store.store(late)
    assert await ledger.complete_before() == at_ms


async def test_dropped_numbers_are_gaps_and_do_not_hold_the_watermark(ledger: Ledger) -> None:
    tap, at_ms = Tap(), now_ms() - 30_000
    await ledger.store.store(tap.records(1, 10) + tap.records(148, 200))
    beat = tap.heartbeat(200, at_ms, dropped=(tap.dropped(11, 147),))
    await ledger.note(beat)
    await ledger.note(beat, clock(now_ms()))
    assert await ledger.gaps() == [(11, 147, 137, "dropped:buffer_full")]
    assert await ledger.spans() == [(tap.started_ms + 11, tap.started_ms + 147)]
    assert await ledger.complete_before() == at_ms


async def test_overlapping_dropped_ranges_count_once(ledger: Ledger) -> None:
    tap, at_ms = Tap(), now_ms() - 30_000
    await ledger.note(
        tap.heartbeat(200, at_ms, dropped=(tap.dropped(11, 20), tap.dropped(31, 40, "refused"))),
        tap.heartbeat(200, at_ms, dropped=(tap.dropped(15, 35, "closing"),)),
    )
    assert await ledger.gaps() == [
        (11, 20, 10, "dropped:buffer_full"),
        (21, 30, 10, "dropped:closing"),
        (31, 40, 10, "dropped:refused"),
    ]


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (0, 2, 1, 3)])
async def test_a_drop_reported_by_several_heartbeats_is_one_gap(
    ledger: Ledger, order: tuple[int, ...]
) -> None:
    tap, at_ms = Tap(), now_ms() - 30_000
    dropped_ranges = [
        tap.dropped(11, 20),
        tap.dropped(21, 147),
        tap.dropped(148, 150, "refused"),
        tap.dropped(160, 161),
    ]
    beats = [tap.heartbeat(200, at_ms, dropped=(dropped,)) for dropped in dropped_ranges]
    for place in order:
        await ledger.note(beats[place])
    assert await ledger.gaps() == [
        (11, 147, 137, "dropped:buffer_full"),
        (148, 150, 3, "dropped:refused"),
        (160, 161, 2, "dropped:buffer_full"),
    ]
    assert (await ledger.spans())[0] == (tap.started_ms + 11, tap.started_ms + 147)


async def test_a_number_reported_as_dropped_and_stored_is_no_gap(ledger: Ledger) -> None:
    tap, at_ms = Tap(), now_ms() - 30_000
    await ledger.note(tap.heartbeat(20, at_ms, dropped=(tap.dropped(11, 20, "collector_away"),)))
    await ledger.store.store(tap.records(1, 15))
    assert await ledger.gaps() == [(16, 20, 5, "dropped:collector_away")]


async def test_reports_in_any_order_give_the_same_ledger(ledger: Ledger) -> None:
    found = []
    for epoch, order in enumerate([(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1, 2, 0)]):
        tap = Tap(f"t-{epoch}", epoch)
        at_ms = tap.started_ms
        reports = [
            tap.heartbeat(0, at_ms),
            tap.heartbeat(10, at_ms + 10, pending_from=5, since_ms=at_ms + 5),
            tap.heartbeat(30, at_ms + 30, dropped=(tap.dropped(12, 13),)),
            tap.heartbeat(50, at_ms + 50),
        ]
        await ledger.store.store(tap.records(1, 6) + tap.records(8, 11) + tap.records(14, 40))
        for place in order:
            await ledger.note(reports[place])
        found.append(tap)
    await ledger.note(clock(now_ms()))
    for tap in found:
        rows = await ledger.connection.fetch(
            "SELECT first, last, cause, from_ms - $2 AS from_ms, to_ms - $2 AS to_ms"
            " FROM auditap.completeness_gaps WHERE tap_id = $1 ORDER BY first",
            tap.epoch.id,
            tap.started_ms,
        )
        assert [tuple(row) for row in rows if row["last"] is not None][:2] == [
            (7, 7, "unknown", 5, 30),
            (12, 13, "dropped:buffer_full", 12, 13),
        ]


async def test_dead_lettered_and_excluded_numbers_are_no_gaps(ledger: Ledger) -> None:
    tap, at_ms = Tap(), now_ms() - 30_000
    value = encode_event(event(at_ms, tap=EventTap(id="t-1", epoch=7, seq=3)))
    dead_letters = [
        DeadLetter(Partition("log", 0), 1, at_ms, value, UnprocessableEvent(DeadLetterReason.EXPIRED)),
        DeadLetter(Partition("log", 0), 2, at_ms, b"{", UnprocessableEvent(DeadLetterReason.MALFORMED)),
    ]
    await ledger.store.write_dead_letters(dead_letters)
    await ledger.store.store(tap.records(1, 2))
    await ledger.note(tap.count(at_ms, excluded=((4, 6), (8, 8)), dropped=(tap.dropped(7, 7, "refused"),)))
    await ledger.note(tap.heartbeat(10, at_ms), clock(now_ms()))
    assert await ledger.gaps() == [(7, 7, 1, "dropped:refused"), (9, 10, 2, "missing")]


async def test_an_expired_tap_leaves_an_open_range(ledger: Ledger) -> None:
    tap = Tap()
    last_ms = now_ms() - LEASE_MS - 2_000
    await ledger.store.store(tap.records(1, 8))
    await ledger.note(tap.heartbeat(10, last_ms, pending_from=9, since_ms=last_ms - 5))
    await ledger.note(clock(last_ms + LEASE_MS))
    assert await ledger.gaps() == []
    await ledger.note(clock(last_ms + LEASE_MS + 1))
    assert await ledger.gaps() == [(9, 10, 2, "unknown"), (11, None, None, "unknown")]
    assert await ledger.complete_before() == last_ms - 5
    await ledger.store.store(tap.records(9, 10))
    assert await ledger.gaps() == [(11, None, None, "unknown")]


async def test_no_lease_expires_while_nothing_is_ingested(ledger: Ledger) -> None:
    tap = Tap(began_ago_ms=900_000)
    await ledger.note(tap.heartbeat(5, tap.started_ms + 100))
    assert await ledger.gaps() == []
    assert await ledger.complete_before() == tap.started_ms + 100 - WAITS.watermark_lag_ms


async def test_a_collector_s_clock_that_is_ahead_ends_no_lease_and_lengthens_none(ledger: Ledger) -> None:
    tap, ahead_ms = Tap(), now_ms() + 3_600_000
    await ledger.note(tap.heartbeat(0, now_ms()), clock(ahead_ms))
    assert await ledger.gaps() == []
    await ledger.note(tap.heartbeat(0, now_ms(), received_ms=ahead_ms))
    until_ms = await ledger.connection.fetchval("SELECT lease_until_ms FROM auditap.tap_epochs")
    assert until_ms <= now_ms() + LEASE_MS


async def test_the_next_start_closes_the_range_of_a_crashed_run(ledger: Ledger) -> None:
    tap = Tap()
    await ledger.store.store(tap.records(1, 8))
    await ledger.note(tap.heartbeat(8, now_ms() - LEASE_MS - 2_000), clock(now_ms()))
    await ledger.note(tap.heartbeat(12, now_ms(), state=TapState.KILLED, beat=0))
    assert await ledger.gaps() == [(9, 12, 4, "unknown")]
    await ledger.note(tap.heartbeat(8, now_ms() - LEASE_MS - 1_000))
    assert await ledger.gaps() == [(9, 12, 4, "unknown")]
    await ledger.store.store(tap.records(9, 12))
    assert await ledger.gaps() == []


async def test_the_range_of_a_lost_machine_stays_open(ledger: Ledger) -> None:
    tap = Tap()
    await ledger.store.store(tap.records(1, 8))
    await ledger.note(tap.heartbeat(8, now_ms(), state=TapState.LOST, beat=0))
    assert await ledger.gaps() == [(9, None, None, "unknown")]


async def test_a_stopped_tap_does_not_hold_the_watermark(ledger: Ledger) -> None:
    tap = Tap()
    await ledger.store.store(tap.records(1, 8))
    noted_ms = now_ms()
    await ledger.note(tap.heartbeat(8, tap.started_ms + 10, state=TapState.ENDED), clock(noted_ms))
    assert await ledger.complete_before() == noted_ms - WAITS.watermark_lag_ms
    assert await ledger.gaps() == []


async def test_a_late_first_heartbeat_holds_the_watermark_back(ledger: Ledger) -> None:
    known, late = Tap("known"), Tap("late", began_ago_ms=60_000)
    await ledger.note(known.heartbeat(0, now_ms() - 30_000), clock(now_ms()))
    assert (await ledger.complete_before() or 0) > late.started_ms
    await ledger.store.store(late.records(5, 9))
    assert await ledger.complete_before() == late.started_ms + 5
    await ledger.note(late.heartbeat(9, now_ms()))
    await ledger.store.store(late.records(1, 4))
    assert (await ledger.complete_before() or 0) <= late.started_ms


async def test_a_tap_that_returns_after_its_lease_holds_the_watermark_back(ledger: Ledger) -> None:
    other, tap = Tap("other"), Tap(began_ago_ms=900_000)
    await ledger.note(tap.heartbeat(0, tap.started_ms + 1))
    at_ms = now_ms() - 25_000
    await ledger.note(other.heartbeat(0, at_ms), clock(now_ms()))
    assert await ledger.complete_before() == at_ms
    await ledger.note(tap.heartbeat(9, now_ms(), pending_from=1, since_ms=tap.started_ms + 1))
    await ledger.store.store(tap.records(1, 9))
    await ledger.note(tap.heartbeat(9, now_ms()))
    assert await ledger.complete_before() == tap.started_ms + 1


async def test_a_clock_set_back_moves_the_watermark_back(ledger: Ledger) -> None:
    tap = Tap()
    await ledger.note(tap.heartbeat(4, now_ms() - 30_000), clock(now_ms()))
    await ledger.store.store(tap.records(1, 4))
    behind_ms = now_ms() - 3_600_000
    await ledger.note(
        tap.heartbeat(6, behind_ms + 10, pending_from=5, since_ms=behind_ms, received_ms=now_ms())
    )
    await ledger.store.store([tap.record(5, behind_ms)])
    assert await ledger.complete_before() == behind_ms


async def test_taps_without_sequence_numbers_are_counted_and_do_not_hold_the_watermark(
    ledger: Ledger,
) -> None:
    at_ms = now_ms()
    await ledger.store.store([record(at_ms), record(at_ms, tap_id="gw-1"), record(at_ms, tap_id="gw-1")])
    counts = await ledger.store.refresh_gap_ledger(WAITS)
    assert counts == (0, 0, 2, 0, 0, 0, 0)
    assert await ledger.complete_before() is None


async def test_numbers_out_of_range_are_stored_and_not_counted(ledger: Ledger) -> None:
    tap = Tap()
    outcome = await ledger.store.store([tap.record((1 << 63) - 1, now_ms()), tap.record(0, now_ms())])
    assert outcome.stored == 2
    assert await ledger.connection.fetchval("SELECT count(*) FROM auditap.tap_epochs") == 0


async def test_a_tap_that_claims_all_numbers_there_are_does_not_hide_the_gaps_of_others(
    ledger: Ledger,
) -> None:
    """1,025 epochs that have lost 2^53 numbers each are more than a bigint holds."""
    honest, at_ms = Tap(), now_ms()
    await ledger.note(honest.heartbeat(3, at_ms - 40_000, dropped=(honest.dropped(1, 3),)), clock(at_ms))
    await ledger.connection.execute(
        "SELECT auditap.note_heartbeat('liar', epoch, 1, $1, $1, $2, $2::bigint + 1, $1, 100, 'killed', $1::bigint, '{}', '{}', '{}', '{}', '{}')"
        " FROM generate_series(1, 1100) AS epoch",
        at_ms - 40_000,
        SEQ_MAX,
    )
    rows = await ledger.connection.fetch(query("completeness_gaps"), 0, at_ms + 1_000, 10_000)
    assert {row["missing"] for row in rows} == {(1 << 63) - 1}
    assert [row["size"] for row in rows if row["tap_id"] == honest.epoch.id] == [3]


async def test_lost_offsets_are_a_gap(ledger: Ledger) -> None:
    lost = [LostOffsets(Partition("events", 3), 100, 149, now_ms())]
    await ledger.store.note((), lost)
    await ledger.store.note((), lost)
    assert await ledger.gaps() == [(100, 149, 50, "offsets_expired")]


async def test_many_gaps_are_merged_into_their_sum(ledger: Ledger) -> None:
    tap = Tap()
    for first in range(1, 400, 2):
        await ledger.store.store(tap.records(first, first))
    drops = tuple(tap.dropped(number, number) for number in range(2, 60, 2))
    await ledger.note(tap.heartbeat(400, now_ms() - 25_000, dropped=drops), clock(now_ms()))
    before = await ledger.store.refresh_gap_ledger(WAITS)
    small = GapLedgerWaits(
        watermark_lag_ms=20_000, gap_wait_ms=300_000, watermark_hold_ms=600_000, gaps_max=50
    )
    counts = [await ledger.store.refresh_gap_ledger(small) for _ in range(4)]
    assert before.missing == 200
    assert counts[-1].gaps < 60
    assert {each.missing for each in counts} == {200}
    runs = await ledger.connection.fetchval(
        "SELECT count(*) FROM (SELECT unnest(seen) FROM auditap.tap_epochs) AS runs"
    )
    assert runs <= 200


async def test_times_are_kept_only_around_gaps(ledger: Ledger) -> None:
    tap = Tap()
    for number in range(1, 60):
        if number != 30:
            await ledger.store.store(tap.records(number, number))
        await ledger.note(tap.heartbeat(number, tap.started_ms + number))
    marks = await ledger.connection.fetch("SELECT pending_from FROM auditap.tap_marks ORDER BY 1")
    assert [row[0] for row in marks] == [30, 31, 60]


async def test_old_taps_are_forgotten(ledger: Ledger) -> None:
    tap = Tap(began_ago_ms=31 * 86_400_000)
    await ledger.note(tap.heartbeat(3, tap.started_ms + 10), clock(now_ms()))
    lost = LostOffsets(Partition("events", 3), 100, 149, tap.started_ms)
    await ledger.store.note((), [lost])
    assert await ledger.gaps() == [
        (1, 3, 3, "unknown"),
        (4, None, None, "unknown"),
        (100, 149, 50, "offsets_expired"),
    ]
    await ledger.store.refresh_gap_ledger(GapLedgerWaits())
    assert await ledger.connection.fetchval("SELECT count(*) FROM auditap.tap_marks") == 0
    assert await ledger.gaps() == []
    # That there were gaps is not forgotten.
    rows = await ledger.connection.fetch("SELECT * FROM auditap.closed_gaps ORDER BY number")
    assert [
        tuple(row[name] for name in ("tap_id", "log", "cause", "gaps", "missing", "login")) for row in rows
    ] == [
        (None, "events", "offsets_expired", 1, 50, "auditap_writer"),
        ("t-1", None, "unknown", 2, None, "auditap_writer"),
    ]


async def test_a_tap_that_reports_while_it_is_forgotten_keeps_its_gaps(
    ledger: Ledger, audit_database: AuditDatabase
) -> None:
    """Regressions: its gaps were copied to the closed ones, and its epoch was kept; the two deadlocked over the clock."""
    tap = Tap(began_ago_ms=31 * 86_400_000)
    await ledger.note(tap.heartbeat(3, tap.started_ms + 10), clock(now_ms()))
    gaps = await ledger.gaps()
    async with (
        administrator(audit_database.admin_dsn) as reporting,
        administrator(audit_database.writer_dsn) as upkeep,
    ):
        async with reporting.transaction():
            await reporting.execute("UPDATE auditap.tap_epochs SET heard_ms = $1", now_ms())
            tidying = asyncio.create_task(
                upkeep.execute("SELECT auditap.tidy_completeness(20000, 300000, 600000, 0, 2000)")
            )
            blocked_by = "SELECT pg_blocking_pids($1)"
            async with asyncio.timeout(120):
                while not await ledger.connection.fetchval(blocked_by, upkeep.get_server_pid()):
                    await asyncio.sleep(0.01)
            # The last step of a batch of reports. The upkeep, which is to change the clock's settings, must not hold it.
            await reporting.execute("UPDATE auditap.completeness_clock SET received_ms = received_ms + 1")
        await tidying
    assert await ledger.gaps() == gaps
    assert await ledger.connection.fetchval("SELECT count(*) FROM auditap.closed_gaps") == 0


async def test_a_large_number_of_gaps_is_folded_whatever_is_asked_for(
    ledger: Ledger, audit_database: AuditDatabase
) -> None:
    tap = Tap()
    await ledger.note(tap.heartbeat(9_000, now_ms() - 25_000), clock(now_ms()))
    await ledger.connection.execute(
        "UPDATE auditap.tap_epochs SET seen = (SELECT range_agg(int8range(number, number + 1))"
        " FROM generate_series(1, 8999, 2) AS number)"
    )
    async with administrator(audit_database.writer_dsn) as writer:
        await writer.execute("SELECT auditap.tidy_completeness(20000, 300000, 600000, 0, 2147483647)")
    gaps = await ledger.gaps()
    assert sum(count for _, _, count, _ in gaps) == 4_500
    assert len(gaps) <= 2_000


@pytest.mark.parametrize(
    "arguments",
    [
        (20_000, 300_000, 600_000, 0, 2_000),
        (20_000, 300_000, 600_000, -(1 << 62), 2_000),
        (20_000, 300_000, 600_000, 0, -2),
        (20_000, 300_000, 600_000, 0, None),
        (1 << 62, 1 << 62, 1 << 62, 0, 0),
        (-1, -1, -1, -1, -1),
    ],
)
async def test_no_arguments_of_the_upkeep_hide_what_is_missing(
    ledger: Ledger, audit_database: AuditDatabase, arguments: tuple[int | None, ...]
) -> None:
    tap = Tap(began_ago_ms=7_300_000)
    await ledger.store.store(tap.records(1, 5) + tap.records(8, 9))
    await ledger.note(tap.heartbeat(20, tap.started_ms + 20), clock(now_ms() - 10), clock(now_ms()))
    gaps = await ledger.gaps()
    async with administrator(audit_database.writer_dsn) as writer:
        await writer.execute("SELECT auditap.tidy_completeness($1, $2, $3, $4, $5)", *arguments)
    assert await ledger.gaps() == gaps
    [row] = await ledger.connection.fetch(
        "SELECT settle_ms, give_up_ms, hold_ms FROM auditap.completeness_clock"
    )
    assert 0 <= row["settle_ms"] <= 3_600_000
    assert 0 <= row["give_up_ms"] <= 86_400_000
    assert 60_000 <= row["hold_ms"] <= 86_400_000


@pytest.mark.parametrize("waits", [(0, 0, 60_000), (3_600_000, 86_400_000, 86_400_000)])
async def test_every_setting_that_is_accepted_reaches_the_database_as_it_is(
    ledger: Ledger, waits: tuple[int, int, int]
) -> None:
    await ledger.store.refresh_gap_ledger(GapLedgerWaits(*waits))
    [row] = await ledger.connection.fetch(
        "SELECT settle_ms, give_up_ms, hold_ms FROM auditap.completeness_clock"
    )
    assert tuple(row) == waits


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("watermark_lag_ms", -1, "must be from 0 to 3600000"),
        ("watermark_lag_ms", 3_600_001, "must be from 0 to 3600000"),
        ("gap_wait_ms", -1, "must be from 0 to 86400000"),
        ("gap_wait_ms", 86_400_001, "must be from 0 to 86400000"),
        ("watermark_hold_ms", 59_999, "must be from 60000 to 86400000"),
        ("watermark_hold_ms", 86_400_001, "must be from 60000 to 86400000"),
    ],
)
def test_a_setting_that_the_database_would_change_is_an_error_at_start(
    name: str, value: int, sentence: str
) -> None:
    with pytest.raises(StartupError, match=f"^{name} .*{sentence}"):
        GapLedgerWaits(**{name: value})


async def test_ingestors_at_once_lose_no_number_and_never_deadlock(
    ledger: Ledger, audit_database: AuditDatabase
) -> None:
    stores = [
        await PostgresStore.connect(audit_database.writer_dsn, connections_max=2, command_timeout_ms=60_000)
        for _ in range(3)
    ]
    taps = [Tap(f"t-{name}") for name in range(4)]
    try:
        for step in range(40):
            batch = [one for tap in taps for one in tap.records(step * 10 + 1, step * 10 + 10)]
            reports = [tap.heartbeat(step * 10 + 10, now_ms()) for tap in taps]
            await asyncio.gather(
                stores[0].store(batch[::2]),
                stores[1].store(batch[::-1]),
                stores[2].store(batch[1::2]),
                stores[0].note(reports, ()),
                stores[1].note(reports[::-1], ()),
            )
    finally:
        for store in stores:
            await store.close()
    rows = await ledger.connection.fetch("SELECT seen::text AS seen, highest FROM auditap.tap_epochs")
    assert [tuple(row) for row in rows] == [("{[1,401)}", 400)] * 4


async def test_a_report_that_can_never_be_noted_takes_no_other_with_it(ledger: Ledger) -> None:
    good, bad = Tap("good"), Tap("bad")
    refused = await ledger.store.note(
        [good.heartbeat(1, now_ms()), bad.heartbeat((1 << 63), now_ms()), good.heartbeat(2, now_ms())], ()
    )
    assert refused == [1]
    assert await ledger.connection.fetchval("SELECT max(highest) FROM auditap.tap_epochs") == 2


async def test_a_claim_of_1970_takes_the_watermark_back_an_hour_at_most(ledger: Ledger) -> None:
    honest, liar = Tap("honest"), Tap("liar", began_ago_ms=now_ms())
    await ledger.note(honest.heartbeat(0, now_ms() - 30_000), clock(now_ms()))
    floor_ms = await ledger.log_ms() - 3_600_000
    await ledger.note(liar.heartbeat(3, 0, pending_from=1, since_ms=0, received_ms=now_ms()))
    assert (await ledger.complete_before() or 0) >= floor_ms
    await ledger.note(liar.heartbeat(9, 0, pending_from=8, since_ms=0, received_ms=now_ms()), clock(now_ms()))
    await ledger.connection.execute("DELETE FROM auditap.late_arrivals")
    assert await ledger.complete_before() == await ledger.log_ms() - 3_600_000


async def test_a_first_heartbeat_that_was_held_up_holds_the_watermark_where_it_reports(
    ledger: Ledger,
) -> None:
    other, tap = Tap("other"), Tap(began_ago_ms=1_800_000)
    await ledger.note(other.heartbeat(0, now_ms() - 25_000), clock(now_ms()))
    # The collector was away for half an hour, and this run of the tap began meanwhile.
    await ledger.note(
        tap.heartbeat(2, now_ms(), pending_from=1, since_ms=tap.started_ms + 1), other.heartbeat(0, now_ms())
    )
    assert await ledger.complete_before() == tap.started_ms
    await ledger.connection.execute("DELETE FROM auditap.late_arrivals")
    assert await ledger.complete_before() == tap.started_ms + 1


async def test_a_gap_is_waited_for_longer_than_an_hour_where_the_settings_ask_it(ledger: Ledger) -> None:
    await ledger.store.refresh_gap_ledger(
        GapLedgerWaits(watermark_lag_ms=20_000, gap_wait_ms=86_400_000, watermark_hold_ms=600_000)
    )
    tap = Tap(began_ago_ms=14_400_000)
    await ledger.note(tap.heartbeat(4, tap.started_ms + 4), tap.heartbeat(9, tap.started_ms + 9))
    await ledger.store.store(tap.records(1, 4))
    await ledger.note(tap.heartbeat(9, now_ms()), clock(now_ms()))
    await ledger.connection.execute("DELETE FROM auditap.late_arrivals")
    assert await ledger.complete_before() == tap.started_ms + 4
    # A day it is, and no longer.
    liar = Tap("liar")
    await ledger.note(liar.heartbeat(2, now_ms(), pending_from=1, since_ms=0))
    await ledger.connection.execute("DELETE FROM auditap.late_arrivals")
    assert await ledger.complete_before() == await ledger.log_ms() - 86_400_000


async def test_a_heartbeat_of_the_future_does_not_keep_its_epoch(ledger: Ledger) -> None:
    tap, ahead_ms, received_ms = Tap(), now_ms() + 75 * 365 * 86_400_000, now_ms() - 1_000
    for _ in range(2):
        await ledger.note(tap.heartbeat(3, ahead_ms, since_ms=received_ms, received_ms=received_ms))
    assert await ledger.connection.fetchval("SELECT latest_ms FROM auditap.tap_epochs") == received_ms
    await ledger.store.store([Tap("captures").record(1, now_ms() + 300_000, received_ms=received_ms)])
    latest_ms = await ledger.connection.fetchval("SELECT max(latest_ms) FROM auditap.tap_epochs")
    assert latest_ms <= now_ms() + 1


@pytest.mark.parametrize("holed", [False, True])
async def test_a_request_holds_the_watermark_for_an_hour_of_the_log(ledger: Ledger, *, holed: bool) -> None:
    tap, other, began_ms = Tap(began_ago_ms=7_200_000), Tap("other"), now_ms() - 7_200_000
    highest, pending_from = (9, 8) if holed else (3, 1)
    await ledger.note(tap.heartbeat(0, began_ms))
    await ledger.note(tap.heartbeat(highest, now_ms(), pending_from=pending_from, since_ms=began_ms))
    await ledger.note(other.heartbeat(0, now_ms()))
    await ledger.connection.execute("DELETE FROM auditap.late_arrivals")
    assert await ledger.complete_before() == await ledger.log_ms() - 3_600_000
    # What was pending takes the watermark back when it arrives.
    await ledger.store.store([tap.record(pending_from, began_ms)])
    assert await ledger.complete_before() == began_ms


async def test_a_lease_is_a_day_at_most(ledger: Ledger) -> None:
    tap = Tap()
    beat = tap.heartbeat(1, now_ms()).report.heartbeat
    assert beat is not None
    forever = msgspec.structs.replace(beat, lease_ms=1 << 50)
    await ledger.note(ReceivedReport(now_ms(), TapReport(1, heartbeat=forever)))
    until_ms = await ledger.connection.fetchval("SELECT lease_until_ms FROM auditap.tap_epochs")
    assert until_ms <= now_ms() + 86_400_000


async def a_thousand_epochs(ledger: Ledger) -> None:
    """Let the tap t-1 have the epochs 1,001 to 2,000, which all wait."""
    await ledger.connection.execute(
        "INSERT INTO auditap.tap_epochs (tap_id, epoch, state, oldest_ms, latest_ms, heard_ms,"
        " lease_until_ms, waits_until_ms, pending_since_ms)"
        " SELECT 't-1', epoch, 'alive', $1::bigint, $1, $1, $1 + 600000, $1 + 600000, $1"
        " FROM generate_series(1001, 2000) AS epoch",
        now_ms() - 25_000,
    )


async def test_a_thousand_epochs_of_a_tap_hold_the_watermark_and_no_more(ledger: Ledger) -> None:
    await a_thousand_epochs(ledger)
    late, other = Tap(epoch=3_000, began_ago_ms=300_000), Tap("other", began_ago_ms=200_000)
    await ledger.note(late.heartbeat(5, now_ms(), pending_from=3, since_ms=late.started_ms), clock(now_ms()))
    assert (await ledger.complete_before() or 0) > late.started_ms
    # Its gaps are gaps all the same, and it is one of another tap's that counts.
    await ledger.note(late.heartbeat(5, now_ms(), dropped=(late.dropped(1, 2),)))
    assert await ledger.gaps() == [(1, 2, 2, "dropped:buffer_full")]
    await ledger.note(other.heartbeat(5, now_ms(), pending_from=3, since_ms=other.started_ms))
    assert await ledger.complete_before() == other.started_ms
    surplus = await ledger.connection.fetch("SELECT epoch FROM auditap.tap_epochs WHERE surplus")
    assert [row["epoch"] for row in surplus] == [3_000]
    # By its captures alone, as by its heartbeat.
    await ledger.store.store([Tap(epoch=3_001).record(1, now_ms()), Tap("third").record(1, now_ms())])
    surplus = await ledger.connection.fetch("SELECT epoch FROM auditap.tap_epochs WHERE surplus ORDER BY 1")
    assert [row["epoch"] for row in surplus] == [3_000, 3_001]


async def test_one_batch_of_many_epochs_is_bounded(ledger: Ledger) -> None:
    await ledger.store.store([Tap(epoch=1_500).record(1, now_ms())])
    epochs = [*range(1, 1_500), 1_500]
    await ledger.store.store([Tap(epoch=epoch).record(2, now_ms()) for epoch in epochs])
    rows = await ledger.connection.fetch(
        "SELECT epoch FROM auditap.tap_epochs WHERE NOT surplus ORDER BY epoch"
    )
    assert [row["epoch"] for row in rows] == [*range(1, 1_000), 1_500]


async def test_a_surplus_epoch_holds_the_watermark_once_there_are_fewer(ledger: Ledger) -> None:
    await a_thousand_epochs(ledger)
    late = Tap(epoch=3_000, began_ago_ms=300_000)

    async def beat() -> None:
        pending = late.heartbeat(5, now_ms(), pending_from=3, since_ms=late.started_ms)
        await ledger.note(pending, clock(now_ms()))

    await beat()
    await beat()
    assert (await ledger.store.refresh_gap_ledger(GapLedgerWaits())).taps_surplus == 1
    assert (await ledger.complete_before() or 0) > late.started_ms
    await ledger.connection.execute("UPDATE auditap.tap_epochs SET waits_until_ms = 0 WHERE epoch = 1001")
    await beat()
    assert await ledger.complete_before() == late.started_ms
    assert (await ledger.store.refresh_gap_ledger(GapLedgerWaits())).taps_surplus == 0
    # What has passed meanwhile is shown again, even if the tap goes on at once.
    await ledger.note(late.heartbeat(5, now_ms()))
    assert await ledger.complete_before() == late.started_ms


async def test_a_retired_tap_does_not_hold_the_watermark_and_its_gaps_stay(
    ledger: Ledger, audit_database: AuditDatabase
) -> None:
    gone, other, other_ms = Tap("gone", began_ago_ms=300_000), Tap("other"), now_ms() - 30_000
    await ledger.note(gone.heartbeat(9, gone.started_ms + 50, pending_from=5, since_ms=gone.started_ms))
    await ledger.store.store(gone.records(1, 2))
    await ledger.note(other.heartbeat(0, other_ms), clock(now_ms()))
    assert await ledger.complete_before() == gone.started_ms
    gaps = await ledger.gaps()
    assert gaps == [(3, 9, 7, "unknown"), (10, None, None, "unknown")]
    async with administrator(audit_database.operator_dsn) as operator:
        assert await retire_tap(operator, "gone", "ada", "switched off") == 1
        assert await retire_tap(operator, "gone", "ada", "again") == 0
        assert await retire_tap(operator, "nobody", "ada", "never was") == 0
    assert await ledger.complete_before() == other_ms
    # Nor does what it still sends.
    await ledger.note(gone.heartbeat(9, now_ms(), pending_from=5, since_ms=0))
    await ledger.store.store(gone.records(5, 5))
    assert await ledger.complete_before() == other_ms
    assert (await ledger.gaps())[0][:3] == (3, 4, 2)
    [row] = await ledger.connection.fetch("SELECT * FROM auditap.tap_retirements")
    assert [row[name] for name in ("tap_id", "epochs", "retired_by", "login", "reason")] == [
        "gone",
        1,
        "ada",
        "auditap_operator",
        "switched off",
    ]
    # A later run of it counts again.
    again = Tap("gone", epoch=8, began_ago_ms=100_000)
    await ledger.note(again.heartbeat(1, now_ms(), pending_from=1, since_ms=again.started_ms))
    assert await ledger.complete_before() == again.started_ms


async def test_what_a_tap_took_the_watermark_back_to_stays_when_it_is_retired(ledger: Ledger) -> None:
    other, gone, other_ms = Tap("other"), Tap("gone", began_ago_ms=300_000), now_ms() - 30_000
    await ledger.note(other.heartbeat(0, other_ms), clock(now_ms()))
    await ledger.note(gone.heartbeat(9, now_ms(), pending_from=5, since_ms=gone.started_ms + 50))
    assert await retire_tap(ledger.connection, "gone", "ada", "switched off") == 1
    assert await ledger.complete_before() == gone.started_ms
    [row] = await ledger.connection.fetch("SELECT held_until_ms FROM auditap.late_arrivals")
    assert row["held_until_ms"] <= now_ms() + GapLedgerWaits().watermark_hold_ms
    await ledger.connection.execute("UPDATE auditap.late_arrivals SET held_until_ms = 0")
    assert await ledger.complete_before() == other_ms


async def test_without_an_epoch_that_counts_there_is_no_watermark(ledger: Ledger) -> None:
    await ledger.note(Tap("gone").heartbeat(9, now_ms()), clock(now_ms()))
    assert await ledger.complete_before() is not None
    assert await retire_tap(ledger.connection, "gone", "ada", "switched off") == 1
    assert await ledger.complete_before() is None
    assert (await ledger.store.refresh_gap_ledger(GapLedgerWaits())).taps_retired == 1
    await ledger.note(Tap("gone", epoch=8).heartbeat(9, now_ms()))
    assert await ledger.complete_before() is not None


@pytest.mark.parametrize("words", [("", "why"), ("ada", " "), ("a" * 201, "why"), ("ada", "w" * 2_001)])
async def test_retiring_takes_a_name_and_a_reason_of_bounded_length(
    ledger: Ledger, words: tuple[str, str]
) -> None:
    with pytest.raises(asyncpg.InvalidParameterValueError):
        await retire_tap(ledger.connection, "t-1", *words)
    assert await retire_tap(ledger.connection, "t-1", "a" * 200, "w" * 2_000) == 0


async def test_a_clock_that_was_ahead_and_is_right_again_leaves_no_time_in_the_future(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: for as long as its host had been ahead, every tap was taken for cut off, and the watermark was in the future."""
    tap, hour_ms = Tap(), 3_600_000
    await set_clocks(ledger, monkeypatch, hour_ms)
    await ledger.note(tap.heartbeat(1, now_ms() + hour_ms), clock(now_ms() + hour_ms))
    assert await ledger.log_ms() > now_ms() + hour_ms - 60_000
    await set_clocks(ledger, monkeypatch, 0)
    await ledger.note(tap.heartbeat(1, now_ms()), clock(now_ms()))
    assert await ledger.log_ms() <= now_ms()
    assert (await ledger.complete_before() or 0) <= now_ms()
