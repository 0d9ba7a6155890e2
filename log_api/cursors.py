"""Cursors: where a list goes on, sealed so that only the query it was made for can use it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from uuid import UUID

import msgspec

from log_api.listing import ListQuery

_VERSION = b"\x01"
_SEAL_BYTES = 16
_TEXT = re.compile(r"[A-Za-z0-9_-]{44}")


class Cursors:
    """Makes and reads cursors: version, last id, and a keyed digest of both and the query.

    The digest holds account, range, direction and conditions, not the limit, which may change between pages.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key

    def after(self, query: ListQuery, last_id: UUID) -> str:
        """Return the cursor of the page that follows `last_id`."""
        return base64.urlsafe_b64encode(last_id.bytes.join((_VERSION, self._seal(query, last_id)))).decode()

    def position(self, query: ListQuery, cursor: str) -> UUID | None:
        """Return the last id of the page before; None where the cursor was not made here for this query."""
        if not _TEXT.fullmatch(cursor):
            return None
        raw = base64.urlsafe_b64decode(cursor)
        last_id = UUID(bytes=raw[1:17])
        sealed = hmac.compare_digest(raw[17:], self._seal(query, last_id))
        return last_id if sealed and raw[:1] == _VERSION else None

    def _seal(self, query: ListQuery, last_id: UUID) -> bytes:
        conditions = sorted(
            (condition.name, condition.excluded, sorted({str(value) for value in condition.values}))
            for condition in query.conditions
        )
        asked = (query.accounts, query.since_ms, query.before_ms, query.direction, conditions)
        message = _VERSION + last_id.bytes + msgspec.json.encode(asked)
        return hmac.digest(self._key, message, hashlib.sha256)[:_SEAL_BYTES]
