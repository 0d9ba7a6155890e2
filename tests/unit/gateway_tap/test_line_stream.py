"""A receiver of lines, over a real socket to a real collector."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from auditap.runtime.receivers import headers_read
from auditap_tap.sequence import DropCause
from gateway_tap.formats.haproxy import HAPROXY
from gateway_tap.formats.port import NoPair
from gateway_tap.receivers import line_stream
from gateway_tap.receivers.line_stream import LineStream
from gateway_tap.receivers.received_tap import ReceivedTap
from redactor.config import HeaderNames, RedactionConfig
from schemas.capture import Capture
from schemas.errors import RefusedCapture
from tests.signed_tokens import an_issuer
from tests.unit.auditap_tap.tapped import CANARY, Collector, eventually

_BEGAN_MS = 1_800_000_000_000


def line(number: int | None, target: str = "/orders", **changes: object) -> bytes:
    entry = {
        "number": "-" if number is None else str(number),
        "began": _BEGAN_MS,
        "at": str(_BEGAN_MS + (number or 0)),
        "ms": 3,
        "client": "203.0.113.9",
        "tls": 0,
        "method": "POST",
        "target": base64.b64encode(target.encode()).decode(),
        "request": {"head": "DQo=", "bytes": "0"},
        "status": 200,
        "end": "--",
        **changes,
    }
    return b"<134>1 - - haproxy 8 - - " + json.dumps(entry, separators=(",", ":")).encode() + b"\n"


@pytest.fixture
async def collector(socket_dir: Path) -> AsyncIterator[Collector]:
    running = Collector(socket_dir / "collector.sock")
    async with running.running():
        yield running


@asynccontextmanager
async def receiving(
    folder: Path,
    collector: Collector,
    *,
    request_headers: Iterable[str] = (),
    response_headers: Iterable[str] = (),
) -> AsyncIterator[ReceivedTap]:
    tap = ReceivedTap(
        "edge",
        collector_socket=collector.path,
        state_dir=folder / "state",
        request_headers=request_headers,
        response_headers=response_headers,
    )
    stream = LineStream(folder / "receiver.sock", HAPROXY)
    work = asyncio.gather(stream.run(tap), tap.keep_watching())
    try:
        yield tap
    finally:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        await asyncio.to_thread(tap.close)


async def send(folder: Path, *chunks: bytes) -> None:
    _, writer = await asyncio.open_unix_connection(folder / "receiver.sock")
    for chunk in chunks:
        writer.write(chunk)
        await writer.drain()
    writer.close()
    await writer.wait_closed()


async def until_captured(collector: Collector, count: int) -> None:
    await eventually(lambda: len(collector.captures) == count)


def targets(captures: list[Capture]) -> list[str]:
    return [capture.request.url for capture in captures]


def dropped(collector: Collector) -> dict[str, int]:
    """How many numbers the heartbeats call dropped, by cause."""
    ranges = {each for beat in collector.sink.heartbeats for each in beat.dropped}
    counts: dict[str, int] = {}
    for each in ranges:
        counts[each.cause] = counts.get(each.cause, 0) + each.last - each.first + 1
    return counts


async def test_lines_become_captures_however_they_are_cut_into_chunks(
    tmp_path: Path, collector: Collector
) -> None:
    whole = line(1, "/a") + b"\n" + line(2, "/b") + line(3, "/c")
    async with receiving(tmp_path, collector):
        await send(tmp_path, *(whole[start : start + 7] for start in range(0, len(whole), 7)))
        await eventually(lambda: len(collector.captures) == 3)
    assert targets(collector.captures) == ["/a", "/b", "/c"]
    assert [capture.tap and capture.tap.seq for capture in collector.captures] == [1, 2, 3]
    assert dropped(collector) == {}


async def test_headers_that_say_who_it_was_are_passed_on_where_the_settings_read_them(
    tmp_path: Path, collector: Collector
) -> None:
    names = HeaderNames(client_address="cf-connecting-ip", actor_id="x-user", request_ids=("traceparent",))
    redaction = RedactionConfig(issuers=(an_issuer(),), headers=names, trusted_proxies=("10.0.0.0/8",))
    head = b"Authorization: Bearer t\r\nCF-Connecting-IP: 203.0.113.9\r\nTraceparent: 00-1\r\nCookie: c\r\nX-Forwarded-For: ::1\r\n\r\n"
    answer = b"X-User: bo\r\nX-Actor-Id: al\r\nSet-Cookie: c\r\n\r\n"
    messages: dict[str, Any] = {
        name: {"head": base64.b64encode(each).decode(), "body": "-", "bytes": "0"}
        for name, each in (("request", head), ("response", answer))
    }
    of_request, of_response = headers_read(redaction)
    for number, (more_of_request, more_of_response) in enumerate([((), ()), (of_request, of_response)], 1):
        async with receiving(
            tmp_path, collector, request_headers=more_of_request, response_headers=more_of_response
        ):
            await send(tmp_path, line(number, **messages))
            await until_captured(collector, number)
    plain, named = collector.captures
    assert set(plain.request.headers) == {"x-forwarded-for"}
    assert set(plain.response.headers) == {"x-actor-id"}
    assert set(named.request.headers) == {
        "x-forwarded-for",
        "authorization",
        "cf-connecting-ip",
        "traceparent",
    }
    assert set(named.response.headers) == {"x-actor-id", "x-user"}


async def test_what_is_no_capture_is_a_gap_and_no_other_line_suffers(
    tmp_path: Path, collector: Collector
) -> None:
    async with receiving(tmp_path, collector):
        await send(
            tmp_path, line(1), b"no JSON\n", line(2)[:80] + b"\n", line(3, status="x"), line(4), b"cut off"
        )
        await eventually(lambda: len(collector.captures) == 2)
    assert dropped(collector) == {DropCause.REFUSED: 4}


async def test_a_line_that_is_too_long_is_a_gap(
    tmp_path: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line_stream, "LINE_BYTES_MAX", 1_000)
    async with receiving(tmp_path, collector):
        await send(tmp_path, line(1), line(2, "/" + "x" * 5_000), line(3))
        await eventually(lambda: len(collector.captures) == 2)
    # Its number stood in the part that was not kept, so it is missing as well.
    assert dropped(collector) == {DropCause.REFUSED: 1, DropCause.LOST: 1}


async def test_numbers_that_the_gateway_passed_over_are_lost(tmp_path: Path, collector: Collector) -> None:
    async with receiving(tmp_path, collector):
        await send(tmp_path, line(1), line(5))
        await eventually(lambda: len(collector.captures) == 2)
    assert dropped(collector) == {DropCause.LOST: 3}


async def test_what_was_no_request_is_no_gap(tmp_path: Path, collector: Collector) -> None:
    """Else whoever can reach the gateway could make gaps at will."""
    async with receiving(tmp_path, collector):
        await send(tmp_path, line(1), line(None, at="-", method="<BADREQ>"), line(2))
        await eventually(lambda: len(collector.captures) == 2)
    assert dropped(collector) == {}


async def test_what_passed_while_no_receiver_ran_is_counted(tmp_path: Path, collector: Collector) -> None:
    async with receiving(tmp_path, collector):
        await send(tmp_path, line(1))
        await eventually(lambda: len(collector.captures) == 1)
    async with receiving(tmp_path, collector):
        await send(tmp_path, line(9))
        await eventually(lambda: len(collector.captures) == 2)
    assert dropped(collector) == {DropCause.LOST: 7}


async def test_headers_with_credentials_stay_behind(tmp_path: Path, collector: Collector) -> None:

    head = f"user-agent: a\r\nauthorization: Bearer {CANARY}\r\ncookie: {CANARY}\r\n\r\n".encode()
    logged = {"head": base64.b64encode(head).decode(), "bytes": "0"}
    async with receiving(tmp_path, collector):
        await send(tmp_path, line(1, request=logged))
        await eventually(lambda: len(collector.captures) == 1)
    assert collector.captures[0].request.headers == {"user-agent": "a"}


def test_a_target_of_any_bytes_stays_what_it_was() -> None:
    """A path that loses a byte is another path."""
    sent = line(1).replace(
        b'"target":"L29yZGVycw=="', b'"target":"' + base64.b64encode(b"/ac\xffme/a b?q=\xfe#") + b'"'
    )
    assert HAPROXY.decode(sent).request.url == "/ac%FFme/a%20b?q=%FE%23"


def test_a_request_without_its_headers_is_refused() -> None:
    """An override of its method may have stood among them."""
    with pytest.raises(RefusedCapture, match=r"request\.head"):
        HAPROXY.decode(line(1, request={"head": "-", "bytes": "0"}))


@pytest.mark.parametrize("said", ["1 event dropped", "17 events dropped"])
def test_what_haproxy_says_of_a_full_ring_is_no_pair(said: str) -> None:
    """It counted as a refused pair, beside the pair that is missing by its number."""
    with pytest.raises(NoPair):
        HAPROXY.decode(b"<133>1 2026-01-23T18:25:14.761375+00:00 - haproxy 8 - - " + said.encode())
