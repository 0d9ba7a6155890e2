"""The log API's port to the database. The docstrings are the contract that every implementation is tested against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple, Protocol
from uuid import UUID

from log_api.completeness import Gaps, TapCounts
from log_api.cpu_turns import CpuTurns
from log_api.dead_letters import DeadLetterCount
from log_api.fair_shares import Requester
from log_api.records import AuditRecord, Page
from log_api.resource_changes import ResourceChanges, WantedChanges
from log_api.sql_builder import ListQuery, SummaryQuery
from log_api.taps import TapRuns


class Permission(StrEnum):
    """The permissions of a token. The OpenAPI document names the one that each route requires."""

    AUDIT_LOGS = "audit_logs:read"
    ACCESS_LOGS = "access_logs:read"
    ALERTS = "alerts:read"
    ACKNOWLEDGE_ALERTS = "alerts:acknowledge"


class Token(NamedTuple):
    """A token that is not revoked. `accounts` None: every account. `expires_ms`: Unix milliseconds.

    `email` is the address of its user. `requests_per_s` None: the configured rate limit.
    `sha256` is the hash by which the database knows the token.
    """

    id: UUID
    accounts: frozenset[str] | None
    permissions: frozenset[str]
    expires_ms: int
    name: str = ""
    email: str | None = None
    requests_per_s: float | None = None
    sha256: bytes = b""

    @property
    def requester(self) -> Requester:
        """Whose share of the log API its requests have: that of its accounts or, if it is for every account, its own."""
        return Requester(self.id if self.accounts is None else self.accounts, self.id)


class Count(NamedTuple):
    """The number of records in one bucket of a summary (counted from 0) that have this value."""

    bucket: int
    value: str | None
    records: int


class UnmatchedCount(NamedTuple):
    """The number of records that matched no operation for this reason, with this method and path, and the latest one (Unix ms)."""

    reason: str
    method: str | None
    path: str | None
    records: int
    last_ms: int


class AlertQuery(NamedTuple):
    """Alerts of an account, newest first, with ids in [since, before). For the other filters None means no filter."""

    account: str
    since: UUID
    before: UUID
    severities: tuple[str, ...] | None
    rules: tuple[str, ...] | None
    acknowledged: bool | None
    limit: int


class LogReads(Protocol):
    """Reads records and alerts for one token. Every method raises RetryableError if the database does not respond in time.

    A record belongs to the account it was stored with or, without one, to the account that the enrichment backfill found.
    """

    @property
    def turns(self) -> CpuTurns:
        """The token's turns on the processor, for what is made of many records."""

    async def page(self, query: ListQuery) -> Page:
        """Return at most `query.limit` records in order, and the id after which the next page starts.

        A page may hold fewer records, or none, and still have a next page: if bodies are large or, unless `query.whole`, if
        finding more takes longer than a page may take.
        """

    async def ids(self, query: ListQuery) -> Sequence[UUID]:
        """Return the ids of the records of a page, in order."""

    async def records(self, accounts: Sequence[str] | None, ids: Sequence[UUID]) -> Sequence[AuditRecord]:
        """Return the records with these ids that belong to `accounts` (None: every account), in the order of `ids`.

        If bodies are large, records at the end may be missing, but not all of them.
        """

    async def resource_changes(
        self, accounts: Sequence[str] | None, wanted: Sequence[WantedChanges]
    ) -> Sequence[ResourceChanges]:
        """Return the newest records of each resource whose actions succeeded and were no views, among those of `accounts`.

        There may be fewer than wanted, and not `whole`: if bodies are large, if many views lie between, or if that takes too
        long. `wanted` must not be empty.
        """

    async def counts(self, query: SummaryQuery) -> Sequence[Count]:
        """Return the number of records by bucket and value, in any order, without zeros."""

    async def gaps(self, since_ms: int, before_ms: int, gaps_max: int) -> Gaps:
        """Return the gaps that overlap a time range (Unix ms), earliest first, at most `gaps_max`."""

    async def taps(self) -> TapCounts:
        """Return how many taps there are, by state."""

    async def tap_runs(self, runs_max: int) -> TapRuns:
        """Return at most `runs_max` runs of taps with their gaps: first those that hold the watermark, earliest first, then those
        heard last; then taps without sequence numbers.
        """

    async def dead_letters(self, count_max: int) -> Sequence[DeadLetterCount]:
        """Return the unresolved dead letters by reason, of each at most `count_max`, in order of the reasons, 100 at most."""

    async def unmatched(
        self, accounts: tuple[str, ...] | None, since_ms: int, before_ms: int, groups_max: int
    ) -> Sequence[UnmatchedCount]:
        """Return the records of a time range (Unix ms) that matched no operation, by reason, method and path without its query.

        `accounts` None: every account, and records without one. At most about `groups_max`, and as many if there may be more.
        """

    async def deliveries(self, account: str, alert_id: UUID) -> Sequence[Mapping[str, Any]]:
        """Return the deliveries of an alert of the account as JSON objects, by channel, 100 at most."""

    async def alerts(self, query: AlertQuery) -> Sequence[Mapping[str, Any]]:
        """Return at most `query.limit` alerts as JSON objects, newest first."""

    async def acknowledge(self, account: str, alert_id: UUID, token: Token) -> Mapping[str, Any] | None:
        """Acknowledge an alert of the account durably, as the token's user or, if it has none, as the token, and return it.

        None if there is no such alert, or the token may not acknowledge it. The first acknowledgement stays.
        """

    async def accounts(self, accounts_max: int) -> Sequence[str]:
        """Return the accounts that have records in the newest partitions, sorted, at most `accounts_max`."""


class LogDatabase(Protocol):
    """What the log API reads. Every method raises RetryableError if the database does not respond in time."""

    def reads_of(self, token: Token) -> LogReads:
        """Return what the requests of a token read with.

        All tokens share the database. Where one has its share, or nothing is free, the error is the one that `fair_shares` has
        for it.
        """

    async def complete_before_ms(self) -> int | None:
        """Return the completeness watermark (Unix ms); None if no tap sends sequence numbers, or all such taps are retired.

        Every capture before it is a record or a gap. A page that is read afterwards holds all these records. It was
        read at most a second before the call.
        """

    async def token(self, sha256: bytes) -> Token | None:
        """Return the token with this SHA-256; None if there is none or it is revoked."""

    async def ready(self) -> bool:
        """Return whether queries are likely to succeed now."""
