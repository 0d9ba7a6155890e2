"""Retrying dead letters: an operator's second run of build → store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from eventlog.ports import LoggedEvent
from ingestor.build import build_record
from ingestor.config import IngestorConfig
from ingestor.dead_letters.ports import (
    DeadLetterFilter,
    DeadLetterState,
    DeadLetterStore,
    RetryOutcome,
    StoredDeadLetter,
)
from ingestor.ports import GapLedger, ReceivedReport, RecordStore
from schemas.errors import DeadLetterReason, UnprocessableEvent
from schemas.heartbeat import REPORT_PREFIX, decode_report
from schemas.record import Record

# Each dead letter may be as large as an event can be, 8 MiB.
_PAGE_COUNT_MAX = 25


async def dead_letter_pages(
    store: DeadLetterStore, chosen: DeadLetterFilter, *, with_events: bool
) -> AsyncIterator[Sequence[StoredDeadLetter]]:
    """Yield all that match by ascending number, a bounded page at a time. Raises RetryableError."""
    after = 0
    while page := await store.select(chosen, after, _PAGE_COUNT_MAX, with_events=with_events):
        yield page
        after = page[-1].number


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterRetrier:
    """Takes dead letters through the ingestor's code once more: build, store, record the outcome.

    Storing is idempotent on the id, so that retrying twice, even at once, adds one record. An event that was truncated
    because the log did not take it whole becomes a record without its bodies.
    """

    dead_letters: DeadLetterStore
    records: RecordStore
    gap_ledger: GapLedger
    config: IngestorConfig
    clock_ms: Callable[[], int]

    async def retry(self, dead_letters: Sequence[StoredDeadLetter]) -> Sequence[RetryOutcome]:
        """Retry those that are unresolved, which must come with their events. Returns the outcomes by ascending number.

        Raises RetryableError. Some may then be stored without the outcome being recorded; retrying again fixes that.
        """
        unresolved = [each for each in dead_letters if each.state is DeadLetterState.UNRESOLVED]
        reports = [each for each in unresolved if each.value.startswith(REPORT_PREFIX)]
        events = [each for each in unresolved if not each.value.startswith(REPORT_PREFIX)]
        outcomes = sorted([*await self._store_events(events), *await self._note_reports(reports)])
        # After storing: if the process ends in between, the next retry finds the record and marks the dead letter. The
        # other way round, a dead letter could be marked as stored without a record.
        await self.dead_letters.record_retries(outcomes)
        return outcomes

    async def _store_events(self, dead_letters: Sequence[StoredDeadLetter]) -> list[RetryOutcome]:
        records: list[Record] = []
        numbers: list[int] = []
        outcomes: list[RetryOutcome] = []
        for dead_letter in dead_letters:
            event = LoggedEvent(dead_letter.offset, dead_letter.received_ms, dead_letter.value)
            try:
                records.append(build_record(event, self.config, self.clock_ms(), accept_truncated=True))
                numbers.append(dead_letter.number)
            except UnprocessableEvent as reason:
                outcomes.append(RetryOutcome(dead_letter.number, reason))
            except Exception:  # noqa: BLE001  # as in the ingestor: a bug must not stop the others
                malformed = UnprocessableEvent(DeadLetterReason.MALFORMED)
                outcomes.append(RetryOutcome(dead_letter.number, malformed))
        stored = await self.records.store(records)
        refused = dict(stored.refused)
        return outcomes + [RetryOutcome(number, refused.get(index)) for index, number in enumerate(numbers)]

    async def _note_reports(self, dead_letters: Sequence[StoredDeadLetter]) -> list[RetryOutcome]:
        reports: list[ReceivedReport] = []
        numbers: list[int] = []
        outcomes: list[RetryOutcome] = []
        for dead_letter in dead_letters:
            try:
                received_ms = min(dead_letter.received_ms, self.clock_ms())
                reports.append(ReceivedReport(received_ms, decode_report(dead_letter.value)))
                numbers.append(dead_letter.number)
            except UnprocessableEvent as reason:
                outcomes.append(RetryOutcome(dead_letter.number, reason))
        if not reports:
            return outcomes
        refused = set(await self.gap_ledger.note(reports, ()))
        unstorable = UnprocessableEvent(DeadLetterReason.UNSTORABLE)
        return outcomes + [
            RetryOutcome(number, unstorable if index in refused else None)
            for index, number in enumerate(numbers)
        ]
