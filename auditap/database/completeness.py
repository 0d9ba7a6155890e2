"""What an operator decides about taps."""

from __future__ import annotations

from typing import Final

from auditap.database.connection import Connection

# As the database has them.
WHO_CHARACTERS_MAX: Final = 200
REASON_CHARACTERS_MAX: Final = 2000


async def retire_tap(connection: Connection, tap_id: str, who: str, reason: str) -> int:
    """Stop the present epochs of a tap from holding the watermark. Return how many there were.

    The database keeps who, when and why. 0: no such tap, or all of its epochs are retired already.
    """
    epochs: int = await connection.fetchval("SELECT auditap.retire_tap($1, $2, $3)", tap_id, who, reason)
    return epochs
