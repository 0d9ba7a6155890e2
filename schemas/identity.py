"""The format of ids: one UUIDv7 from capture to cursor. Which id a capture gets is decided in `schemas.capture_id`.

The 48-bit milliseconds of the id are `action.time`. The id is primary key, partition key, sort order and cursor, and it makes
retries harmless. As text it is 32 lower-case hex digits.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from datetime import UTC, datetime
from uuid import UUID

MS_MAX = (1 << 48) - 1
_V7 = re.compile(r"[0-9a-f]{12}7[0-9a-f]{3}[89ab][0-9a-f]{15}")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# 48 bits of milliseconds go further than `datetime`, which ends with the year 9999.
_YEAR_1000_MS = -30_610_224_000_000
_YEAR_10000_MS = 253_402_300_800_000


def new_id(at_ms: int) -> str:
    """Return a random id with the time `at_ms` (Unix milliseconds, 0 to 2**48 - 1)."""
    return _format_uuid7(at_ms, int.from_bytes(os.urandom(16)))


def derive_id(key: bytes, at_ms: int, tap_id: str, epoch: int, position: str) -> str:
    """Return an id that is always the same for the same arguments.

    The 74 bits that would be random are the HMAC-SHA-256 of the arguments with `key`, so that nobody without the key can
    predict ids. `position` is the tap's sequence number or the gateway's request id.
    """
    # None of them can hold NUL, so no two captures give the same message.
    message = f"{at_ms}\0{tap_id}\0{epoch}\0{position}".encode()
    return _format_uuid7(at_ms, int.from_bytes(hmac.new(key, message, hashlib.sha256).digest()[:16]))


def _format_uuid7(at_ms: int, drawn: int) -> str:
    """Return milliseconds, version, variant and 74 of the `drawn` bits in the layout of RFC 9562, section 5.7."""
    head = at_ms << 80 | 0x7 << 76 | (drawn >> 64 & 0xFFF) << 64
    return f"{head | 0b10 << 62 | drawn & (1 << 62) - 1:032x}"


def parse_id(text: str) -> str | None:
    """Return `text` as 32 hex digits if it is a UUIDv7 (with hyphens or without), else None."""
    # First the form that auditap writes itself: every event is checked.
    if len(text) == 32 and _V7.fullmatch(text):
        return text
    compact = text.replace("-", "").lower() if len(text) == 36 else text.lower()
    return compact if _V7.fullmatch(compact) else None


def id_ms(event_id: str) -> int:
    """Return the Unix milliseconds that an id of 32 hex digits carries."""
    return int(event_id[:12], 16)


def id_ms_of(event_id: UUID) -> int:
    """Return the Unix milliseconds that an id carries."""
    return event_id.int >> 80


def with_ms(event_id: UUID, at_ms: int) -> UUID:
    """Return the id with the time `at_ms` (Unix milliseconds, 0 to 2**48 - 1) in place of its own."""
    return UUID(int=at_ms << 80 | event_id.int & (1 << 80) - 1)


def first_id_at(at_ms: int) -> UUID:
    """Return the lowest UUID of a millisecond: a bound for ranges, and not a valid id itself."""
    return UUID(int=min(max(at_ms, 0), MS_MAX) << 80)


def rfc3339_ms(at_ms: int) -> str:
    """Return Unix milliseconds as `2026-01-23T18:25:14.749Z`.

    Times outside the years 1000 to 9999 become the first or the last millisecond of these.
    """
    seconds, ms = divmod(min(max(at_ms, _YEAR_1000_MS), _YEAR_10000_MS - 1), 1000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{ms:03d}Z"


def parse_rfc3339_ms(text: str) -> int | None:
    """Return the Unix milliseconds of an RFC 3339 date-time, with longer fractions cut; None if it is not one.

    A time before 1970 is negative. A time without an offset gives None.
    """
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    if at.tzinfo is None:
        return None
    try:
        delta = at - _EPOCH
    except OverflowError:
        return None
    return (delta.days * 86_400 + delta.seconds) * 1000 + delta.microseconds // 1000
