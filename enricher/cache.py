"""A read-through cache in front of a lookup: concurrent lookups of one key share a single request (single flight)."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import cachetools
import structlog

from enricher.config import CacheConfig
from enricher.key_syntax import KeyCheck
from enricher.ports import NEVER_AN_ID, Absent, Found, Kind, Lookup, is_valid_key
from enricher.token_bucket import TokenBucket
from schemas.errors import RetryableError
from schemas.metric_defs import Metrics

_log = structlog.get_logger(__name__)
_WARNING_INTERVAL_S = 60.0


@dataclass(frozen=True, slots=True)
class Failed:
    """A lookup that failed. `message` names the service and the cause; it holds neither key nor response."""

    message: str


LookupResult = Found | Absent | Failed


class CacheLimits(NamedTuple):
    """Limits of the cache that operators do not set."""

    failure_ttl_ms: int = 5_000
    """How long a key whose lookup failed is not looked up again. The circuit breaker handles longer failures."""
    in_flight_max: int = 4_096
    """Lookups in flight for each kind, those that wait for a connection included. One more fails at once."""
    lookup_ms_max: int = 10_000
    """The time limit of one lookup, waiting for a connection included. It exceeds every service's own timeout."""
    unseen_burst_s: float = 10
    """Unknown ids may be looked up in a burst of so many seconds' worth of `unseen_per_s`; half of it is for new records."""
    unknown_kept_ms: int = 600_000
    """How long it is remembered since when an id is unknown, once nobody asks for it any more."""


class _InFlight(NamedTuple):
    """A lookup in flight and its start by the cache's clock."""

    task: asyncio.Task[LookupResult]
    started_s: float


class _Entry(NamedTuple):
    """A cached result. It is used as it is until `fresh_until_s`, and used while it is refreshed until `expires_s`."""

    result: LookupResult
    fresh_until_s: float
    expires_s: float


_Entries = cachetools.TLRUCache[str, _Entry, float]


class _Unknown(NamedTuple):
    """Since when the service has not known an id, when it said so last, and for how long that was to be cached."""

    since_s: float
    asked_s: float
    ttl_s: float
    expires_s: float

    @property
    def unknown_ms(self) -> int:
        return round((self.asked_s - self.since_s) * 1000)


def _jitter() -> float:
    return random.uniform(0.8, 1.2)  # noqa: S311  # not a secret


class _KindCache:
    """The entries and the lookups in flight of one kind."""

    def __init__(
        self,
        config: CacheConfig,
        limits: CacheLimits,
        clock: Callable[[], float],
        jitter: Callable[[], float],
    ) -> None:
        self._config = config
        self._jitter = jitter
        self._limits = limits
        self._clock = clock
        # Names and other results are bounded separately, so that a flood of unknown ids evicts no name.
        self._names: _Entries = cachetools.TLRUCache(config.entries_max, _expires_s, clock)
        self._others: _Entries = cachetools.TLRUCache(config.entries_max, _expires_s, clock)
        self._unknown: cachetools.TLRUCache[str, _Unknown, float] = cachetools.TLRUCache(
            config.entries_max, _expires_s, clock
        )
        self.in_flight: dict[str, _InFlight] = {}
        self._burst = max(int(config.unseen_per_s * limits.unseen_burst_s), 1)
        self._unseen = TokenBucket(config.unseen_per_s, self._burst, clock)
        self.warned_s = -_WARNING_INTERVAL_S

    @property
    def has_room(self) -> bool:
        return len(self.in_flight) < self._limits.in_flight_max

    def entry(self, key: str) -> _Entry | None:
        for entries in (self._names, self._others):
            try:
                return entries[key]
            except KeyError:
                continue
        return None

    def last_unknown(self, key: str) -> Absent | None:
        """Return the last result for an id that the service did not know, though it is no longer cached."""
        unknown = self._unknown.get(key)
        return None if unknown is None else Absent(unknown_ms=unknown.unknown_ms)

    def may_look_up_unseen(self, *, is_backfill: bool) -> bool:
        """Return whether the rate allows to look up an id without a cached result. New records go before the backfill."""
        return self._unseen.take(self._burst / 2 if is_backfill and self._burst > 1 else 0)

    def store(self, key: str, result: LookupResult) -> None:
        """Store a result for the time that its type has. A failure leaves a cached name in place until it is stale."""
        now_s = self._clock()
        if isinstance(result, Found):
            fresh_until_s = now_s + self._config.ttl_ms / 1000
            self._names[key] = _Entry(result, fresh_until_s, fresh_until_s + self._config.stale_ms / 1000)
            # Or an older result could outlive the name.
            self._others.pop(key, None)
            self._unknown.pop(key, None)
            return
        if isinstance(result, Failed):
            until_s = now_s + self._limits.failure_ttl_ms / 1000
            # The name is used until it is stale, and is not looked up again before `failure_ttl_ms` has passed.
            if name := self._names.get(key):
                self._names[key] = name._replace(fresh_until_s=until_s)
                return
        else:
            unknown = self._unknown_again(key, now_s)
            # Or the ids of one flood would be looked up again together, and the rate is limited.
            until_s = now_s + unknown.ttl_s * self._jitter()
            result = Absent(unknown_ms=unknown.unknown_ms, is_final=result.is_final)
            # The service no longer knows the id, which overrides a name that is still cached.
            self._names.pop(key, None)
        self._others[key] = _Entry(result, until_s, until_s)

    def _unknown_again(self, key: str, now_s: float) -> _Unknown:
        """Note that the service does not know an id, and that it is asked less and less often."""
        before = self._unknown.get(key)
        if before is None:
            since_s, ttl_s = now_s, self._config.negative_ttl_ms / 1000
        else:
            since_s, ttl_s = before.since_s, min(before.ttl_s * 2, self._config.negative_ttl_ms_max / 1000)
        unknown = _Unknown(since_s, now_s, ttl_s, now_s + ttl_s + self._limits.unknown_kept_ms / 1000)
        self._unknown[key] = unknown
        return unknown


def _expires_s(_key: str, entry: _Entry | _Unknown, _now_s: float) -> float:
    return entry.expires_s


class LookupCache:
    """`Lookup` through a cache, for the kinds in `configs`. Use it from one event loop, and stop it at the end.

    - Found, absent and failed results have their own times to live. An expired name is used for `stale_ms` more while one
      lookup in the background refreshes it (stale-while-revalidate).
    - Callers that look up one key share one lookup. It goes on when a caller is cancelled, and ends within
      `limits.lookup_ms_max`.
    - Lookups of ids without a cached result are rate limited by `unseen_per_s`.
    - An id that the service does not know is asked for again, less and less often. Its `Absent` says for how long it is unknown.

    `key_checks` decides for each kind which ids may be looked up; `clock` returns monotonic seconds; the time that an unknown
    id is cached is multiplied by `jitter()`.
    """

    def __init__(
        self,
        source: Lookup,
        configs: Mapping[Kind, CacheConfig],
        metrics: Metrics,
        *,
        clock: Callable[[], float] = time.monotonic,
        key_checks: Mapping[Kind, KeyCheck] | None = None,
        limits: CacheLimits = CacheLimits(),  # noqa: B008  immutable
        jitter: Callable[[], float] = _jitter,
    ) -> None:
        self._key_checks = key_checks or {}
        self.kinds = frozenset(configs)
        self._source = source
        self._metrics = metrics
        self._clock = clock
        self._limits = limits
        self._caches = {kind: _KindCache(config, limits, clock, jitter) for kind, config in configs.items()}
        self._stopped = False

    async def look_up(self, kind: Kind, key: str) -> Found | Absent:
        """See `Lookup`. `kind` must be configured."""
        cached, _ = self.cached(kind, (key,))
        result = cached[key] if cached else await self.fetch(kind, key)
        if isinstance(result, Failed):
            raise RetryableError(result.message)
        return result

    def cached(
        self, kind: Kind, keys: Iterable[str], wait_s: float | None = None
    ) -> tuple[dict[str, LookupResult], list[str]]:
        """Return the cached results for `keys`, and the keys that have to be fetched. Never waits.

        If a lookup has been in flight for `wait_s` or longer, its key counts as failed: a caller that would wait no longer
        than that need not wait at all.
        """
        cache = self._caches[kind]
        results: dict[str, LookupResult] = {}
        missing: list[str] = []
        for key in keys:
            if (entry := cache.entry(key)) is not None:
                results[key] = entry.result
                if entry.fresh_until_s <= self._clock():
                    self._refresh(kind, cache, key)
            elif wait_s is not None and self._is_slow(cache, key, wait_s):
                results[key] = Failed("the lookup is slow")
            else:
                missing.append(key)
        self._count_hits(kind, results)
        return results, missing

    def _is_slow(self, cache: _KindCache, key: str, wait_s: float) -> bool:
        in_flight = cache.in_flight.get(key)
        return in_flight is not None and self._clock() - in_flight.started_s >= wait_s

    def _refresh(self, kind: Kind, cache: _KindCache, key: str) -> None:
        """Start to refresh an expired name, unless that is in progress or too many lookups are in flight."""
        if not self._stopped and key not in cache.in_flight and cache.has_room:
            self._count(kind, "refresh")
            self._start(kind, cache, key)

    def _count_hits(self, kind: Kind, results: Mapping[str, LookupResult]) -> None:
        # A cached failure was counted when it happened.
        types = [type(result) for result in results.values()]
        for outcome, hits in (("hit", types.count(Found)), ("negative_hit", types.count(Absent))):
            if hits:
                self._metrics.lookups.labels(kind.value, outcome).inc(hits)

    async def fetch(self, kind: Kind, key: str, *, is_backfill: bool = False) -> LookupResult:
        """Return the result of the lookup of `key` in flight, after starting one if there is none.

        `is_backfill`: lookups for new records go first where the rate is limited. An id that was unknown the last time stays
        so if the rate allows no lookup. Raises nothing. If the caller is cancelled, the lookup goes on for other callers and
        the cache.
        """
        cache = self._caches[kind]
        lookup = cache.in_flight.get(key) or self._start_if_allowed(kind, cache, key, is_backfill=is_backfill)
        if not isinstance(lookup, _InFlight):
            return lookup
        # Not `await lookup.task`: a caller that is cancelled would cancel the lookup for everybody.
        await asyncio.wait((lookup.task,))
        return Failed("the lookup was stopped") if lookup.task.cancelled() else lookup.task.result()

    def _start_if_allowed(
        self, kind: Kind, cache: _KindCache, key: str, *, is_backfill: bool
    ) -> _InFlight | LookupResult:
        """Start a lookup, or return the result if none is needed or allowed."""
        if not self._key_checks.get(kind, is_valid_key)(key):
            # Not cached: an id that can never be looked up must not evict one that can.
            return self._counted(kind, NEVER_AN_ID)
        # Another caller's lookup may have ended since this caller found no entry.
        entry = cache.entry(key)
        if entry is not None:
            return entry.result
        if self._stopped:
            return Failed("the lookup was stopped")
        if not cache.has_room:
            return self._counted(kind, Failed(f"too many {kind} lookups are in flight"))
        # Not cached: the id is looked up as soon as the rate allows it.
        if not cache.may_look_up_unseen(is_backfill=is_backfill):
            self._count(kind, "limited")
            return cache.last_unknown(key) or Failed(f"too many unknown {kind} ids")
        return self._start(kind, cache, key)

    def _start(self, kind: Kind, cache: _KindCache, key: str) -> _InFlight:
        in_flight = _InFlight(asyncio.create_task(self._run(kind, cache, key)), self._clock())
        cache.in_flight[key] = in_flight
        return in_flight

    async def _run(self, kind: Kind, cache: _KindCache, key: str) -> LookupResult:
        try:
            result = await self._look_up_source(kind, key)
            cache.store(key, result)
        finally:
            # After the result is stored, so that there is no moment at which a caller finds neither.
            del cache.in_flight[key]
        if isinstance(result, Failed):
            self._warn(kind, cache, result)
        self._counted(kind, result)
        entry = cache.entry(key)
        return result if entry is None else entry.result

    async def _look_up_source(self, kind: Kind, key: str) -> LookupResult:
        try:
            async with asyncio.timeout(self._limits.lookup_ms_max / 1000):
                return await self._source.look_up(kind, key)
        except TimeoutError:
            return Failed(f"the {kind} lookup took too long")
        except RetryableError as error:
            return Failed(str(error))
        except Exception as error:  # noqa: BLE001 - a bug in a lookup must not stop ingest
            return Failed(f"the {kind} lookup has a fault: {type(error).__name__}")

    def _counted(self, kind: Kind, result: LookupResult) -> LookupResult:
        self._count(kind, type(result).__name__.lower())
        return result

    def _count(self, kind: Kind, outcome: str) -> None:
        self._metrics.lookups.labels(kind.value, outcome).inc()

    def _warn(self, kind: Kind, cache: _KindCache, failed: Failed) -> None:
        # At most once a minute for each kind: while a service is down, thousands of lookups fail.
        now_s = self._clock()
        if now_s - cache.warned_s >= _WARNING_INTERVAL_S:
            cache.warned_s = now_s
            _log.warning("lookup failed", kind=kind.value, cause=failed.message)

    async def stop(self) -> None:
        """Cancel the lookups in flight. Their callers, and later ones, get `Failed`."""
        # First, so that no caller that wakes up starts another.
        self._stopped = True
        tasks = [each.task for cache in self._caches.values() for each in cache.in_flight.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
