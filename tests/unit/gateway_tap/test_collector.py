from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import secrets
import socket
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from starlette.applications import Starlette
from starlette.types import Receive, Scope, Send

from gateway_tap import collector, turns
from gateway_tap.body import inflate
from gateway_tap.collector import DROPPED_HEADER, collector_app
from gateway_tap.formats.own import OWN
from gateway_tap.formats.routes import CAPTURE_ROUTES
from gateway_tap.limits import IntakeLimits
from gateway_tap.tokens import TapToken, TapTokens
from gateway_tap.unix_socket import PEER_UID, bind_unix_socket
from schemas.errors import NotDurable
from schemas.metric_defs import Metrics
from tests.gateway_formats.encoders import FORMATS
from tests.gateway_formats.pairs import PAIRS
from tests.unit.gateway_tap.servers import FakeSink, loopback, serving

RECEIVED_MS = 1_769_192_714_749
CANARY = "c4n4ry-5up3r-53cr3t"
NDJSON = {"content-type": "application/x-ndjson"}
GOOD: dict[str, Any] = {
    "id": "019bec5a21ad7000800000000000abcd",
    "request": {"method": "PUT", "url": f"/a?{CANARY}", "body": CANARY},
    "response": {"status": 200},
}


def tap(name: str) -> dict[str, Any]:
    return {**GOOD, "tap": {"id": name}}


def lines(*values: Any) -> bytes:
    return b"\n".join(json.dumps(value).encode() for value in values)


def secret(name: str) -> str:
    return f"a-token-named-{name}"


def token(name: str, *patterns: str) -> TapToken:
    return TapToken(hashlib.sha256(secret(name).encode()).digest(), patterns)


@pytest.fixture
async def sink() -> FakeSink:
    return FakeSink()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


def make_app(
    sink: FakeSink,
    metrics: Metrics,
    limits: IntakeLimits | None = None,
    tokens: TapTokens | None = None,
    **bounds: Any,
) -> Starlette:
    return collector_app(
        sink,
        identity_key=b"k" * 32,
        limits=limits or IntakeLimits(),
        tokens=tokens,
        metrics=metrics,
        clock_ms=lambda: RECEIVED_MS,
        **bounds,
    )


def client_of(app: Starlette) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://collector")


@pytest.fixture
async def client(sink: FakeSink, metrics: Metrics) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(make_app(sink, metrics)) as client:
        yield client


async def post(
    client: httpx.AsyncClient, content: bytes | AsyncIterator[bytes], **headers: str
) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await client.post("/v1/captures", content=content, headers={**NDJSON, **named})


def assert_receipt(answer: httpx.Response, accepted: int, *refused: tuple[int, str, str]) -> None:
    """Assert how many lines were accepted, and which ones were refused: index, reason and schema path."""
    assert answer.status_code == 200
    assert answer.json() == {
        "accepted": accepted,
        "refused": [{"index": index, "reason": reason, "path": path} for index, reason, path in refused],
    }


def count(metrics: Metrics, name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(f"auditap_{name}_total", labels) or 0.0


async def test_good_lines_are_accepted_and_bad_ones_refused_by_index(
    client: httpx.AsyncClient, sink: FakeSink, metrics: Metrics
) -> None:
    bad_id = {**GOOD, "id": "x" * 32}
    answer = await post(client, lines(GOOD, {"request": CANARY}, bad_id, GOOD) + b"\n{" + CANARY.encode())
    assert_receipt(
        answer, 2, (1, "invalid", "request: type"), (2, "invalid", "id: format"), (4, "malformed", "")
    )
    assert [accepted.id for accepted in sink.accepted] == [GOOD["id"]] * 2
    assert [received_ms for _, received_ms in sink.batches] == [RECEIVED_MS]
    assert count(metrics, "captures_accepted") == 2
    assert count(metrics, "captures_refused", reason="invalid") == 2
    assert count(metrics, "captures_refused", reason="malformed") == 1


async def test_unknown_fields_are_counted_and_reported(
    client: httpx.AsyncClient, sink: FakeSink, metrics: Metrics
) -> None:
    """The response gives the number of captures and the first index, and never the name of a field."""
    misspelt = [{**GOOD, CANARY: CANARY}, {**GOOD, "request": {**GOOD["request"], CANARY: 1}}]
    answer = await post(client, lines(GOOD, *misspelt, GOOD))
    assert answer.json() == {
        "accepted": 4,
        "refused": [],
        "unknown_fields": {"captures": 2, "first_index": 1},
    }
    assert len(sink.accepted) == 4
    assert count(metrics, "captures_with_unknown_fields") == 2
    assert "unknown_fields" not in (await post(client, lines(GOOD))).json()
    assert count(metrics, "captures_with_unknown_fields") == 2


async def test_captures_that_double_when_they_are_sent_again_are_reported(client: httpx.AsyncClient) -> None:
    nameless = {name: value for name, value in GOOD.items() if name != "id"}
    timed = {**nameless, "captured_at": "2026-01-23T18:25:14Z", "tap": {"id": "t-1", "epoch": 7, "seq": 1}}
    untimed = {**timed, "captured_at": None}
    refused = {**nameless, "captured_at": "yesterday"}
    reported = (await post(client, lines(GOOD, timed, refused, nameless, untimed))).json()["unrepeatable"]
    assert (reported["captures"], reported["first_index"]) == (2, 3)
    assert reported["warning"].startswith("sent again, they become second records")
    assert "unrepeatable" not in (await post(client, lines(GOOD, timed, refused))).json()


async def test_array_object_and_gzip_are_accepted(client: httpx.AsyncClient, sink: FakeSink) -> None:
    as_json = {"content_type": "application/json"}
    assert (await post(client, json.dumps([GOOD, GOOD]).encode(), **as_json)).json()["accepted"] == 2
    assert (await post(client, json.dumps(GOOD).encode(), **as_json)).json()["accepted"] == 1
    zipped = gzip.compress(lines(GOOD, GOOD, GOOD))
    assert (await post(client, zipped, content_encoding="gzip")).json()["accepted"] == 3
    assert len(sink.accepted) == 6


async def test_an_empty_batch_does_not_reach_the_sink(client: httpx.AsyncClient, sink: FakeSink) -> None:
    assert (await post(client, b"\n")).json() == {"accepted": 0, "refused": []}
    assert sink.batches == []


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (b"{}", {"content_type": "application/json"}, 200),
        (b"17", {"content_type": "application/json"}, 400),
        (b"[", {"content_type": "application/json"}, 400),
        (b"no gzip", {"content_encoding": "gzip"}, 400),
        (b"", {"content_type": "application/x-www-form-urlencoded"}, 415),
        (b"", {"content_encoding": "br"}, 415),
        (b" " * 5_001, {}, 413),
        (gzip.compress(b" " * 9_001), {"content_encoding": "gzip"}, 413),
        (lines(*[GOOD] * 6), {}, 413),
    ],
)
async def test_a_body_can_be_rejected_as_a_whole(
    sink: FakeSink, metrics: Metrics, content: bytes, headers: dict[str, str], status: int
) -> None:
    limits = IntakeLimits(batch_bytes_max=5_000, inflated_bytes_max=9_000)
    async with client_of(make_app(sink, metrics, limits, captures_max=5)) as client:
        answer = await post(client, content, **headers)
    assert answer.status_code == status
    assert status == 200 or list(answer.json()) == ["error"]
    assert sink.batches == []


async def test_a_body_without_a_length_is_read_up_to_the_bound(sink: FakeSink, metrics: Metrics) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1
            yield b" " * 1_000

    listener, url = loopback()
    app = make_app(sink, metrics, IntakeLimits(batch_bytes_max=50_000))
    async with serving(app, listener), httpx.AsyncClient(base_url=url, timeout=120) as client:
        try:
            answer = await post(client, endless())
            assert answer.status_code == 413
        except httpx.NetworkError:
            pass  # The connection may close while the client still writes.
    assert sent < 100_000
    assert sink.batches == []


async def test_a_batch_that_is_not_durable_is_answered_503_and_can_be_retried(
    client: httpx.AsyncClient, sink: FakeSink, metrics: Metrics
) -> None:
    sink.failures = [NotDurable("the log is away", retry_after_s=7)]
    answer = await post(client, lines(GOOD, GOOD), auditap_dropped="5")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "7")
    assert count(metrics, "captures_unavailable") == 2
    assert count(metrics, "captures_accepted") == 0
    assert count(metrics, "captures_dropped_by_taps") == 0
    assert (await post(client, lines(GOOD, GOOD), auditap_dropped="5")).status_code == 200
    assert count(metrics, "captures_dropped_by_taps") == 5


async def test_a_failing_sink_is_answered_503_and_logged_by_type_alone(
    client: httpx.AsyncClient, sink: FakeSink, metrics: Metrics
) -> None:
    sink.failures = [ValueError(CANARY)]
    with structlog.testing.capture_logs() as logged:
        answer = await post(client, lines(GOOD))
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert logged == [{"event": "collector_failed", "error": "ValueError", "log_level": "error"}]
    assert CANARY not in answer.text
    assert count(metrics, "captures_unavailable") == 1


@pytest.mark.parametrize(
    ("reported", "counted"), [("137", 137), ("0", 0), ("-1", 0), ("1e3", 0), ("\u0661", 0), ("9" * 13, 0)]
)
async def test_drops_are_counted(
    client: httpx.AsyncClient, metrics: Metrics, reported: str, counted: int
) -> None:
    headers = httpx.Headers({"content-type": "text/plain", "auditap-dropped": reported}, encoding="utf-8")
    assert (await client.post("/v1/captures", content=b"", headers=headers)).status_code == 200
    assert count(metrics, "captures_dropped_by_taps") == counted
    # Nothing else counts, and the page has to say so.
    assert DROPPED_HEADER in Metrics.captures_dropped_by_taps.meaning.lower()


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer fifteen-letters",
        f"Bearer {secret('none')}",
        f"Basic {secret('one')}",
        secret("one"),
        f"Bearer {secret('one')} {secret('two')}",
    ],
)
async def test_without_a_token_nothing_is_read(
    sink: FakeSink, metrics: Metrics, authorization: str | None
) -> None:
    short = [TapToken(hashlib.sha256(text).digest(), ("*",)) for text in (b"", b"fifteen-letters")]
    app = make_app(sink, metrics, tokens=TapTokens([token("one", "*"), token("two", "*"), *short]))
    headers = {} if authorization is None else {"authorization": authorization}
    async with client_of(app) as client:
        answer = await post(client, lines(GOOD), **headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert sink.batches == []


@pytest.mark.parametrize(
    ("name", "accepted", "refused"),
    [("all", 4, []), ("one", 1, [1, 2, 3]), ("eu", 2, [2, 3]), ("none", 0, [0, 1, 2, 3])],
)
async def test_a_token_sends_for_its_own_taps_only(
    sink: FakeSink, metrics: Metrics, name: str, accepted: int, refused: list[int]
) -> None:
    tokens = TapTokens(
        [
            token("all", "*"),
            token("one", "gw-eu-1"),
            token("eu", "other", "gw-eu-*"),
            token("none"),
        ]
    )
    body = lines(tap("gw-eu-1"), tap("gw-eu-2"), tap("GW-EU-1"), GOOD)
    async with client_of(make_app(sink, metrics, tokens=tokens)) as client:
        answer = (await post(client, body, authorization=f"bearer {secret(name)}")).json()
    assert answer["accepted"] == accepted == len(sink.accepted)
    assert [each["index"] for each in answer["refused"]] == refused
    assert {each["reason"] for each in answer["refused"]} <= {"tap_not_allowed"}
    # The last capture names no tap, which only `*` alone allows.
    paths = {each["index"]: each["path"] for each in answer["refused"]}
    assert paths == {index: "tap.id: required" if index == 3 else "tap.id" for index in refused}


async def test_each_format_has_its_route_and_its_scheme(sink: FakeSink, metrics: Metrics) -> None:
    tokens = TapTokens([token("one", "gw-eu-1"), token("eu", "gw-eu-*"), token("all", "*")])
    async with client_of(make_app(sink, metrics, tokens=tokens)) as client:
        for under_test in FORMATS:
            body, content_type = under_test.join([under_test.encode(PAIRS[0])])
            for route in CAPTURE_ROUTES:
                if route.format is not under_test.format or route.format is OWN:
                    continue
                # A format in which gateways cannot name themselves takes the name from a token for one tap.
                for name, taps in (("one", ["gw-eu-1"]), ("eu", []), ("all", [None])):
                    sink.batches.clear()
                    headers = {
                        "content-type": content_type,
                        "authorization": f"{route.scheme} {secret(name)}",
                    }
                    answer = await client.post(route.path, content=body, headers=headers)
                    assert answer.status_code == 200
                    assert [each.capture.tap and each.capture.tap.id for each in sink.accepted] == taps
                    other = "bearer" if route.scheme == "splunk" else "splunk"
                    answer = await client.post(
                        route.path, content=body, headers={"authorization": f"{other} {secret(name)}"}
                    )
                    assert answer.status_code == 401
                    assert answer.headers["www-authenticate"].lower().startswith(route.scheme)


@pytest.mark.parametrize("pattern", ["*", "gw-*", "gw-?", "gw-[12]", "", " gw", "g" * 65])
def test_a_pattern_or_a_name_that_no_tap_has_names_no_tap(pattern: str) -> None:
    assert token("one", pattern).only_tap is None
    assert token("one", "gw-1", "gw-2").only_tap is None


async def test_requests_in_flight_are_bounded(sink: FakeSink, metrics: Metrics) -> None:
    sink.gate.clear()
    async with client_of(make_app(sink, metrics, IntakeLimits(requests_max=1))) as client:
        first = asyncio.create_task(post(client, lines(GOOD)))
        await sink.entered.wait()
        second = await post(client, lines(GOOD))
        assert (second.status_code, second.headers["retry-after"]) == (503, "1")
        sink.gate.set()
        assert (await first).status_code == 200
        assert (await post(client, lines(GOOD))).status_code == 200


async def test_one_token_does_not_take_the_places_of_another(sink: FakeSink, metrics: Metrics) -> None:
    sink.gate.clear()
    tokens = TapTokens([token("greedy", "*"), token("other", "*")])
    app = make_app(sink, metrics, IntakeLimits(requests_max=9), tokens)

    def send(client: httpx.AsyncClient, name: str) -> asyncio.Task[httpx.Response]:
        return asyncio.create_task(post(client, lines(GOOD), authorization=f"Bearer {secret(name)}"))

    async with client_of(app) as client:
        greedy = [send(client, "greedy") for _ in range(30)]
        while sum(task.done() for task in greedy) < 24:
            await asyncio.sleep(0.01)
        others = [send(client, "other") for _ in range(2)]
        while not any(task.done() for task in others) and sink.waiting < 8:
            await asyncio.sleep(0.01)
        sink.gate.set()
        assert [(await task).status_code for task in others] == [200, 200]
        assert sorted([(await task).status_code for task in greedy]) == [200] * 6 + [503] * 24
    assert count(metrics, "intake_busy", bound="requests_share") == 24


async def test_users_of_the_unix_socket_share_its_places(sink: FakeSink, metrics: Metrics) -> None:
    sink.gate.clear()
    app = make_app(sink, metrics, IntakeLimits(requests_max=3))

    async def with_uid(scope: Scope, receive: Receive, send: Send) -> None:
        uid = int(dict(scope["headers"])[b"uid"])
        await app({**scope, "state": {PEER_UID: uid}}, receive, send)

    transport = httpx.ASGITransport(with_uid)
    async with httpx.AsyncClient(transport=transport, base_url="http://collector") as client:
        first = [asyncio.create_task(post(client, lines(GOOD), uid="1000")) for _ in range(3)]
        while not any(task.done() for task in first):
            await asyncio.sleep(0.01)
        second = asyncio.create_task(post(client, lines(GOOD), uid="1001"))
        while sink.waiting < 3:
            await asyncio.sleep(0.01)
        sink.gate.set()
        assert (await second).status_code == 200
        assert sorted([(await task).status_code for task in first]) == [200, 200, 503]


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
async def test_bytes_in_flight_are_bounded(sink: FakeSink, metrics: Metrics, encoding: str) -> None:
    body = lines({**GOOD, "pad": "x" * 5_000})
    if encoding == "gzip":
        body = gzip.compress(body)
    sink.gate.clear()
    async with client_of(make_app(sink, metrics, IntakeLimits(in_flight_bytes_max=9_000))) as client:
        first = asyncio.create_task(post(client, body, content_encoding=encoding))
        await sink.entered.wait()
        assert (await post(client, body, content_encoding=encoding)).status_code == 503
        sink.gate.set()
        assert (await first).status_code == 200
        assert (await post(client, body, content_encoding=encoding)).status_code == 200


async def test_others_get_their_turn_while_a_batch_is_read(
    client: httpx.AsyncClient, sink: FakeSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop_turns = 0

    async def neighbour() -> None:
        nonlocal loop_turns
        while True:
            await asyncio.sleep(0)
            loop_turns += 1

    monkeypatch.setattr(turns, "_TURN_S", 0)
    beside = asyncio.create_task(neighbour())
    assert (await post(client, lines(*[GOOD] * 500))).status_code == 200
    beside.cancel()
    assert len(sink.accepted) == 500
    # As the lines are read, and as captures get their ids.
    assert loop_turns >= 900


async def test_what_takes_long_to_inflate_is_inflated_beside_the_loop(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[bool] = []

    def noted(*arguments: Any) -> bytes:
        threads.append(threading.current_thread() is threading.main_thread())
        return inflate(*arguments)

    monkeypatch.setattr(collector, "inflate", noted)
    short = gzip.compress(lines(GOOD))
    long = gzip.compress(lines({**GOOD, "pad": secrets.token_hex(20_000)}))
    for body in (short, long):
        assert (await post(client, body, content_encoding="gzip")).json()["accepted"] == 1
    assert threads == [True, False]


async def test_a_body_that_does_not_arrive_releases_its_place(sink: FakeSink, metrics: Metrics) -> None:
    async def stuck() -> AsyncIterator[bytes]:
        yield b" "
        await asyncio.Event().wait()

    async with client_of(make_app(sink, metrics, IntakeLimits(requests_max=1), read_ms_max=500)) as client:
        assert (await post(client, stuck())).status_code == 408
        async with asyncio.timeout(120):
            # A body that does arrive may meet the short time limit where the machine is busy, too: 408, and never 503.
            while (answer := await post(client, lines(GOOD))).status_code == 408:
                pass
        assert answer.status_code == 200


async def test_a_client_that_disconnects_releases_its_place(sink: FakeSink, metrics: Metrics) -> None:
    listener, url = loopback()
    app = make_app(sink, metrics, IntakeLimits(requests_max=1))
    async with serving(app, listener), httpx.AsyncClient(base_url=url, timeout=120) as client:
        with socket.create_connection(listener.getsockname()) as gone:
            gone.sendall(b"POST /v1/captures HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{")
        async with asyncio.timeout(120):
            # The first may come before the server has seen the other one leave.
            while (await post(client, lines(GOOD))).status_code != 200:
                pass


async def test_no_response_reveals_anything_of_a_capture(client: httpx.AsyncClient) -> None:
    for content in (
        lines({**GOOD, "response": {"status": CANARY}}),
        CANARY.encode(),
        lines({CANARY: CANARY}),
    ):
        for content_type in ("application/json", "application/x-ndjson", CANARY):
            answer = await post(client, content, content_type=content_type)
            assert CANARY not in answer.text + str(answer.headers)


HEARTBEAT: dict[str, Any] = {
    "tap": {"id": "gw-1", "epoch": 7},
    "beat": 1,
    "at_ms": 5,
    "started_ms": 4,
    "highest": 3,
    "pending_from": 4,
    "pending_since_ms": 5,
    "lease_ms": 30_000,
}


async def test_heartbeats_are_accepted_and_bad_ones_refused_by_index(
    client: httpx.AsyncClient, sink: FakeSink, metrics: Metrics
) -> None:
    killed = {**HEARTBEAT, "state": "killed", "beat": 0}
    unordered = {**HEARTBEAT, "pending_from": 5}
    answer = await client.post(
        "/v1/heartbeats",
        content=lines(HEARTBEAT, {**HEARTBEAT, "tap": CANARY}, unordered, killed),
        headers=NDJSON,
    )
    assert_receipt(answer, 2, (1, "invalid", "tap: type"), (2, "invalid", "$: order"))
    assert [(each.tap.id, each.state) for each in sink.heartbeats] == [("gw-1", "alive"), ("gw-1", "killed")]
    assert count(metrics, "heartbeats_accepted") == 2


async def test_heartbeats_that_are_not_durable_are_answered_503(
    client: httpx.AsyncClient, sink: FakeSink
) -> None:
    sink.heartbeat_failures = [NotDurable("away", 3)]
    answer = await client.post("/v1/heartbeats", json=HEARTBEAT)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "3")
    assert (await client.post("/v1/heartbeats", json=HEARTBEAT)).json()["accepted"] == 1


async def test_too_many_heartbeats_and_too_long_ones_are_refused(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/heartbeats", content=lines(*[HEARTBEAT] * 101), headers=NDJSON)
    assert answer.status_code == 413
    padded = json.dumps({**HEARTBEAT, "more": "x" * 300_000})
    assert (await client.post("/v1/heartbeats", content=padded, headers=NDJSON)).json()["refused"] == [
        {"index": 0, "reason": "too_large", "path": ""}
    ]


async def test_a_token_reports_sequence_numbers_for_its_own_taps_only(
    sink: FakeSink, metrics: Metrics
) -> None:
    app = make_app(sink, metrics, tokens=TapTokens([token("one", "gw-1")]))
    numbered = [
        {"tap": {"id": name, "epoch": 7, "seq": 5}, "request": {}, "response": {}}
        for name in ("gw-1", "gw-2")
    ]
    async with client_of(app) as client:
        client.headers["authorization"] = f"Bearer {secret('one')}"
        assert (await post(client, lines(*numbered))).status_code == 200
        other = {**HEARTBEAT, "tap": {"id": "gw-2", "epoch": 7}}
        answer = await client.post("/v1/heartbeats", content=lines(other, HEARTBEAT), headers=NDJSON)
    assert [each.id for each in sink.refused] == ["gw-1"]
    assert answer.json() == {
        "accepted": 1,
        "refused": [{"index": 0, "reason": "tap_not_allowed", "path": "tap.id"}],
    }


async def test_sequence_numbers_of_refused_lines_reach_the_sink(
    client: httpx.AsyncClient, sink: FakeSink
) -> None:
    position = {"tap": {"id": "gw-1", "epoch": 7, "seq": 5}}
    bad_id = {**GOOD, "tap": {"id": "gw-1", "epoch": 7, "seq": 6}, "id": "x" * 32}
    await post(
        client, lines(GOOD, {**position, "request": CANARY}, bad_id, {"tap": {"id": "gw-1", "seq": 7}})
    )
    assert [(each.id, each.epoch, each.seq) for each in sink.refused] == [("gw-1", 7, 5), ("gw-1", 7, 6)]


async def test_only_post_is_served(client: httpx.AsyncClient) -> None:
    assert (await client.get("/v1/captures")).status_code == 405


async def test_curl_sends_ndjson_through_the_unix_socket(
    sink: FakeSink, metrics: Metrics, socket_dir: Path
) -> None:
    path = socket_dir / "collector.sock"
    captures = socket_dir / "captures.ndjson"
    captures.write_bytes(lines(GOOD, {}, GOOD) + b"\n")
    command = ["--silent", "--unix-socket", str(path), "--data-binary", f"@{captures}"]
    command += ["--header", "Content-Type: application/x-ndjson", "http://collector/v1/captures"]
    async with serving(make_app(sink, metrics), bind_unix_socket(path)):
        curl = await asyncio.create_subprocess_exec("curl", *command, stdout=asyncio.subprocess.PIPE)
        output, _ = await curl.communicate()
    assert curl.returncode == 0
    assert json.loads(output) == {
        "accepted": 2,
        "refused": [{"index": 1, "reason": "invalid", "path": "request: required"}],
    }
