"""The lookup cache while the service is down (stale names) and under floods of unknown ids (rate limit)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from enricher.cache import CacheLimits, Failed, LookupCache
from enricher.config import CacheConfig
from enricher.key_syntax import compile_key_check
from enricher.ports import NEVER_AN_ID, Absent, Found, Kind
from schemas.metric_defs import Metrics
from tests.fakes.lookup import FakeLookup

CONFIG = CacheConfig(ttl_ms=100_000, stale_ms=50_000, entries_max=100, unseen_per_s=10)
LIMITS = CacheLimits(failure_ttl_ms=1_000, unseen_burst_s=2)
NAMED, RENAMED = Found(name="Example"), Found(name="Renamed")


class Setting:
    def __init__(self) -> None:
        self.source = FakeLookup()
        self.source.answers[Kind.ACCOUNT, "a"] = NAMED
        self.now_s = 1_000.0
        self.metrics = Metrics()
        self.cache = LookupCache(
            self.source,
            {Kind.ACCOUNT: CONFIG},
            self.metrics,
            clock=lambda: self.now_s,
            key_checks={Kind.ACCOUNT: compile_key_check("the lookup", "[a-z0-9]{1,40}")},
            limits=LIMITS,
            jitter=lambda: 1,
        )

    def name(self) -> object:
        return self.cache.cached(Kind.ACCOUNT, ("a",))[0].get("a")

    async def finished(self) -> None:
        while self.cache._caches[Kind.ACCOUNT].in_flight:
            await asyncio.sleep(0)

    @property
    def lookups(self) -> int:
        return self.source.lookups.total()

    def counted(self, outcome: str) -> float:
        labels = {"kind": "account", "outcome": outcome}
        return self.metrics.registry.get_sample_value("auditap_lookups_total", labels) or 0


@pytest.fixture
async def cached() -> AsyncIterator[Setting]:
    setting = Setting()
    assert await setting.cache.look_up(Kind.ACCOUNT, "a") == NAMED
    yield setting
    await setting.cache.stop()


async def test_a_stale_name_is_used_while_one_lookup_refreshes_it(cached: Setting) -> None:
    cached.source.answers[Kind.ACCOUNT, "a"] = RENAMED
    cached.now_s += 100
    assert [cached.name() for _ in range(5)] == [NAMED] * 5
    await cached.finished()
    assert cached.name() == RENAMED
    assert cached.lookups == 2
    assert cached.counted("refresh") == 1


async def test_a_stale_name_is_used_while_the_service_is_down_until_stale_ms_ends(cached: Setting) -> None:
    cached.source.failing.add(Kind.ACCOUNT)
    cached.now_s += 100
    for _ in range(5):
        assert cached.name() == NAMED
        await cached.finished()
        assert await cached.cache.look_up(Kind.ACCOUNT, "a") == NAMED
    assert cached.lookups == 2  # the failure is cached
    cached.now_s += 1
    assert cached.name() == NAMED
    await cached.finished()
    assert cached.lookups == 3
    cached.now_s += 48.9
    assert cached.name() == NAMED
    await cached.finished()
    cached.now_s += 0.1
    assert cached.name() is None


async def test_a_name_that_the_service_no_longer_knows_becomes_absent(cached: Setting) -> None:
    del cached.source.answers[Kind.ACCOUNT, "a"]
    cached.now_s += 100
    assert cached.name() == NAMED
    await cached.finished()
    assert cached.name() == Absent()


async def test_lookups_of_unseen_ids_are_rate_limited(cached: Setting) -> None:
    answers = [await cached.cache.fetch(Kind.ACCOUNT, f"random{number}") for number in range(100)]
    assert [type(each) for each in answers] == [Absent] * 19 + [Failed] * 81
    assert cached.lookups == 20
    assert cached.counted("limited") == 81
    cached.now_s += 1
    for number in range(100):
        await cached.cache.fetch(Kind.ACCOUNT, f"more{number}")
    assert cached.lookups == 30


async def test_a_rate_limited_id_is_looked_up_later(cached: Setting) -> None:
    for number in range(100):
        await cached.cache.fetch(Kind.ACCOUNT, f"random{number}")
    cached.source.answers[Kind.ACCOUNT, "new"] = NAMED
    assert isinstance(await cached.cache.fetch(Kind.ACCOUNT, "new"), Failed)
    cached.now_s += 0.1
    assert await cached.cache.fetch(Kind.ACCOUNT, "new") == NAMED


async def test_a_flood_of_unknown_ids_neither_evicts_names_nor_stops_their_refresh(
    cached: Setting,
) -> None:
    for _ in range(50):
        cached.now_s += 2
        for number in range(20):
            await cached.cache.fetch(Kind.ACCOUNT, f"random{cached.now_s:.0f}x{number}")
    cached.source.answers[Kind.ACCOUNT, "a"] = RENAMED
    assert cached.name() == NAMED
    await cached.finished()
    assert cached.name() == RENAMED


@pytest.mark.parametrize("key", ["../etc", "A", "a'; DROP TABLE x", "x" * 41, "..", "a\0", ""])
async def test_invalid_keys_do_not_count_towards_the_rate(cached: Setting, key: str) -> None:
    for _ in range(50):
        assert await cached.cache.fetch(Kind.ACCOUNT, key) == NEVER_AN_ID
    assert cached.lookups == 1
    assert await cached.cache.fetch(Kind.ACCOUNT, "b") == Absent()
    assert cached.lookups == 2
