"""Completing records whose enrichment failed when they were stored: a later pass, beside the path."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, Protocol
from uuid import UUID

import msgspec
import structlog

from schemas.errors import RetryableError
from schemas.metric_defs import Metrics

log = structlog.get_logger("ingestor.completion")
_FIRST = UUID(int=0)
_FRUITLESS_PAUSE_S_MIN = 0.01
_FRUITLESS_PAUSE_S_MAX = 1.0


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


Resolve = Callable[[Sequence[Incomplete]], Awaitable[Sequence[Completed]]]


class Step(NamedTuple):
    """A bounded part of the work that is done. `last`: the id to go on after; `tried`: how many were looked at."""

    last: UUID
    tried: int
    completed: Sequence[Completed]


class CompletionStore(Protocol):
    """Where incomplete records are found and what is found out about them goes."""

    async def complete_next(self, after: UUID, records_max: int, resolve: Resolve) -> Step | None:
        """Hand the next partial records after `after` to `resolve`, in the order of their ids, and store what it found.

        All of it or nothing is durable on return, and while `resolve` works no other process works on the same
        records. A record completed already stays as it is. None: there are none left, or others work on them.
        Raises RetryableError.
        """


class Resolver(Protocol):
    """The enricher, as the later pass sees it."""

    async def resolve(self, records: Sequence[Incomplete]) -> Sequence[Completed]:
        """Return what can be said of each record now, in the same order; `partial` where a look-up still fails.

        Never raises, never waits beyond its bound.
        """


class Completer:
    """Walks over the partial records again and again, a bounded number at a time, beside other processes that do.

    It works for at most `share_max` of the time, so that ingest keeps the rest: a step that took long because the
    machine is busy is followed by a pause that is longer too. Steps that complete nothing are followed by growing
    ones, because a service is away.
    """

    def __init__(
        self,
        *,
        store: CompletionStore,
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
        """Complete what can be completed until `stop` is set; rests between passes."""
        while not stop.is_set():
            try:
                await self.pass_over(stop)
            except RetryableError as away:
                log.warning("completion_deferred", cause=str(away))
            await _pause(stop, self._interval_s)

    async def pass_over(self, stop: asyncio.Event) -> int:
        """Go through all partial records once and return how many are no longer partial."""
        after, done, fruitless = _FIRST, 0, 0
        while not stop.is_set():
            began_s = self._timer()
            step = await self._store.complete_next(after, self._records_max, self._resolver.resolve)
            if step is None:
                break
            after = step.last
            done += len(step.completed)
            for completed in step.completed:
                self._metrics.records_completed.labels(completed.state).inc()
            fruitless = fruitless + 1 if step.tried and not step.completed else 0
            await _pause(stop, self._pause_s(self._timer() - began_s, fruitless))
        return done

    def _pause_s(self, took_s: float, fruitless: int) -> float:
        pause_s = took_s * self._pause_per_s
        if fruitless:
            grown_s = _FRUITLESS_PAUSE_S_MIN * 2 ** min(fruitless, 16)
            pause_s = max(pause_s, min(grown_s, _FRUITLESS_PAUSE_S_MAX, self._interval_s))
        return pause_s


async def _pause(stop: asyncio.Event, pause_s: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), pause_s)
