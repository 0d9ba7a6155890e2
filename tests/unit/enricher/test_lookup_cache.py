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

from enricher.cache import LookUpCache
from enricher.config import CacheConfig
from enricher.ports import Absent, Found, Kind
from schemas.errors import RetryableError
from schemas.metric_defs import Metrics
from tests.fakes.lookup import FakeLookUp

CONFIG = CacheConfig(
    ttl_ms=100_000, negative_ttl_ms=10_000, failure_ttl_ms=1_000, entries_max=10, in_flight_max=5, stale_ms=0
)
NAMED = Found(name="Example")


class Clock:
    """Seconds, moved by hand."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


class Setting:
    """A cache before a fake service, its clock and its metrics."""

    def __init__(self, config: CacheConfig, source: Any = None) -> None:
        self.source = FakeLookUp()
        self.source.answers[Kind.ACCOUNT, "a"] = NAMED
        self.clock = Clock()
        self.metrics = Metrics()
        self.cache = LookUpCache(
            source or self.source, dict.fromkeys(Kind, config), self.metrics, clock=self.clock
        )

    async def name(self, key: str = "a") -> str | None:
        answer = await self.cache.look_up(Kind.ACCOUNT, key)
        return answer.name if isinstance(answer, Found) else None

    @property
    def asked(self) -> int:
        return self.source.asked.total()

    def counted(self) -> dict[str, float]:
        samples = [sample for metric in self.metrics.lookups.collect() for sample in metric.samples]
        return {s.labels["outcome"]: s.value for s in samples if s.name.endswith("_total")}


@asynccontextmanager
async def _set(config: CacheConfig = CONFIG, source: Any = None) -> AsyncIterator[Setting]:
    setting = Setting(config, source)
    try:
        yield setting
    finally:
        await setting.cache.stop()


@pytest.fixture
async def cached() -> AsyncIterator[Setting]:
    async with _set() as setting:
        yield setting


async def test_a_found_answer_is_kept_for_its_time(cached: Setting) -> None:
    assert await cached.name() == "Example"
    cached.source.answers[Kind.ACCOUNT, "a"] = Found(name="Renamed")
    cached.clock.now_s += 99.9
    assert await cached.name() == "Example"
    cached.clock.now_s += 0.1
    assert await cached.name() == "Renamed"
    assert cached.asked == 2
    assert cached.counted() == {"found": 2, "hit": 1}


async def test_an_absent_answer_is_kept_for_its_own_shorter_time(cached: Setting) -> None:
    assert await cached.name("nobody") is None
    cached.source.answers[Kind.ACCOUNT, "nobody"] = NAMED
    cached.clock.now_s += 9.9
    assert await cached.name("nobody") is None
    cached.clock.now_s += 0.1
    assert await cached.name("nobody") == "Example"
    assert cached.counted() == {"absent": 1, "negative_hit": 1, "found": 1}


async def test_a_service_that_is_down_is_not_asked_again_at_once(cached: Setting) -> None:
    cached.source.failing.add(Kind.ACCOUNT)
    for _ in range(5):
        with pytest.raises(RetryableError, match="the account service cannot be reached"):
            await cached.name()
    assert cached.asked == 1
    cached.source.failing.clear()
    cached.clock.now_s += 1.0
    assert await cached.name() == "Example"
    assert cached.counted() == {"failed": 1, "found": 1}


async def test_kinds_do_not_share_keys(cached: Setting) -> None:
    assert await cached.cache.look_up(Kind.ACCOUNT, "a") == NAMED
    assert await cached.cache.look_up(Kind.TOKEN, "a") == Absent()


async def test_concurrent_askers_share_one_look_up(cached: Setting) -> None:
    cached.source.gate.clear()
    askers = [asyncio.create_task(cached.name()) for _ in range(50)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert cached.source.waiting == 1
    cached.source.gate.set()
    assert await asyncio.gather(*askers) == ["Example"] * 50
    assert cached.asked == 1
    assert cached.counted() == {"found": 1}


async def test_cancelling_an_asker_cancels_no_other(cached: Setting) -> None:
    cached.source.gate.clear()
    first, second, third = (asyncio.create_task(cached.name()) for _ in range(3))
    await asyncio.sleep(0.01)
    first.cancel()
    third.cancel()
    await asyncio.wait((first, third))
    cached.source.gate.set()
    assert await second == "Example"
    assert first.cancelled()
    assert third.cancelled()
    assert cached.asked == 1


async def test_a_look_up_nobody_waits_for_any_more_fills_the_cache(cached: Setting) -> None:
    cached.source.gate.clear()
    asker = asyncio.create_task(cached.name())
    await asyncio.sleep(0.01)
    asker.cancel()
    await asyncio.wait((asker,))
    cached.source.gate.set()
    for _ in range(5):
        await asyncio.sleep(0)
    assert cached.cache.known(Kind.ACCOUNT, "a")[0] == {"a": NAMED}
    assert await cached.name() == "Example"
    assert cached.asked == 1


async def test_look_ups_under_way_are_bounded_and_the_next_one_fails_without_asking(cached: Setting) -> None:
    cached.source.gate.clear()
    askers = [asyncio.create_task(cached.name(f"{n}")) for n in range(5)]
    await asyncio.sleep(0.01)
    with pytest.raises(RetryableError, match="too many account look-ups"):
        await cached.name()
    cached.source.gate.set()
    await asyncio.wait(askers)
    # It was not asked, so that there is no failure to remember.
    assert await cached.name() == "Example"
    assert cached.asked == 6


async def test_a_look_up_that_never_ends_is_ended() -> None:
    async with _set(CacheConfig(look_up_ms_max=20)) as cached:
        cached.source.gate.clear()
        with pytest.raises(RetryableError, match="took too long"):
            await cached.name()
        assert cached.source.waiting == 0


class Faulty:
    """A look-up with a fault in it."""

    async def look_up(self, kind: Kind, key: str) -> Found | Absent:
        raise KeyError(key)


async def test_a_fault_in_a_look_up_is_a_failure_and_tells_nothing_of_the_key() -> None:
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


async def test_stopping_gives_askers_a_failure_and_leaves_no_look_up(cached: Setting) -> None:
    cached.source.gate.clear()
    asker = asyncio.create_task(cached.name())
    await asyncio.sleep(0.01)
    await cached.cache.stop()
    with pytest.raises(RetryableError, match="stopped"):
        await asker
    assert cached.source.waiting == 0
    with pytest.raises(RetryableError, match="stopped"):
        await cached.name("b")


async def test_a_look_up_late_for_the_patient_is_waited_for_by_nobody_else(cached: Setting) -> None:
    cached.source.gate.clear()
    asker = asyncio.create_task(cached.name())
    await asyncio.sleep(0.01)
    assert cached.cache.known(Kind.ACCOUNT, "a", patience_s=0.5) == ({}, ["a"])
    cached.clock.now_s += 0.5
    late, asking = cached.cache.known(Kind.ACCOUNT, "a", patience_s=0.5)
    assert (list(late), asking) == (["a"], [])
    cached.source.gate.set()
    assert await asker == "Example"
    assert cached.cache.known(Kind.ACCOUNT, "a", patience_s=0.5)[0] == {"a": NAMED}


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
    """What the cache may do at most, from what was asked and when."""

    def __init__(self, cached: Setting) -> None:
        self.cached = cached
        self.asked_s: dict[str, float] = {}
        self.asked_before: Counter[str] = Counter()

    def check(self, wanted: list[str]) -> None:
        shelf = self.cached.cache._shelves[Kind.ACCOUNT]
        assert max(shelf.names.currsize, shelf.others.currsize) <= 3
        assert not shelf.flights
        asked = Counter({key: count for (_, key), count in self.cached.source.asked.items()})
        new = asked - self.asked_before
        assert set(new) <= set(wanted)
        assert all(count == 1 for count in new.values())
        self.asked_before = asked


@settings(max_examples=60, deadline=None)
@given(steps=STEPS)
def test_bounds_hold_and_no_key_is_asked_for_twice_at_once(steps: list[tuple[str, Any]]) -> None:
    asyncio.run(_walk(steps))


async def _walk(steps: list[tuple[str, Any]]) -> None:
    async with _set(
        CacheConfig(ttl_ms=10_000, failure_ttl_ms=1_000, entries_max=3, in_flight_max=5, stale_ms=0)
    ) as cached:
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
    askers = [asyncio.create_task(cached.cache.answer(Kind.ACCOUNT, key)) for key in keys]
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(cached.cache._shelves[Kind.ACCOUNT].flights) <= 5
    assert cached.source.waiting <= 5
    cached.source.gate.set()
    answers = await asyncio.gather(*askers)
    for key, answer in zip(keys, answers, strict=True):
        if isinstance(answer, Found):
            assert answer.name == key
        if isinstance(answer, Absent):
            assert key not in "abcdefghij"


async def _ask_and_cancel(cached: Setting, key: str) -> None:
    asker = asyncio.create_task(cached.cache.answer(Kind.ACCOUNT, key))
    await asyncio.sleep(0)
    asker.cancel()
    await asyncio.wait((asker,))
    await cached.cache.answer(Kind.ACCOUNT, key)
