from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any

import pytest

from eventlog.kafka.publisher import _Call, _pack, _Spread
from schemas.errors import NotDurable
from schemas.event import EncodedEvent


class Builder:
    def __init__(self) -> None:
        self.values: list[bytes] = []

    def append(self, *, timestamp: int, key: None, value: bytes) -> object | None:
        if len(self.values) == 3:
            return None
        self.values.append(value)
        return self

    def close(self) -> None: ...

    def size(self) -> int:
        return sum(map(len, self.values))


class Producer:
    def create_batch(self) -> Builder:
        return Builder()


def call(*values: bytes) -> _Call:
    events = [EncodedEvent("0" * 32, value, 1) for value in values]
    return _Call(events, Producer(), asyncio.get_running_loop().create_future())


def packed(*calls: _Call) -> list[tuple[Any, Sequence[_Call]]]:
    return [(batch.builder, batch.sharers) for batch in _pack(Producer(), deque(calls))]


async def test_a_call_is_durable_only_when_all_its_batches_are() -> None:
    large = call(*[b"%d" % number for number in range(7)])
    batches = []
    for builder, sharers, _ in _pack(Producer(), deque([large])):
        # Acknowledged at once, before the next batch is even packed.
        batches.append(builder.values)
        assert not large.durable.done()
        if len(batches) != 2:
            for sharer in sharers:
                sharer.done_one()

    assert batches == [[b"0", b"1", b"2"], [b"3", b"4", b"5"], [b"6"]]
    assert not large.durable.done()
    large.done_one()
    assert large.durable.done()


async def test_calls_share_a_batch_and_wait_for_their_own_batches() -> None:
    first, second, third = call(b"a", b"b"), call(b"c", b"d"), call(b"e")
    (full, full_sharers), (rest, rest_sharers) = packed(first, second, third)

    assert (full.values, rest.values) == ([b"a", b"b", b"c"], [b"d", b"e"])
    for sharer in full_sharers:
        sharer.done_one()
    assert [each.durable.done() for each in (first, second, third)] == [True, False, False]
    for sharer in rest_sharers:
        sharer.done_one()
    assert all(each.durable.done() for each in (second, third))


async def test_a_cancelled_call_is_not_packed() -> None:
    gone, here = call(b"gone"), call(b"here")
    gone.durable.cancel()

    ((batch, sharers),) = packed(gone, here)

    assert batch.values == [b"here"]
    assert sharers == [here]


async def test_a_refused_call_stays_refused() -> None:
    refused = call(b"a")
    refused.wait_for_one()
    refused.refuse(NotDurable("away"))
    refused.done_one()

    with pytest.raises(NotDurable):
        await refused.durable


def test_bytes_are_spread_evenly_over_partitions() -> None:
    spread = _Spread()
    given = {0: 0, 1: 0}
    for size in [512, 88] * 50:
        given[spread.next({0, 1}, size)] += size

    assert abs(given[0] - given[1]) <= 512


def test_a_new_partition_does_not_get_everything_until_it_has_caught_up() -> None:
    spread = _Spread()
    for _ in range(100):
        spread.next({0, 1}, 10)

    assert [spread.next({0, 1, 2}, 10) for _ in range(6)] == [0, 1, 2, 0, 1, 2]


def test_a_partition_without_leader_gets_nothing() -> None:
    spread = _Spread()
    spread.next({0, 1, 2}, 10)

    assert {spread.next({0, 2}, 10) for _ in range(6)} == {0, 2}
