"""A record store in memory: `RecordStore` and `DeadLetters` for tests without a database."""

from __future__ import annotations

import json
from collections.abc import Sequence
from uuid import UUID

from ingestor.ports import DeadLetter, StoreOutcome
from schemas.errors import BuriedEvent, DeadLetterReason, RetryableError
from schemas.record import Record


class MemoryRecordStore:
    """Keeps records and letters; `away` makes every call fail as a database that is away does."""

    def __init__(self) -> None:
        self.records: dict[UUID, Record] = {}
        self.letters: dict[tuple[str, int, int], DeadLetter] = {}
        self.away = False

    async def store(self, records: Sequence[Record]) -> StoreOutcome:
        self._check()
        stored, refused = 0, []
        for index, record in enumerate(records):
            if not _storable(record):
                refused.append((index, BuriedEvent(DeadLetterReason.UNSTORABLE)))
                continue
            stored += record.id not in self.records
            there = self.records.setdefault(record.id, record)
            if there.event_digest != record.event_digest:
                refused.append((index, BuriedEvent(DeadLetterReason.ID_CONFLICT)))
        return StoreOutcome(stored, len(records) - stored - len(refused), refused)

    async def bury(self, letters: Sequence[DeadLetter]) -> None:
        self._check()
        for letter in letters:
            self.letters.setdefault((*letter.partition, letter.offset), letter)

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
