from __future__ import annotations

import asyncio
import functools
import random
import time
from pathlib import Path
from typing import Any

import pytest

from auditap_tap import capture
from auditap_tap.buffer import PairBuffer
from auditap_tap.client import CollectorClient, Reply
from schemas.errors import NotDurable
from schemas.heartbeat import Heartbeat, TapState
from tests.unit.auditap_tap.apps import answers, call, echo, one_route, request
from tests.unit.auditap_tap.tapped import Collector, Wrap, client_of, eventually, files_in
from tests.unit.gateway_tap.servers import FakeSink


@pytest.fixture
def wrap(wrap: Wrap) -> Wrap:
    return functools.partial(wrap, heartbeat_ms=20, lease_ms=1_000, close_ms_max=500)


def last_heartbeat(sink: FakeSink) -> Heartbeat:
    return sink.heartbeats[-1]


def accounted(sink: FakeSink) -> set[int]:
    """Return the numbers of the latest epoch that arrived or were reported dropped; fail if one did twice."""
    epoch = last_heartbeat(sink).tap.epoch
    dropped = {
        (each.first, each.last)
        for beat in sink.heartbeats
        if beat.tap.epoch == epoch
        for each in beat.dropped
    }
    numbers = [number for first, until in dropped for number in range(first, until + 1)]
    numbers += [
        identified.capture.tap.seq
        for identified in sink.accepted
        if identified.capture.tap and identified.capture.tap.epoch == epoch and identified.capture.tap.seq
    ]
    assert len(numbers) == len(set(numbers))
    return set(numbers)


@pytest.mark.parametrize("supported", [True, False])
async def test_heartbeats_come_from_a_server_without_requests(
    sink: FakeSink, wrap: Wrap, supported: bool
) -> None:
    """Until its first request, an idle service was silent, and its crashed run held the watermark."""

    async def without_lifespan(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        await answers(scope, receive, send)

    async with client_of(wrap(one_route(echo) if supported else without_lifespan)):
        await eventually(lambda: len(sink.heartbeats) > 2)
        first, second = sink.heartbeats[:2]
        assert (first.beat, first.highest, first.pending_from, first.state) == (1, 0, 1, TapState.ALIVE)
        assert (second.tap, second.beat) == (first.tap, 2)
    assert last_heartbeat(sink).state is TapState.ENDED


async def test_without_lifespan_the_tap_can_be_started_by_hand(sink: FakeSink, wrap: Wrap) -> None:
    tap = wrap()
    async with client_of(tap, lifespan="off") as client:
        tap.start()
        await eventually(lambda: bool(sink.heartbeats))
        await client.get("/")
        await eventually(lambda: last_heartbeat(sink).highest == 1)
    assert len({beat.tap.epoch for beat in sink.heartbeats}) == 1


async def test_without_lifespan_the_first_heartbeat_comes_with_the_first_request(
    sink: FakeSink, wrap: Wrap
) -> None:
    tap = wrap(heartbeat_ms=900)
    before_ms = time.time_ns() // 1_000_000
    await request(tap)
    await eventually(lambda: bool(sink.heartbeats))
    first = sink.heartbeats[0]
    assert (first.beat, first.lease_ms, first.state) == (1, 1_000, TapState.ALIVE)
    assert first.highest <= 1
    assert before_ms <= first.started_ms <= first.at_ms
    assert first.started_ms <= first.pending_since_ms


async def test_a_sequence_number_is_pending_until_the_collector_acknowledges_it(
    sink: FakeSink, wrap: Wrap
) -> None:
    tap = wrap(timeout_ms=20_000)
    await request(tap, 3)
    await eventually(lambda: bool(sink.heartbeats) and last_heartbeat(sink).pending_from == 4)
    idle = last_heartbeat(sink)
    assert (idle.highest, idle.pending_since_ms) == (3, idle.at_ms)
    gate = asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await gate.wait()
        await answers(scope, receive, send)

    tap._app = slow
    open_request = asyncio.create_task(request(tap))
    await asyncio.sleep(0)
    tap._app = answers
    await request(tap, 2)
    await eventually(lambda: last_heartbeat(sink).highest == 6 and tap.stats.accepted == 5)
    count = len(sink.heartbeats)
    await eventually(lambda: len(sink.heartbeats) > count + 2)
    waiting = last_heartbeat(sink)
    assert waiting.pending_from == 4
    assert idle.at_ms <= waiting.pending_since_ms < waiting.at_ms
    gate.set()
    await open_request
    await eventually(lambda: last_heartbeat(sink).pending_from == 7)


async def test_drops_of_a_full_buffer_are_reported_with_their_time_span(sink: FakeSink, wrap: Wrap) -> None:
    tap = wrap(queue_bytes_max=2_500, timeout_ms=20_000)
    sink.gate.clear()
    await request(tap, 139)
    sink.gate.set()
    await eventually(lambda: bool(sink.heartbeats) and last_heartbeat(sink).pending_from == 140)
    dropped = {each for beat in sink.heartbeats for each in beat.dropped}
    assert (
        sum(each.last - each.first + 1 for each in dropped) == tap.stats.dropped == 139 - tap.stats.accepted
    )
    assert {each.cause for each in dropped} == {"buffer_full"}
    assert accounted(sink) == set(range(1, 140))
    started_ms = sink.heartbeats[0].started_ms
    assert all(started_ms <= each.from_ms <= each.to_ms <= last_heartbeat(sink).at_ms for each in dropped)


async def test_drops_are_reported_until_they_are_delivered(sink: FakeSink, wrap: Wrap) -> None:
    tap = wrap(queue_bytes_max=10)
    sink.heartbeat_failures = [NotDurable("away") for _ in range(3)]
    await request(tap, 2)
    await eventually(lambda: len(sink.heartbeats) > 2 and last_heartbeat(sink).dropped == ())
    assert accounted(sink) == {1, 2}


async def test_what_the_collector_refuses_is_reported(sink: FakeSink, wrap: Wrap) -> None:
    tap = wrap()
    await request(tap)
    await call(tap, {"method": ""})
    await request(tap)
    await eventually(lambda: any(beat.dropped for beat in sink.heartbeats))
    dropped = [each for beat in sink.heartbeats for each in beat.dropped]
    assert [(each.first, each.last, each.cause) for each in dropped] == [(2, 2, "refused")]
    assert sink.refused[0].seq == 2


async def test_what_was_retried_for_too_long_is_reported(sink: FakeSink, wrap: Wrap) -> None:
    tap = wrap(retry_ms_max=1)
    sink.failures = [NotDurable("away") for _ in range(3)]
    await request(tap)
    await eventually(lambda: any(beat.dropped for beat in sink.heartbeats))
    dropped = {each for beat in sink.heartbeats for each in beat.dropped}
    assert [(each.first, each.last, each.cause) for each in dropped] == [(1, 1, "collector_away")]


async def test_a_failure_after_the_sequence_number_was_assigned_is_reported(
    sink: FakeSink, wrap: Wrap, monkeypatch: pytest.MonkeyPatch
) -> None:
    tap = wrap()
    with monkeypatch.context() as patch:
        patch.setattr(PairBuffer, "put", lambda *_: 1 / 0)
        await request(tap)
    with monkeypatch.context() as patch:
        patch.setattr(capture, "encode_pair", lambda *_: 1 / 0)
        await request(tap)
        await eventually(lambda: tap.stats.dropped == 1)
    await request(tap)
    await eventually(lambda: accounted(sink) == {1, 2, 3} if sink.heartbeats else False)
    assert {each.cause for beat in sink.heartbeats for each in beat.dropped} == {"failed"}


async def test_the_last_heartbeat_accounts_for_open_requests(
    sink: FakeSink, wrap: Wrap, tmp_path: Path
) -> None:
    tap = wrap(state_dir=tmp_path, close_ms_max=60_000)
    gate = asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await gate.wait()
        await answers(scope, receive, send)

    await request(tap, 2)
    tap._app = slow
    open_request = asyncio.create_task(request(tap))
    await eventually(lambda: tap.stats.accepted == 2)
    assert len(files_in(tmp_path)) == 1
    await asyncio.to_thread(tap.close)
    gate.set()
    await open_request
    ended = last_heartbeat(sink)
    assert (ended.state, ended.highest, ended.pending_from) == (TapState.ENDED, 3, 4)
    assert [(each.first, each.cause) for each in ended.dropped] == [(3, "closing")]
    assert files_in(tmp_path) == []


async def test_every_sequence_number_is_accounted_for_at_the_end(sink: FakeSink, wrap: Wrap) -> None:
    drawn = random.Random(5)
    sink.failures = [NotDurable("away") for _ in range(5)]
    tap = wrap(queue_bytes_max=30_000, batch_pairs_max=3, close_ms_max=60_000, retry_ms_max=400)
    for _ in range(60):
        if drawn.random() < 0.1:
            sink.failures.append(NotDurable("away"))
        await asyncio.gather(*(request(tap) for _ in range(drawn.randrange(6))))
        await asyncio.sleep(drawn.random() / 200)
    await asyncio.to_thread(tap.close)
    assert last_heartbeat(sink).state is TapState.ENDED
    assert accounted(sink) == set(range(1, last_heartbeat(sink).highest + 1))


async def test_a_collector_without_heartbeats_gets_captures_alone(
    collector: Collector, wrap: Wrap, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths: list[str] = []
    post = CollectorClient.post

    def older(self: Any, path: str, body: bytes, dropped: int = 0) -> Any:
        paths.append(path)
        return Reply(404) if path.endswith("heartbeats") else post(self, path, body, dropped)

    monkeypatch.setattr(CollectorClient, "post", older)
    tap = wrap()
    for number in range(1, 4):
        await request(tap)
        await eventually(lambda number=number: tap.stats.accepted == number)  # type: ignore[misc]
        await asyncio.sleep(0.05)
    assert paths.count("/v1/heartbeats") == 1


async def test_a_small_step_back_of_the_clock_is_not_followed_and_a_large_one_is_reported(
    sink: FakeSink, wrap: Wrap, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_ns = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now_ns)
    tap = wrap(heartbeat_ms=900)
    await request(tap)
    now_ns -= 2_000_000_000
    await request(tap)
    await eventually(lambda: tap.stats.accepted == 2)
    assert {identified.capture.captured_at for identified in sink.accepted} == {
        sink.accepted[0].capture.captured_at
    }
    now_ns -= 3_600_000_000_000
    await request(tap)
    await eventually(lambda: any(beat.pending_since_ms == now_ns // 1_000_000 for beat in sink.heartbeats))
