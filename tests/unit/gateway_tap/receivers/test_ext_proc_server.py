from __future__ import annotations

import asyncio
import stat
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from gateway_tap.receivers import ext_proc_server
from gateway_tap.receivers.ext_proc_server import ExtProcServer
from gateway_tap.receivers.loop_watch import LoopWatch
from gateway_tap.receivers.received_tap import ReceivedTap
from schemas.errors import StartupError
from tests.gateways.collected import Collected, collecting
from tests.unit.gateway_tap.receivers.ext_proc_wire import body, head, metadata, trailers

METHOD = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
REQUEST = head(
    2, {":method": "GET", ":path": "/a", ":authority": "h"}, is_last=True, rest=metadata(1_700_000_000_000, 1)
)
RESPONSE = head(3, {":status": "200"})


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[tuple[Collected, Path]]:
    async with collecting(folder) as collected:
        tap = ReceivedTap("edge", collector_socket=collected.socket, state_dir=folder / "state")
        path = folder / "envoy.sock"
        running = asyncio.create_task(ExtProcServer(path).run(tap))
        while not path.exists():
            assert not running.done()
            await asyncio.sleep(0.01)
        try:
            yield collected, path
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await asyncio.to_thread(tap.close)


@pytest.fixture
def folder() -> Any:
    with tempfile.TemporaryDirectory(prefix="auditap-") as made:
        yield Path(made)


def stream_of(channel: Any, method: str = METHOD) -> Any:
    return channel.stream_stream(method)()


async def test_each_stream_becomes_a_capture_without_an_answer(folder: Path) -> None:
    async with serving(folder) as (collected, path), grpc.aio.insecure_channel(f"unix:{path}") as channel:
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        streams = [stream_of(channel) for _ in range(3)]
        for message in (REQUEST, RESPONSE, body(5, b"", is_last=True)):
            for stream in streams:
                await stream.write(message)
        # The server ends the stream: Envoy would wait for that.
        assert [await stream.read() for stream in streams] == [grpc.aio.EOF] * 3
        assert [await stream.code() for stream in streams] == [grpc.StatusCode.OK] * 3
    assert [each.capture.response.complete for each in collected.sink.accepted] == [True] * 3
    assert not path.exists()


async def test_a_stream_that_ends_early_is_an_incomplete_response(folder: Path) -> None:
    async with serving(folder) as (collected, path), grpc.aio.insecure_channel(f"unix:{path}") as channel:
        stream = stream_of(channel)
        await stream.write(REQUEST)
        await stream.write(RESPONSE)
        await stream.done_writing()
        assert await stream.code() is grpc.StatusCode.OK
        await stream_of_reset(channel)
        await collected.until(lambda: len(collected.sink.accepted) == 2, "both captures")
    assert [each.capture.response.complete for each in collected.sink.accepted] == [False] * 2


async def stream_of_reset(channel: Any) -> None:
    stream = stream_of(channel)
    await stream.write(REQUEST)
    await stream.write(RESPONSE)
    await asyncio.sleep(0.1)
    stream.cancel()


async def test_what_is_no_message_ends_its_stream_alone(folder: Path) -> None:
    async with serving(folder) as (collected, path), grpc.aio.insecure_channel(f"unix:{path}") as channel:
        wrong = stream_of(channel)
        await wrong.write(b"s3cret")
        assert await wrong.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert not await wrong.details()
        right = stream_of(channel)
        for message in (REQUEST, RESPONSE, trailers(7)):
            await right.write(message)
        assert await right.code() is grpc.StatusCode.OK
    assert len(collected.sink.accepted) == 1


async def test_another_method_is_not_there(folder: Path) -> None:
    async with serving(folder) as (_, path), grpc.aio.insecure_channel(f"unix:{path}") as channel:
        assert await stream_of(channel, "/other.Service/Method").code() is grpc.StatusCode.UNIMPLEMENTED


async def test_more_streams_than_the_limit_are_ended(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ext_proc_server, "_STREAMS_MAX", 2)
    async with serving(folder) as (_, path), grpc.aio.insecure_channel(f"unix:{path}") as channel:
        streams = [stream_of(channel) for _ in range(3)]
        for stream in streams:
            await stream.write(REQUEST)
        done, _ = await asyncio.wait(
            [asyncio.ensure_future(stream.code()) for stream in streams], return_when=asyncio.FIRST_COMPLETED
        )
        assert {each.result() for each in done} == {grpc.StatusCode.RESOURCE_EXHAUSTED}


async def test_what_is_pending_at_the_end_is_dropped_with_its_cause(folder: Path) -> None:
    async with serving(folder) as (collected, path), grpc.aio.insecure_channel(f"unix:{path}") as channel:
        await stream_of(channel).write(REQUEST)
        await asyncio.sleep(0.2)
    dropped = {
        (each.cause, each.first, each.last) for beat in collected.sink.heartbeats for each in beat.dropped
    }
    assert dropped == {("closing", 1, 1)}


async def test_a_socket_that_another_process_has_is_refused(folder: Path) -> None:
    async with serving(folder) as (_, path):
        with pytest.raises(StartupError, match=r"another process listens at .* collector\.receivers"):
            await ExtProcServer(path).run(None)  # type: ignore[arg-type]


async def test_a_stream_that_breaks_off_after_a_hang_is_a_gap(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Envoy gives a connection up that hangs: that its client left would be made up."""
    monkeypatch.setattr(LoopWatch, "has_hung", True)
    async with serving(folder) as (collected, path), grpc.aio.insecure_channel(f"unix:{path}") as channel:
        stream = stream_of(channel)
        await stream.write(REQUEST)
        await stream.done_writing()
        assert await stream.code() is grpc.StatusCode.OK
    assert collected.sink.accepted == []
    dropped = {
        (each.cause, each.first, each.last) for beat in collected.sink.heartbeats for each in beat.dropped
    }
    assert dropped == {("lost", 1, 1)}
