"""Counts of unresolved dead letters as the API returns them."""

from __future__ import annotations

from typing import Any, NamedTuple

from schemas.identity import rfc3339_ms

COUNT_MAX = 10_000


class DeadLetterCount(NamedTuple):
    """The unresolved dead letters of one reason, counted to a limit, and when the oldest and the newest came (Unix ms)."""

    reason: str
    dead_letters: int
    oldest_ms: int
    newest_ms: int


def dead_letter_json(found: DeadLetterCount) -> dict[str, Any]:
    """Return the count as JSON. `complete` is false if there may be more than were counted."""
    return {
        "reason": found.reason,
        "count": found.dead_letters,
        "complete": found.dead_letters < COUNT_MAX,
        "oldest": rfc3339_ms(found.oldest_ms),
        "newest": rfc3339_ms(found.newest_ms),
    }
