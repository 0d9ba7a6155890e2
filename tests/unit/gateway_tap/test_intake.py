from __future__ import annotations

import gzip
import json
import tracemalloc
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway_tap.body import Refusal, RejectedBody, Rejection, inflate
from gateway_tap.formats.own import OWN
from gateway_tap.formats.routes import CAPTURE_ROUTES
from gateway_tap.intake import CaptureBatch, read_batch, read_into
from gateway_tap.limits import IntakeLimits
from schemas.capture import Capture, CapturedRequest, CapturedResponse, decode_capture, split_ndjson
from schemas.contracts import schema_path_of_first_error
from schemas.errors import RefusalReason, RefusedCapture

NDJSON = "application/x-ndjson"
JSON = "application/json"
LIMITS = IntakeLimits()
CANARY = "c4n4ry-5up3r-53cr3t"

GOOD: dict[str, Any] = {"request": {"method": "PUT", "url": "/a"}, "response": {"status": 200}}
NO_STATUS: dict[str, Any] = {"request": {"method": "PUT", "url": "/a"}, "response": {}}
WRONG_STATUS: dict[str, Any] = {"request": {"method": "PUT", "url": "/a"}, "response": {"status": CANARY}}


def lines(*values: Any) -> bytes:
    return b"\n".join(value if isinstance(value, bytes) else json.dumps(value).encode() for value in values)


def indexes(batch: CaptureBatch) -> list[int]:
    return [index for index, _ in batch.captures]


@pytest.mark.parametrize(
    ("content_type", "body", "accepted"),
    [
        (NDJSON, lines(GOOD), [0]),
        (NDJSON, lines(GOOD, GOOD) + b"\n", [0, 1]),
        (NDJSON, lines(GOOD, GOOD).replace(b"\n", b"\r\n"), [0, 1]),
        (NDJSON, b"\n\n" + lines(GOOD) + b"\n \t\n" + lines(GOOD) + b"\n\n", [0, 1]),
        (NDJSON, b"", []),
        ("Application/X-NDJSON; charset=utf-8", lines(GOOD), [0]),
        ("text/plain", lines(GOOD, GOOD), [0, 1]),
        ("application/jsonl", lines(GOOD), [0]),
        (JSON, json.dumps([GOOD, GOOD, GOOD]).encode(), [0, 1, 2]),
        (JSON, json.dumps([GOOD], indent=2).encode(), [0]),
        (JSON, b"[]", []),
        (JSON, json.dumps(GOOD).encode(), [0]),
        (JSON, b" \r\n" + json.dumps(GOOD, indent=2).encode() + b"\n", [0]),
        (f"{JSON}; charset=utf-8", json.dumps([GOOD]).encode(), [0]),
    ],
)
def test_accepts_every_form_of_a_body(content_type: str, body: bytes, accepted: list[int]) -> None:
    batch = read_batch(body, content_type, LIMITS)
    assert indexes(batch) == accepted
    assert batch.refusals == []
    assert all(capture.request.method == "PUT" for _, capture in batch.captures)


@pytest.mark.parametrize(
    ("bad", "reason", "path"),
    [
        (b"{", RefusalReason.MALFORMED, ""),
        (b"\xff\xfe", RefusalReason.MALFORMED, ""),
        (b"\xef\xbb\xbf" + lines(GOOD), RefusalReason.MALFORMED, ""),
        (lines(GOOD) + b" " + lines(GOOD), RefusalReason.MALFORMED, ""),
        (b"[", RefusalReason.MALFORMED, ""),
        (b"[" * 100_000, RefusalReason.INVALID, ""),
        (b'{"pad":' + b"[" * 100_000, RefusalReason.MALFORMED, ""),
        (lines(NO_STATUS), RefusalReason.INVALID, "response.status: required"),
        (lines(WRONG_STATUS), RefusalReason.INVALID, "response.status: type"),
        (b"17", RefusalReason.INVALID, "$: type"),
        (b" " + lines({**GOOD, "pad": "x" * 600}), RefusalReason.TOO_LARGE, ""),
    ],
)
def test_refuses_a_bad_line_alone(bad: bytes, reason: RefusalReason, path: str) -> None:
    line_bytes_max = 500 if reason is RefusalReason.TOO_LARGE else 200_000
    batch = read_batch(lines(GOOD, bad, GOOD), NDJSON, IntakeLimits(line_bytes_max=line_bytes_max))
    assert indexes(batch) == [0, 2]
    assert batch.refusals == [Refusal(1, reason, path)]


def test_refuses_a_bad_element_of_an_array_alone() -> None:
    body = json.dumps([GOOD, NO_STATUS, 17, {**GOOD, "pad": "x" * 600}, GOOD]).encode()
    batch = read_batch(body, JSON, IntakeLimits(line_bytes_max=500))
    assert indexes(batch) == [0, 4]
    assert batch.refusals == [
        Refusal(1, RefusalReason.INVALID, "response.status: required"),
        Refusal(2, RefusalReason.INVALID, "$: type"),
        Refusal(3, RefusalReason.TOO_LARGE, ""),
    ]


@pytest.mark.parametrize(
    ("body", "content_type", "captures_max", "reason"),
    [
        (b"", JSON, 10, Rejection.ARRAY),
        (b"17", JSON, 10, Rejection.ARRAY),
        (b'[{"a": 1}', JSON, 10, Rejection.ARRAY),
        (b'["\xff", ]', JSON, 10, Rejection.ARRAY),
        (b"[" * 100_000, JSON, 10, Rejection.ARRAY),
        (lines(GOOD), "", 10, Rejection.MEDIA_TYPE),
        (lines(GOOD), "application/x-www-form-urlencoded", 10, Rejection.MEDIA_TYPE),
        (lines(GOOD, GOOD, GOOD), NDJSON, 2, Rejection.CAPTURES),
        (lines(b"1", b"2", b"3"), NDJSON, 2, Rejection.CAPTURES),
        (b"\n" * 7, NDJSON, 2, Rejection.CAPTURES),
        (b"[1,2,3]", JSON, 2, Rejection.CAPTURES),
        (b"[" + b"0," * 201 + b"0]", JSON, 2, Rejection.CAPTURES),
    ],
)
def test_rejects_a_whole_body(body: bytes, content_type: str, captures_max: int, reason: Rejection) -> None:
    with pytest.raises(RejectedBody) as caught:
        read_batch(body, content_type, LIMITS, captures_max=captures_max)
    assert caught.value.reason is reason


def test_never_splits_an_array_with_more_elements_than_the_limit_allows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gateway_tap.body._array_decoder", None)
    with pytest.raises(RejectedBody, match="more captures"):
        read_batch(b"[" + b"0," * 1_000_001 + b"0]", JSON, LIMITS)


def test_more_elements_than_captures_are_rejected_before_the_first_is_read() -> None:
    """Many such bodies are read in turns: the elements of each would stay in memory meanwhile."""
    batch = CaptureBatch()
    reading = read_into(batch, b"[1,2,3]", JSON, LIMITS, captures_max=2)
    with pytest.raises(RejectedBody, match="more captures"):
        next(reading)
    assert not batch.refusals


def test_lines_are_copied_one_by_one() -> None:
    body = b"\n".join([b"x" * 100_000] * 10)
    tracemalloc.start()
    try:
        assert sum(len(text) for text in split_ndjson(body)) == 1_000_000
        assert tracemalloc.get_traced_memory()[1] < 500_000
    finally:
        tracemalloc.stop()


def test_the_limit_of_captures_itself_is_allowed() -> None:
    assert indexes(read_batch(lines(GOOD, GOOD), NDJSON, LIMITS, captures_max=2)) == [0, 1]
    assert indexes(read_batch(json.dumps([GOOD, GOOD]).encode(), JSON, LIMITS, captures_max=2)) == [0, 1]


def test_inflates_gzip() -> None:
    assert inflate(gzip.compress(lines(GOOD)), "gzip", 10_000) == lines(GOOD)
    assert inflate(gzip.compress(b""), " GZIP ", 10_000) == b""
    assert inflate(b"as it is", "", 10_000) == b"as it is"
    assert inflate(b"as it is", "identity", 10_000) == b"as it is"


def test_the_limit_of_inflated_bytes_itself_is_allowed() -> None:
    assert len(inflate(gzip.compress(b"0" * 1000), "gzip", 1000)) == 1000
    with pytest.raises(RejectedBody, match="inflated"):
        inflate(gzip.compress(b"0" * 1001), "gzip", 1000)


@pytest.mark.parametrize(
    ("body", "encoding", "reason"),
    [
        (b"no gzip", "gzip", Rejection.GZIP),
        (b"", "gzip", Rejection.GZIP),
        (gzip.compress(b"cut off" * 100)[:-9], "gzip", Rejection.GZIP),
        (gzip.compress(b"whole")[:-1], "gzip", Rejection.GZIP),
        (gzip.compress(b"first") + gzip.compress(b"second"), "gzip", Rejection.GZIP),
        (b"", "br", Rejection.CONTENT_ENCODING),
        (b"", "gzip, gzip", Rejection.CONTENT_ENCODING),
    ],
)
def test_rejects_what_it_cannot_inflate(body: bytes, encoding: str, reason: Rejection) -> None:
    with pytest.raises(RejectedBody) as caught:
        inflate(body, encoding, 10_000)
    assert caught.value.reason is reason


def test_a_bomb_is_never_inflated_beyond_the_bound() -> None:
    bomb = gzip.compress(b"0" * 200_000_000, compresslevel=9)
    tracemalloc.start()
    try:
        with pytest.raises(RejectedBody, match="inflated"):
            inflate(bomb, "gzip", 1_000_000)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 5_000_000


def test_explains_the_first_refusals_only(monkeypatch: pytest.MonkeyPatch) -> None:
    explained = []

    def counting(contract: str, line: bytes) -> str | None:
        explained.append(line)
        return schema_path_of_first_error(contract, line)

    monkeypatch.setattr("schemas.capture.schema_path_of_first_error", counting)
    batch = read_batch(
        lines(*[NO_STATUS] * 10_000), NDJSON, LIMITS, explanations_max=3, explained_bytes_max=10**6
    )
    assert len(explained) == 3
    assert [refusal.path for refusal in batch.refusals[:4]] == ["response.status: required"] * 3 + [""]
    assert {refusal.reason for refusal in batch.refusals} == {RefusalReason.INVALID}
    assert len(batch.refusals) == 10_000


def test_explains_no_more_bytes_than_the_budget() -> None:
    long = {**NO_STATUS, "pad": "x" * 1000}
    batch = read_batch(lines(long, NO_STATUS, NO_STATUS), NDJSON, LIMITS, explained_bytes_max=100)
    paths = [refusal.path for refusal in batch.refusals]
    assert paths == ["", "response.status: required", ""]


def test_good_lines_are_accepted_when_the_budget_for_explanations_is_spent() -> None:
    batch = read_batch(lines(b"{", GOOD, b"{", GOOD), NDJSON, LIMITS, explanations_max=0)
    assert indexes(batch) == [1, 3]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["request", "response", "id", "tap", "status", "url"]), inner)
    ),
    max_leaves=8,
)
bodies = st.binary(max_size=300) | st.lists(json_values, max_size=5).map(lambda values: lines(*values))


@given(bodies, st.sampled_from([NDJSON, JSON, "text/plain", ""]), st.sampled_from(["", "gzip", "br"]))
@example(b'{"id":"\\ud800"}', NDJSON, "")
@example(gzip.compress(b"\xff\xfe\x00"), NDJSON, "gzip")
def test_no_bytes_crash_it(body: bytes, content_type: str, encoding: str) -> None:
    limits = IntakeLimits(line_bytes_max=100)
    try:
        batch = read_batch(inflate(body, encoding, 1000), content_type, limits, captures_max=3)
    except RejectedBody:
        return
    seen = sorted(indexes(batch) + [refusal.index for refusal in batch.refusals])
    assert seen == list(range(len(seen)))


@given(st.recursive(st.just(CANARY), lambda inner: st.lists(inner) | st.dictionaries(st.just(CANARY), inner)))
@example(WRONG_STATUS)
@example({**GOOD, "request": {CANARY: CANARY}})
@example({**GOOD, "request": {"method": CANARY * 20, "url": "/"}})
@example({**GOOD, "tap": {"id": f" {CANARY}"}})
@example({**GOOD, "request": {"method": "PUT", "url": "/", "headers": {CANARY: {CANARY: CANARY}}}})
def test_no_refusal_reveals_anything_of_the_line(value: Any) -> None:
    for line in (lines(value), lines(value)[:-1], lines({**GOOD, "id": value})):
        try:
            batch = read_batch(b"[" + line + b"]", JSON, LIMITS)
            assert CANARY not in repr(batch)
            assert CANARY not in repr(batch.refusals) + repr(batch.captures)
        except RejectedBody as rejected:
            assert CANARY not in repr(rejected) + repr(rejected.__context__)  # noqa: PT017  # both ways are fine


@pytest.mark.parametrize(
    "misspelt",
    [
        {**GOOD, "client_ipp": CANARY},
        {**GOOD, CANARY: None},
        {**GOOD, "request": {**GOOD["request"], "boddy": CANARY}},
        {**GOOD, "response": {**GOOD["response"], "reponse": {}}},
        {**GOOD, "tap": {"id": "t", "sequence": 1}},
    ],
)
def test_a_capture_with_unknown_fields_is_accepted_and_reported(misspelt: dict[str, Any]) -> None:
    batch = read_batch(lines(GOOD, misspelt, WRONG_STATUS, GOOD), NDJSON, LIMITS)
    assert indexes(batch) == [0, 1, 3]
    assert batch.with_unknown_fields == [1]
    assert batch.captures[1][1].request.method == "PUT"
    assert CANARY not in repr(batch)


def test_every_field_of_the_contract_is_known() -> None:
    message = {"headers": {"a": ["b"]}, "body": "b", "body_base64": None, "truncated": True}
    whole = {
        "id": "0" * 32,
        "tap": {"id": "t", "epoch": 1, "seq": 2},
        "captured_at": "2026-01-23T18:25:14.749Z",
        "duration_ms": 12.4,
        "client_ip": "203.0.113.9",
        "request": {**GOOD["request"], **message},
        "response": {**GOOD["response"], **message, "complete": False},
    }
    batch = read_batch(lines(whole), NDJSON, LIMITS)
    assert batch.with_unknown_fields == []
    [(_, capture)] = batch.captures
    plain = decode_capture(lines(whole))
    for name in ("id", "captured_at", "duration_ms", "client_ip"):
        assert getattr(capture, name) == getattr(plain, name) is not None
    for name in ("tap", "request", "response"):
        assert msgspec.structs.asdict(getattr(capture, name)) == msgspec.structs.asdict(getattr(plain, name))


class _Pipes:
    """A format for this test: `METHOD url`, with a pipe between pairs."""

    name = "pipes"

    def split(self, body: bytes, content_type: str, texts_max: int) -> list[bytes]:
        assert (content_type, texts_max) == ("text/pipes", 3)
        return body.split(b"|")

    def decode(self, text: bytes) -> Capture:
        method, _, url = text.decode().partition(" ")
        if not url:
            raise RefusedCapture(RefusalReason.INVALID, "url: required")
        return Capture(CapturedRequest(method, url), CapturedResponse(200))


def test_another_format_splits_and_decodes_within_the_same_bounds() -> None:
    limits = IntakeLimits(line_bytes_max=50)
    position = lines({"tap": {"id": "t", "epoch": 1, "seq": 2}}).replace(b" ", b"")
    body = b"GET /1|" + position + b"|" + b"x" * 51
    batch = read_batch(body, "text/pipes", limits, gateway_format=_Pipes(), captures_max=3)
    assert [(index, capture.request.url) for index, capture in batch.captures] == [(0, "/1")]
    assert batch.refusals == [
        Refusal(1, RefusalReason.INVALID, "url: required"),
        Refusal(2, RefusalReason.TOO_LARGE, ""),
    ]
    # Only auditap's own format has sequence numbers and a contract that names every field.
    assert batch.refused_positions == []
    assert batch.with_unknown_fields == []
    with pytest.raises(RejectedBody) as rejected:
        read_batch(b"GET /1|GET /2|GET /3|", "text/pipes", limits, gateway_format=_Pipes(), captures_max=3)
    assert rejected.value.reason is Rejection.CAPTURES


def test_each_route_takes_one_format() -> None:
    assert CAPTURE_ROUTES[0] == ("/v1/captures", OWN, "bearer")
    assert len({route.path for route in CAPTURE_ROUTES}) == len(CAPTURE_ROUTES)
