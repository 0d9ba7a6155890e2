"""The contract of `DeadLetterStore`, and of retrying, for Postgres and the fake alike."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
import pytest

from eventlog.ports import Partition
from ingestor.config import DAY_MS, IngestorConfig
from ingestor.dead_letters.ports import (
    DeadLetter,
    DeadLetterFilter,
    DeadLetterState,
    DeadLetterStore,
    DeadLetterWriter,
    RetryOutcome,
    StoredDeadLetter,
)
from ingestor.dead_letters.postgres import PostgresDeadLetterStore
from ingestor.dead_letters.retry import DeadLetterRetrier, dead_letter_pages
from ingestor.postgres_store import PostgresStore
from schemas.errors import DeadLetterReason, RetryableError, UnprocessableEvent
from schemas.event import Resource, encode_event, truncate_event
from schemas.heartbeat import REPORT_PREFIX, encode_report
from tests.audit_database import AuditDatabase, assert_denied
from tests.fakes.dead_letter_store import MemoryDeadLetterStore
from tests.fakes.record_store import MemoryRecordStore
from tests.ledger import Tap, now_ms
from tests.records import event

UNRESOLVED = DeadLetterFilter(state=DeadLetterState.UNRESOLVED)
REASONS = [DeadLetterReason.MALFORMED, DeadLetterReason.CLOCK_AHEAD, DeadLetterReason.UNSTORABLE]


@dataclass
class Subject:
    """The ingestor's writer, and the operator's view of what it wrote."""

    writer: DeadLetterWriter
    store: DeadLetterStore
    records: Any
    """The ingestor's store with the operator's role: `RecordStore` and `GapLedger`."""

    async def write_dead_letters(self, *values: bytes, reason: DeadLetterReason | None = None) -> None:
        count, _ = await self.store.count(DeadLetterFilter())
        await self.writer.write_dead_letters(
            [
                DeadLetter(
                    Partition("log", 0),
                    count + n,
                    now_ms(),
                    value,
                    UnprocessableEvent(reason or REASONS[n % 3], "a: b"),
                )
                for n, value in enumerate(values)
            ]
        )

    async def all(self, chosen: DeadLetterFilter | None = None) -> list[StoredDeadLetter]:
        return [
            dead_letter
            async for page in dead_letter_pages(self.store, chosen or DeadLetterFilter(), with_events=True)
            for dead_letter in page
        ]

    def retrier(self, config: IngestorConfig | None = None) -> DeadLetterRetrier:
        return DeadLetterRetrier(
            dead_letters=self.store,
            records=self.records,
            gap_ledger=self.records,
            config=config or IngestorConfig(),
            clock_ms=now_ms,
        )


@pytest.fixture
async def in_postgres(audit_database: AuditDatabase) -> AsyncIterator[Subject]:
    writer, operator = [
        await PostgresStore.connect(dsn, connections_max=2, command_timeout_ms=60_000)
        for dsn in (audit_database.writer_dsn, audit_database.operator_dsn)
    ]
    connection = await asyncpg.connect(audit_database.operator_dsn)
    yield Subject(writer, PostgresDeadLetterStore(connection), operator)
    await connection.close()
    await writer.close()
    await operator.close()


@pytest.fixture
def in_memory() -> Subject:
    store = MemoryRecordStore()
    return Subject(store, MemoryDeadLetterStore(store), store)


@pytest.fixture(params=["memory", "postgres"])
def subject(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue("in_postgres" if request.param == "postgres" else "in_memory")


def good(**changes: Any) -> bytes:
    return encode_event(event(now_ms(), **changes))


async def test_dead_letters_come_in_the_order_in_which_they_were_written(subject: Subject) -> None:
    values = [good() for _ in range(60)]
    await subject.write_dead_letters(*values)
    # Read again: it stays as it is.
    await subject.writer.write_dead_letters(
        [DeadLetter(Partition("log", 0), 0, 0, values[0], UnprocessableEvent(DeadLetterReason.EXPIRED))]
    )

    found = await subject.all()

    assert [dead_letter.value for dead_letter in found] == values
    assert [dead_letter.number for dead_letter in found] == sorted(
        {dead_letter.number for dead_letter in found}
    )
    first = found[0]
    assert (first.partition, first.offset, first.reason, first.path) == (
        Partition("log", 0),
        0,
        "malformed",
        "a: b",
    )
    assert (first.state, first.retries, first.retried_at, first.stored_at) == (
        DeadLetterState.UNRESOLVED,
        0,
        None,
        None,
    )
    assert first.event_id == UUID(msgspec.json.decode(values[0])["id"])
    without = await subject.store.select(DeadLetterFilter(), 0, 2, with_events=False)
    assert [dead_letter.value for dead_letter in without] == [b"", b""]


async def test_a_dead_letter_of_another_log_at_the_same_position_is_kept(subject: Subject) -> None:
    """The topic was deleted and made again under its name."""
    old, new = (
        DeadLetter(Partition("log", 0, log_id), 7, 0, value, UnprocessableEvent(DeadLetterReason.EXPIRED))
        for log_id, value in (("old", b"one"), ("new", b"another"))
    )
    for dead_letter in (old, new, new, old):
        await subject.writer.write_dead_letters([dead_letter])

    assert [(found.offset, found.value) for found in await subject.all()] == [(7, b"one"), (7, b"another")]


async def test_dead_letters_are_selected_by_number_reason_time_id_and_state(subject: Subject) -> None:
    await subject.write_dead_letters(*[good() for _ in range(9)])
    every = await subject.all()
    now = datetime.now(UTC)

    async def numbers_of(chosen: DeadLetterFilter) -> list[int]:
        found = [dead_letter.number for dead_letter in await subject.all(chosen)]
        assert await subject.store.count(chosen) == (len(found), max(found, default=0))
        return found

    numbers = [dead_letter.number for dead_letter in every]
    assert await numbers_of(DeadLetterFilter()) == numbers
    assert await numbers_of(DeadLetterFilter(numbers=(numbers[3], numbers[1], 10**9))) == [
        numbers[1],
        numbers[3],
    ]
    assert await numbers_of(DeadLetterFilter(reasons=("malformed", "unstorable"))) == [
        n for at, n in enumerate(numbers) if at % 3 != 1
    ]
    assert every[4].event_id is not None
    assert await numbers_of(DeadLetterFilter(event_ids=(every[4].event_id,))) == [numbers[4]]
    assert await numbers_of(DeadLetterFilter(since=now - timedelta(hours=1))) == numbers
    assert await numbers_of(DeadLetterFilter(since=now + timedelta(hours=1))) == []
    assert await numbers_of(DeadLetterFilter(before=now - timedelta(hours=1))) == []
    assert await numbers_of(DeadLetterFilter(number_max=numbers[2])) == numbers[:3]
    assert await numbers_of(DeadLetterFilter(state=DeadLetterState.STORED)) == []


async def test_two_retries_make_one_record(subject: Subject) -> None:
    await subject.write_dead_letters(*[good() for _ in range(30)])
    dead_letters = await subject.all()

    # Two people at once, and one of them again.
    retrier = subject.retrier()
    for retried in await asyncio.gather(retrier.retry(dead_letters[:15]), retrier.retry(dead_letters[15:])):
        assert [each.refused for each in retried] == [None] * 15
    assert [each.refused for each in await retrier.retry(dead_letters)] == [None] * 30

    after = await subject.all()
    assert {dead_letter.state for dead_letter in after} == {DeadLetterState.STORED}
    assert {dead_letter.retries for dead_letter in after} == {1}
    assert all(dead_letter.stored_at is not None for dead_letter in after)
    assert await subject.all(UNRESOLVED) == []


async def test_a_failed_retry_stays_unresolved_with_its_present_reason(subject: Subject) -> None:
    taken = event(now_ms())
    await subject.write_dead_letters(
        b'{"id": "x"}',
        encode_event(event(now_ms() - 40 * DAY_MS)),
        good(),
        encode_event(taken),
        encode_event(event(now_ms(), id=taken.id, resource=Resource(id="another"))),
        reason=DeadLetterReason.UNSTORABLE,
    )

    retried = await subject.retrier().retry(await subject.all())

    reasons = [each.refused and each.refused.reason for each in retried]
    assert reasons[:3] == [DeadLetterReason.MALFORMED, DeadLetterReason.EXPIRED, None]
    assert sorted(map(str, reasons[3:])) == ["None", "id_conflict"]
    kept = await subject.all(UNRESOLVED)
    assert [(dead_letter.reason, dead_letter.path, dead_letter.retries) for dead_letter in kept] == [
        ("malformed", "id: pattern", 1),
        ("expired", "", 1),
        ("id_conflict", "", 1),
    ]


async def test_a_truncated_event_becomes_a_record_without_its_bodies(subject: Subject) -> None:
    cut = truncate_event(good(resource=Resource(id="r", request=msgspec.Raw(b'"%s"' % (b"x" * 900)))))
    assert cut is not None
    await subject.write_dead_letters(cut, reason=DeadLetterReason.TOO_LARGE)

    (retried,) = await subject.retrier().retry(await subject.all())

    assert retried.refused is None


async def test_a_retried_report_is_noted(subject: Subject) -> None:
    report = encode_report(Tap().heartbeat(5, now_ms()).report)
    assert report.startswith(REPORT_PREFIX)
    await subject.write_dead_letters(report, REPORT_PREFIX + b"nonsense")

    retried = await subject.retrier().retry(await subject.all())

    assert [each.refused is None for each in retried] == [True, False]


async def test_discarded_dead_letters_stay_visible_and_are_not_retried(subject: Subject) -> None:
    await subject.write_dead_letters(*[good() for _ in range(6)])
    first, *_ = await subject.all()
    await subject.retrier().retry([first])

    assert await subject.store.discard(DeadLetterFilter(reasons=("malformed",))) == 1
    assert await subject.store.discard(DeadLetterFilter(reasons=("malformed",))) == 0

    (discarded,) = await subject.all(DeadLetterFilter(state=DeadLetterState.DISCARDED))
    assert discarded.discarded_at is not None
    assert discarded.discarded_by
    assert discarded.value
    assert await subject.retrier().retry([discarded]) == []
    await subject.store.record_retries([RetryOutcome(discarded.number, None)])
    assert await subject.all(DeadLetterFilter(state=DeadLetterState.DISCARDED)) == [discarded]


async def test_a_store_that_is_away_raises_retryable_errors(subject: Subject) -> None:
    if isinstance(subject.store, MemoryDeadLetterStore):
        subject.store.away = True
    else:
        await subject.store._connection.close()  # type: ignore[attr-defined]
    for call in (
        subject.store.select(DeadLetterFilter(), 0, 1, with_events=True),
        subject.store.count(DeadLetterFilter()),
        subject.store.discard(DeadLetterFilter()),
    ):
        with pytest.raises(RetryableError):
            await call


async def test_the_operator_neither_deletes_nor_rewrites(audit_database: AuditDatabase) -> None:
    await assert_denied(
        audit_database.operator_dsn,
        "DELETE FROM auditap.dead_letters",
        "TRUNCATE auditap.dead_letters",
        "UPDATE auditap.dead_letters SET event = ''",
        "UPDATE auditap.dead_letters SET dead_lettered_at = now()",
        "UPDATE auditap.audit_records SET action_result = 'success'",
        "DELETE FROM auditap.audit_records",
        "SELECT resource_request FROM auditap.audit_records",
        "SELECT * FROM auditap.api_tokens",
    )
    await assert_denied(audit_database.writer_dsn, "UPDATE auditap.dead_letters SET discarded_at = now()")
