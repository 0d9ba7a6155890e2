"""The contract of `LetterBox`, and of trying again what is in it, for the real one and the fake alike."""

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

from ingestor.config import DAY_MS, IngestorConfig
from ingestor.dead_letters import BuriedLetter, LetterBox, LetterState, Retried, Retrier, Wanted, each_letter
from ingestor.ports import DeadLetter, DeadLetters, Partition
from ingestor.postgres_letters import PostgresLetterBox
from ingestor.postgres_store import PostgresStore
from schemas.errors import BuriedEvent, DeadLetterReason, RetryableError
from schemas.event import Resource, cut_event, encode_event
from schemas.heartbeat import REPORT_PREFIX, encode_report
from tests.audit_database import AuditDatabase, migrated
from tests.fakes.letter_box import MemoryLetterBox
from tests.fakes.record_store import MemoryRecordStore
from tests.ledger import Tap, now_ms
from tests.records import event

OPEN = Wanted(state=LetterState.OPEN)
REASONS = [DeadLetterReason.MALFORMED, DeadLetterReason.CLOCK_AHEAD, DeadLetterReason.UNSTORABLE]


@dataclass
class Cemetery:
    """Where is buried, what is buried there, and where it can be stored after all."""

    dead_letters: DeadLetters
    box: LetterBox
    store: Any
    """The operator's, which is the ingestor's code."""

    async def bury(self, *values: bytes, reason: DeadLetterReason | None = None) -> None:
        count, _ = await self.box.count(Wanted())
        await self.dead_letters.bury(
            [
                DeadLetter(
                    Partition("log", 0),
                    count + n,
                    now_ms(),
                    value,
                    BuriedEvent(reason or REASONS[n % 3], "a: b"),
                )
                for n, value in enumerate(values)
            ]
        )

    async def all(self, wanted: Wanted | None = None) -> list[BuriedLetter]:
        return [
            letter
            async for page in each_letter(self.box, wanted or Wanted(), with_events=True)
            for letter in page
        ]

    def retrier(self, config: IngestorConfig | None = None) -> Retrier:
        return Retrier(
            box=self.box,
            store=self.store,
            completeness=self.store,
            config=config or IngestorConfig(),
            clock_ms=now_ms,
        )


@pytest.fixture
async def audit_database(database: str) -> AuditDatabase:
    return await migrated(database)


@pytest.fixture
async def in_postgres(audit_database: AuditDatabase) -> AsyncIterator[Cemetery]:
    writer, operator = [
        await PostgresStore.connect(dsn, connections_max=2, command_timeout_ms=20_000)
        for dsn in (audit_database.writer_dsn, audit_database.operator_dsn)
    ]
    connection = await asyncpg.connect(audit_database.operator_dsn)
    yield Cemetery(writer, PostgresLetterBox(connection), operator)
    await connection.close()
    await writer.close()
    await operator.close()


@pytest.fixture
def in_memory() -> Cemetery:
    store = MemoryRecordStore()
    return Cemetery(store, MemoryLetterBox(store), store)


@pytest.fixture(params=["memory", "postgres"])
def cemetery(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue("in_postgres" if request.param == "postgres" else "in_memory")


def good(**changes: Any) -> bytes:
    return encode_event(event(now_ms(), **changes))


async def test_letters_come_as_they_were_buried_in_their_order(cemetery: Cemetery) -> None:
    values = [good() for _ in range(60)]
    await cemetery.bury(*values)
    await cemetery.dead_letters.bury(
        [DeadLetter(Partition("log", 0), 0, 0, b"again", BuriedEvent(DeadLetterReason.EXPIRED))]
    )

    found = await cemetery.all()

    assert [letter.value for letter in found] == values
    assert [letter.number for letter in found] == sorted({letter.number for letter in found})
    first = found[0]
    assert (first.partition, first.offset, first.reason, first.path) == (
        Partition("log", 0),
        0,
        "malformed",
        "a: b",
    )
    assert (first.state, first.retries, first.retried_at, first.stored_at) == (
        LetterState.OPEN,
        0,
        None,
        None,
    )
    assert first.event_id == UUID(msgspec.json.decode(values[0])["id"])
    without = await cemetery.box.letters(Wanted(), 0, 2, with_events=False)
    assert [letter.value for letter in without] == [b"", b""]


async def test_letters_are_chosen_by_number_reason_time_id_and_state(cemetery: Cemetery) -> None:
    await cemetery.bury(*[good() for _ in range(9)])
    every = await cemetery.all()
    now = datetime.now(UTC)

    async def chosen(wanted: Wanted) -> list[int]:
        found = [letter.number for letter in await cemetery.all(wanted)]
        assert await cemetery.box.count(wanted) == (len(found), max(found, default=0))
        return found

    numbers = [letter.number for letter in every]
    assert await chosen(Wanted()) == numbers
    assert await chosen(Wanted(numbers=(numbers[3], numbers[1], 10**9))) == [numbers[1], numbers[3]]
    assert await chosen(Wanted(reasons=("malformed", "unstorable"))) == [
        n for at, n in enumerate(numbers) if at % 3 != 1
    ]
    assert every[4].event_id is not None
    assert await chosen(Wanted(event_ids=(every[4].event_id,))) == [numbers[4]]
    assert await chosen(Wanted(since=now - timedelta(minutes=1))) == numbers
    assert await chosen(Wanted(since=now + timedelta(minutes=1))) == []
    assert await chosen(Wanted(before=now - timedelta(minutes=1))) == []
    assert await chosen(Wanted(up_to=numbers[2])) == numbers[:3]
    assert await chosen(Wanted(state=LetterState.STORED)) == []


async def test_tried_again_twice_is_one_record(cemetery: Cemetery) -> None:
    await cemetery.bury(*[good() for _ in range(30)])
    letters = await cemetery.all()

    # Two people at once, and one of them again.
    retrier = cemetery.retrier()
    for retried in await asyncio.gather(retrier.retry(letters[:15]), retrier.retry(letters[15:])):
        assert [each.refused for each in retried] == [None] * 15
    assert [each.refused for each in await retrier.retry(letters)] == [None] * 30

    after = await cemetery.all()
    assert {letter.state for letter in after} == {LetterState.STORED}
    assert {letter.retries for letter in after} == {1}
    assert all(letter.stored_at is not None for letter in after)
    assert await cemetery.all(OPEN) == []


async def test_what_fails_again_is_kept_with_the_reason_it_fails_for_now(cemetery: Cemetery) -> None:
    taken = event(now_ms())
    await cemetery.bury(
        b'{"id": "x"}',
        encode_event(event(now_ms() - 40 * DAY_MS)),
        good(),
        encode_event(taken),
        encode_event(event(now_ms(), id=taken.id, resource=Resource(id="another"))),
        reason=DeadLetterReason.UNSTORABLE,
    )

    retried = await cemetery.retrier().retry(await cemetery.all())

    reasons = [each.refused and each.refused.reason for each in retried]
    assert reasons[:3] == [DeadLetterReason.MALFORMED, DeadLetterReason.EXPIRED, None]
    assert sorted(map(str, reasons[3:])) == ["None", "id_conflict"]
    kept = await cemetery.all(OPEN)
    assert [(letter.reason, letter.path, letter.retries) for letter in kept] == [
        ("malformed", "id: pattern", 1),
        ("expired", "", 1),
        ("id_conflict", "", 1),
    ]


async def test_what_was_cut_becomes_a_record_without_its_bodies(cemetery: Cemetery) -> None:
    cut = cut_event(good(resource=Resource(id="r", request=msgspec.Raw(b'"%s"' % (b"x" * 900)))))
    assert cut is not None
    await cemetery.bury(cut, reason=DeadLetterReason.TOO_LARGE)

    (retried,) = await cemetery.retrier().retry(await cemetery.all())

    assert retried.refused is None


async def test_a_report_is_noted_after_all(cemetery: Cemetery) -> None:
    report = encode_report(Tap().heartbeat(5, now_ms()).report)
    assert report.startswith(REPORT_PREFIX)
    await cemetery.bury(report, REPORT_PREFIX + b"nonsense")

    retried = await cemetery.retrier().retry(await cemetery.all())

    assert [each.refused is None for each in retried] == [True, False]


async def test_discarded_letters_stay_to_be_looked_at_and_are_not_tried_again(cemetery: Cemetery) -> None:
    await cemetery.bury(*[good() for _ in range(6)])
    first, *_ = await cemetery.all()
    await cemetery.retrier().retry([first])

    assert await cemetery.box.discard(Wanted(reasons=("malformed",))) == 1
    assert await cemetery.box.discard(Wanted(reasons=("malformed",))) == 0

    (discarded,) = await cemetery.all(Wanted(state=LetterState.DISCARDED))
    assert discarded.discarded_at is not None
    assert discarded.discarded_by
    assert discarded.value
    assert await cemetery.retrier().retry([discarded]) == []
    await cemetery.box.mark([Retried(discarded.number, None)])
    assert await cemetery.all(Wanted(state=LetterState.DISCARDED)) == [discarded]


async def test_letters_that_are_away_are_retryable(cemetery: Cemetery) -> None:
    if isinstance(cemetery.box, MemoryLetterBox):
        cemetery.box.away = True
    else:
        await cemetery.box._connection.close()  # type: ignore[attr-defined]
    for call in (
        cemetery.box.letters(Wanted(), 0, 1, with_events=True),
        cemetery.box.count(Wanted()),
        cemetery.box.discard(Wanted()),
    ):
        with pytest.raises(RetryableError):
            await call


async def test_the_operator_neither_deletes_nor_rewrites(audit_database: AuditDatabase) -> None:
    connection = await asyncpg.connect(audit_database.operator_dsn)
    try:
        for statement in (
            "DELETE FROM auditap.dead_letters",
            "TRUNCATE auditap.dead_letters",
            "UPDATE auditap.dead_letters SET event = ''",
            "UPDATE auditap.dead_letters SET buried_at = now()",
            "UPDATE auditap.audit_records SET action_result = 'success'",
            "DELETE FROM auditap.audit_records",
            "SELECT resource_request FROM auditap.audit_records",
            "SELECT * FROM auditap.api_tokens",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)
    finally:
        await connection.close()
    writer = await asyncpg.connect(audit_database.writer_dsn)
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await writer.execute("UPDATE auditap.dead_letters SET discarded_at = now()")
    finally:
        await writer.close()
