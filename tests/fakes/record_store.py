"""A record store in memory, for tests without a database: all that the ingestor asks of a store."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from uuid import UUID

from ingestor.dead_letters.ports import DeadLetter
from ingestor.enrichment_backfill import BackfillStep, Resolve
from ingestor.ports import LostOffsets, ReceivedReport, StoreOutcome
from schemas.errors import DeadLetterReason, RetryableError, UnprocessableEvent
from schemas.record import EnrichmentResult, EnrichmentState, PartialRecord, Record, event_id_of, with_id


class MemoryRecordStore:
    """Keeps records and dead_letters; `away` makes every call fail as a database that is away does.

    Its clock is `ahead_ms` ahead of this host's.
    """

    def __init__(self) -> None:
        self.records: dict[UUID, Record] = {}
        self.dead_letters: dict[tuple[str, int, int, bytes], DeadLetter] = {}
        self.enriched: dict[UUID, EnrichmentResult] = {}
        self.working: set[UUID] = set()
        self.postponed: dict[UUID, tuple[float, float]] = {}
        """When a partial record is due again by `timer`, and how long it waits the next time."""
        self.timer: Callable[[], float] = time.monotonic
        self.reports: set[ReceivedReport] = set()
        self.lost: set[LostOffsets] = set()
        self.noted: dict[UUID, UUID] = {}
        self.away = False
        self.ahead_ms = 0

    async def clock_ms(self) -> int:
        self._check()
        return time.time_ns() // 1_000_000 + self.ahead_ms

    async def store(self, records: Sequence[Record]) -> StoreOutcome:
        self._check()
        stored, refused = 0, []
        for index, given in enumerate(records):
            if not _storable(given):
                refused.append((index, UnprocessableEvent(DeadLetterReason.UNSTORABLE)))
                continue
            record = self._under_noted_id(given)
            stored += record.id not in self.records
            there = self.records.setdefault(record.id, record)
            if there.event_digest != record.event_digest:
                refused.append((index, UnprocessableEvent(DeadLetterReason.ID_CONFLICT)))
        return StoreOutcome(stored, len(records) - stored - len(refused), refused)

    def _under_noted_id(self, record: Record) -> Record:
        own = event_id_of(record)
        noted = own if own in self.records else self.noted.get(own, record.id)
        if noted != own:
            self.noted[own] = noted
        return record if noted == record.id else with_id(record, noted)

    async def backfill_next(self, records_max: int, resolve: Resolve) -> BackfillStep | None:
        self._check()
        ours = self.records.keys() - self.enriched.keys() - self.working
        now_s = self.timer()
        waiting = sorted(
            each
            for each in ours
            if self.records[each].enrichment == EnrichmentState.PARTIAL
            and self.postponed.get(each, (now_s, 0))[0] <= now_s
        )[:records_max]
        if not waiting:
            return None
        self.working.update(waiting)
        try:
            found = await resolve([_incomplete(self.records[each]) for each in waiting])
        finally:
            self.working.difference_update(waiting)
        enriched = [each for each in found if each.state != EnrichmentState.PARTIAL]
        self.enriched |= {each.id: each for each in enriched}
        for each in waiting:
            wait_s = self.postponed.get(each, (0, 5.0))[1]
            self.postponed[each] = (now_s + wait_s, min(wait_s * 2, 300))
        return BackfillStep(len(waiting), enriched, any(each.lookup_failed for each in found))

    async def write_dead_letters(self, dead_letters: Sequence[DeadLetter]) -> None:
        self._check()
        for dead_letter in dead_letters:
            log, number, _ = dead_letter.partition
            self.dead_letters.setdefault((log, number, dead_letter.offset, dead_letter.value), dead_letter)

    async def note(self, reports: Sequence[ReceivedReport], lost: Sequence[LostOffsets]) -> Sequence[int]:
        self._check()
        self.reports |= set(reports)
        self.lost |= set(lost)
        return ()

    def _check(self) -> None:
        if self.away:
            raise RetryableError("the store is away")


def _storable(record: Record) -> bool:
    texts = [
        value for value in (record.raw_uri, record.raw_user_agent, record.account_id) if value is not None
    ]
    try:
        for body in (record.resource_request, record.resource_response):
            if body is not None:
                json.loads(body)
    except ValueError:
        return False
    return not any("\0" in text for text in texts)


def _incomplete(record: Record) -> PartialRecord:
    return PartialRecord(**{name: getattr(record, name) for name in PartialRecord.__struct_fields__})
