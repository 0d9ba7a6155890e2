"""The gap ledger's upkeep and its metrics."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from ingestor.config import GapLedgerWaits
from schemas.metric_defs import Metrics


class GapCounts(NamedTuple):
    """Taps by state, open gaps, and the number of captures missing in them. Surplus and retired epochs have another state, too."""

    taps_alive: int
    taps_expired: int
    taps_unnumbered: int
    gaps: int
    missing: int
    taps_surplus: int
    taps_retired: int


class GapLedgerUpkeep(Protocol):
    """The gap ledger as its upkeep sees it: Postgres."""

    async def refresh_gap_ledger(self, waits: GapLedgerWaits) -> GapCounts:
        """Store the waits, delete expired taps and gaps, and return what is open. Raises RetryableError."""


class GapGauges:
    """Refreshes the ledger and shows its counts as metrics."""

    def __init__(self, ledger: GapLedgerUpkeep, waits: GapLedgerWaits, metrics: Metrics) -> None:
        self._ledger = ledger
        self._waits = waits
        self._metrics = metrics

    async def refresh(self) -> GapCounts:
        """Refresh the ledger once and set the gauges. Raises RetryableError."""
        counts = await self._ledger.refresh_gap_ledger(self._waits)
        self._metrics.gaps_open.set(counts.gaps)
        self._metrics.captures_missing.set(counts.missing)
        self._metrics.taps.labels("alive").set(counts.taps_alive)
        self._metrics.taps.labels("expired").set(counts.taps_expired)
        self._metrics.taps.labels("unnumbered").set(counts.taps_unnumbered)
        self._metrics.taps.labels("surplus").set(counts.taps_surplus)
        self._metrics.taps.labels("retired").set(counts.taps_retired)
        return counts
