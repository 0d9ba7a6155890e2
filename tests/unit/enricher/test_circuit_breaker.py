from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enricher.circuit_breaker import ASKED_WAIT_S_MAX, CircuitBreaker
from schemas.errors import RetryableError
from tests.fakes.clock import Clock


class Service:
    """A service that fails while it is `is_down`."""

    def __init__(self) -> None:
        self.is_down = False
        self.calls = 0

    async def call(self) -> str:
        self.calls += 1
        if self.is_down:
            raise RetryableError("the service cannot be reached")
        return "result"


class Setting:
    def __init__(self, failures_max: int = 3) -> None:
        self.clock = Clock(100.0)
        self.service = Service()
        self.changes: list[bool] = []
        self.breaker = CircuitBreaker(
            "the service", self._record, self.clock, failures_max=failures_max, open_s=10
        )

    def _record(self, *, is_open: bool) -> None:
        self.changes.append(is_open)

    async def call(self) -> bool:
        try:
            await self.breaker.call(self.service.call)
        except RetryableError:
            return False
        return True


async def opened() -> Setting:
    setting = Setting()
    setting.service.is_down = True
    for _ in range(3):
        await setting.call()
    return setting


async def test_consecutive_failures_open_it_and_then_calls_are_rejected() -> None:
    setting = await opened()
    assert setting.breaker.is_open
    with pytest.raises(RetryableError, match="circuit breaker of the service is open"):
        await setting.breaker.call(setting.service.call)
    setting.clock.now_s += 9.9
    assert not await setting.call()
    assert setting.service.calls == 3
    assert setting.changes == [True]


async def test_a_success_resets_the_count_of_failures() -> None:
    setting = Setting()
    for _ in range(5):
        for is_down in (True, True, False):
            setting.service.is_down = is_down
            await setting.call()
    assert setting.service.calls == 15
    assert setting.changes == []


async def test_when_half_open_a_probe_closes_it_or_keeps_it_open() -> None:
    setting = await opened()
    setting.clock.now_s += 10
    assert not await setting.call()
    assert not await setting.call()
    assert setting.service.calls == 4
    setting.clock.now_s += 10
    setting.service.is_down = False
    assert await setting.call()
    assert await setting.call()
    assert setting.changes == [True, True, False]


async def test_a_service_that_asks_to_wait_is_not_called_for_that_long() -> None:
    setting = Setting()
    calls = 0

    async def busy() -> str:
        nonlocal calls
        calls += 1
        raise RetryableError("busy", asked_to_wait_s=60)

    with pytest.raises(RetryableError, match="busy"):
        await setting.breaker.call(busy)
    setting.clock.now_s += 59.9
    with pytest.raises(RetryableError, match="circuit breaker"):
        await setting.breaker.call(busy)
    setting.clock.now_s += 0.1
    assert await setting.call()
    assert (calls, setting.changes) == (1, [True, False])


async def test_what_a_service_may_ask_for_is_bounded() -> None:
    setting = Setting()

    async def busy() -> str:
        raise RetryableError("busy", asked_to_wait_s=1e9)

    with pytest.raises(RetryableError, match="busy"):
        await setting.breaker.call(busy)
    setting.clock.now_s += ASKED_WAIT_S_MAX
    assert await setting.call()


async def test_a_success_of_before_does_not_end_the_wait_that_a_service_asked_for() -> None:
    setting = Setting()
    gate = asyncio.Event()

    async def slowly() -> str:
        await gate.wait()
        return "result"

    async def busy() -> str:
        raise RetryableError("busy", asked_to_wait_s=60)

    before = asyncio.create_task(setting.breaker.call(slowly))
    await asyncio.sleep(0)
    with pytest.raises(RetryableError, match="busy"):
        await setting.breaker.call(busy)
    gate.set()
    assert await before == "result"
    assert not await setting.call()


async def test_calls_are_rejected_while_a_probe_is_in_flight() -> None:
    setting = await opened()
    setting.clock.now_s += 10
    gate = asyncio.Event()

    async def slowly() -> str:
        await gate.wait()
        return "result"

    setting.service.is_down = False
    probe = asyncio.create_task(setting.breaker.call(slowly))
    await asyncio.sleep(0)
    assert not await setting.call()
    assert setting.service.calls == 3
    gate.set()
    assert await probe == "result"
    assert await setting.call()


async def test_after_a_cancelled_probe_the_next_call_is_the_probe() -> None:
    setting = await opened()
    setting.clock.now_s += 10
    probe = asyncio.create_task(setting.breaker.call(asyncio.Event().wait))
    await asyncio.sleep(0)
    probe.cancel()
    await asyncio.wait((probe,))
    setting.service.is_down = False
    assert await setting.call()
    assert not setting.breaker.is_open


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 4),
    st.lists(st.tuples(st.floats(0, 15), st.booleans()), max_size=40),
)
def test_it_agrees_with_a_model(failures_max: int, steps: list[tuple[float, bool]]) -> None:
    asyncio.run(_agree(failures_max, steps))


async def _agree(failures_max: int, steps: list[tuple[float, bool]]) -> None:
    """Compare it with a model of two values: when it opened, and how many calls failed in a row."""
    setting = Setting(failures_max)
    opened_s: float | None = None
    in_a_row = 0
    for pause_s, is_down in steps:
        setting.clock.now_s += pause_s
        setting.service.is_down = is_down
        expected = opened_s is None or setting.clock.now_s - opened_s >= 10
        before = setting.service.calls
        succeeded = await setting.call()
        assert setting.service.calls - before == expected
        assert succeeded == (expected and not is_down)
        if succeeded:
            opened_s, in_a_row = None, 0
        elif expected:
            in_a_row += 1
            if opened_s is not None or in_a_row >= failures_max:
                opened_s = setting.clock.now_s
        assert setting.breaker.is_open == (opened_s is not None)
