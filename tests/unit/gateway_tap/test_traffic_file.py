from __future__ import annotations

import gzip
import io
import json
import re
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway_tap.capture_file import Line, read_lines
from gateway_tap.formats.har import HAR
from gateway_tap.formats.mitmproxy import MITMPROXY
from gateway_tap.formats.port import NoPair
from gateway_tap.formats.recognition import FileFormat, recognize
from gateway_tap.formats.tnetstrings import NotTnetstring, next_frame, parse
from gateway_tap.traffic_file import read_captures
from schemas.capture import Capture, body_bytes, decode_strict
from schemas.errors import RefusalReason, RefusedCapture, StartupError
from tests.gateway_formats.encoders import har, mitmproxy, tnetstring
from tests.gateway_formats.pairs import PAIRS

LINE_BYTES_MAX = 4 * 1024 * 1024
HAR_HEAD = b'{"log": {"entries": ['


def a_har(*entries: bytes) -> bytes:
    return HAR_HEAD + b",".join(entries) + b"]}}"


HAR_FILE = a_har(*map(har, PAIRS))
FLOW_FILE = b"".join(map(mitmproxy, PAIRS))


def read(
    source: bytes | Path, line_bytes_max: int = LINE_BYTES_MAX
) -> tuple[list[Line], list[tuple[int, RefusedCapture]]]:
    refused: list[tuple[int, RefusedCapture]] = []
    opened: BinaryIO | Path = io.BytesIO(source) if isinstance(source, bytes) else source
    lines = list(read_captures(opened, line_bytes_max, lambda number, why: refused.append((number, why))))
    return lines, refused


def captures(source: bytes | Path) -> list[Capture]:
    lines, refused = read(source)
    assert refused == []
    decoded = [decode_strict(line.text) for line in lines]
    assert None not in decoded
    return [each for each in decoded if each is not None]


@pytest.mark.parametrize("content", [HAR_FILE, FLOW_FILE], ids=["har", "mitmproxy"])
@pytest.mark.parametrize("wrap", [bytes, gzip.compress, lambda content: b"\xef\xbb\xbf" + content])
def test_a_file_is_recognized_by_its_content(tmp_path: Path, content: bytes, wrap: Any) -> None:
    (tmp_path / "traffic.txt").write_bytes(wrap(content))
    found = captures(tmp_path / "traffic.txt")
    assert [each.request.method for each in found] == [pair.method for pair in PAIRS]


@pytest.mark.parametrize("content", [HAR_FILE, FLOW_FILE], ids=["har", "mitmproxy"])
def test_ids_are_the_same_each_time_and_not_those_of_others(content: bytes) -> None:
    ids = [each.id for each in captures(content)]
    assert ids == [each.id for each in captures(content)]
    assert len(set(ids)) == len(PAIRS)
    # The milliseconds of the action come first.
    assert {int((each or "")[:12], 16) for each in ids} == {PAIRS[0].started_ms}


def test_a_pair_has_one_id_wherever_it_stands() -> None:
    one = captures(FLOW_FILE)
    assert {each.id for each in captures(FLOW_FILE + FLOW_FILE)} == {each.id for each in one}
    assert captures(a_har(har(PAIRS[1]), har(PAIRS[0])))[1].id == captures(HAR_FILE)[0].id


@pytest.mark.parametrize("content", [HAR_FILE, FLOW_FILE], ids=["har", "mitmproxy"])
def test_such_a_file_is_no_file_of_captures(tmp_path: Path, content: bytes) -> None:
    for written in (content, gzip.compress(content)):
        (tmp_path / "traffic").write_bytes(written)
        with pytest.raises(StartupError, match=r"traffic is a (HAR|mitmproxy flow) file.*`auditap import`"):
            list(read_lines(tmp_path / "traffic", LINE_BYTES_MAX))


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b'{"request": {"method": "GET", "log": 1}}', b"[1]", b"GET / HTTP/1.1", b"1769192714:x", b'{"logs":', b'{"log": "field"}'],
)  # fmt: skip
def test_a_file_of_captures_or_of_anything_else_is_not_imported(content: bytes) -> None:
    assert recognize(content) is None
    with pytest.raises(StartupError, match=r"^the input is neither .*`auditap replay`$"):
        read(content)


@pytest.mark.parametrize(
    "content", [b'{"log": {"entries": 1}}', b'{"log": {"entries": [}', HAR_FILE[:-40], b'{"log": {}}']
)
def test_a_damaged_har_file_ends_with_one_sentence(content: bytes) -> None:
    assert recognize(content) is FileFormat.HAR
    with pytest.raises(StartupError, match=r"is not a HAR file of at most 100000 entries"):
        read(content)


def test_a_damaged_flow_file_ends_after_what_can_be_read() -> None:
    flows = [mitmproxy(pair) for pair in PAIRS[:3]]
    for damaged in (b"".join(flows)[:-1], b"".join(flows[:2]) + b"c4n4ry", b"".join(flows[:2]) + b"9" * 20):
        lines: list[Line] = []
        with pytest.raises(StartupError, match=r"^the input is damaged after flow 2$") as ended:
            lines.extend(read_captures(io.BytesIO(damaged), LINE_BYTES_MAX, lambda *_: None))
        assert ended.value.__cause__ is None


def test_an_entry_that_is_no_pair_is_skipped_and_a_broken_one_refused() -> None:
    valid = json.loads(har(PAIRS[0]))
    blocked = {**valid, "response": {**valid["response"], "status": 0}}
    socket = {**valid, "_webSocketMessages": []}
    timeless = {**valid, "startedDateTime": "c4n4ry"}
    entries = [blocked, valid, socket, timeless, {"c4n4ry": 1}, valid]
    lines, refused = read(a_har(*(json.dumps(each).encode() for each in entries)))
    assert [line.number for line in lines] == [2, 6]
    assert [(number, isinstance(why, NoPair)) for number, why in refused] == [
        (1, True),
        (3, True),
        (4, False),
        (5, False),
    ]
    assert "c4n4ry" not in repr(refused)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("type", "tcp"),
        ("type", "dns"),
        ("error", {"msg": "c4n4ry", "timestamp": 1.0}),
        ("websocket", {"messages": []}),
        ("response", None),
    ],
)
def test_a_flow_that_is_no_pair_is_skipped(name: str, value: Any) -> None:
    flow = parse(mitmproxy(PAIRS[0]))
    assert isinstance(flow, dict)
    with pytest.raises(NoPair) as skipped:
        MITMPROXY.decode(tnetstring({**flow, name: value}))
    assert skipped.value.path == name


def test_a_flow_of_a_version_before_all_names_were_the_same_is_refused() -> None:
    flow = parse(mitmproxy(PAIRS[0]))
    assert isinstance(flow, dict)
    for version in (3, [0, 18], None, "21"):
        with pytest.raises(RefusedCapture, match="version"):
            MITMPROXY.decode(tnetstring({**flow, "version": version}))
    assert MITMPROXY.decode(tnetstring({**flow, "version": 99})).response.status == 200


@pytest.mark.parametrize(
    ("parts", "url"),
    [
        ({}, "https://api.example.com/orders/1042?note=a%20b"),
        ({"headers": [], "authority": b"other:8443"}, "https://other:8443/orders/1042?note=a%20b"),
        ({"headers": [], "authority": b""}, "https://10.0.0.1/orders/1042?note=a%20b"),
        ({"headers": [], "authority": b"", "port": 8443}, "https://10.0.0.1:8443/orders/1042?note=a%20b"),
        ({"headers": [], "authority": b"", "host": "::1"}, "https://[::1]/orders/1042?note=a%20b"),
    ],
)
def test_the_url_of_a_flow_has_the_host_that_the_client_named(parts: dict[str, Any], url: str) -> None:
    flow: Any = parse(mitmproxy(PAIRS[0]))
    flow["request"] |= parts
    assert MITMPROXY.decode(tnetstring(flow)).request.url == url


@pytest.mark.parametrize(("content", "is_cut"), [(None, True), (b"", False), (b"{}", False)])
def test_a_body_that_mitmproxy_passed_on_as_a_stream_is_cut(content: bytes | None, is_cut: bool) -> None:
    flow: Any = parse(mitmproxy(PAIRS[0]))
    for side in ("request", "response"):
        flow[side] |= {"headers": [[b"Transfer-Encoding", b"chunked"]], "content": content}
    captured = MITMPROXY.decode(tnetstring(flow))
    assert captured.request.truncated is captured.response.truncated is is_cut
    assert captured.request.headers == captured.response.headers == {}


def test_the_opening_of_a_tunnel_is_skipped() -> None:
    flow: Any = parse(mitmproxy(PAIRS[0]))
    flow["request"] |= {"method": b"CONNECT", "path": b"", "scheme": b""}
    with pytest.raises(NoPair):
        MITMPROXY.decode(tnetstring(flow))


def test_a_capture_that_is_too_long_goes_without_its_bodies() -> None:
    whole = captures(HAR_FILE)[0]
    lines, refused = read(HAR_FILE, len(read(HAR_FILE)[0][0].text) - 1)
    short = decode_strict(lines[0].text)
    assert refused == []
    assert short is not None
    assert short.id == whole.id
    assert (short.request.body, short.response.body) == (None, None)
    assert short.request.truncated
    assert short.response.truncated


def entry(request: dict[str, Any] | None = None, response: dict[str, Any] | None = None) -> bytes:
    """Return a HAR entry with these parts in its request and response."""
    return json.dumps(
        {
            "startedDateTime": "2026-01-23T18:25:14.749+01:00",
            "time": -1,
            "request": {"method": "POST", "url": "https://h/a", "headers": [], **(request or {})},
            "response": {"status": 200, "headers": [], "content": {"size": 0}, **(response or {})},
        }
    ).encode()


GZIPPED = [{"name": "Content-Encoding", "value": "gzip"}, {"name": "content-length", "value": "40"}]


def test_pairs_that_differ_in_anything_have_other_ids() -> None:
    headers = {"headers": [{"name": "a", "value": "b"}]}
    entries = [
        entry(),
        entry({"method": "PUT"}),
        entry({"url": "https://h/b"}),
        entry(headers),
        entry({"postData": {"text": "a"}}),
        entry({"bodySize": 9}),
        entry(response={"status": 201}),
        entry(response=headers),
        entry(response={"content": {"size": 1, "text": "a"}}),
        entry(response={"content": {"size": 2, "text": "a"}}),
    ]
    assert len({each.id for each in captures(a_har(*entries))}) == len(entries)


CHUNKED = [{"name": "Transfer-Encoding", "value": "chunked"}]


@pytest.mark.parametrize(
    ("response", "body", "is_cut"),
    [
        ({}, None, False),
        ({"content": {}}, None, True),
        ({"content": {"size": 5}}, None, True),
        ({"content": {"size": 5, "text": "12345"}}, b"12345", False),
        ({"content": {"size": 5, "text": "1234"}}, b"1234", True),
        ({"content": {"size": 2, "text": "AP8=", "encoding": "base64"}}, b"\0\xff", False),
        ({"headers": GZIPPED, "content": {"size": 5, "text": "12345"}}, b"12345", False),
        # The size on the wire, which some proxies write.
        ({"headers": GZIPPED, "content": {"size": 40, "text": "12345"}}, b"12345", False),
        ({"headers": GZIPPED, "content": {"size": 30, "text": "12345"}}, b"12345", True),
        ({"headers": GZIPPED[1:], "content": {"size": 0}}, None, True),
        ({"headers": CHUNKED, "content": {"size": 0}}, None, False),
        ({"status": 204, "content": {"size": 9}}, None, False),
    ],
)
def test_what_is_missing_of_a_har_response(
    response: dict[str, Any], body: bytes | None, is_cut: bool
) -> None:
    captured = HAR.decode(entry(response=response)).response
    assert (body_bytes(captured), captured.truncated) == (body, is_cut)
    assert captured.headers.keys() <= {"content-length"}


def test_a_coding_that_content_cannot_show_is_undone_in_har() -> None:
    for coding, stands in (("br", False), ("zstd", False), ("unknown", True)):
        headers = [{"name": "content-encoding", "value": coding}]
        content = {"size": 2, "text": "AP8=", "encoding": "base64"}
        captured = HAR.decode(entry(response={"headers": headers, "content": content})).response
        assert ("content-encoding" in captured.headers) is stands


FORM = "application/x-www-form-urlencoded"


@pytest.mark.parametrize(
    ("request_part", "body", "is_cut"),
    [
        ({}, None, False),
        ({"postData": None}, None, False),
        ({"bodySize": -1}, None, False),
        ({"bodySize": 7}, None, True),
        ({"postData": {"mimeType": "a/b", "text": ""}}, b"", False),
        ({"postData": {"mimeType": "a/b", "text": "AP8=", "encoding": "base64"}}, b"\0\xff", False),
        ({"postData": {"mimeType": FORM, "params": [{"name": "a b", "value": "ü&"}, {"name": "c"}]}}, b"a+b=%C3%BC%26&c=", False),
        ({"postData": {"mimeType": "multipart/form-data; boundary=x", "params": [{"name": "a", "value": "b"}]}}, None, True),
        ({"postData": {"mimeType": "multipart/form-data; boundary=x", "text": "--x--", "params": [{"name": "a"}]}}, b"--x--", False),
    ],
)  # fmt: skip
def test_what_is_missing_of_a_har_request(
    request_part: dict[str, Any], body: bytes | None, is_cut: bool
) -> None:
    captured = HAR.decode(entry(request=request_part)).request
    assert (body_bytes(captured), captured.truncated) == (body, is_cut)
    data = request_part.get("postData") or {}
    assert captured.headers.get("content-type") == data.get("mimeType")


def test_times_of_a_har_entry() -> None:
    captured = HAR.decode(entry())
    assert (captured.captured_at, captured.duration_ms) == ("2026-01-23T17:25:14.749Z", None)


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


@given(values)
def test_tnetstrings_are_read_as_they_were_written(value: Any) -> None:
    text = tnetstring(value)
    assert parse(text) == value
    assert next_frame(io.BytesIO(text + b"rest"), 10**6) == text


@given(st.binary(max_size=60) | st.from_regex(rb"[0-9]{1,3}:[0-9:,;#^!~\]}]{0,40}", fullmatch=True))
def test_no_bytes_but_tnetstrings_are_read(content: bytes) -> None:
    for reading in (parse, lambda text: next_frame(io.BytesIO(text), 100)):
        try:
            reading(content)
        except NotTnetstring as error:
            assert error.__context__ is None  # noqa: PT017  # both ways are fine
            assert re.fullmatch(r"[a-z ,]+", str(error))  # noqa: PT017


@pytest.mark.parametrize(
    "content",
    [
        b"0:~" * 2,
        b"999999999999:x,",
        tnetstring([0] * 100_000),
        b"1" * 20,
        tnetstring(10**40),
        b"4:nope!",
        b"1:x~",
        b"3:1e9#",
        b"1:\xff;",
        b"6:0:~0:~}",
    ],
)
def test_a_tnetstring_beyond_a_bound_or_its_type_is_refused(content: bytes) -> None:
    with pytest.raises(NotTnetstring):
        parse(content)


def test_a_tnetstring_that_is_nested_too_deep_is_refused() -> None:
    value: Any = None
    for _ in range(32):
        value = [value]
    assert parse(tnetstring(value)) == value
    with pytest.raises(NotTnetstring):
        parse(tnetstring([value]))


def test_a_flow_that_is_too_long_is_passed_over() -> None:
    source = io.BytesIO(tnetstring(b"x" * 1000) + tnetstring(b"y"))
    assert [next_frame(source, 100) for _ in range(3)] == [b"", b"1:y,", None]
    with pytest.raises(NotTnetstring):
        next_frame(io.BytesIO(tnetstring(b"x" * 1000)[:-500]), 100)


def test_a_flow_that_is_too_long_is_refused_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway_tap.traffic_file._FLOW_BYTES_MAX", len(mitmproxy(PAIRS[0])))
    long = mitmproxy(PAIRS[5])
    assert len(long) > len(mitmproxy(PAIRS[0]))
    lines, refused = read(long + mitmproxy(PAIRS[0]))
    assert [line.number for line in lines] == [2]
    assert [(number, why.reason) for number, why in refused] == [(1, RefusalReason.TOO_LARGE)]
