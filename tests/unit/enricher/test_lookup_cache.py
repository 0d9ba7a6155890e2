from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from enricher.cache import CacheLimits, LookupCache, _jitter
from enricher.config import CacheConfig
from enricher.ports import Absent, Found, Kind
from schemas.errors import RetryableError
from schemas.metric_defs import Metrics
from tests.fakes.clock import Clock
from tests.fakes.lookup import FakeLookup

CONFIG = CacheConfig(ttl_ms=100_000, negative_ttl_ms=10_000, entries_max=10, stale_ms=0)
LIMITS = CacheLimits(failure_ttl_ms=1_000, in_flight_max=5)
NAMED = Found(name="Example")


class Setting:
    """A cache before a fake service, its clock and its metrics."""

    def __init__(self, config: CacheConfig, source: Any = None, limits: CacheLimits = LIMITS) -> None:
        self.source = FakeLookup()
        self.source.answers[Kind.ACCOUNT, "a"] = NAMED
        self.clock = Clock(1_000.0)
        self.metrics = Metrics()
        self.jitter = 1.0
        self.cache = LookupCache(
            source or self.source,
            dict.fromkeys(Kind, config),
            self.metrics,
            clock=self.clock,
            limits=limits,
            jitter=lambda: self.jitter,
        )

    async def name(self, key: str = "a") -> str | None:
        answer = await self.cache.look_up(Kind.ACCOUNT, key)
        return answer.name if isinstance(answer, Found) else None

    @property
    def lookups(self) -> int:
        return self.source.lookups.total()

    def counted(self) -> dict[str, float]:
        samples = [sample for metric in self.metrics.lookups.collect() for sample in metric.samples]
        return {s.labels["outcome"]: s.value for s in samples if s.name.endswith("_total")}


@asynccontextmanager
async def _set(
    config: CacheConfig = CONFIG, source: Any = None, limits: CacheLimits = LIMITS
) -> AsyncIterator[Setting]:
    setting = Setting(config, source, limits)
    try:
        yield setting
    finally:
        await setting.cache.stop()


@pytest.fixture
async def cached() -> AsyncIterator[Setting]:
    async with _set() as setting:
        yield setting


async def test_a_found_result_is_cached_for_its_ttl(cached: Setting) -> None:
    assert await cached.name() == "Example"
    cached.source.answers[Kind.ACCOUNT, "a"] = Found(name="Renamed")
    cached.clock.now_s += 99.9
    assert await cached.name() == "Example"
    cached.clock.now_s += 0.1
    assert await cached.name() == "Renamed"
    assert cached.lookups == 2
    assert cached.counted() == {"found": 2, "hit": 1}


async def test_an_absent_result_is_cached_for_the_negative_ttl(cached: Setting) -> None:
    assert await cached.name("nobody") is None
    cached.source.answers[Kind.ACCOUNT, "nobody"] = NAMED
    cached.clock.now_s += 9.9
    assert await cached.name("nobody") is None
    cached.clock.now_s += 0.1
    assert await cached.name("nobody") == "Example"
    assert cached.counted() == {"absent": 1, "negative_hit": 1, "found": 1}


async def test_unknown_ids_of_one_moment_do_not_expire_together(cached: Setting) -> None:
    for key, jitter in (("early", 0.8), ("late", 1.2)):
        cached.jitter = jitter
        await cached.name(key)
    asked = cached.lookups
    cached.clock.now_s += 8
    await cached.name("early")
    await cached.name("late")
    assert cached.lookups == asked + 1
    cached.clock.now_s += 4
    await cached.name("late")
    assert cached.lookups == asked + 2


def test_the_jitter_is_a_fifth() -> None:
    drawn = [_jitter() for _ in range(1_000)]
    assert 0.8 <= min(drawn) < 1 < max(drawn) <= 1.2


async def test_a_failed_lookup_is_not_repeated_at_once(cached: Setting) -> None:
    cached.source.failing.add(Kind.ACCOUNT)
    for _ in range(5):
        with pytest.raises(RetryableError, match="the account service cannot be reached"):
            await cached.name()
    assert cached.lookups == 1
    cached.source.failing.clear()
    cached.clock.now_s += 1.0
    assert await cached.name() == "Example"
    assert cached.counted() == {"failed": 1, "found": 1}


async def test_kinds_do_not_share_keys(cached: Setting) -> None:
    assert await cached.cache.look_up(Kind.ACCOUNT, "a") == NAMED
    assert await cached.cache.look_up(Kind.TOKEN, "a") == Absent()


async def test_concurrent_callers_share_one_lookup(cached: Setting) -> None:
    cached.source.gate.clear()
    callers = [asyncio.create_task(cached.name()) for _ in range(50)]
    await cached.source.until_waiting(1)
    assert cached.source.waiting == 1
    cached.source.gate.set()
    assert await asyncio.gather(*callers) == ["Example"] * 50
    assert cached.lookups == 1
    assert cached.counted() == {"found": 1}


async def test_cancelling_a_caller_cancels_no_other(cached: Setting) -> None:
    cached.source.gate.clear()
    first, second, third = (asyncio.create_task(cached.name()) for _ in range(3))
    await cached.source.until_waiting(1)
    first.cancel()
    third.cancel()
    await asyncio.wait((first, third))
    cached.source.gate.set()
    assert await second == "Example"
    assert first.cancelled()
    assert third.cancelled()
    assert cached.lookups == 1


async def test_a_lookup_whose_callers_were_cancelled_fills_the_cache(cached: Setting) -> None:
    cached.source.gate.clear()
    caller = asyncio.create_task(cached.name())
    await cached.source.until_waiting(1)
    caller.cancel()
    await asyncio.wait((caller,))
    cached.source.gate.set()
    for _ in range(5):
        await asyncio.sleep(0)
    assert cached.cache.cached(Kind.ACCOUNT, "a")[0] == {"a": NAMED}
    assert await cached.name() == "Example"
    assert cached.lookups == 1


async def test_lookups_in_flight_are_bounded_and_the_next_one_fails_at_once(cached: Setting) -> None:
    cached.source.gate.clear()
    callers = [asyncio.create_task(cached.name(f"{n}")) for n in range(5)]
    await cached.source.until_waiting(5)
    with pytest.raises(RetryableError, match="too many account lookups"):
        await cached.name()
    cached.source.gate.set()
    await asyncio.wait(callers)
    # No lookup was started, so no failure is cached.
    assert await cached.name() == "Example"
    assert cached.lookups == 6


async def test_a_lookup_that_hangs_times_out() -> None:
    async with _set(limits=CacheLimits(lookup_ms_max=20)) as cached:
        cached.source.gate.clear()
        with pytest.raises(RetryableError, match="took too long"):
            await cached.name()
        assert cached.source.waiting == 0


class Faulty:
    """A lookup with a fault in it."""

    async def look_up(self, kind: Kind, key: str) -> Found | Absent:
        raise KeyError(key)


async def test_an_exception_in_a_lookup_is_a_failure_without_the_key() -> None:
    async with _set(source=Faulty()) as cached:
        with capture_logs() as lines, pytest.raises(RetryableError, match="fault: KeyError") as caught:
            await cached.name("s3cret")
    assert "s3cret" not in str(caught.value) + repr(lines)
    assert caught.value.__context__ is None


async def test_failures_are_logged_once_a_minute_per_kind_without_the_key(cached: Setting) -> None:
    cached.source.failing.update(Kind)
    with capture_logs() as lines:
        for n in range(20):
            for kind in (Kind.ACCOUNT, Kind.ZONE):
                with pytest.raises(RetryableError):
                    await cached.cache.look_up(kind, f"s3cret{n}")
        cached.clock.now_s += 60
        with pytest.raises(RetryableError):
            await cached.name("s3cret")
    assert [line["kind"] for line in lines] == ["account", "zone", "account"]
    assert "s3cret" not in repr(lines)


async def test_stopping_fails_callers_and_cancels_lookups(cached: Setting) -> None:
    cached.source.gate.clear()
    caller = asyncio.create_task(cached.name())
    await cached.source.until_waiting(1)
    await cached.cache.stop()
    with pytest.raises(RetryableError, match="stopped"):
        await caller
    assert cached.source.waiting == 0
    with pytest.raises(RetryableError, match="stopped"):
        await cached.name("b")


async def test_a_lookup_in_flight_for_longer_than_the_caller_would_wait_counts_as_failed(
    cached: Setting,
) -> None:
    cached.source.gate.clear()
    caller = asyncio.create_task(cached.name())
    await cached.source.until_waiting(1)
    assert cached.cache.cached(Kind.ACCOUNT, "a", wait_s=0.5) == ({}, ["a"])
    cached.clock.now_s += 0.5
    late, asking = cached.cache.cached(Kind.ACCOUNT, "a", wait_s=0.5)
    assert (list(late), asking) == (["a"], [])
    cached.source.gate.set()
    assert await caller == "Example"
    assert cached.cache.cached(Kind.ACCOUNT, "a", wait_s=0.5)[0] == {"a": NAMED}


KEYS = st.sampled_from("abcdefghijklmnopqrst")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.lists(KEYS, min_size=1, max_size=12)),
        st.tuples(st.just("wait"), st.floats(0, 12)),
        st.tuples(st.just("fail"), st.booleans()),
        st.tuples(st.just("cancel"), KEYS),
    ),
    max_size=30,
)


class Model:
    """Checks the cache against the lookups that were allowed."""

    def __init__(self, cached: Setting) -> None:
        self.cached = cached
        self.lookups_before: Counter[str] = Counter()

    def check(self, wanted: list[str]) -> None:
        cache = self.cached.cache._caches[Kind.ACCOUNT]
        assert max(cache._names.currsize, cache._others.currsize) <= 3
        assert not cache.in_flight
        lookups = Counter({key: count for (_, key), count in self.cached.source.lookups.items()})
        new = lookups - self.lookups_before
        assert set(new) <= set(wanted)
        assert all(count == 1 for count in new.values())
        self.lookups_before = lookups


@settings(max_examples=60, deadline=None)
@given(steps=STEPS)
def test_bounds_hold_and_each_key_has_one_lookup_in_flight(steps: list[tuple[str, Any]]) -> None:
    asyncio.run(_run_steps(steps))


async def _run_steps(steps: list[tuple[str, Any]]) -> None:
    async with _set(CacheConfig(ttl_ms=10_000, entries_max=3, stale_ms=0)) as cached:
        model = Model(cached)
        for key in "abcdefghij":
            cached.source.answers[Kind.ACCOUNT, key] = Found(name=key)
        for step, given_ in steps:
            if step == "wait":
                cached.clock.now_s += given_
            elif step == "fail":
                cached.source.failing = {Kind.ACCOUNT} if given_ else set()
            elif step == "cancel":
                await _ask_and_cancel(cached, given_)
                model.check([given_])
            else:
                await _ask(cached, given_)
                model.check(given_)


async def _ask(cached: Setting, keys: list[str]) -> None:
    cached.source.gate.clear()
    callers = [asyncio.create_task(cached.cache.fetch(Kind.ACCOUNT, key)) for key in keys]
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(cached.cache._caches[Kind.ACCOUNT].in_flight) <= 5
    assert cached.source.waiting <= 5
    cached.source.gate.set()
    answers = await asyncio.gather(*callers)
    for key, answer in zip(keys, answers, strict=True):
        if isinstance(answer, Found):
            assert answer.name == key
        if isinstance(answer, Absent):
            assert key not in "abcdefghij"


async def _ask_and_cancel(cached: Setting, key: str) -> None:
    caller = asyncio.create_task(cached.cache.fetch(Kind.ACCOUNT, key))
    await asyncio.sleep(0)
    caller.cancel()
    await asyncio.wait((caller,))
    await cached.cache.fetch(Kind.ACCOUNT, key)
