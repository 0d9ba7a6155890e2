"""Cursors: the position at which a list continues, authenticated so that only the same query can use it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from typing import NamedTuple
from uuid import UUID

import msgspec

from log_api.sql_builder import ListQuery

_VERSION = b"\x02"
# Half of the HMAC's digest: 128 bits cannot be guessed, and cursors stand in URLs.
_MAC_BYTES = 16
_TIME_BYTES = 6
# Stands for an unknown watermark; no time is so late.
_NO_TIME = (1 << 8 * _TIME_BYTES) - 1
# 39 bytes, a multiple of three, so that Base64 adds no padding.
_TEXT = re.compile(r"[A-Za-z0-9_-]{52}")


class Position(NamedTuple):
    """The last id of a page, and the watermark (Unix ms, None: unknown) when the first page was read."""

    last_id: UUID
    complete_before_ms: int | None


class Cursors:
    """Encodes and decodes cursors: version, position, and an HMAC over both and the query.

    The HMAC covers accounts, time range, direction and conditions. It leaves out the limit, which may change between pages.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key

    def after(self, query: ListQuery, position: Position) -> str:
        """Return the cursor of the page that follows `position`."""
        packed = _packed(position)
        return base64.urlsafe_b64encode(packed + self._mac(query, packed)).decode()

    def position(self, query: ListQuery, cursor: str) -> Position | None:
        """Return the position in a cursor; None if it was not made for this query with this key."""
        if not _TEXT.fullmatch(cursor):
            return None
        raw = base64.urlsafe_b64decode(cursor)
        packed, mac = raw[:-_MAC_BYTES], raw[-_MAC_BYTES:]
        is_authentic = hmac.compare_digest(mac, self._mac(query, packed))
        return _unpacked(packed) if is_authentic and raw[:1] == _VERSION else None

    def _mac(self, query: ListQuery, packed: bytes) -> bytes:
        conditions = sorted(
            # Order and repetition of values do not change the result, and clients do not keep them.
            (condition.name, condition.excluded, sorted({str(value) for value in condition.values}))
            for condition in query.conditions
        )
        fields = (query.accounts, query.since_ms, query.before_ms, query.direction, conditions)
        message = packed + msgspec.json.encode(fields)
        return hmac.digest(self._key, message, hashlib.sha256)[:_MAC_BYTES]


def _packed(position: Position) -> bytes:
    at_ms = _NO_TIME if position.complete_before_ms is None else position.complete_before_ms
    return _VERSION + position.last_id.bytes + at_ms.to_bytes(_TIME_BYTES)


def _unpacked(packed: bytes) -> Position:
    at_ms = int.from_bytes(packed[-_TIME_BYTES:])
    return Position(UUID(bytes=packed[1:17]), None if at_ms == _NO_TIME else at_ms)
