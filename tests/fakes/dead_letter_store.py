"""`DeadLetterStore` in memory, on what a MemoryRecordStore has dead-lettered."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

from ingestor.dead_letters.ports import DeadLetterFilter, DeadLetterState, RetryOutcome, StoredDeadLetter
from schemas.errors import RetryableError
from schemas.event import event_id
from tests.fakes.record_store import MemoryRecordStore


class MemoryDeadLetterStore:
    """Numbers dead letters in the order in which they were written; `away` makes every call fail."""

    def __init__(self, store: MemoryRecordStore) -> None:
        self._store = store
        self._known: dict[tuple[str, int, int, bytes], StoredDeadLetter] = {}
        self.away = False

    async def select(
        self, chosen: DeadLetterFilter, after: int, count_max: int, *, with_events: bool
    ) -> Sequence[StoredDeadLetter]:
        found = [dead_letter for dead_letter in self._matching(chosen) if dead_letter.number > after][
            :count_max
        ]
        return found if with_events else [dead_letter._replace(value=b"") for dead_letter in found]

    async def count(self, chosen: DeadLetterFilter) -> tuple[int, int]:
        found = self._matching(chosen)
        return len(found), max((dead_letter.number for dead_letter in found), default=0)

    async def record_retries(self, retried: Sequence[RetryOutcome]) -> None:
        outcomes = dict(retried)
        for position, dead_letter in self._all().items():
            if dead_letter.number in outcomes and dead_letter.state is DeadLetterState.UNRESOLVED:
                self._known[position] = _after(dead_letter, outcomes[dead_letter.number])

    async def discard(self, chosen: DeadLetterFilter) -> int:
        unresolved = [
            dead_letter
            for dead_letter in self._matching(chosen)
            if dead_letter.state is DeadLetterState.UNRESOLVED
        ]
        for position, dead_letter in self._all().items():
            if dead_letter in unresolved:
                self._known[position] = dead_letter._replace(
                    state=DeadLetterState.DISCARDED, discarded_at=datetime.now(UTC), discarded_by="memory"
                )
        return len(unresolved)

    def _matching(self, chosen: DeadLetterFilter) -> list[StoredDeadLetter]:
        return [dead_letter for dead_letter in self._all().values() if _matches(dead_letter, chosen)]

    def _all(self) -> dict[tuple[str, int, int, bytes], StoredDeadLetter]:
        if self.away:
            raise RetryableError("the dead letters are away")
        for position, dead_letter in self._store.dead_letters.items():
            if position not in self._known:
                found = event_id(dead_letter.value)
                self._known[position] = StoredDeadLetter(
                    number=len(self._known) + 1,
                    partition=dead_letter.partition,
                    offset=dead_letter.offset,
                    reason=str(dead_letter.reason.reason),
                    path=dead_letter.reason.path,
                    event_id=UUID(found) if found else None,
                    received_ms=dead_letter.received_ms,
                    dead_lettered_at=datetime.now(UTC),
                    state=DeadLetterState.UNRESOLVED,
                    retries=0,
                    retried_at=None,
                    stored_at=None,
                    discarded_at=None,
                    discarded_by=None,
                    value=dead_letter.value,
                )
        return dict(self._known)


def _after(dead_letter: StoredDeadLetter, refused: object) -> StoredDeadLetter:
    now = datetime.now(UTC)
    dead_letter = dead_letter._replace(retries=dead_letter.retries + 1, retried_at=now)
    if refused is None:
        return dead_letter._replace(state=DeadLetterState.STORED, stored_at=now)
    return dead_letter._replace(reason=str(refused.reason), path=refused.path)  # type: ignore[attr-defined]


def _matches(dead_letter: StoredDeadLetter, chosen: DeadLetterFilter) -> bool:
    return (
        (not chosen.numbers or dead_letter.number in chosen.numbers)
        and (not chosen.reasons or dead_letter.reason in chosen.reasons)
        and (not chosen.event_ids or dead_letter.event_id in chosen.event_ids)
        and (chosen.since is None or dead_letter.dead_lettered_at >= chosen.since)
        and (chosen.before is None or dead_letter.dead_lettered_at < chosen.before)
        and (chosen.state is None or dead_letter.state is chosen.state)
        and (chosen.number_max is None or dead_letter.number <= chosen.number_max)
    )
