from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enricher.breaker import Breaker
from enricher.bucket import TokenBucket
from enricher.config import BreakerConfig
from schemas.errors import RetryableError

CONFIG = BreakerConfig(failures_max=3, open_ms=10_000)


class Clock:
    """Seconds, moved by hand."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Service:
    """Fails while `away`; each call ends when it is told to."""

    def __init__(self) -> None:
        self.away = False
        self.calls = 0

    async def ask(self) -> str:
        self.calls += 1
        if self.away:
            raise RetryableError("the service cannot be reached")
        return "answer"


class Setting:
    def __init__(self, config: BreakerConfig = CONFIG) -> None:
        self.clock = Clock()
        self.service = Service()
        self.told: list[bool] = []
        self.breaker = Breaker("the service", config, self._told, self.clock)

    def _told(self, *, is_open: bool) -> None:
        self.told.append(is_open)

    async def ask(self) -> bool:
        try:
            await self.breaker.call(self.service.ask)
        except RetryableError:
            return False
        return True


async def opened() -> Setting:
    setting = Setting()
    setting.service.away = True
    for _ in range(3):
        await setting.ask()
    return setting


async def test_failures_in_a_row_open_it_and_then_nothing_is_asked() -> None:
    setting = await opened()
    assert setting.breaker.is_open
    with pytest.raises(RetryableError, match="the service is left alone"):
        await setting.breaker.call(setting.service.ask)
    setting.clock.now_s += 9.9
    assert not await setting.ask()
    assert setting.service.calls == 3
    assert setting.told == [True]


async def test_a_success_in_between_begins_the_count_anew() -> None:
    setting = Setting()
    for _ in range(5):
        for away in (True, True, False):
            setting.service.away = away
            await setting.ask()
    assert setting.service.calls == 15
    assert setting.told == []


async def test_after_its_time_one_probe_closes_it_or_keeps_it_open_as_long_again() -> None:
    setting = await opened()
    setting.clock.now_s += 10
    assert not await setting.ask()
    assert not await setting.ask()
    assert setting.service.calls == 4
    setting.clock.now_s += 10
    setting.service.away = False
    assert await setting.ask()
    assert await setting.ask()
    assert setting.told == [True, True, False]


async def test_while_a_probe_is_under_way_nothing_else_is_asked() -> None:
    setting = await opened()
    setting.clock.now_s += 10
    gate = asyncio.Event()

    async def slowly() -> str:
        await gate.wait()
        return "answer"

    setting.service.away = False
    probe = asyncio.create_task(setting.breaker.call(slowly))
    await asyncio.sleep(0)
    assert not await setting.ask()
    assert setting.service.calls == 3
    gate.set()
    assert await probe == "answer"
    assert await setting.ask()


async def test_a_probe_that_is_cancelled_leaves_the_next_call_to_be_one() -> None:
    setting = await opened()
    setting.clock.now_s += 10
    probe = asyncio.create_task(setting.breaker.call(asyncio.Event().wait))
    await asyncio.sleep(0)
    probe.cancel()
    await asyncio.wait((probe,))
    setting.service.away = False
    assert await setting.ask()
    assert not setting.breaker.is_open


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 4),
    st.lists(st.tuples(st.floats(0, 15), st.booleans()), max_size=40),
)
def test_a_breaker_is_what_its_words_say(failures_max: int, steps: list[tuple[float, bool]]) -> None:
    asyncio.run(_agree(failures_max, steps))


async def _agree(failures_max: int, steps: list[tuple[float, bool]]) -> None:
    """The same in a few words: when it opened, and how many failed in a row."""
    setting = Setting(BreakerConfig(failures_max=failures_max, open_ms=10_000))
    opened_s: float | None = None
    in_a_row = 0
    for pause_s, away in steps:
        setting.clock.now_s += pause_s
        setting.service.away = away
        expected = opened_s is None or setting.clock.now_s - opened_s >= 10
        before = setting.service.calls
        answered = await setting.ask()
        assert setting.service.calls - before == expected
        assert answered == (expected and not away)
        if answered:
            opened_s, in_a_row = None, 0
        elif expected:
            in_a_row += 1
            if opened_s is not None or in_a_row >= failures_max:
                opened_s = setting.clock.now_s
        assert setting.breaker.is_open == (opened_s is not None)


@settings(max_examples=200, deadline=None)
@given(
    st.floats(0.1, 100),
    st.integers(1, 20),
    st.lists(st.tuples(st.floats(0, 5), st.integers(0, 30)), max_size=30),
)
def test_a_bucket_never_gives_more_than_its_rate_and_its_burst(
    per_s: float, burst: int, steps: list[tuple[float, int]]
) -> None:
    clock = Clock()
    bucket = TokenBucket(per_s, burst, clock)
    taken: list[tuple[float, int]] = []
    for pause_s, wanted in steps:
        clock.now_s += pause_s
        taken.append((clock.now_s, sum(bucket.take() for _ in range(wanted))))
    for first, (from_s, _) in enumerate(taken):
        total = 0
        for at_s, count in taken[first:]:
            total += count
            assert total <= burst + per_s * (at_s - from_s) + 1e-6


def test_a_bucket_gives_its_burst_at_once_and_then_its_rate() -> None:
    clock = Clock()
    bucket = TokenBucket(2.0, 3, clock)
    assert [bucket.take() for _ in range(4)] == [True, True, True, False]
    clock.now_s += 0.5
    assert [bucket.take() for _ in range(2)] == [True, False]
    clock.now_s += 1_000
    assert [bucket.take() for _ in range(4)] == [True, True, True, False]


@pytest.mark.parametrize("given_", [{"failures_max": 0}, {"open_ms": 0}])
def test_bounds_of_a_breaker_are_positive(given_: dict[str, Any]) -> None:
    with pytest.raises(Exception, match="must be at least 1"):
        BreakerConfig(**given_)
