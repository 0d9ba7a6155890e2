"""What the middleware says of its numbers, whatever becomes of them."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway_tap import middleware
from gateway_tap.collector import collector_app
from gateway_tap.intake import IntakeLimits
from gateway_tap.middleware import AuditTapMiddleware
from gateway_tap.unix_socket import bind_unix_socket
from schemas.errors import NotDurable
from schemas.heartbeat import DroppedRange, Heartbeat, TapState
from schemas.metric_defs import Metrics
from tests.unit.gateway_tap.servers import FakeSink, serving

SCOPE: dict[str, Any] = {
    "type": "http",
    "http_version": "1.1",
    "method": "PUT",
    "path": "/a",
    "headers": [(b"host", b"api.example.com"), (b"content-length", b"1")],
}
Wrap = Callable[..., AuditTapMiddleware]


def files_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def answers(_scope: Any, _receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"{}"})


async def call(tap: AuditTapMiddleware, times: int = 1) -> None:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"x", "more_body": False}

    async def send(_message: Any) -> None:
        pass

    for _ in range(times):
        await tap(dict(SCOPE), receive, send)


async def settled(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


@asynccontextmanager
async def collecting(path: Path, sink: FakeSink) -> AsyncIterator[None]:
    app = collector_app(
        sink, identity_key=b"k", limits=IntakeLimits(), tokens=None, metrics=Metrics(), clock_ms=lambda: 0
    )
    async with serving(app, bind_unix_socket(path)):
        try:
            yield
        finally:
            sink.gate.set()


@pytest.fixture
async def sink(socket_dir: Path) -> AsyncIterator[FakeSink]:
    sink = FakeSink()
    async with collecting(socket_dir / "c.sock", sink):
        yield sink


@pytest.fixture
async def wrap(socket_dir: Path) -> AsyncIterator[Wrap]:
    taps: list[AuditTapMiddleware] = []

    def make(app: Any = answers, **options: Any) -> AuditTapMiddleware:
        defaults = {"collector": f"unix:{socket_dir}/c.sock", "tap_id": "t-1", "linger_ms": 1}
        defaults |= {"close_ms_max": 500, "heartbeat_ms": 20, "lease_ms": 1_000, "state_dir": None}
        taps.append(AuditTapMiddleware(app, **{**defaults, **options}))
        return taps[-1]

    yield make
    for tap in taps:
        await asyncio.to_thread(tap.close)


def last(sink: FakeSink) -> Heartbeat:
    return sink.heartbeats[-1]


def accounted(sink: FakeSink) -> set[int]:
    """Return the numbers of the last epoch that arrived or were called dropped, each once."""
    epoch = last(sink).tap.epoch
    dropped = {
        (each.first, each.last)
        for beat in sink.heartbeats
        if beat.tap.epoch == epoch
        for each in beat.dropped
    }
    numbers = [number for first, until in dropped for number in range(first, until + 1)]
    numbers += [
        taken.capture.tap.seq
        for taken in sink.taken
        if taken.capture.tap and taken.capture.tap.epoch == epoch and taken.capture.tap.seq
    ]
    assert len(numbers) == len(set(numbers))
    return set(numbers)


async def test_the_first_heartbeat_comes_with_the_first_request(sink: FakeSink, wrap: Wrap) -> None:
    tap = wrap(heartbeat_ms=900)
    before_ms = time.time_ns() // 1_000_000
    await call(tap)
    await settled(lambda: bool(sink.heartbeats))
    first = sink.heartbeats[0]
    assert (first.beat, first.lease_ms, first.state) == (1, 1_000, TapState.ALIVE)
    assert first.highest <= 1
    assert before_ms <= first.started_ms <= first.at_ms
    assert first.started_ms <= first.pending_since_ms


async def test_a_number_is_pending_until_the_collector_has_it(sink: FakeSink, wrap: Wrap) -> None:
    tap = wrap(timeout_ms=20_000)
    await call(tap, 3)
    await settled(lambda: bool(sink.heartbeats) and last(sink).pending_from == 4)
    idle = last(sink)
    assert (idle.highest, idle.pending_since_ms) == (3, idle.at_ms)
    gate = asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await gate.wait()
        await answers(scope, receive, send)

    tap._app = slow
    open_request = asyncio.create_task(call(tap))
    await asyncio.sleep(0)
    tap._app = answers
    await call(tap, 2)
    await settled(lambda: last(sink).highest == 6 and tap.stats.accepted == 5)
    count = len(sink.heartbeats)
    await settled(lambda: len(sink.heartbeats) > count + 2)
    waiting = last(sink)
    assert waiting.pending_from == 4
    assert idle.at_ms <= waiting.pending_since_ms < waiting.at_ms
    gate.set()
    await open_request
    await settled(lambda: last(sink).pending_from == 7)


async def test_drops_of_a_full_buffer_are_told_with_their_span(sink: FakeSink, wrap: Wrap) -> None:
    tap = wrap(queue_bytes_max=2_500, timeout_ms=20_000)
    sink.gate.clear()
    await call(tap, 139)
    sink.gate.set()
    await settled(lambda: bool(sink.heartbeats) and last(sink).pending_from == 140)
    dropped = {each for beat in sink.heartbeats for each in beat.dropped}
    assert (
        sum(each.last - each.first + 1 for each in dropped) == tap.stats.dropped == 139 - tap.stats.accepted
    )
    assert {each.cause for each in dropped} == {"buffer_full"}
    assert accounted(sink) == set(range(1, 140))
    started_ms = sink.heartbeats[0].started_ms
    assert all(started_ms <= each.from_ms <= each.to_ms <= last(sink).at_ms for each in dropped)


async def test_drops_are_told_until_they_are_heard(sink: FakeSink, wrap: Wrap) -> None:
    tap = wrap(queue_bytes_max=10)
    sink.heartbeat_failures = [NotDurable("away") for _ in range(3)]
    await call(tap, 2)
    await settled(lambda: len(sink.heartbeats) > 2 and last(sink).dropped == ())
    assert accounted(sink) == {1, 2}


async def test_what_the_collector_refuses_is_told(sink: FakeSink, wrap: Wrap) -> None:
    tap = wrap()
    scope = {**SCOPE, "method": ""}

    async def nothing(*_: Any) -> Any:
        return {"type": "http.request"}

    await call(tap)
    await tap(scope, nothing, nothing)
    await call(tap)
    await settled(lambda: any(beat.dropped for beat in sink.heartbeats))
    dropped = [each for beat in sink.heartbeats for each in beat.dropped]
    assert [(each.first, each.last, each.cause) for each in dropped] == [(2, 2, "refused")]
    assert sink.refused[0].seq == 2


async def test_what_was_tried_for_too_long_is_told(sink: FakeSink, wrap: Wrap) -> None:
    tap = wrap(retry_ms_max=1)
    sink.failures = [NotDurable("away") for _ in range(3)]
    await call(tap)
    await settled(lambda: any(beat.dropped for beat in sink.heartbeats))
    assert [
        (each.first, each.last, each.cause) for each in last(sink).dropped or sink.heartbeats[-2].dropped
    ] == [(1, 1, "collector_away")]


async def test_a_failure_after_the_number_was_taken_is_told(
    sink: FakeSink, wrap: Wrap, monkeypatch: pytest.MonkeyPatch
) -> None:
    tap = wrap()
    with monkeypatch.context() as patch:
        patch.setattr(middleware._Queue, "put", lambda *_: 1 / 0)
        await call(tap)
    with monkeypatch.context() as patch:
        patch.setattr(middleware, "_encode", lambda *_: 1 / 0)
        await call(tap)
        await settled(lambda: tap.stats.dropped == 1)
    await call(tap)
    await settled(lambda: accounted(sink) == {1, 2, 3} if sink.heartbeats else False)
    assert {each.cause for beat in sink.heartbeats for each in beat.dropped} == {"failed"}


async def test_a_tap_that_ends_says_so_and_accounts_for_what_is_open(
    sink: FakeSink, wrap: Wrap, tmp_path: Path
) -> None:
    tap = wrap(state_dir=tmp_path, close_ms_max=5_000)
    gate = asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await gate.wait()
        await answers(scope, receive, send)

    await call(tap, 2)
    tap._app = slow
    open_request = asyncio.create_task(call(tap))
    await settled(lambda: tap.stats.accepted == 2)
    assert len(files_in(tmp_path)) == 1
    await asyncio.to_thread(tap.close)
    gate.set()
    await open_request
    assert (last(sink).state, last(sink).highest, last(sink).pending_from) == (TapState.ENDED, 3, 4)
    assert [(each.first, each.cause) for each in last(sink).dropped] == [(3, "closing")]
    assert files_in(tmp_path) == []


async def test_nothing_is_unaccounted_for_at_the_end(sink: FakeSink, wrap: Wrap) -> None:
    drawn = random.Random(5)
    sink.failures = [NotDurable("away") for _ in range(5)]
    tap = wrap(queue_bytes_max=30_000, batch_pairs_max=3, close_ms_max=10_000, retry_ms_max=400)
    for _ in range(60):
        if drawn.random() < 0.1:
            sink.failures.append(NotDurable("away"))
        await asyncio.gather(*(call(tap) for _ in range(drawn.randrange(6))))
        await asyncio.sleep(drawn.random() / 200)
    await asyncio.to_thread(tap.close)
    assert last(sink).state is TapState.ENDED
    assert accounted(sink) == set(range(1, last(sink).highest + 1))


async def test_a_collector_without_heartbeats_gets_captures_alone(
    socket_dir: Path, wrap: Wrap, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    post = middleware._Tap._post

    def older(self: Any, path: str, body: bytes, dropped: int) -> Any:
        asked.append(path)
        return (404, 0.0, b"") if path.endswith("heartbeats") else post(self, path, body, dropped)

    monkeypatch.setattr(middleware._Tap, "_post", older)
    older_sink = FakeSink()
    async with collecting(socket_dir / "c.sock", older_sink):
        tap = wrap()
        for number in range(1, 4):
            await call(tap)
            await settled(lambda number=number: tap.stats.accepted == number)  # type: ignore[misc]
            await asyncio.sleep(0.05)
    assert asked.count("/v1/heartbeats") == 1


async def test_a_small_step_back_of_the_clock_is_not_followed_and_a_large_one_is_told(
    sink: FakeSink, wrap: Wrap, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_ns = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now_ns)
    tap = wrap(heartbeat_ms=900)
    await call(tap)
    now_ns -= 2_000_000_000
    await call(tap)
    await settled(lambda: tap.stats.accepted == 2)
    assert {taken.capture.captured_at for taken in sink.taken} == {sink.taken[0].capture.captured_at}
    now_ns -= 3_600_000_000_000
    await call(tap)
    await settled(lambda: any(beat.pending_since_ms == now_ns // 1_000_000 for beat in sink.heartbeats))


def test_ranges_merge_whatever_the_order() -> None:
    for seed in range(30):
        drawn = random.Random(seed)
        numbers = drawn.sample(range(60), 40)
        ranges = middleware._Ranges()
        for number in numbers:
            ranges.add(number, 1_000 + number)
        told = ranges.take("x", 100)
        assert {n for each in told for n in range(each["first"], each["last"] + 1)} == set(numbers)
        assert all(each["from_ms"] == 1_000 + each["first"] for each in told)
        assert all(each["to_ms"] == 1_000 + each["last"] for each in told)
        assert all(a["last"] + 1 < b["first"] for a, b in itertools.pairwise(told))
        assert ranges.take("x", 100) == []


def test_ranges_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(middleware, "_RANGES_MAX", 5)
    ranges = middleware._Ranges()
    for number in [*range(0, 40, 2), 1]:
        ranges.add(number, 7)
    assert [(each["first"], each["last"]) for each in ranges.take("x", 3)] == [(0, 2), (4, 4), (6, 6)]
    assert len(ranges.take("x", 9)) == 1


KILLED = """
import asyncio, os, sys
from gateway_tap.middleware import AuditTapMiddleware
from tests.unit.gateway_tap.test_tap_numbers import answers, call

async def main():
    tap = AuditTapMiddleware(answers, collector=sys.argv[1], tap_id="t-1", state_dir=sys.argv[2])
    await call(tap, 5)
    while not any(name.startswith("t-1.") for name in os.listdir(sys.argv[2])):
        await asyncio.sleep(0.01)
    await call(tap, 2)
    print(tap._tap.epoch, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


def killed_process(folder: Path) -> int:
    """Let a process take seven numbers, kill it, and return its epoch."""
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, f"unix:{folder}/nowhere", str(folder)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    epoch = int(process.stdout.readline())
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    return epoch


@pytest.mark.parametrize("rebooted", [False, True])
async def test_the_next_start_says_how_far_a_killed_one_came(
    sink: FakeSink, wrap: Wrap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rebooted: bool
) -> None:
    epoch = await asyncio.to_thread(killed_process, tmp_path)
    if rebooted:
        monkeypatch.setattr(middleware, "_boot_id", lambda: b"another")
    tap = wrap(state_dir=tmp_path)
    sink.heartbeat_failures = [NotDurable("away")]
    await call(tap)
    await settled(lambda: any(beat.tap.epoch == epoch for beat in sink.heartbeats))
    [former] = [beat for beat in sink.heartbeats if beat.tap.epoch == epoch]
    state = TapState.LOST if rebooted else TapState.KILLED
    assert (former.highest, former.pending_from, former.beat, former.state) == (7, 8, 0, state)
    await settled(lambda: len(files_in(tmp_path)) == 1)


async def test_a_start_that_lives_is_spoken_for_by_itself_alone(
    sink: FakeSink, wrap: Wrap, tmp_path: Path
) -> None:
    taps = [wrap(state_dir=tmp_path) for _ in range(3)]
    for tap in taps:
        await call(tap)
        await settled(lambda: len(sink.heartbeats) > 3)
        sink.heartbeats.clear()
    await settled(lambda: len({beat.tap.epoch for beat in sink.heartbeats}) == 3)
    assert {beat.state for beat in sink.heartbeats} == {TapState.ALIVE}
    assert len(files_in(tmp_path)) == 3


async def test_an_epoch_that_is_taken_is_drawn_again(
    sink: FakeSink, wrap: Wrap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: Iterator[int] = iter([5, 5, 6])
    monkeypatch.setattr(middleware, "_new_epoch", lambda _: next(drawn))
    for tap in [wrap(state_dir=tmp_path) for _ in range(2)]:
        await call(tap)
        await settled(lambda: tap.stats.accepted == 1)  # noqa: B023
    assert {taken.capture.tap.epoch for taken in sink.taken if taken.capture.tap} == {5, 6}


@pytest.mark.parametrize("trouble", ["file", "full"])
async def test_a_folder_that_cannot_be_used_changes_nothing(
    sink: FakeSink, wrap: Wrap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    folder = tmp_path / "state"
    if trouble == "file":
        folder.write_text("")
    else:

        def full(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "posix_fallocate", full)
    tap = wrap(state_dir=folder)
    await call(tap, 3)
    await settled(lambda: bool(sink.heartbeats) and last(sink).pending_from == 4)
    assert trouble == "file" or files_in(folder) == []


async def test_files_that_are_none_of_ours_are_left_alone(sink: FakeSink, wrap: Wrap, tmp_path: Path) -> None:
    names = ["t-1.txt", "t-1.123", "t-1.9.9", "t-10.55"]
    for name in names:
        (tmp_path / name).write_text("not a count")
    tap = wrap(state_dir=tmp_path)
    await call(tap)
    await settled(lambda: len(sink.heartbeats) > 2)
    assert {*files_in(tmp_path)} >= set(names)
    assert len({beat.tap.epoch for beat in sink.heartbeats}) == 1


def test_a_dropped_range_is_what_the_contract_takes() -> None:
    ranges = middleware._Ranges()
    ranges.add(1, 5)
    assert DroppedRange(**ranges.take("buffer_full", 1)[0]) == DroppedRange(1, 1, "buffer_full", 5, 5)
