"""The read-through cache: each id is asked for once, whoever wants it and however often."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import cachetools
import structlog

from enricher.bucket import TokenBucket
from enricher.config import CacheConfig
from enricher.keys import KeyCheck
from enricher.ports import Absent, Found, Kind, LookUp, may_be_asked
from schemas.errors import RetryableError
from schemas.metric_defs import Metrics

_log = structlog.get_logger(__name__)
_ABSENT = Absent()
_COMPLAINT_INTERVAL_S = 60.0


@dataclass(frozen=True, slots=True)
class Failed:
    """A look-up that came to nothing, for now. `message` names the part that is away, nothing else."""

    message: str


Answer = Found | Absent | Failed


class _Flight(NamedTuple):
    """A look-up under way, and when it began (the cache's clock, seconds)."""

    task: asyncio.Task[Answer]
    began_s: float


class _Kept(NamedTuple):
    """An answer: given without asking until `fresh_until_s`, given while it is asked for anew until `gone_s`."""

    answer: Answer
    fresh_until_s: float
    gone_s: float


_Entries = cachetools.TLRUCache[str, _Kept, float]


class _Shelf:
    """What is kept of one kind: at most `entries_max` names, as many ids without one, and `in_flight_max` look-ups.

    Two caches, so that a flood of ids that nobody knows pushes out no name.
    """

    def __init__(self, config: CacheConfig, clock: Callable[[], float]) -> None:
        self.config = config
        self._clock = clock
        self.names: _Entries = cachetools.TLRUCache(config.entries_max, _gone_s, clock)
        self.others: _Entries = cachetools.TLRUCache(config.entries_max, _gone_s, clock)
        self.flights: dict[str, _Flight] = {}
        self.unseen = TokenBucket(config.unseen_per_s, config.unseen_burst, clock)
        self.complained_s = -_COMPLAINT_INTERVAL_S

    def entry(self, key: str) -> _Kept | None:
        for entries in (self.names, self.others):
            try:
                return entries[key]
            except KeyError:
                continue
        return None

    def keep(self, key: str, answer: Answer) -> None:
        """Keep an answer for its time. A failure takes no name away: it is given for as long as it may be stale."""
        config, now_s = self.config, self._clock()
        if isinstance(answer, Found):
            fresh_until_s = now_s + config.ttl_ms / 1000
            self.names[key] = _Kept(answer, fresh_until_s, fresh_until_s + config.stale_ms / 1000)
            self.others.pop(key, None)
            return
        if isinstance(answer, Failed):
            until_s = now_s + config.failure_ttl_ms / 1000
            if kept := self.names.get(key):
                self.names[key] = kept._replace(fresh_until_s=until_s)
                return
        else:
            until_s = now_s + config.negative_ttl_ms / 1000
            self.names.pop(key, None)
        self.others[key] = _Kept(answer, until_s, until_s)


def _gone_s(_key: str, kept: _Kept, _now_s: float) -> float:
    return kept.gone_s


class LookUpCache:
    """`LookUp` through a cache, for the kinds configured.

    Found, absent and failed answers are kept for their own times. What was found is given for `stale_ms` longer, while
    one look-up behind it asks anew. Askers of one key share one look-up; it goes on when an asker is cancelled, and
    ends by itself within `look_up_ms_max`. Ids for which nothing was found before are asked for at a bounded rate.
    `key_checks`: which ids may be asked for at all. To be used by one event loop, and stopped at the end.
    """

    def __init__(
        self,
        source: LookUp,
        configs: Mapping[Kind, CacheConfig],
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
        key_checks: Mapping[Kind, KeyCheck] | None = None,
    ) -> None:
        self._key_checks = key_checks or {}
        self.kinds = frozenset(configs)
        self._source = source
        self._metrics = metrics
        self._clock = clock
        self._shelves = {kind: _Shelf(config, clock) for kind, config in configs.items()}
        self._stopped = False

    async def look_up(self, kind: Kind, key: str) -> Found | Absent:
        """See `LookUp`. `kind` is one of those configured."""
        known, _ = self.known(kind, (key,))
        answer = known[key] if known else await self.answer(kind, key)
        if isinstance(answer, Failed):
            raise RetryableError(answer.message)
        return answer

    def known(
        self, kind: Kind, keys: Iterable[str], patience_s: float | None = None
    ) -> tuple[dict[str, Answer], list[str]]:
        """Return what is known of `keys` without asking, and the keys that have to be asked for.

        A key whose look-up has been under way for `patience_s` or longer counts as failed: whoever waits no
        longer than that need not begin to.
        """
        shelf = self._shelves[kind]
        known: dict[str, Answer] = {}
        asking: list[str] = []
        for key in keys:
            if (kept := shelf.entry(key)) is not None:
                known[key] = kept.answer
                if kept.fresh_until_s <= self._clock():
                    self._refresh(kind, shelf, key)
            elif patience_s is not None and self._is_late(shelf, key, patience_s):
                known[key] = Failed("the look-up is late")
            else:
                asking.append(key)
        self._count_hits(kind, known)
        return known, asking

    def _is_late(self, shelf: _Shelf, key: str, patience_s: float) -> bool:
        flight = shelf.flights.get(key)
        return flight is not None and self._clock() - flight.began_s >= patience_s

    def _refresh(self, kind: Kind, shelf: _Shelf, key: str) -> None:
        """Begin to ask anew for what is stale, if there is room and nobody does already."""
        if not self._stopped and key not in shelf.flights and len(shelf.flights) < shelf.config.in_flight_max:
            self._count(kind, "refresh")
            self._take_off(kind, shelf, key)

    def _count_hits(self, kind: Kind, known: Mapping[str, Answer]) -> None:
        """Count what the cache answered; a remembered failure was counted when it happened."""
        types = [type(answer) for answer in known.values()]
        for outcome, hits in (("hit", types.count(Found)), ("negative_hit", types.count(Absent))):
            if hits:
                self._metrics.lookups.labels(kind.value, outcome).inc(hits)

    async def answer(self, kind: Kind, key: str) -> Answer:
        """Return the answer of the one look-up of `key` that is under way, begun by this call if there is none.

        Raises nothing; a cancelled caller leaves the look-up to the others, and to the cache.
        """
        shelf = self._shelves[kind]
        flight = shelf.flights.get(key) or self._begin(kind, shelf, key)
        if not isinstance(flight, _Flight):
            return flight
        await asyncio.wait((flight.task,))
        return Failed("the look-up was stopped") if flight.task.cancelled() else flight.task.result()

    def _begin(self, kind: Kind, shelf: _Shelf, key: str) -> _Flight | Answer:
        """Return the look-up just begun, or the answer where there is no need or no room for one."""
        if not self._key_checks.get(kind, may_be_asked)(key):
            return self._counted(kind, _ABSENT)
        # Another asker's look-up may have ended since the caller found nothing known.
        kept = shelf.entry(key)
        if kept is not None:
            return kept.answer
        if self._stopped:
            return Failed("the look-up was stopped")
        if len(shelf.flights) >= shelf.config.in_flight_max:
            return self._counted(kind, Failed(f"too many {kind} look-ups are under way"))
        if not shelf.unseen.take():
            self._count(kind, "limited")
            return Failed(f"too many unknown {kind} ids")
        return self._take_off(kind, shelf, key)

    def _take_off(self, kind: Kind, shelf: _Shelf, key: str) -> _Flight:
        flight = _Flight(asyncio.create_task(self._fly(kind, key)), self._clock())
        shelf.flights[key] = flight
        return flight

    async def _fly(self, kind: Kind, key: str) -> Answer:
        shelf = self._shelves[kind]
        try:
            answer = await self._asked(kind, key, shelf.config.look_up_ms_max / 1000)
            shelf.keep(key, answer)
        finally:
            del shelf.flights[key]
        if isinstance(answer, Failed):
            self._complain(kind, shelf, answer)
        self._counted(kind, answer)
        kept = shelf.entry(key)
        return answer if kept is None else kept.answer

    async def _asked(self, kind: Kind, key: str, limit_s: float) -> Answer:
        try:
            async with asyncio.timeout(limit_s):
                return await self._source.look_up(kind, key)
        except TimeoutError:
            return Failed(f"the {kind} look-up took too long")
        except RetryableError as error:
            return Failed(str(error))
        except Exception as error:  # noqa: BLE001 - a fault in a look-up must not hold records back
            return Failed(f"the {kind} look-up has a fault: {type(error).__name__}")

    def _counted(self, kind: Kind, answer: Answer) -> Answer:
        self._count(kind, type(answer).__name__.lower())
        return answer

    def _count(self, kind: Kind, outcome: str) -> None:
        self._metrics.lookups.labels(kind.value, outcome).inc()

    def _complain(self, kind: Kind, shelf: _Shelf, failed: Failed) -> None:
        """Log a failure, at most once a minute per kind: while a service is away there are thousands."""
        now_s = self._clock()
        if now_s - shelf.complained_s >= _COMPLAINT_INTERVAL_S:
            shelf.complained_s = now_s
            _log.warning("look-up failed", kind=kind.value, cause=failed.message)

    async def stop(self) -> None:
        """Give up the look-ups that are under way; their askers get a failure, as does who asks from now on."""
        self._stopped = True
        tasks = [flight.task for shelf in self._shelves.values() for flight in shelf.flights.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
