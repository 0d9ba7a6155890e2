"""The enrichment backfill: later lookups for records that were stored without some of their names."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, Protocol

import structlog

from schemas.errors import RetryableError
from schemas.metric_defs import Metrics
from schemas.record import EnrichmentResult, PartialRecord

log = structlog.get_logger("ingestor.backfill")
_FRUITLESS_PAUSE_S_MIN = 0.01
_FRUITLESS_PAUSE_S_MAX = 1.0


Resolve = Callable[[Sequence[PartialRecord]], Awaitable[Sequence[EnrichmentResult]]]


class BackfillStep(NamedTuple):
    """The outcome of one bounded step. `tried`: records looked at; `enriched`: those no longer partial; `lookup_failed`:
    whether a lookup failed for one of them.
    """

    tried: int
    enriched: Sequence[EnrichmentResult]
    lookup_failed: bool


class BackfillStore(Protocol):
    """Partial records and the names found for them later: Postgres."""

    async def backfill_next(self, records_max: int, resolve: Resolve) -> BackfillStep | None:
        """Pass at most `records_max` partial records that are due to `resolve`, by ascending id, and store the names it finds.

        A new record is due at once. One that stays partial is due again after 5 s, then each time after twice as long, up
        to 5 minutes. Atomic: everything `resolve` found is durable on return, or nothing is. While `resolve` runs, no other
        process gets the same records. A record that is complete already keeps its names. Returns None where no records
        are due, or other processes hold them. Raises RetryableError.
        """


class Resolver(Protocol):
    """The enricher as the backfill sees it."""

    async def resolve(self, records: Sequence[PartialRecord]) -> Sequence[EnrichmentResult]:
        """Return the names known for each record now, in the same order; `partial` where a lookup still fails, or its
        service does not know the id yet.

        Never raises, never waits beyond its own bound.
        """


class EnrichmentBackfill:
    """Passes over the partial records that are due, `records_max` at a time. Several processes share the work.

    It works for at most `share_max` of the time and leaves the rest to ingest: a step that took longer, because the
    machine is busy, is followed by a longer pause. After steps that complete nothing because lookups fail the pauses grow:
    a service is away.
    """

    def __init__(
        self,
        *,
        store: BackfillStore,
        resolver: Resolver,
        metrics: Metrics,
        interval_ms: int = 5_000,
        records_max: int = 5_000,
        share_max: float = 0.5,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._resolver = resolver
        self._metrics = metrics
        self._interval_s = interval_ms / 1000
        self._records_max = records_max
        self._pause_per_s = 1 / share_max - 1
        self._timer = timer

    async def run(self, stop: asyncio.Event) -> None:
        """Make passes, `interval_ms` apart, until `stop` is set."""
        while not stop.is_set():
            try:
                await self.pass_over(stop)
            except RetryableError as away:
                log.warning("backfill_deferred", cause=str(away))
            await _pause(stop, self._interval_s)

    async def pass_over(self, stop: asyncio.Event) -> int:
        """Go on until no partial record is due. Returns how many are no longer partial. Raises RetryableError."""
        done, fruitless = 0, 0
        while not stop.is_set():
            began_s = self._timer()
            step = await self._store.backfill_next(self._records_max, self._resolver.resolve)
            if step is None:
                break
            done += len(step.enriched)
            for record in step.enriched:
                self._metrics.records_backfilled.labels(record.state).inc()
            fruitless = fruitless + 1 if step.lookup_failed and not step.enriched else 0
            await _pause(stop, self._pause_s(self._timer() - began_s, fruitless))
        return done

    def _pause_s(self, took_s: float, fruitless: int) -> float:
        # Working s seconds and pausing s * (1 / share - 1) makes the share of work come out.
        pause_s = took_s * self._pause_per_s
        if fruitless:
            # 16 doublings exceed every bound; without the limit, the power would grow for as long as a service is away.
            grown_s = _FRUITLESS_PAUSE_S_MIN * 2 ** min(fruitless, 16)
            pause_s = max(pause_s, min(grown_s, _FRUITLESS_PAUSE_S_MAX, self._interval_s))
        return pause_s


async def _pause(stop: asyncio.Event, pause_s: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), pause_s)
