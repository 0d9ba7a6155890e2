"""Completing records whose enrichment failed when they were stored: a later pass, beside the path."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol
from uuid import UUID

import msgspec
import structlog

from schemas.errors import RetryableError
from schemas.metric_defs import Metrics
from schemas.record import EnrichmentState

log = structlog.get_logger("ingestor.completion")
_FIRST = UUID(int=0)


class Incomplete(msgspec.Struct, frozen=True):
    """A stored record that waits for enrichment: its ids, and the names it has already."""

    id: UUID
    account_id: str | None
    account_name: str | None
    zone_id: str | None
    zone_name: str | None
    actor_id: str | None
    actor_type: str | None
    actor_email: str | None
    actor_token_id: str | None
    actor_token_name: str | None


class Completed(msgspec.Struct, frozen=True):
    """What was found out, in the order of `store_enrichments.sql`. Fields the record has already are None."""

    id: UUID
    account_id: str | None
    account_name: str | None
    zone_name: str | None
    actor_email: str | None
    actor_token_name: str | None
    state: str


class CompletionStore(Protocol):
    """Where incomplete records are found and what is found out about them goes."""

    async def incomplete(self, after: UUID, records_max: int) -> Sequence[Incomplete]:
        """Return partial records with a higher id than `after`, in the order of their ids. Raises RetryableError."""

    async def complete(self, completed: Sequence[Completed]) -> None:
        """Return once all are durable. A record completed already stays as it is. Raises RetryableError."""


class Resolver(Protocol):
    """The enricher, as the later pass sees it."""

    async def resolve(self, records: Sequence[Incomplete]) -> Sequence[Completed]:
        """Return what can be said of each record now, in the same order; `partial` where a look-up still fails.

        Never raises, never waits beyond its bound.
        """


class Completer:
    """Walks over the partial records again and again, a bounded number at a time."""

    def __init__(
        self,
        *,
        store: CompletionStore,
        resolver: Resolver,
        metrics: Metrics,
        interval_ms: int = 5_000,
        records_max: int = 1_000,
    ) -> None:
        self._store = store
        self._resolver = resolver
        self._metrics = metrics
        self._interval_ms = interval_ms
        self._records_max = records_max

    async def run(self, stop: asyncio.Event) -> None:
        """Complete what can be completed until `stop` is set; rests between passes."""
        while not stop.is_set():
            try:
                await self.pass_over(stop)
            except RetryableError as away:
                log.warning("completion_deferred", cause=str(away))
            try:
                await asyncio.wait_for(stop.wait(), self._interval_ms / 1000)
            except TimeoutError:
                continue

    async def pass_over(self, stop: asyncio.Event) -> int:
        """Go through all partial records once and return how many are no longer partial."""
        after, done = _FIRST, 0
        while not stop.is_set():
            records = await self._store.incomplete(after, self._records_max)
            if not records:
                break
            after = records[-1].id
            found = [
                completed
                for completed in await self._resolver.resolve(records)
                if completed.state != EnrichmentState.PARTIAL
            ]
            if found:
                await self._store.complete(found)
                done += len(found)
            for completed in found:
                self._metrics.records_completed.labels(completed.state).inc()
        return done
