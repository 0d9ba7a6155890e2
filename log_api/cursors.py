"""Cursors: where a list goes on, sealed so that only the query it was made for can use it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from typing import NamedTuple
from uuid import UUID

import msgspec

from log_api.listing import ListQuery

_VERSION = b"\x02"
_SEAL_BYTES = 16
_TIME_BYTES = 6
_NO_TIME = (1 << 8 * _TIME_BYTES) - 1
_TEXT = re.compile(r"[A-Za-z0-9_-]{52}")


class Position(NamedTuple):
    """Where a walk goes on, and what was complete (Unix ms, None: unknown) when it began."""

    last_id: UUID
    complete_before_ms: int | None


class Cursors:
    """Makes and reads cursors: version, position, and a keyed digest of both and the query.

    The digest holds account, range, direction and conditions, not the limit, which may change between pages.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key

    def after(self, query: ListQuery, position: Position) -> str:
        """Return the cursor of the page that follows `position`."""
        packed = _packed(position)
        return base64.urlsafe_b64encode(packed + self._seal(query, packed)).decode()

    def position(self, query: ListQuery, cursor: str) -> Position | None:
        """Return the position of the page before; None where the cursor was not made here for this query."""
        if not _TEXT.fullmatch(cursor):
            return None
        raw = base64.urlsafe_b64decode(cursor)
        packed, seal = raw[:-_SEAL_BYTES], raw[-_SEAL_BYTES:]
        sealed = hmac.compare_digest(seal, self._seal(query, packed))
        return _unpacked(packed) if sealed and raw[:1] == _VERSION else None

    def _seal(self, query: ListQuery, packed: bytes) -> bytes:
        conditions = sorted(
            (condition.name, condition.excluded, sorted({str(value) for value in condition.values}))
            for condition in query.conditions
        )
        asked = (query.accounts, query.since_ms, query.before_ms, query.direction, conditions)
        message = packed + msgspec.json.encode(asked)
        return hmac.digest(self._key, message, hashlib.sha256)[:_SEAL_BYTES]


def _packed(position: Position) -> bytes:
    at_ms = _NO_TIME if position.complete_before_ms is None else position.complete_before_ms
    return _VERSION + position.last_id.bytes + at_ms.to_bytes(_TIME_BYTES)


def _unpacked(packed: bytes) -> Position:
    at_ms = int.from_bytes(packed[-_TIME_BYTES:])
    return Position(UUID(bytes=packed[1:17]), None if at_ms == _NO_TIME else at_ms)
