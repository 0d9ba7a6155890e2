"""The cache where a service is away or floods of ids come: names that are stale, and ids never seen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from enricher.cache import Failed, LookUpCache
from enricher.config import CacheConfig
from enricher.keys import compile_keys
from enricher.ports import Absent, Found, Kind
from schemas.metric_defs import Metrics
from tests.fakes.lookup import FakeLookUp

CONFIG = CacheConfig(
    ttl_ms=100_000, stale_ms=50_000, failure_ttl_ms=1_000, entries_max=100, unseen_per_s=10, unseen_burst=20
)
NAMED, RENAMED = Found(name="Example"), Found(name="Renamed")


class Setting:
    def __init__(self) -> None:
        self.source = FakeLookUp()
        self.source.answers[Kind.ACCOUNT, "a"] = NAMED
        self.now_s = 1_000.0
        self.metrics = Metrics()
        self.cache = LookUpCache(
            self.source,
            {Kind.ACCOUNT: CONFIG},
            self.metrics,
            clock=lambda: self.now_s,
            key_checks={Kind.ACCOUNT: compile_keys("the look-up", "[a-z0-9]+", 40)},
        )

    def known(self) -> object:
        return self.cache.known(Kind.ACCOUNT, ("a",))[0].get("a")

    async def settled(self) -> None:
        while self.cache._shelves[Kind.ACCOUNT].flights:
            await asyncio.sleep(0)

    @property
    def asked(self) -> int:
        return self.source.asked.total()

    def counted(self, outcome: str) -> float:
        labels = {"kind": "account", "outcome": outcome}
        return self.metrics.registry.get_sample_value("auditap_lookups_total", labels) or 0


@pytest.fixture
async def cached() -> AsyncIterator[Setting]:
    setting = Setting()
    assert await setting.cache.look_up(Kind.ACCOUNT, "a") == NAMED
    yield setting
    await setting.cache.stop()


async def test_a_stale_name_is_given_at_once_while_one_look_up_asks_anew(cached: Setting) -> None:
    cached.source.answers[Kind.ACCOUNT, "a"] = RENAMED
    cached.now_s += 100
    assert [cached.known() for _ in range(5)] == [NAMED] * 5
    await cached.settled()
    assert cached.known() == RENAMED
    assert cached.asked == 2
    assert cached.counted("refresh") == 1


async def test_a_stale_name_is_given_while_the_service_is_away_but_not_for_ever(cached: Setting) -> None:
    cached.source.failing.add(Kind.ACCOUNT)
    cached.now_s += 100
    for _ in range(5):
        assert cached.known() == NAMED
        await cached.settled()
        assert await cached.cache.look_up(Kind.ACCOUNT, "a") == NAMED
    assert cached.asked == 2  # the failure is remembered, and not asked about again at once
    cached.now_s += 1
    assert cached.known() == NAMED
    await cached.settled()
    assert cached.asked == 3
    cached.now_s += 48.9
    assert cached.known() == NAMED
    await cached.settled()
    cached.now_s += 0.1
    assert cached.known() is None


async def test_a_name_that_is_gone_is_not_given_any_more(cached: Setting) -> None:
    del cached.source.answers[Kind.ACCOUNT, "a"]
    cached.now_s += 100
    assert cached.known() == NAMED
    await cached.settled()
    assert cached.known() == Absent()


async def test_ids_never_seen_are_asked_for_at_a_bounded_rate(cached: Setting) -> None:
    answers = [await cached.cache.answer(Kind.ACCOUNT, f"random{number}") for number in range(100)]
    assert [type(each) for each in answers] == [Absent] * 19 + [Failed] * 81
    assert cached.asked == 20
    assert cached.counted("limited") == 81
    cached.now_s += 1
    for number in range(100):
        await cached.cache.answer(Kind.ACCOUNT, f"more{number}")
    assert cached.asked == 30


async def test_what_was_not_asked_for_is_asked_for_later(cached: Setting) -> None:
    for number in range(100):
        await cached.cache.answer(Kind.ACCOUNT, f"random{number}")
    cached.source.answers[Kind.ACCOUNT, "new"] = NAMED
    assert isinstance(await cached.cache.answer(Kind.ACCOUNT, "new"), Failed)
    cached.now_s += 0.1
    assert await cached.cache.answer(Kind.ACCOUNT, "new") == NAMED


async def test_a_flood_of_unknown_ids_neither_pushes_names_out_nor_keeps_them_from_being_renewed(
    cached: Setting,
) -> None:
    for _ in range(50):
        cached.now_s += 2
        for number in range(20):
            await cached.cache.answer(Kind.ACCOUNT, f"random{cached.now_s:.0f}x{number}")
    cached.source.answers[Kind.ACCOUNT, "a"] = RENAMED
    assert cached.known() == NAMED
    await cached.settled()
    assert cached.known() == RENAMED


@pytest.mark.parametrize("key", ["../etc", "A", "a'; DROP TABLE x", "x" * 41, "..", "a\0", ""])
async def test_what_is_no_id_takes_nothing_from_the_rate(cached: Setting, key: str) -> None:
    for _ in range(50):
        assert await cached.cache.answer(Kind.ACCOUNT, key) == Absent()
    assert cached.asked == 1
    assert await cached.cache.answer(Kind.ACCOUNT, "b") == Absent()
    assert cached.asked == 2
