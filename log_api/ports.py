"""The log API's port to what is stored. Its docstring is a contract."""

from __future__ import annotations

from typing import NamedTuple, Protocol
from uuid import UUID

from log_api.listing import ListQuery
from log_api.records import Page

READ_AUDIT_LOGS = "audit_logs:read"


class Token(NamedTuple):
    """A token that was not revoked. `accounts` None: every account. `expires_ms`: Unix milliseconds."""

    id: UUID
    accounts: frozenset[str] | None
    permissions: frozenset[str]
    expires_ms: int


class LogDatabase(Protocol):
    """Where records and tokens are read. Every method raises RetryableError while that is not possible in time."""

    async def page(self, query: ListQuery) -> Page:
        """Return at most `query.limit` records in order, all of them from one moment of the log.

        A record belongs to the account it was stored with or, lacking one, to the account that enrichment found.
        Fewer than `limit` with `more` set is allowed, none is not.
        """

    async def token(self, sha256: bytes) -> Token | None:
        """Return the token with this SHA-256, unless there is none or it was revoked."""

    async def ready(self) -> bool:
        """Return whether queries are likely to succeed now."""
