"""Parses the dates and times that clients send as the bounds of a time range."""

from __future__ import annotations

import re

from schemas.identity import parse_rfc3339_ms

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_DATE_TIME = re.compile(r"(\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2})(?:\.(\d+))?(Z|[+-]\d{2}:\d{2})", re.ASCII)


def parse_timestamp_ms(text: str) -> int | None:
    """Return a date (midnight UTC) or an RFC 3339 time in Unix milliseconds; None if the text is neither.

    A time between two milliseconds is rounded up. Ids hold whole milliseconds, so a half-open range stays exact.
    """
    if _DATE.fullmatch(text):
        return parse_rfc3339_ms(f"{text}T00:00:00Z")
    found = _DATE_TIME.fullmatch(text)
    if found is None:
        return None
    seconds, fraction, offset = found.groups()
    whole_ms = parse_rfc3339_ms(seconds + offset)
    if whole_ms is None:
        return None
    digits = fraction or ""
    return whole_ms + int(digits[:3].ljust(3, "0")) + bool(digits[3:].strip("0"))
