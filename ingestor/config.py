"""The ingestor's bounds."""

from __future__ import annotations

from dataclasses import dataclass

DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class IngestorConfig:
    """Bounds and intervals of the ingestor; every one is a setting."""

    batch_events_max: int = 5_000
    """Events stored in one transaction at most."""
    batches_in_flight_max: int = 4
    """Batches fetched and not yet stored, at most; memory is bounded by their product with the event size."""
    gather_ms: int = 25
    """How long after a batch that was not full the next one begins at the earliest: few large transactions cost less
    than many small ones."""
    commit_interval_ms: int = 500
    revoke_wait_ms: int = 10_000
    """How long partitions that are taken away wait for what is in flight before it is dropped."""
    drain_wait_ms: int = 15_000
    """The same when the process is told to end."""
    retry_wait_ms_initial: int = 100
    retry_wait_ms_max: int = 5_000
    retention_days: int = 30
    """Events older than this are buried as expired, and days older than this are dropped. `auditap migrate` records it
    in the database, which never drops earlier than recorded."""
    clock_ahead_ms_max: int = 300_000
    """How far ahead of its receipt an event may be dated; beyond it, it is recorded at that time, and marked."""
    text_chars_max: int = 16_384
    """Longer texts of a record are cut."""
    id_chars_max: int = 256
    """Longer account and zone ids are left out: a cut one could be another's."""


@dataclass(frozen=True, slots=True)
class CompletenessWaits:
    """How long what is not there is waited for, by the log's own time; see docs/completeness.md."""

    settle_ms: int = 20_000
    """"Complete before" is at least so far behind, so that taps just started are heard of first. What a tap says was
    acknowledged and is not stored after so long is a gap."""
    give_up_ms: int = 300_000
    """"Complete before" waits so long for numbers that are missing, or for a tap whose lease ran out."""
    hold_ms: int = 900_000
    """When something arrives of a time that "complete before" had passed, it goes back there for so long: whoever polls
    at least that often misses nothing."""
    keep_ms: int = 30 * DAY_MS
    """Taps that were not heard of for so long, and their gaps, are forgotten."""
    holes_max: int = 2_000
    """Of one start of a tap; beyond it the oldest are kept as one gap with their sum."""


@dataclass(frozen=True, slots=True)
class RetentionConfig:
    """How what is older than `retention_days` is dropped; every one is a setting."""

    interval_ms: int = 3_600_000
    """How often it is looked for."""
    lock_wait_ms_max: int = 200
    """How long dropping a partition may make ingest and readers wait before it gives up, at most 5,000."""
    retry_wait_ms: int = 10_000
    """How soon it is tried again then."""
    pruned_rows_max: int = 5_000
    """Rows taken in one transaction from tables that are no partitions."""
