"""Identity of a capture: the id that its tap gave, or the one that every retry derives again."""

from __future__ import annotations

import re
from typing import Final

from schemas.capture import Capture, Headers
from schemas.errors import RefusalReason, RefusedCapture
from schemas.identity import MS_MAX, derive_id, new_id, parse_id, parse_rfc3339_ms

_REQUEST_ID_HEADERS: Final = ("cf-ray", "x-request-id")
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9_.:\-]{1,128}")


def identify(capture: Capture, key: bytes, received_ms: int) -> str:
    """Return the capture's id: 32 hex digits, a UUIDv7 whose milliseconds are the time of the action.

    - The id that the tap gave, if it gave one.
    - Else derived with `key` from `captured_at`, tap id and epoch, and the sequence number; where there is no
      sequence number, from the gateway's request id (`cf-ray`, then `x-request-id`; each only if it stands exactly
      once). The same capture sent again gets the same id. A gateway that lets its clients choose the request id
      lets them make two of their own pairs of the same millisecond look like one: it should set the header itself.
    - Else random: such a capture sent again is a second record (at least once).

    Without `captured_at` the time is `received_ms`, when the collector took it, and the id cannot be stable: at
    least once, whatever else is there. A time before 1970 becomes 1970 (the ingestor buries it as expired).

    Raises RefusedCapture (`invalid`) where `id` is no UUIDv7 or `captured_at` no RFC 3339 time with an offset.
    """
    if capture.id is not None:
        return _given_id(capture.id)
    at_ms = _time_ms(capture.captured_at, received_ms)
    position = _position(capture)
    if position is None:
        return new_id(at_ms)
    tap_id, epoch = (capture.tap.id, capture.tap.epoch) if capture.tap else ("", None)
    return derive_id(key, at_ms, tap_id, epoch or 0, position)


def _given_id(text: str) -> str:
    given = parse_id(text)
    if given is None:
        raise RefusedCapture(RefusalReason.INVALID, "id: format")
    return given


def _time_ms(captured_at: str | None, received_ms: int) -> int:
    at_ms = received_ms if captured_at is None else parse_rfc3339_ms(captured_at)
    if at_ms is None:
        raise RefusedCapture(RefusalReason.INVALID, "captured_at: format")
    return min(max(at_ms, 0), MS_MAX)


def _position(capture: Capture) -> str | None:
    # Named apart, so that no request id can pass for a sequence number.
    if capture.tap is not None and capture.tap.seq is not None:
        return f"seq {capture.tap.seq}"
    for name in _REQUEST_ID_HEADERS:
        values = _values(capture.request.headers, name)
        if len(values) == 1 and _REQUEST_ID.fullmatch(values[0]):
            return f"{name} {values[0]}"
    return None


def _values(headers: Headers, name: str) -> list[str]:
    """Return every value of the header `name` (lower case), whatever case the tap wrote it in."""
    values: list[str] = []
    for key, value in headers.items():
        if len(key) == len(name) and key.lower() == name:
            values.extend([value] if isinstance(value, str) else value)
    return values
