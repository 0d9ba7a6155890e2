"""Retention: dropping expired partitions, and deleting expired rows of other tables.

A clock that has jumped ahead makes the whole log look expired. So nothing is dropped because of one clock alone, nor
more than a share of the log at once (docs/adr/0027-retention-goes-by-receipts.md).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import structlog

from ingestor.config import DAY_MS, RetentionConfig
from schemas.errors import AuditapError, RetryableError
from schemas.metric_defs import Metrics

log = structlog.get_logger("ingestor.retention")
# A partition covers an hour at least, so smaller differences are of no consequence.
_CLOCKS_APART_MS_MAX = 3_600_000
# Collectors report every few seconds, also where nothing is captured.
_QUIET_MS_MAX = DAY_MS
_CONFIRM = "look at `auditap retention --dry-run`, then run `auditap retention --yes`."


class PartitionInfo(NamedTuple):
    """A partition of the records table. Times in Unix ms, `to_ms` excluded. `rows`: see `Maintenance.partitions`."""

    parent: str
    child: str
    from_ms: int
    to_ms: int
    rows: int
    size_bytes: int


class RetentionEvidence(NamedTuple):
    """What a pass decides by. Times in Unix ms.

    `received_ms`: the newest receipt of anything, None in a log that has received nothing. `kept_days`: how long
    records are kept. `same_host`: whether the database runs on this host, so that its clock is our own.
    """

    database_ms: int
    own_ms: int
    received_ms: int | None
    kept_days: int
    same_host: bool

    @property
    def before_ms(self) -> int:
        """The time before which records have expired, by the earlier of the two clocks."""
        return min(self.database_ms, self.own_ms) - self.kept_days * DAY_MS


class RetentionRefused(AuditapError):
    """A pass dropped nothing. The message says why, and what an operator can do."""


class Maintenance(Protocol):
    """The database as the role sees it that may drop what has expired. Every method raises RetryableError."""

    async def evidence(self, keep_days: int, own_ms: int) -> RetentionEvidence:
        """Return what to decide by. `keep_days`: the configured retention; the database keeps longer if it says so."""

    async def partitions(self, before_ms: int) -> Sequence[PartitionInfo]:
        """Return all partitions, oldest first, records before their enrichments.

        The rows of those that ended before `before_ms` are counted; those of the others may be estimated.
        """

    async def drop(self, partition: PartitionInfo, before_ms: int, keep_days: int) -> bool:
        """Drop a partition that ended before `before_ms` and before the retention; return whether it was there and had.

        Raises RetryableError also if its lock is not free within the bound.
        """

    async def prune(self, before_ms: int, keep_days: int, rows_max: int) -> int:
        """Delete at most `rows_max` rows older than `before_ms` and the retention of each table that has no partitions.

        Returns how many were deleted.
        """


def plan_retention(
    evidence: RetentionEvidence,
    partitions: Sequence[PartitionInfo],
    share_max: float,
    *,
    confirmed: bool = False,
) -> Sequence[PartitionInfo]:
    """Return the partitions to be dropped, in their order.

    Raises RetentionRefused where the clocks disagree; and, where something has expired, if the newest receipt disagrees
    with them or it is more than `share_max` of the records. `confirmed`: an operator has looked at the dry run; then only the clocks must agree.
    """
    _check_clocks(evidence)
    expired = [each for each in partitions if each.to_ms <= evidence.before_ms]
    if expired and not confirmed:
        _check_receipts(evidence)
        _check_share(_records(expired), _records(partitions), share_max)
    return expired


def _check_clocks(evidence: RetentionEvidence) -> None:
    apart_ms = evidence.database_ms - evidence.own_ms
    if abs(apart_ms) > _CLOCKS_APART_MS_MAX:
        which = "ahead of" if apart_ms > 0 else "behind"
        raise RetentionRefused(
            f"The database's clock is {_hours(apart_ms)} {which} this host's, so nothing is dropped:"
            " set the wrong one right."
        )


def _check_receipts(evidence: RetentionEvidence) -> None:
    disagreement = _disagreement(evidence)
    if disagreement is not None:
        raise RetentionRefused(f"{disagreement}, or {_CONFIRM}")


def _disagreement(evidence: RetentionEvidence) -> str | None:
    """Return how the newest receipt contradicts the clocks, and what to do; None if it does not."""
    if evidence.received_ms is None:
        return None
    quiet_ms = min(evidence.database_ms, evidence.own_ms) - evidence.received_ms
    if quiet_ms < -_CLOCKS_APART_MS_MAX:
        return (
            f"The newest receipt is {_hours(quiet_ms)} ahead of the clocks, so nothing is dropped:"
            " set the clocks right"
        )
    # Two hosts that agree are believed about a log that nothing comes into; one clock alone is not.
    if evidence.same_host and quiet_ms > _QUIET_MS_MAX:
        return (
            f"Nothing was received in the last {_hours(quiet_ms)} by the clock that this host shares with the database,"
            " so nothing is dropped: if the clock is right, start a collector"
        )
    return None


def _check_share(expired: int, total: int, share_max: float) -> None:
    if expired > share_max * total:
        raise RetentionRefused(
            f"{expired:,} of {total:,} records have expired, a share above ingest.bounds.retention_share_max"
            f" ({share_max:g}), so nothing is dropped: {_CONFIRM}"
        )


def _records(partitions: Sequence[PartitionInfo]) -> int:
    return sum(each.rows for each in partitions if each.parent == "audit_records")


def _hours(difference_ms: int) -> str:
    hours = round(abs(difference_ms) / 3_600_000)
    return "1 hour" if hours == 1 else f"{hours:,} hours"


@dataclass(frozen=True, slots=True, kw_only=True)
class Retainer:
    """Drops expired partitions one at a time, and deletes expired rows in bounded batches.

    `share_max`: a pass that would drop more than this share of all records is refused. `clock_ms` returns Unix milliseconds.
    """

    maintenance: Maintenance
    config: RetentionConfig
    keep_days: int
    share_max: float
    metrics: Metrics
    clock_ms: Callable[[], int]

    async def run(self, stop: asyncio.Event) -> None:
        """Make a pass every `interval_ms` until `stop` is set; after a failed or refused pass, sooner."""
        while not stop.is_set():
            pause_ms = self.config.interval_ms
            try:
                await self.pass_over(stop)
            except RetentionRefused as refused:
                log.error("retention_refused", message=str(refused))
                pause_ms = min(self.config.refused_wait_ms, pause_ms)
            except RetryableError as away:
                log.warning("retention_deferred", cause=str(away))
                pause_ms = min(self.config.retry_wait_ms, pause_ms)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), pause_ms / 1000)

    async def look(self) -> tuple[RetentionEvidence, Sequence[PartitionInfo]]:
        """Return what a pass would decide by, and all partitions. Raises RetryableError."""
        evidence = await self.maintenance.evidence(self.keep_days, self.clock_ms())
        return evidence, await self.maintenance.partitions(evidence.before_ms)

    async def pass_over(self, stop: asyncio.Event) -> Sequence[str]:
        """Drop and delete all that has expired; return the names of the partitions.

        Raises RetryableError, and RetentionRefused as `plan_retention` does.
        """
        evidence, partitions = await self.look()
        try:
            expired = plan_retention(evidence, partitions, self.share_max)
        except RetentionRefused:
            self.metrics.retention_refused.set(1)
            raise
        self.metrics.retention_refused.set(0)
        if not expired and _disagreement(evidence) is not None:
            # Nothing to refuse; but dead letters and notes are not deleted by a clock that receipts contradict either.
            return ()
        return await self.drop(expired, evidence.before_ms, stop)

    async def drop(
        self, expired: Sequence[PartitionInfo], before_ms: int, stop: asyncio.Event
    ) -> Sequence[str]:
        """Drop the partitions of a plan, and delete the other rows before `before_ms`; return the names of what it dropped.

        What another pass has dropped meanwhile is left out. Raises RetryableError.
        """
        dropped: list[str] = []
        for each in expired:
            # One partition a transaction: each DROP locks the whole log.
            if not stop.is_set() and await self.maintenance.drop(each, before_ms, self.keep_days):
                dropped.append(each.child)
                self.metrics.partitions_dropped.inc()
                log.info("partition_dropped", partition=each.child)
        rows_max = self.config.pruned_rows_max
        while not stop.is_set() and await self.maintenance.prune(before_ms, self.keep_days, rows_max):
            pass
        return dropped
