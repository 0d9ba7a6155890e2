"""One read for all who wait."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from log_api.shared_reads import BatchedReads, SharedRead
from schemas.errors import RetryableError


class Source:
    """Answers each read when it is told to."""

    def __init__(self) -> None:
        self.reads: list[Sequence[str]] = []
        self.waiting: list[asyncio.Future[None]] = []

    async def read(self) -> int:
        await self._answer([])
        return len(self.reads)

    async def read_many(self, keys: Sequence[str]) -> Mapping[str, str]:
        await self._answer(keys)
        return {key: key.upper() for key in keys if key != "unknown"}

    async def _answer(self, keys: Sequence[str]) -> None:
        self.reads.append(keys)
        self.waiting.append(asyncio.get_running_loop().create_future())
        await self.waiting[-1]

    async def answer(self, error: Exception | None = None) -> None:
        await settle()
        if error is None:
            self.waiting[-1].set_result(None)
        else:
            self.waiting[-1].set_exception(error)
        await settle()


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.fixture
def source() -> Source:
    return Source()


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


async def test_callers_share_a_read(source: Source, clock: Clock) -> None:
    shared = SharedRead(source.read, 0, clock)
    callers = [asyncio.create_task(shared.get()) for _ in range(100)]
    await source.answer()
    assert {await caller for caller in callers} == {1}
    clock.now_s += 0.001
    later = asyncio.create_task(shared.get())
    await source.answer()
    assert await later == 2


async def test_a_result_is_as_old_as_the_beginning_of_its_read(source: Source, clock: Clock) -> None:
    shared = SharedRead(source.read, 1_000, clock)
    first = asyncio.create_task(shared.get())
    await settle()
    clock.now_s += 0.9
    await source.answer()
    assert await first == await shared.get() == 1
    clock.now_s += 0.2
    later = asyncio.create_task(shared.get())
    await source.answer()
    assert await later == 2


async def test_a_read_that_began_too_early_is_not_shared(source: Source, clock: Clock) -> None:
    shared = SharedRead(source.read, 1_000, clock)
    callers = [asyncio.create_task(shared.get())]
    await settle()
    clock.now_s += 1.1
    callers += [asyncio.create_task(shared.get()) for _ in range(10)]
    await settle()
    assert len(source.reads) == 1
    await source.answer()
    await source.answer()
    assert [await caller for caller in callers] == [1] + [2] * 10


async def test_the_error_of_a_read_that_began_too_early_is_not_shared(source: Source, clock: Clock) -> None:
    shared = SharedRead(source.read, 1_000, clock)
    slow = asyncio.create_task(shared.get())
    await settle()
    clock.now_s += 1.1
    later = asyncio.create_task(shared.get())
    await source.answer(RetryableError("away"))
    await source.answer()
    with pytest.raises(RetryableError):
        await slow
    assert await later == 2


async def test_a_caller_that_goes_away_takes_the_result_from_no_other(source: Source) -> None:
    shared = SharedRead(source.read, 1_000)
    gone, stays = (asyncio.create_task(shared.get()) for _ in range(2))
    await settle()
    gone.cancel()
    await source.answer()
    assert await stays == 1


async def test_an_error_is_for_all_who_wait_and_for_nobody_later(source: Source) -> None:
    shared = SharedRead(source.read, 1_000)
    callers = [asyncio.create_task(shared.get()) for _ in range(2)]
    await source.answer(RetryableError("away"))
    for caller in callers:
        with pytest.raises(RetryableError):
            await caller
    later = asyncio.create_task(shared.get())
    await source.answer()
    assert await later == 2


async def test_keys_wait_for_one_batch_at_a_time(source: Source) -> None:
    batched = BatchedReads(source.read_many, 10_000)
    first = asyncio.create_task(batched.get("first"))
    await settle()
    later = [asyncio.create_task(batched.get(key)) for key in ["a", "unknown", "a", "b"]]
    await source.answer()
    assert await first == "FIRST"
    await source.answer()
    assert [await one for one in later] == ["A", None, "A", "B"]
    assert source.reads == [["first"], ["a", "unknown", "b"]]


async def test_a_thousand_unknown_keys_are_a_few_reads(source: Source) -> None:
    batched = BatchedReads(source.read_many, 10_000)
    callers = [asyncio.create_task(batched.get(str(number))) for number in range(1_000)]
    for _ in range(3):
        await source.answer()
        if all(caller.done() for caller in callers):
            break
    assert [await caller for caller in callers] == [str(number) for number in range(1_000)]
    assert len(source.reads) <= 3


async def test_keys_that_wait_are_bounded(source: Source) -> None:
    batched = BatchedReads(source.read_many, 2)
    callers = [asyncio.create_task(batched.get(key)) for key in "ab"]
    await settle()
    with pytest.raises(RetryableError):
        await batched.get("c")
    # Whoever asks for the same waits for the same.
    callers.append(asyncio.create_task(batched.get("a")))
    await source.answer()
    assert [await caller for caller in callers] == ["A", "B", "A"]


async def test_a_batch_that_fails_stops_no_later_one(source: Source) -> None:
    batched = BatchedReads(source.read_many, 10)
    failing = asyncio.create_task(batched.get("a"))
    await source.answer(RetryableError("away"))
    with pytest.raises(RetryableError):
        await failing
    again = asyncio.create_task(batched.get("a"))
    await source.answer()
    assert await again == "A"


async def test_stopping_leaves_nobody_waiting(source: Source) -> None:
    batched, shared = BatchedReads(source.read_many, 10), SharedRead(source.read, 1_000)
    callers = [asyncio.ensure_future(batched.get("a")), asyncio.ensure_future(shared.get())]
    await settle()
    await batched.stop()
    await shared.stop()
    for caller in callers:
        with pytest.raises(asyncio.CancelledError):
            await caller
