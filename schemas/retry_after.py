"""The response header `Retry-After` (RFC 9110, section 10.2.3), for every client that tries again.

The tap, which needs the standard library alone, has the same function in `auditap_tap.client`; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Final

_ASKING: Final = frozenset({429, 503})
_DIGITS_MAX: Final = 9


def asked_to_wait_s(status: int, headers: Mapping[str, str], now_s: float) -> float | None:
    """Return for how many seconds, 0 or more, a response asks to wait; None if it does not.

    Only 429 and 503 ask. `headers` finds names in lower case. `now_s`: the time (Unix seconds).
    """
    return retry_after_s(headers.get("retry-after", ""), now_s) if status in _ASKING else None


def retry_after_s(header: str, now_s: float) -> float | None:
    """Return how many seconds a `Retry-After` header means: a number of them, or a date. None if it means nothing."""
    text = header.strip()
    if text.isascii() and text.isdecimal():
        # A number that no one waits for in any case.
        return float(text[:_DIGITS_MAX])
    try:
        return max(parsedate_to_datetime(text).timestamp() - now_s, 0.0)
    except (ValueError, TypeError, OverflowError):
        return None
