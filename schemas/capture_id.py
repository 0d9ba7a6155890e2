"""The id of a capture, by one rule for every caller: the collector, and the preview `auditap redact`.

The id becomes the primary key of the record, so a capture that is sent twice must get the same id twice. That holds for
captures that bring an id, and for captures with a time and a position (a sequence number or a request id).
"""

from __future__ import annotations

import re
from typing import Final

from schemas.capture import Capture, Headers
from schemas.errors import RefusalReason, RefusedCapture
from schemas.identity import MS_MAX, derive_id, new_id, parse_id, parse_rfc3339_ms

_REQUEST_ID_HEADERS: Final = ("cf-ray", "x-request-id")
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9_.:\-]{1,128}")


def capture_id(capture: Capture, key: bytes, received_ms: int) -> str:
    """Return the capture's id: 32 hex digits, a UUIDv7 whose milliseconds are the time of the action.

    The first rule that applies:

    1. The capture has an `id`: that id.
    2. It has `captured_at` and a position: an id derived with `key` from the time, the tap's id and epoch, and the
       position. The position is the sequence number, or else the gateway's request id (`cf-ray`, then `x-request-id`;
       a header counts only if it occurs exactly once). The same capture always gets the same id.
    3. A random id at `captured_at`, or at `received_ms` (Unix milliseconds) if there is no `captured_at`. A capture
       that is sent again becomes a second record: delivery is at least once.

    Without `captured_at`, rule 2 uses `received_ms`, so the id differs each time the capture is sent. A time before 1970
    becomes 1970, and the ingestor dead-letters the event as expired.

    A gateway that lets its clients choose the request id also lets them give two of their own requests of the same
    millisecond one id. Such a gateway should set the header itself.

    Raises RefusedCapture (`invalid`) if `id` is not a UUIDv7, or `captured_at` is not an RFC 3339 time with an offset.
    """
    if capture.id is not None:
        return _own_id(capture.id)
    at_ms = _time_ms(capture.captured_at, received_ms)
    position = _position(capture)
    if position is None:
        return new_id(at_ms)
    tap_id, epoch = (capture.tap.id, capture.tap.epoch) if capture.tap else ("", None)
    return derive_id(key, at_ms, tap_id, epoch or 0, position)


def is_repeatable(capture: Capture) -> bool:
    """Return whether the capture gets the same id each time it is sent: by rule 1, or by rule 2 with `captured_at`."""
    return capture.id is not None or (capture.captured_at is not None and _position(capture) is not None)


def _own_id(text: str) -> str:
    parsed = parse_id(text)
    if parsed is None:
        raise RefusedCapture(RefusalReason.INVALID, "id: format")
    return parsed


def _time_ms(captured_at: str | None, received_ms: int) -> int:
    at_ms = received_ms if captured_at is None else parse_rfc3339_ms(captured_at)
    if at_ms is None:
        raise RefusedCapture(RefusalReason.INVALID, "captured_at: format")
    return min(max(at_ms, 0), MS_MAX)


def _position(capture: Capture) -> str | None:
    # The prefix keeps a request id from passing for a sequence number. It is part of what ids are derived from: another
    # prefix would give other ids, and so a second record for every capture that is sent again.
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
