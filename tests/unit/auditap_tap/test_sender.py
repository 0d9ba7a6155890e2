from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from starlette.requests import Request
from starlette.responses import Response

from auditap_tap import TapStats, sender
from auditap_tap.buffer import PairBuffer
from auditap_tap.client import Reply
from auditap_tap.sender import Sender, Shutdown, _Batch
from auditap_tap.sequence import SequenceNumbers
from gateway_tap.unix_socket import bind_unix_socket
from schemas.errors import NotDurable
from tests.unit.auditap_tap.apps import END, START, call, echo, one_route, sends
from tests.unit.auditap_tap.tapped import CANARY, Collector, Wrap, client_of, eventually, listening
from tests.unit.gateway_tap.servers import serving


async def test_with_a_dead_collector_requests_succeed_and_pairs_wait(
    socket_dir: Path, wrap: Wrap, caplog: pytest.LogCaptureFixture
) -> None:
    tap = wrap(one_route(echo))
    async with client_of(tap) as client:
        with caplog.at_level(logging.DEBUG):
            for number in range(20):
                answer = await client.post(f"/{CANARY}", content=f"{CANARY}{number}".encode())
                assert answer.text == f"{CANARY}{number}"
            # The client's own records come first.
            await eventually(lambda: any(record.name == "auditap.tap" for record in caplog.records))
            back = Collector(socket_dir / "collector.sock")
            async with back.running():
                await eventually(lambda: tap.stats.accepted == 20)
    assert sorted(
        identified.capture.tap.seq or 0 for identified in back.accepted if identified.capture.tap
    ) == [*range(1, 21)]
    assert tap.stats == TapStats(captured=20, accepted=20)
    messages = [record.getMessage() for record in caplog.records if record.name == "auditap.tap"]
    # The third is messages where the tap ends, long after the collector.
    assert len(messages) <= 3
    assert "accepts captures again" in messages[1]
    assert "cannot be reached (FileNotFoundError)" in messages[0]
    assert CANARY not in "".join(messages)


async def test_with_a_hung_collector_requests_succeed(socket_dir: Path, wrap: Wrap) -> None:
    with listening(socket_dir / "collector.sock"):
        tap = wrap(one_route(echo), timeout_ms=50)
        async with client_of(tap) as client:
            for number in range(50):
                assert (await client.post("/", content=b"%d" % number)).content == b"%d" % number
        await asyncio.to_thread(tap.close)
    assert tap.stats.captured == 50
    await eventually(lambda: tap.stats.dropped == 50)


async def test_with_a_slow_collector_requests_succeed(collector: Collector, wrap: Wrap) -> None:
    collector.sink.gate.clear()
    tap = wrap(one_route(echo))
    async with client_of(tap) as client:
        for number in range(50):
            assert (await client.post("/", content=b"%d" % number)).content == b"%d" % number
        assert tap.stats.accepted == 0
        collector.sink.gate.set()
        await eventually(lambda: tap.stats.accepted == 50)


async def test_drops_are_reported_again_until_they_are_acknowledged(collector: Collector, wrap: Wrap) -> None:
    tap = wrap(one_route(echo))
    async with client_of(tap) as client:
        await client.get("/")
        await eventually(lambda: tap.stats.accepted == 1)
        assert tap._run is not None
        # In this order, because the tap reports drops as soon as there are any.
        collector.sink.failures = [NotDurable("away"), NotDurable("away")]
        tap._run.buffer.count_dropped(7)
        await client.get("/")
        await eventually(lambda: tap.stats.accepted == 2)
        await client.get("/")
        await eventually(lambda: tap.stats.accepted == 3)
    assert collector.drops_reported == 7


async def test_drops_are_reported_without_waiting_for_a_pair(collector: Collector, wrap: Wrap) -> None:
    tap = wrap(sends(START, END), queue_bytes_max=10)
    await call(tap)
    await eventually(lambda: collector.drops_reported == 1)
    assert tap.stats == TapStats(captured=1, dropped=1)


async def test_a_batch_is_retried_with_the_same_ids(collector: Collector, wrap: Wrap) -> None:
    offered: list[list[str]] = []
    accept = collector.sink.accept

    async def watching(captures: Any, received_ms: int, refused: Any = ()) -> None:
        offered.append([identified.id for identified in captures])
        await accept(captures, received_ms, refused)

    collector.sink.accept = watching  # type: ignore[method-assign]
    collector.sink.failures = [NotDurable("away"), ValueError("bug")]
    tap = wrap(one_route(echo))
    async with client_of(tap) as client:
        await client.get("/")
        await eventually(lambda: tap.stats.accepted == 1)
    assert offered == [[collector.accepted[0].id]] * 3
    assert tap.stats == TapStats(captured=1, accepted=1)


async def test_a_batch_is_retried_within_a_bound(collector: Collector, wrap: Wrap) -> None:
    collector.sink.failures = [NotDurable("away")] * 1_000
    tap = wrap(one_route(echo), retry_ms_max=1)
    async with client_of(tap) as client:
        await client.get("/")
        await eventually(lambda: tap.stats.dropped == 1)
        collector.sink.failures.clear()
        await client.get("/")
        # Both, because the drop may have been reported before the second capture.
        await eventually(lambda: collector.drops_reported == 1 and tap.stats.accepted == 1)
    assert tap.stats == TapStats(captured=2, accepted=1, dropped=1)


class Pauses:
    """Stands for waiting: notes how long each pause was to be, and lets `waited_s` pass."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.paused_s: list[float] = []
        self.now_s = 0.0
        patch.setattr(Shutdown, "pause", self.pause)
        patch.setattr(sender, "time", SimpleNamespace(monotonic=lambda: self.now_s))

    def pause(self, seconds: float) -> None:
        self.paused_s.append(seconds)
        self.now_s += seconds


@pytest.mark.parametrize(
    ("asked_s", "retry_ms_max", "waited_s"), [(20, 300_000, 20), (900, 300_000, 60), (900, 7_000, 7)]
)
def test_a_batch_waits_as_long_as_the_collector_asks(
    monkeypatch: pytest.MonkeyPatch, asked_s: int, retry_ms_max: int, waited_s: float
) -> None:
    beats: list[float] = []
    pauses = Pauses(monkeypatch)
    client: Any = Mock(post=Mock(side_effect=[Reply(503, float(asked_s)), Reply(200)]))
    heartbeats: Any = Mock(
        seconds_until_due=Mock(return_value=5.0), send_if_due=lambda: beats.append(pauses.now_s)
    )
    config: Any = Mock(retry_s_max=retry_ms_max / 1000)
    sending = Sender(config, client, PairBuffer(1_000), SequenceNumbers(1), heartbeats, Shutdown())
    assert sending._deliver(_Batch([b"{}"], [1], 0))
    assert sum(pauses.paused_s) == pytest.approx(waited_s)
    # The lease of a tap may be shorter than the wait.
    assert max(pauses.paused_s) <= 5
    assert len(beats) == len(pauses.paused_s)


async def test_batches_are_bounded_in_pairs_and_bytes(collector: Collector, wrap: Wrap) -> None:
    collector.sink.gate.clear()
    tap = wrap(one_route(echo), batch_pairs_max=10, batch_bytes_max=5_000)
    async with client_of(tap) as client:
        await client.post("/", content=b"x")
        await collector.sink.entered.wait()
        for _ in range(30):
            await client.get("/")
        for _ in range(6):
            await client.post("/", content=b"x" * 2_000)
        collector.sink.gate.set()
        await eventually(lambda: tap.stats.accepted == 37)
    sizes = [len(batch) for batch, _ in collector.sink.batches]
    assert sizes[0] == 1
    assert max(sizes) == 10
    assert sizes[-1] == 2


async def test_refused_pairs_are_counted(collector: Collector, wrap: Wrap) -> None:
    tap = wrap(sends({**START, "status": 17}, END))
    await call(tap)
    await eventually(lambda: tap.stats.refused == 1)
    assert tap.stats == TapStats(captured=1, refused=1)


async def test_a_rejected_batch_is_not_retried(socket_dir: Path, wrap: Wrap) -> None:
    bodies: list[bytes] = []

    async def refuses(request: Request) -> Response:
        bodies.append(await request.body())
        return Response(status_code=415)

    async with serving(one_route(refuses), bind_unix_socket(socket_dir / "collector.sock")):
        tap = wrap(one_route(echo))
        await call(tap)
        await eventually(lambda: tap.stats.dropped == 1)
        await asyncio.to_thread(tap.close)
    # What comes after it is empty, and reports the drop.
    assert len([body for body in bodies if b'"request"' in body]) == 1


async def test_the_sender_lives_on_after_a_failure(collector: Collector, wrap: Wrap) -> None:
    tap = wrap(one_route(echo))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sender.Sender, "_next_batch", lambda _: 1 / 0)
        await call(tap)
        await eventually(lambda: tap.stats.failed >= 1)
    await call(tap)
    await eventually(lambda: tap.stats.accepted == 2)
