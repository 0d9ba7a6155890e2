"""Turns on the processor."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import pairwise
from uuid import UUID

import pytest

from log_api import cpu_turns
from log_api.cpu_turns import CpuTurns, cpu_queue
from log_api.fair_shares import FairQueue, Requester


def turns(queue: FairQueue, tenant: str) -> CpuTurns:
    return CpuTurns(queue, Requester(frozenset({tenant}), UUID(int=1)))


@pytest.fixture(autouse=True)
def _one_step_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_turns, "_TURN_S", 0.0)


async def worked(of: CpuTurns, count: int, done: list[str], name: str) -> list[int]:
    found: list[int] = []

    def work(some: Sequence[int]) -> list[int]:
        done.append(name)
        return list(some)

    async for results in of.results(range(count), work):
        for some in results:
            found += some
    return found


async def test_all_records_come_once_in_order() -> None:
    done: list[str] = []
    assert await worked(turns(cpu_queue(), "a"), 100, done, "a") == list(range(100))
    assert len(done) == 7
    assert await worked(turns(cpu_queue(), "a"), 0, done, "a") == []


async def test_others_go_on_after_each_turn() -> None:
    done: list[str] = []
    working = asyncio.create_task(worked(turns(cpu_queue(), "a"), 320, done, "a"))
    seen: list[int] = []
    while not working.done():
        seen.append(len(done))
        await asyncio.sleep(0)
    seen.append(len(done))
    # The loop never ran two turns without running everything else that was ready.
    assert all(later - earlier <= 1 for earlier, later in pairwise(seen))
    assert await working == list(range(320))


async def test_many_of_one_tenant_delay_another_by_one_turn_each() -> None:
    queue, done = cpu_queue(), list[str]()
    async with asyncio.TaskGroup() as group:
        for _ in range(10):
            group.create_task(worked(turns(queue, "a"), 320, done, "a"))
        await asyncio.sleep(0)
        group.create_task(worked(turns(queue, "b"), 160, done, "b"))
    of_b = [number for number, name in enumerate(done) if name == "b"]
    # Ten turns, and between two of them at most two of the two hundred of A.
    assert len(of_b) == 10
    assert of_b[0] <= 15
    assert all(later - earlier <= 3 for earlier, later in pairwise(of_b))


async def test_work_that_fails_gives_its_turn_back() -> None:
    queue = cpu_queue()

    def fail(_some: Sequence[int]) -> None:
        raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose"):
        async for _ in turns(queue, "a").results(range(10), fail):
            pass
    assert queue.held == 0
