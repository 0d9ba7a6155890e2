"""DeadLetter: a message of the dead-letter topic. Mirrors `dead_letter.schema.json`."""

from __future__ import annotations

import msgspec

from schemas.errors import DeadLetterReason


class DeadLetterSource(msgspec.Struct, frozen=True):
    """Where the event stood."""

    log: str
    partition: int
    offset: int


class DeadLetterMessage(msgspec.Struct, frozen=True, omit_defaults=True):
    """A redacted event that can never become a record. `event_base64` is left out where the topic does not take it."""

    reason: DeadLetterReason
    source: DeadLetterSource
    event_size_bytes: int
    event_digest: str
    """The hex of its `event_digest`."""
    dead_lettered_at: str
    path: str | None = None
    event_id: str | None = None
    event_base64: str | None = None


_encoder = msgspec.json.Encoder()


def encode_dead_letter(dead_letter: DeadLetterMessage) -> bytes:
    """Return the message as JSON that conforms to dead_letter.schema.json."""
    return _encoder.encode(dead_letter)
