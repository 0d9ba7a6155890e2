"""The dead-letter topic: what is dead-lettered in the store is published to Kafka as well."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Sequence

from eventlog.ports import EventPublisher
from ingestor.dead_letters.ports import DeadLetter, DeadLetterWriter
from schemas.dead_letter import DeadLetterMessage, DeadLetterSource, encode_dead_letter
from schemas.errors import EventsTooLarge
from schemas.event import EncodedEvent, event_digest, event_id
from schemas.identity import rfc3339_ms


class PublishingDeadLetterWriter:
    """`DeadLetterWriter` that writes to the store first and then publishes to the topic, at least once."""

    def __init__(self, store: DeadLetterWriter, topic: EventPublisher, clock_ms: Callable[[], int]) -> None:
        self._store = store
        self._topic = topic
        self._clock_ms = clock_ms

    async def write_dead_letters(self, dead_letters: Sequence[DeadLetter]) -> None:
        """See `DeadLetterWriter.write_dead_letters`. A message too large for the topic goes without its event."""
        # The store first: it is what an operator works with, and it has the whole event.
        await self._store.write_dead_letters(dead_letters)
        now_ms = self._clock_ms()
        try:
            await self._topic.publish([_encoded(dead_letter, now_ms) for dead_letter in dead_letters])
        except EventsTooLarge as refused:
            too_large = refused.ids
        else:
            return
        # All again: after EventsTooLarge, the outcome of the others is unknown.
        await self._topic.publish(
            [
                _encoded(dead_letter, now_ms, with_event=_message_id(dead_letter) not in too_large)
                for dead_letter in dead_letters
            ]
        )


def _message_id(dead_letter: DeadLetter) -> str:
    return f"{dead_letter.partition.log}/{dead_letter.partition.number}/{dead_letter.offset}"


def _encoded(dead_letter: DeadLetter, now_ms: int, *, with_event: bool = True) -> EncodedEvent:
    value = encode_dead_letter(
        DeadLetterMessage(
            dead_letter.reason.reason,
            DeadLetterSource(dead_letter.partition.log, dead_letter.partition.number, dead_letter.offset),
            event_size_bytes=len(dead_letter.value),
            event_digest=event_digest(dead_letter.value).hex(),
            dead_lettered_at=rfc3339_ms(now_ms),
            path=dead_letter.reason.path or None,
            event_id=event_id(dead_letter.value),
            event_base64=b64encode(dead_letter.value).decode() if with_event else None,
        )
    )
    return EncodedEvent(_message_id(dead_letter), value, dead_letter.received_ms)
