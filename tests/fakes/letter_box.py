"""Dead letters in memory: `LetterBox` on what a MemoryRecordStore has buried."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

from ingestor.dead_letters import BuriedLetter, LetterState, Retried, Wanted
from schemas.errors import RetryableError
from schemas.event import event_id
from tests.fakes.record_store import MemoryRecordStore


class MemoryLetterBox:
    """Letters get their numbers in the order in which they were buried; `away` makes every call fail."""

    def __init__(self, store: MemoryRecordStore) -> None:
        self._store = store
        self._known: dict[tuple[str, int, int], BuriedLetter] = {}
        self.away = False

    async def letters(
        self, wanted: Wanted, after: int, letters_max: int, *, with_events: bool
    ) -> Sequence[BuriedLetter]:
        found = [letter for letter in self._meant(wanted) if letter.number > after][:letters_max]
        return found if with_events else [letter._replace(value=b"") for letter in found]

    async def count(self, wanted: Wanted) -> tuple[int, int]:
        found = self._meant(wanted)
        return len(found), max((letter.number for letter in found), default=0)

    async def mark(self, retried: Sequence[Retried]) -> None:
        outcomes = dict(retried)
        for place, letter in self._all().items():
            if letter.number in outcomes and letter.state is LetterState.OPEN:
                self._known[place] = _after(letter, outcomes[letter.number])

    async def discard(self, wanted: Wanted) -> int:
        meant = [letter for letter in self._meant(wanted) if letter.state is LetterState.OPEN]
        for place, letter in self._all().items():
            if letter in meant:
                self._known[place] = letter._replace(
                    state=LetterState.DISCARDED, discarded_at=datetime.now(UTC), discarded_by="memory"
                )
        return len(meant)

    def _meant(self, wanted: Wanted) -> list[BuriedLetter]:
        return [letter for letter in self._all().values() if _is_meant(letter, wanted)]

    def _all(self) -> dict[tuple[str, int, int], BuriedLetter]:
        if self.away:
            raise RetryableError("the letters are away")
        for place, letter in self._store.letters.items():
            if place not in self._known:
                found = event_id(letter.value)
                self._known[place] = BuriedLetter(
                    number=len(self._known) + 1,
                    partition=letter.partition,
                    offset=letter.offset,
                    reason=str(letter.reason.reason),
                    path=letter.reason.path,
                    event_id=UUID(found) if found else None,
                    received_ms=letter.received_ms,
                    buried_at=datetime.now(UTC),
                    state=LetterState.OPEN,
                    retries=0,
                    retried_at=None,
                    stored_at=None,
                    discarded_at=None,
                    discarded_by=None,
                    value=letter.value,
                )
        return dict(self._known)


def _after(letter: BuriedLetter, refused: object) -> BuriedLetter:
    now = datetime.now(UTC)
    letter = letter._replace(retries=letter.retries + 1, retried_at=now)
    if refused is None:
        return letter._replace(state=LetterState.STORED, stored_at=now)
    return letter._replace(reason=str(refused.reason), path=refused.path)  # type: ignore[attr-defined]


def _is_meant(letter: BuriedLetter, wanted: Wanted) -> bool:
    return (
        (not wanted.numbers or letter.number in wanted.numbers)
        and (not wanted.reasons or letter.reason in wanted.reasons)
        and (not wanted.event_ids or letter.event_id in wanted.event_ids)
        and (wanted.since is None or letter.buried_at >= wanted.since)
        and (wanted.before is None or letter.buried_at < wanted.before)
        and (wanted.state is None or letter.state is wanted.state)
        and (wanted.up_to is None or letter.number <= wanted.up_to)
    )
