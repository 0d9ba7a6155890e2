"""What an operator decides about taps."""

from __future__ import annotations

from typing import Final, NamedTuple

from auditap.database.connection import Connection

# As the database has them.
WHO_CHARACTERS_MAX: Final = 200
REASON_CHARACTERS_MAX: Final = 2000


BOUNDS_MAX: Final = 1000


class WatermarkBound(NamedTuple):
    """An epoch that holds the watermark at `bound_ms`, or is left out (None). `tap_id` None: what arrived late, of any tap."""

    tap_id: str | None
    epoch: int | None
    state: str
    bound_ms: int | None
    surplus: bool
    retired: bool


async def list_watermark_bounds(connection: Connection) -> list[WatermarkBound]:
    """Return what holds the watermark, earliest first, then what is left out; `BOUNDS_MAX` at most."""
    rows = await connection.fetch("SELECT * FROM auditap.list_watermark_bounds($1)", BOUNDS_MAX)
    return [WatermarkBound(*row) for row in rows]


async def retire_tap(connection: Connection, tap_id: str, who: str, reason: str) -> int:
    """Stop the present epochs of a tap from holding the watermark. Return how many there were.

    The database keeps who, when and why. 0: no such tap, or all of its epochs are retired already.
    """
    epochs: int = await connection.fetchval("SELECT auditap.retire_tap($1, $2, $3)", tap_id, who, reason)
    return epochs
