"""The ingestor's settings and constants."""

from __future__ import annotations

from dataclasses import dataclass

from schemas.constants import Constant
from schemas.errors import StartupError

HOUR_MS = 3_600_000
DAY_MS = 86_400_000
RETENTION_DAYS_MAX = 36_500
"""A hundred years: longer than any duty to keep records, and far within the database's integers."""


@dataclass(frozen=True, slots=True)
class IngestorConfig:
    """Bounds of the ingestor's loop and of the records it builds."""

    batch_events_max: int = 5_000
    """Events stored in one transaction, at most. Four such batches may be in memory."""
    retention_days: int = 30
    """Days that records are kept, from 1 to 36,500. Older events are dead-lettered as `expired`; older partitions are dropped.
    `auditap migrate` stores it in the database, which never drops earlier than stored."""
    retention_share_max: float = 0.5
    """Share of the records, from 0 to 1, that a pass of retention may drop. Where more have expired it drops nothing
    until an operator runs `auditap retention --yes`. 1: it drops whatever has expired."""
    malformed_share_max: float = 0.9
    """Share of the last 1,000 events, from 0 to 1. Where more are malformed, the ingestor halts and is not ready, because
    the topic or a program is the wrong one. 1: it never halts."""

    # Batches fetched and not yet stored: one process builds no faster than four transactions store.
    batches_in_flight_max: Constant[int] = 4
    # Pause after a batch that was not full: few large transactions cost less than many small ones (bench/NOTES.md).
    gather_ms: Constant[int] = 25
    # How far an event may be dated ahead of its receipt before it is recorded at its time of receipt, and marked: more
    # than any clock that is kept in time is wrong.
    clock_ahead_ms_max: Constant[int] = 300_000
    # Half a second of events is read again after a crash, and found stored; committing more often only costs requests.
    commit_interval_ms: Constant[int] = 500
    # Below Kafka's rebalance timeout (30 s), or the group would go on without us.
    revoke_wait_ms: Constant[int] = 10_000
    # Below the 30 s that Kubernetes gives a process to end.
    drain_wait_ms: Constant[int] = 15_000
    retry_wait_ms_initial: Constant[int] = 100
    retry_wait_ms_max: Constant[int] = 5_000
    # Longer texts are cut: nobody reads them in a list of records.
    text_chars_max: Constant[int] = 16_384
    # Longer account and zone ids are left out: they are indexed, and a cut one could be another's.
    id_chars_max: Constant[int] = 256


@dataclass(frozen=True, slots=True)
class GapLedgerWaits:
    """How the completeness watermark trades delay for certainty, by the log's own time; see docs/completeness.md.

    In the order of the arguments of `auditap.tidy_completeness`.
    """

    watermark_lag_ms: int = 20_000
    """The watermark trails by at least so many milliseconds, so that heartbeats of taps that just started arrive first.
    What a tap reports as acknowledged and is not stored after so long is a gap. From 0 to 3,600,000 (an hour)."""
    gap_wait_ms: int = 300_000
    """Milliseconds that the watermark waits for missing sequence numbers, or for a tap whose lease has expired. From 0 to
    86,400,000 (a day)."""
    watermark_hold_ms: int = 900_000
    """When an event arrives for a time that the watermark had passed, the watermark goes back to it for so many
    milliseconds. A client that polls at least that often misses nothing. From 60,000 (a minute) to 86,400,000 (a day)."""

    # Taps without a heartbeat for so long are forgotten, with their gaps.
    tap_retention_ms: Constant[int] = 30 * DAY_MS
    # Per epoch of a tap. Beyond it the oldest gaps are merged into one with their sum, which bounds the ledger.
    gaps_max: Constant[int] = 2_000

    def __post_init__(self) -> None:
        # The bounds of `auditap.tidy_completeness` (0017_role_bounds.sql), which would change other values silently.
        for name, lowest, highest in (
            ("watermark_lag_ms", 0, HOUR_MS),
            ("gap_wait_ms", 0, DAY_MS),
            ("watermark_hold_ms", 60_000, DAY_MS),
        ):
            if not lowest <= getattr(self, name) <= highest:
                raise StartupError(f"{name} of the gap ledger must be from {lowest} to {highest}.")


@dataclass(frozen=True, slots=True)
class RetentionConfig:
    """When expired partitions are dropped."""

    # A partition covers an hour at least, so looking more often finds nothing.
    interval_ms: Constant[int] = 3_600_000
    # Ingest and readers queue behind the lock that dropping needs; after this it gives up. The database allows 5,000.
    lock_wait_ms_max: Constant[int] = 200
    # After a partition was in use: queries on old days take seconds.
    retry_wait_ms: Constant[int] = 10_000
    # After a refused pass: a collector may have reported meanwhile, or a clock may be right again.
    refused_wait_ms: Constant[int] = 600_000
    # Rows deleted in one transaction from tables that are not partitioned.
    pruned_rows_max: Constant[int] = 5_000
