"""Dead letters after they were buried: looked at, tried again, let go of."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple, Protocol
from uuid import UUID

from ingestor.build import build_record
from ingestor.config import IngestorConfig
from ingestor.ports import CompletenessStore, Partition, ReceivedReport, RecordStore, SourceEvent
from schemas.errors import BuriedEvent, DeadLetterReason
from schemas.heartbeat import REPORT_PREFIX, decode_report
from schemas.record import Record

_LETTERS_MAX = 25
"""Letters in memory at a time; each may be as large as an event can be."""


class LetterState(StrEnum):
    """What became of a letter."""

    OPEN = "open"
    STORED = "stored"
    DISCARDED = "discarded"


class BuriedLetter(NamedTuple):
    """One letter as it is kept. `value` is empty where it was not asked for."""

    number: int
    partition: Partition
    offset: int
    reason: str
    path: str
    event_id: UUID | None
    received_ms: int
    buried_at: datetime
    state: LetterState
    retries: int
    retried_at: datetime | None
    stored_at: datetime | None
    discarded_at: datetime | None
    discarded_by: str | None
    value: bytes


class Wanted(NamedTuple):
    """Which letters are meant: those that meet all of it. An empty tuple and None ask for nothing."""

    numbers: tuple[int, ...] = ()
    reasons: tuple[str, ...] = ()
    event_ids: tuple[UUID, ...] = ()
    since: datetime | None = None
    before: datetime | None = None
    """When they were buried, `before` excluded."""
    state: LetterState | None = None
    up_to: int | None = None
    """The highest number."""


class Retried(NamedTuple):
    """What became of a letter that was tried again: `refused` None where it is stored now."""

    number: int
    refused: BuriedEvent | None


class LetterBox(Protocol):
    """Where letters are kept. Every method raises RetryableError while it is away."""

    async def letters(
        self, wanted: Wanted, after: int, letters_max: int, *, with_events: bool
    ) -> Sequence[BuriedLetter]:
        """Return letters above the number `after`, in the order of their numbers."""

    async def count(self, wanted: Wanted) -> tuple[int, int]:
        """Return how many there are, and the highest number among them (0: none)."""

    async def mark(self, retried: Sequence[Retried]) -> None:
        """Note each outcome, durably; a letter that is not open any more stays as it is."""

    async def discard(self, wanted: Wanted) -> int:
        """Let go of those that are open and return how many these were. They can still be looked at."""


async def each_letter(
    box: LetterBox, wanted: Wanted, *, with_events: bool
) -> AsyncIterator[Sequence[BuriedLetter]]:
    """Yield the letters, page by page."""
    after = 0
    while page := await box.letters(wanted, after, _LETTERS_MAX, with_events=with_events):
        yield page
        after = page[-1].number


class Retrier:
    """Takes buried events along the ingestor's way once more: build, store, mark.

    Storing is idempotent on the id, so trying again, or twice at once, adds one record. What was cut because the log did
    not take it whole becomes a record without its bodies.
    """

    def __init__(
        self,
        *,
        box: LetterBox,
        store: RecordStore,
        completeness: CompletenessStore,
        config: IngestorConfig,
        clock_ms: Callable[[], int],
    ) -> None:
        self._box = box
        self._store = store
        self._completeness = completeness
        self._config = config
        self._clock_ms = clock_ms

    async def retry(self, letters: Sequence[BuriedLetter]) -> Sequence[Retried]:
        """Try open letters, which came with their events; return what became of each. Raises RetryableError: then what was
        tried may be stored and not marked, which trying again puts right.
        """
        letters = [letter for letter in letters if letter.state is LetterState.OPEN]
        reports = [letter for letter in letters if letter.value.startswith(REPORT_PREFIX)]
        events = [letter for letter in letters if not letter.value.startswith(REPORT_PREFIX)]
        retried = sorted([*await self._store_events(events), *await self._note_reports(reports)])
        await self._box.mark(retried)
        return retried

    async def _store_events(self, letters: Sequence[BuriedLetter]) -> list[Retried]:
        records: list[Record] = []
        numbers: list[int] = []
        retried: list[Retried] = []
        for letter in letters:
            source = SourceEvent(letter.offset, letter.received_ms, letter.value)
            try:
                records.append(build_record(source, self._config, self._clock_ms(), cut_too=True))
                numbers.append(letter.number)
            except BuriedEvent as reason:
                retried.append(Retried(letter.number, reason))
            except Exception:  # noqa: BLE001  # as in the ingestor: it trips the program, and is kept
                retried.append(Retried(letter.number, BuriedEvent(DeadLetterReason.MALFORMED)))
        outcome = await self._store.store(records)
        refused = dict(outcome.refused)
        return retried + [Retried(number, refused.get(index)) for index, number in enumerate(numbers)]

    async def _note_reports(self, letters: Sequence[BuriedLetter]) -> list[Retried]:
        reports: list[ReceivedReport] = []
        numbers: list[int] = []
        retried: list[Retried] = []
        for letter in letters:
            try:
                reports.append(ReceivedReport(letter.received_ms, decode_report(letter.value)))
                numbers.append(letter.number)
            except BuriedEvent as reason:
                retried.append(Retried(letter.number, reason))
        if reports:
            refused = set(await self._completeness.note(reports, ()))
            unstorable = BuriedEvent(DeadLetterReason.UNSTORABLE)
            retried += [
                Retried(number, unstorable if index in refused else None)
                for index, number in enumerate(numbers)
            ]
        return retried
