"""The bounds of the spool."""

from __future__ import annotations

from dataclasses import dataclass

from schemas.constants import Constant


@dataclass(frozen=True, slots=True)
class SpoolBounds:
    """The spool: redacted events on this host's disk while Kafka is away."""

    bytes_max: int = 4 * 1024**3
    """Bytes of all files in the folder, counted every five seconds. A full spool refuses captures with 503."""
    append_deadline_ms: Constant[int] = 10_000
    """How long a write to the spool may take before the batch is refused."""
    drain_events_max: Constant[int] = 2_000
    """Events published at once when Kafka is back."""
    drain_bytes_max: Constant[int] = 4 * 1024**2
    retry_wait_ms: Constant[int] = 500
    """Pause between attempts to drain while Kafka is away."""
    adopt_interval_ms: Constant[int] = 5_000
    """Between two looks for files that a crashed collector left, which are then drained: while Kafka is away, nothing is
    gained by an earlier one."""
    stop_wait_ms: Constant[int] = 5_000
    """How long a process that is stopping goes on draining; the rest stays for the next start."""
