"""The log API's port to what is stored. Its docstring is a contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple, Protocol
from uuid import UUID

from log_api.completeness import Gaps, TapCounts
from log_api.listing import ListQuery, SummaryQuery
from log_api.records import AuditRecord, Page


class Permission(StrEnum):
    """What a token may do; the closed list. The document names one for each route that needs a token's accounts."""

    AUDIT_LOGS = "audit_logs:read"
    ACCESS_LOGS = "access_logs:read"
    ALERTS = "alerts:read"
    ACKNOWLEDGE_ALERTS = "alerts:acknowledge"


class Token(NamedTuple):
    """A token that was not revoked. `accounts` None: every account. `expires_ms`: Unix milliseconds.

    `email`: whose it is. `requests_per_s` None: the rate that is configured.
    """

    id: UUID
    accounts: frozenset[str] | None
    permissions: frozenset[str]
    expires_ms: int
    name: str = ""
    email: str | None = None
    requests_per_s: float | None = None


class Count(NamedTuple):
    """So many records of a summary fall into a bucket (from 0) and have this value."""

    bucket: int
    value: str | None
    records: int


class AlertQuery(NamedTuple):
    """Alerts of an account, newest first. `since`, `before`: ids that bound them; None: whichever."""

    account: str
    since: UUID
    before: UUID
    severities: tuple[str, ...] | None
    rules: tuple[str, ...] | None
    acknowledged: bool | None
    limit: int


class LogDatabase(Protocol):
    """Where records and tokens are read. Every method raises RetryableError while that is not possible in time.

    A record belongs to the account it was stored with or, lacking one, to the account that enrichment found.
    """

    async def page(self, query: ListQuery) -> Page:
        """Return at most `query.limit` records in order, and from where the next page goes on.

        Fewer than `limit` with a next page is allowed where bodies are large and, unless `query.whole`, where finding
        more takes longer than a page may. None at all with a next page: nothing was found in the time there was.
        """

    async def ids(self, query: ListQuery) -> Sequence[UUID]:
        """Return the ids of the records of a page, in order."""

    async def records(self, accounts: Sequence[str] | None, ids: Sequence[UUID]) -> Sequence[AuditRecord]:
        """Return the records with these ids, in the order asked for, those of other accounts left out.

        None: whatever the account. Fewer at the end are allowed where bodies are large, none is not.
        """

    async def counts(self, query: SummaryQuery) -> Sequence[Count]:
        """Return how many records fall into each bucket, by value, in no order; what would be 0 is left out."""

    async def complete_before_ms(self) -> int | None:
        """Return the time (Unix ms) before which everything that numbering taps captured is there or a gap; None where
        there is no such tap. A page that is asked for afterwards holds all of that.
        """

    async def gaps(self, since_ms: int, before_ms: int, gaps_max: int) -> Gaps:
        """Return the gaps that touch a range of time (Unix ms), earliest first, at most `gaps_max`."""

    async def taps(self) -> TapCounts:
        """Return how many taps there are, by what is known of them."""

    async def alerts(self, query: AlertQuery) -> Sequence[Mapping[str, Any]]:
        """Return at most `query.limit` alerts as they are shown, newest first."""

    async def acknowledge(self, account: str, alert_id: UUID, who: str) -> Mapping[str, Any] | None:
        """Note durably that somebody saw an alert of the account, and return it; None where there is none.

        Who was first stays.
        """

    async def token(self, sha256: bytes) -> Token | None:
        """Return the token with this SHA-256, unless there is none or it was revoked."""

    async def ready(self) -> bool:
        """Return whether queries are likely to succeed now."""
