from __future__ import annotations

import asyncio
import itertools
import os
import random
import time

import pytest

from auditap_tap import AuditTapMiddleware, sequence
from auditap_tap.sequence import DropCause, DroppedRanges
from schemas.heartbeat import DroppedRange
from tests.unit.auditap_tap.apps import echo, one_route, sends
from tests.unit.auditap_tap.tapped import Collector, Wrap, client_of, eventually


async def test_sequence_numbers_count_within_one_run(collector: Collector, wrap: Wrap) -> None:
    tap = wrap(one_route(echo), close_ms_max=60_000)
    async with client_of(tap) as client:
        for _ in range(3):
            await client.get("/")
        await asyncio.to_thread(tap.close)
        await client.get("/")
        await eventually(lambda: len(collector.captures) == 4)
    positions = [capture.tap for capture in collector.captures if capture.tap]
    assert [position.seq for position in positions] == [1, 2, 3, 1]
    epochs = [position.epoch or 0 for position in positions]
    assert epochs[0] == epochs[1] == epochs[2] != epochs[3]
    assert max(epochs) < 1 << 53
    assert len({identified.id for identified in collector.accepted}) == 4


def test_epochs_of_the_same_second_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    now_ns = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now_ns)
    # Drawn bits that differ, as chance alone does not promise; the first twenty count.
    drawn = itertools.count(1)
    monkeypatch.setattr(os, "urandom", lambda size: (next(drawn) << 12).to_bytes(size, "big"))
    tap = AuditTapMiddleware(sends(), collector="unix:/nowhere", tap_id="t-1", close_ms_max=1, state_dir=None)
    epochs = set()
    for _ in range(8):
        epochs.add(tap._current_run().numbers.epoch)
        tap.close()
    assert len(epochs) == 8
    assert {epoch >> 20 for epoch in epochs} == {now_ns // 1_000_000_000}
    assert max(epochs) < 1 << 53


def test_ranges_merge_whatever_the_order() -> None:
    for seed in range(30):
        drawn = random.Random(seed)
        numbers = drawn.sample(range(60), 40)
        ranges = DroppedRanges()
        for number in numbers:
            ranges.add(number, 1_000 + number)
        popped = ranges.pop(DropCause.FAILED, 100)
        assert {n for each in popped for n in range(each["first"], each["last"] + 1)} == set(numbers)
        assert all(each["from_ms"] == 1_000 + each["first"] for each in popped)
        assert all(each["to_ms"] == 1_000 + each["last"] for each in popped)
        assert all(a["last"] + 1 < b["first"] for a, b in itertools.pairwise(popped))
        assert ranges.pop(DropCause.FAILED, 100) == []


def test_ranges_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequence, "_DROPPED_RANGES_MAX", 5)
    ranges = DroppedRanges()
    for number in [*range(0, 40, 2), 1]:
        ranges.add(number, 7)
    assert [(each["first"], each["last"]) for each in ranges.pop(DropCause.FAILED, 3)] == [
        (0, 2),
        (4, 4),
        (6, 6),
    ]
    assert len(ranges.pop(DropCause.FAILED, 9)) == 1


def test_a_dropped_range_fits_the_contract() -> None:
    ranges = DroppedRanges()
    ranges.add(1, 5)
    assert DroppedRange(**ranges.pop(DropCause.BUFFER_FULL, 1)[0]) == DroppedRange(1, 1, "buffer_full", 5, 5)
