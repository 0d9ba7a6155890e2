"""Keeping what is known of the taps small, and telling operators what of it is open."""

from __future__ import annotations

import asyncio
from typing import NamedTuple, Protocol

import structlog

from ingestor.config import CompletenessWaits
from ingestor.rounds import do_now_and_then
from schemas.metric_defs import Metrics

log = structlog.get_logger("ingestor.completeness")


class CompletenessCounts(NamedTuple):
    """Taps by what is known of them, open gaps, and how many numbers those hold."""

    taps_alive: int
    taps_expired: int
    taps_unnumbered: int
    gaps: int
    missing: int


class CompletenessLedger(Protocol):
    """Where it stands what there should be."""

    async def tidy_completeness(self, waits: CompletenessWaits) -> CompletenessCounts:
        """Say how long is waited, forget what is old, and return what is open now. Raises RetryableError."""


class CompletenessWatch:
    """Looks at the ledger now and then."""

    def __init__(
        self, ledger: CompletenessLedger, waits: CompletenessWaits, metrics: Metrics, interval_ms: int
    ) -> None:
        self._ledger = ledger
        self._waits = waits
        self._metrics = metrics
        self._interval_ms = interval_ms

    async def run(self, stop: asyncio.Event) -> None:
        """Look until `stop` is set, first at once."""
        await do_now_and_then(
            self.look,
            self._interval_ms,
            stop,
            lambda away: log.warning("completeness_deferred", cause=str(away)),
        )

    async def look(self) -> CompletenessCounts:
        """Tidy once and set the gauges. Raises RetryableError."""
        counts = await self._ledger.tidy_completeness(self._waits)
        self._metrics.gaps_open.set(counts.gaps)
        self._metrics.captures_missing.set(counts.missing)
        self._metrics.taps.labels("alive").set(counts.taps_alive)
        self._metrics.taps.labels("expired").set(counts.taps_expired)
        self._metrics.taps.labels("unnumbered").set(counts.taps_unnumbered)
        return counts
