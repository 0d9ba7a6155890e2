from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tracemalloc
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway_tap.collector import collector_app
from gateway_tap.limits import IntakeLimits
from gateway_tap.replay import RefusedLine, ReplayLimits, ReplayReport, import_file, replay
from gateway_tap.tokens import TapToken, TapTokens
from gateway_tap.unix_socket import bind_unix_socket
from schemas.errors import NotDurable, StartupError
from schemas.metric_defs import Metrics
from tests.gateway_formats.encoders import har, mitmproxy
from tests.gateway_formats.pairs import PAIRS, Pair
from tests.unit.gateway_tap.servers import FakeSink, loopback, serving

CANARY = "c4n4ry-5up3r-53cr3t"


def line(number: int) -> bytes:
    request = {"method": "PUT", "url": f"/{number}?{CANARY}"}
    return json.dumps({"request": request, "response": {"status": 200}}).encode()


def collector_for(sink: FakeSink, tokens: TapTokens | None = None) -> Starlette:
    return collector_app(
        sink,
        identity_key=b"k",
        limits=IntakeLimits(),
        tokens=tokens,
        metrics=Metrics(),
        clock_ms=lambda: 0,
    )


def numbers(sink: FakeSink) -> list[int]:
    return [int(taken.capture.request.url[1:].partition("?")[0]) for taken in sink.accepted]


@pytest.fixture
async def sink() -> FakeSink:
    return FakeSink()


@pytest.fixture
async def address(sink: FakeSink, socket_dir: Path) -> AsyncIterator[str]:
    """The address of a running collector in front of `sink`."""
    path = socket_dir / "collector.sock"
    async with serving(collector_for(sink), bind_unix_socket(path)):
        yield f"unix:{path}"


class Pause:
    def __init__(self) -> None:
        self.paused_s: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.paused_s.append(seconds)


@pytest.mark.parametrize("begin", [b"[", b" \r\n [\n"])
async def test_sends_the_elements_of_an_array(
    sink: FakeSink, address: str, tmp_path: Path, begin: bytes
) -> None:
    file = tmp_path / "captures.json"
    file.write_bytes(begin + b",\n".join(line(number) for number in range(250)) + b"]\n")
    report = await replay(file, address)
    assert (report.accepted, report.batches) == (250, 3)
    assert numbers(sink) == list(range(250))


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("count", [1, 150])
async def test_sends_captures_that_are_on_several_lines(
    sink: FakeSink, address: str, count: int, line_end: str
) -> None:
    """The collector refused each line of an element as a capture of its own."""
    captures = [json.loads(line(number)) for number in range(count)]
    text = json.dumps(captures[0] if count == 1 else captures, indent=2).replace("\n", line_end)
    report = await replay(io.BytesIO(text.encode()), address)
    assert (report.accepted, report.refused) == (count, 0)
    assert numbers(sink) == list(range(count))


@pytest.mark.parametrize("json_bytes_max", [90, 1_000, 100_000])
async def test_a_malformed_first_line_is_refused_alone(
    sink: FakeSink, address: str, monkeypatch: pytest.MonkeyPatch, json_bytes_max: int
) -> None:
    """A large file with one was refused as a whole, as if it were one JSON text."""
    monkeypatch.setattr("gateway_tap.capture_file._JSON_BYTES_MAX", json_bytes_max)
    lines = [line(0)[:-1], *(line(number) for number in range(1, 50)), b"{" + b"x" * 2_000, line(51)]
    report = await replay(io.BytesIO(b"\n".join(lines)), address, limits=ReplayLimits(line_bytes_max=1_500))
    assert numbers(sink) == [*range(1, 50), 51]
    assert sorted(report.refusals) == [RefusedLine(1, "malformed", ""), RefusedLine(51, "too_large", "")]


async def test_an_array_that_is_too_long_ends_with_one_sentence(
    sink: FakeSink, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway_tap.capture_file._JSON_BYTES_MAX", 1_000)
    array = b"[" + b",\n".join(line(number) for number in range(50)) + b"]"
    with pytest.raises(StartupError, match="longer than 1000 bytes: write one capture on each line"):
        await replay(io.BytesIO(array), address)
    assert sink.accepted == []


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("as_stream", [False, True])
async def test_sends_every_line_in_order(
    sink: FakeSink, address: str, tmp_path: Path, zipped: bool, as_stream: bool
) -> None:
    content = b"\n".join(line(number) for number in range(250)) + b"\r\n\n"
    content = gzip.compress(content) if zipped else content
    file = tmp_path / "captures"
    file.write_bytes(content)
    source = io.BytesIO(content) if as_stream else file
    progress: list[int] = []
    report = await replay(source, address, on_progress=lambda report: progress.append(report.accepted))
    assert numbers(sink) == [*range(250)]
    assert [len(batch) for batch, _ in sink.batches] == [100, 100, 50]
    assert progress == [100, 200, 250]
    assert report == ReplayReport(accepted=250, batches=3, unrepeatable=250, unrepeatable_line=1)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("content", [b"", b"\n \n", b"[]", b" [ ]\n"])
async def test_a_file_without_captures_is_an_error(
    sink: FakeSink, address: str, content: bytes, zipped: bool
) -> None:
    source = io.BytesIO(gzip.compress(content) if zipped else content)
    with pytest.raises(StartupError, match=r"^the input holds no captures$"):
        await replay(source, address)
    assert sink.batches == []


ARRAY = b"[\n" + b",\n".join(line(number) for number in range(3))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (ARRAY, "it ends inside its array"),
        (ARRAY[:-40], "it ends inside its array"),
        (b"[", "it ends inside its array"),
        (b"[" + line(0) + b"\n]]", "its array is malformed on line 2"),
        (ARRAY + b",\n]", "its array is malformed on line 5"),
        (b"[" + CANARY.encode() + b"\n]", "its array is malformed on line 1"),
        (b"[" * 100_000, "its array is malformed"),
    ],
)
async def test_an_array_that_is_not_json_ends_with_one_sentence_without_its_content(
    sink: FakeSink, address: str, content: bytes, sentence: str
) -> None:
    """Each of its lines was refused, the first as `invalid` with nothing behind it."""
    with pytest.raises(StartupError) as ended:
        await replay(io.BytesIO(content), address)
    assert str(ended.value) == f"the input is not JSON: {sentence}"
    assert (ended.value.__cause__, ended.value.__context__, sink.accepted) == (None, None, [])


async def test_an_array_on_a_line_is_refused_alone(sink: FakeSink, address: str) -> None:
    report = await replay(io.BytesIO(b"[1]\n" + line(1)), address)
    assert (numbers(sink), report.refusals) == ([1], [RefusedLine(1, "invalid", "$: type")])


async def test_an_array_of_too_many_captures_is_refused_with_the_bound(
    sink: FakeSink, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway_tap.capture_file._ELEMENTS_MAX", 2)
    with pytest.raises(StartupError, match=r"is an array that is too long \(at most 2 captures\): write one"):
        await replay(io.BytesIO(ARRAY + b"]"), address)
    assert sink.accepted == []


async def test_refusals_name_the_lines_of_the_file(sink: FakeSink, address: str, tmp_path: Path) -> None:
    long = line(9)[:-1] + b', "pad": "' + b"x" * 200_000 + b'"}'
    lines = [line(0), b"", b"{" + CANARY.encode(), line(3), long, b'{"request": {}}', line(6), b"{}"]
    (tmp_path / "file").write_bytes(b"\n".join(lines))
    limits = ReplayLimits(batch_pairs_max=2, line_bytes_max=500, refusals_listed_max=3)
    report = await replay(tmp_path / "file", address, limits=limits)
    assert numbers(sink) == [0, 3, 6]
    assert (report.accepted, report.refused, report.batches) == (3, 4, 3)
    assert sorted(report.refusals) == [
        RefusedLine(3, "malformed", ""),
        RefusedLine(5, "too_large", ""),
        RefusedLine(6, "invalid", "request.method: required"),
    ]
    assert CANARY not in repr(report)


async def test_unknown_fields_are_reported_with_the_first_line(address: str, tmp_path: Path) -> None:
    misspelt = line(9)[:-1] + b', "client_ipp": "' + CANARY.encode() + b'"}'
    (tmp_path / "file").write_bytes(
        b"\n".join([line(0), b"", line(2), misspelt, line(4), misspelt, misspelt])
    )
    report = await replay(tmp_path / "file", address, limits=ReplayLimits(batch_pairs_max=2))
    assert (report.accepted, report.unknown_fields, report.unknown_fields_line) == (6, 3, 4)
    assert (report.unrepeatable, report.unrepeatable_line) == (6, 1)
    assert CANARY not in repr(report)


@pytest.mark.parametrize("length", [499, 500, 501, 502, 503])
async def test_the_limit_of_a_line_is_exact(
    sink: FakeSink, address: str, tmp_path: Path, length: int
) -> None:
    text = line(1)[:-1] + b', "p": "' + b"x" * (length - len(line(1)) - 9) + b'"}'
    assert len(text) == length
    (tmp_path / "file").write_bytes(text + b"\n" + line(2))
    report = await replay(tmp_path / "file", address, limits=ReplayLimits(line_bytes_max=500))
    assert numbers(sink) == ([1, 2] if length <= 500 else [2])
    assert report.refused == (length > 500)


async def test_batches_are_bounded_in_bytes(sink: FakeSink, address: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"\n".join(line(number) for number in range(5)))
    await replay(tmp_path / "file", address, limits=ReplayLimits(batch_bytes_max=2 * len(line(0)) + 1))
    assert [len(batch) for batch, _ in sink.batches] == [2, 2, 1]


async def test_a_batch_is_retried_after_the_time_in_retry_after(
    sink: FakeSink, address: str, tmp_path: Path
) -> None:
    sink.failures = [NotDurable("away", 3), NotDurable("away", 900), ValueError("bug")]
    (tmp_path / "file").write_bytes(line(0))
    pause = Pause()
    limits = ReplayLimits(retry_ms_max=120_000)
    report = await replay(tmp_path / "file", address, limits=limits, pause=pause)
    assert numbers(sink) == [0]
    assert report == ReplayReport(accepted=1, batches=1, retried=3, unrepeatable=1, unrepeatable_line=1)
    assert pause.paused_s == [3, 60, 1]


async def test_a_collector_that_asks_for_more_time_than_there_is_gets_the_batch_once_more(
    sink: FakeSink, address: str, tmp_path: Path
) -> None:
    sink.failures = [NotDurable("away", 900)]
    (tmp_path / "file").write_bytes(line(0))
    pause = Pause()
    await replay(tmp_path / "file", address, limits=ReplayLimits(retry_ms_max=7_000), pause=pause)
    assert pause.paused_s == [7]


async def test_a_collector_that_stays_unavailable_ends_the_replay_with_the_line(
    sink: FakeSink, address: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"\n".join(line(number) for number in range(4)))
    pause = Pause()

    def fail(report: ReplayReport) -> None:
        sink.failures = [NotDurable("away")] * 1_000

    limits = ReplayLimits(batch_pairs_max=2, retry_ms_max=10_000)
    with pytest.raises(NotDurable, match="from line 3 on"):
        await replay(tmp_path / "file", address, limits=limits, on_progress=fail, pause=pause)
    assert 5 < sum(pause.paused_s) <= 10
    assert numbers(sink) == [0, 1]


async def test_a_collector_that_does_not_listen_is_retried(
    sink: FakeSink, socket_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(line(0))
    pause = Pause()
    bind_unix_socket(socket_dir / "gone").close()
    with pytest.raises(NotDurable, match="from line 1 on"):
        await replay(tmp_path / "file", f"unix:{socket_dir}/gone", pause=pause)
    assert 50 < sum(pause.paused_s) <= 60


async def test_over_tcp_with_a_token(sink: FakeSink, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(line(0))
    tokens = TapTokens([TapToken(hashlib.sha256(b"s3cret-of-the-tap").digest(), ("*",))])
    listener, url = loopback()
    async with serving(collector_for(sink, tokens), listener):
        assert (await replay(tmp_path / "file", url, token="s3cret-of-the-tap")).accepted == 1
        with pytest.raises(
            StartupError, match="none was given: name the file that holds one with --token-file"
        ):
            await replay(tmp_path / "file", url)
        with pytest.raises(StartupError, match="refuses the token"):
            await replay(tmp_path / "file", url, token="another-of-16-chars")


@pytest.mark.parametrize(
    ("status", "body", "sentence"),
    [
        (404, b"", "no collector at this address"),
        (413, b"", "fewer captures"),
        (415, b"", "status 415"),
        (302, b"", "status 302"),
        (200, b"hello", "is not a collector"),
        (200, b"[]", "is not a collector"),
    ],
)
async def test_an_unexpected_response_ends_with_one_sentence(
    socket_dir: Path, tmp_path: Path, status: int, body: bytes, sentence: str
) -> None:
    async def other(request: Request) -> Response:
        return Response(body, status)

    (tmp_path / "file").write_bytes(line(0))
    app = Starlette(routes=[Route("/v1/captures", other, methods=["POST"])])
    async with serving(app, bind_unix_socket(socket_dir / "s")):
        with pytest.raises(StartupError, match=sentence):
            await replay(tmp_path / "file", f"unix:{socket_dir}/s")


@pytest.mark.parametrize(
    "url", ["", "collector", "ftp://127.0.0.1", "http://", "http://192.0.2.1:8400", "http://c:1"]
)
async def test_a_wrong_address_ends_with_one_sentence(tmp_path: Path, url: str) -> None:
    with pytest.raises(StartupError, match="the collector must be"):
        await replay(tmp_path / "file", url)


async def test_a_missing_file_ends_with_one_sentence(address: str, tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=r"cannot read .*none: No such file"):
        await replay(tmp_path / "none", address)


@pytest.mark.parametrize("cut", [-1, -9, 40])
async def test_a_damaged_file_ends_with_one_sentence(
    sink: FakeSink, address: str, tmp_path: Path, cut: int
) -> None:
    (tmp_path / "f.gz").write_bytes(gzip.compress(b"\n".join(line(number) for number in range(300)))[:cut])
    with pytest.raises(StartupError, match="is damaged after line"):
        await replay(tmp_path / "f.gz", address)


async def test_a_file_that_is_damaged_later_on_ends_with_what_was_accepted(
    sink: FakeSink, address: str, tmp_path: Path
) -> None:
    # Bytes that no compression shortens, so that the cut falls far behind the first batches.
    lines = [
        line(number).replace(b'"url"', b'"body": "%b", "url"' % os.urandom(2_000).hex().encode())
        for number in range(300)
    ]
    (tmp_path / "f.gz").write_bytes(gzip.compress(b"\n".join(lines))[:-9_000])
    with pytest.raises(StartupError, match=r"is damaged after line \d+; captures accepted before: 200$"):
        await replay(tmp_path / "f.gz", address)


@pytest.mark.parametrize("compressed", [False, True])
async def test_a_byte_order_mark_is_skipped(
    sink: FakeSink, address: str, tmp_path: Path, compressed: bool
) -> None:
    text = b"\xef\xbb\xbf" + line(1) + b"\r\n" + line(2)
    (tmp_path / "file").write_bytes(gzip.compress(text) if compressed else text)
    assert (await replay(tmp_path / "file", address)).accepted == 2


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
async def test_utf_16_is_named(address: str, tmp_path: Path, encoding: str) -> None:
    (tmp_path / "file").write_bytes(("\ufeff" + line(1).decode()).encode(encoding))
    with pytest.raises(StartupError, match="is UTF-16: write it as UTF-8"):
        await replay(tmp_path / "file", address)


async def test_a_large_file_is_never_read_as_a_whole(address: str, tmp_path: Path) -> None:
    (tmp_path / "f.gz").write_bytes(gzip.compress(b" " * 100_000_000 + b"\n" + line(1), compresslevel=1))
    limits = ReplayLimits(line_bytes_max=10_000)
    tracemalloc.start()
    try:
        report = await replay(tmp_path / "f.gz", address, limits=limits)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert report.accepted == 1
    assert peak_bytes < 20_000_000


async def test_a_missing_socket_ends_at_once(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="there is no collector at unix:"):
        await replay(io.BytesIO(b"{}"), f"unix:{tmp_path}/none.sock")


@pytest.mark.parametrize("write", [har, mitmproxy])
async def test_a_file_of_another_tool_that_is_imported_twice_gives_the_same_ids(
    sink: FakeSink, address: str, write: Callable[[Pair], bytes]
) -> None:
    texts = [write(pair) for pair in PAIRS]
    content = b'{"log": {"entries": [' + b",".join(texts) + b"]}}" if write is har else b"".join(texts)
    progress: list[int] = []
    limits = ReplayLimits(batch_pairs_max=5)
    for _ in range(2):
        report = await import_file(
            io.BytesIO(content),
            address,
            limits=limits,
            on_progress=lambda so_far: progress.append(so_far.accepted),
        )
        assert (report.accepted, report.refused, report.skipped, report.unrepeatable) == (len(PAIRS), 0, 0, 0)
    ids = [each.id for each in sink.accepted]
    assert ids[: len(PAIRS)] == ids[len(PAIRS) :]
    assert len(set(ids)) == len(PAIRS)
    assert progress[:4] == [5, 10, 15, len(PAIRS)]


async def test_entries_that_are_no_pairs_are_counted_and_refused_ones_listed(address: str) -> None:
    blocked = json.loads(har(PAIRS[0]))
    blocked["response"]["status"] = 0
    entries = [json.dumps(blocked).encode(), har(PAIRS[0]), b"{}"]
    report = await import_file(io.BytesIO(b'{"log": {"entries": [' + b",".join(entries) + b"]}}"), address)
    assert (report.accepted, report.refused, report.skipped) == (1, 1, 1)
    assert report.refusals == [RefusedLine(3, "invalid", "startedDateTime: required")]
