"""Dates and times as clients spell the bounds of a range."""

from __future__ import annotations

import re

from schemas.identity import parse_rfc3339_ms

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_DATE_TIME = re.compile(r"(\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2})(?:\.(\d+))?(Z|[+-]\d{2}:\d{2})", re.ASCII)


def moment_ms(text: str) -> int | None:
    """Return the first whole Unix millisecond that is not before a date or an RFC 3339 time; None if it is neither.

    A bound between two milliseconds is rounded up: ids carry whole ones, so the half-open range stays exact.
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
