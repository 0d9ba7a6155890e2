"""Dead letters on a topic as well, for whoever watches them there."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Sequence
from typing import Protocol

from ingestor.ports import DeadLetter, DeadLetters
from schemas.errors import EventsTooLarge
from schemas.event import EncodedEvent, event_digest, event_id
from schemas.identity import rfc3339_ms
from schemas.letter import Letter, LetterSource, encode_letter


class LetterPublisher(Protocol):
    """What is needed of the topic."""

    async def publish(self, events: Sequence[EncodedEvent]) -> None:
        """Return only after every one is durable. Raises RetryableError, and EventsTooLarge, which names the ids of those
        that the topic will never take.
        """


class PublishedLetters:
    """`DeadLetters` that are durable in the store first and then on the topic, where one may come twice."""

    def __init__(self, store: DeadLetters, topic: LetterPublisher, clock_ms: Callable[[], int]) -> None:
        self._store = store
        self._topic = topic
        self._clock_ms = clock_ms

    async def bury(self, letters: Sequence[DeadLetter]) -> None:
        """See `DeadLetters.bury`."""
        await self._store.bury(letters)
        now_ms = self._clock_ms()
        try:
            await self._topic.publish([_encoded(letter, now_ms) for letter in letters])
        except EventsTooLarge as refused:
            too_large = refused.ids
        else:
            return
        # In the store it is whole.
        await self._topic.publish(
            [_encoded(letter, now_ms, whole=_place(letter) not in too_large) for letter in letters]
        )


def _place(letter: DeadLetter) -> str:
    return f"{letter.partition.log}/{letter.partition.number}/{letter.offset}"


def _encoded(letter: DeadLetter, now_ms: int, *, whole: bool = True) -> EncodedEvent:
    value = encode_letter(
        Letter(
            letter.reason.reason,
            LetterSource(*letter.partition, letter.offset),
            event_size_bytes=len(letter.value),
            event_digest=event_digest(letter.value).hex(),
            buried_at=rfc3339_ms(now_ms),
            path=letter.reason.path or None,
            event_id=event_id(letter.value),
            event_base64=b64encode(letter.value).decode() if whole else None,
        )
    )
    return EncodedEvent(_place(letter), value, letter.received_ms)
