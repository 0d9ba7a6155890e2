"""DeadLetter: what stands on the dead-letters topic. Mirrors `dead_letter.schema.json`."""

from __future__ import annotations

import msgspec

from schemas.errors import DeadLetterReason


class LetterSource(msgspec.Struct, frozen=True):
    """Where the event stood."""

    log: str
    partition: int
    offset: int


class Letter(msgspec.Struct, frozen=True, omit_defaults=True):
    """A redacted event that can never become a record. `event_base64` is left out where the topic does not take it."""

    reason: DeadLetterReason
    source: LetterSource
    event_size_bytes: int
    event_digest: str
    """The hex of its `event_digest`."""
    buried_at: str
    path: str | None = None
    event_id: str | None = None
    event_base64: str | None = None


_encoder = msgspec.json.Encoder()


def encode_letter(letter: Letter) -> bytes:
    """Return the letter's JSON text."""
    return _encoder.encode(letter)
