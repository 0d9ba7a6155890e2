from __future__ import annotations

import time
from typing import Any

import pytest

from auditap_tap import TapStats
from schemas.capture import body_bytes
from schemas.identity import id_ms, parse_id, parse_rfc3339_ms
from tests.unit.auditap_tap.apps import END, START, call, echo, one_route, sends
from tests.unit.auditap_tap.tapped import Collector, Wrap, client_of, eventually


async def test_a_pair_arrives_as_it_was(collector: Collector, wrap: Wrap) -> None:
    before_ms = time.time_ns() // 1_000_000
    tap = wrap(one_route(echo))
    async with client_of(tap) as client:
        url = str(client.base_url) + "/a%2Fb/%C3%A4?x=1&y=%20"
        headers = {"user-agent": "test/1", "content-type": "application/json", "cf-ray": "9bb-FRA"}
        answer = await client.put(url, content=b'{"a": "\xc3\xa4"}', headers=headers)
        await eventually(lambda: tap.stats.accepted == 1)
    assert answer.content == b'{"a": "\xc3\xa4"}'
    [identified] = collector.accepted
    capture = identified.capture
    assert (capture.request.method, capture.request.url) == ("PUT", url)
    assert capture.request.headers == {**headers, "host": url.split("/")[2]}
    assert capture.response.status == 200
    assert capture.response.headers == {
        "x-actor-id": "u1",
        "content-type": "application/json",
        "content-length": "11",
    }
    assert body_bytes(capture.request) == body_bytes(capture.response) == answer.content
    assert not capture.request.truncated
    assert not capture.response.truncated
    assert capture.response.complete
    assert capture.client_ip == "127.0.0.1"
    assert capture.duration_ms is not None
    assert capture.duration_ms > 0
    assert capture.id is not None
    assert capture.captured_at is not None
    assert parse_id(capture.id) == capture.id == identified.id
    assert before_ms <= id_ms(identified.id) == parse_rfc3339_ms(capture.captured_at)
    assert capture.tap is not None
    assert (capture.tap.id, capture.tap.seq) == ("t-1", 1)
    assert tap.stats == TapStats(captured=1, accepted=1)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("müller@example.com".encode(), "müller@example.com"),
        ("田中".encode(), "田中"),
        ("Jürgen".encode("latin-1"), "Jürgen"),
        (b"ana", "ana"),
    ],
)
async def test_headers_arrive_as_they_were_meant(
    collector: Collector, wrap: Wrap, value: bytes, text: str
) -> None:
    start = START | {"headers": [(b"x-actor-id", value)]}
    await call(wrap(sends(start, END)))
    await eventually(lambda: len(collector.captures) == 1)
    assert collector.captures[0].response.headers == {"x-actor-id": text}


@pytest.mark.parametrize("body", [b"\x1f\x8b\x00\xff", bytes(range(256))])
async def test_bytes_that_are_not_text_arrive_unchanged(
    collector: Collector, wrap: Wrap, body: bytes
) -> None:
    async with client_of(wrap(one_route(echo))) as client:
        await client.post("/", content=body, headers={"content-type": "application/json"})
        await eventually(lambda: len(collector.captures) == 1)
    assert body_bytes(collector.captures[0].request) == body_bytes(collector.captures[0].response) == body


@pytest.mark.parametrize(
    ("scope", "url"),
    [
        ({}, "https://api.example.com/a"),
        ({"query_string": b"a=1&b=%20"}, "https://api.example.com/a?a=1&b=%20"),
        ({"raw_path": None, "path": "/ä b?c#d"}, "https://api.example.com/%C3%A4%20b%3Fc%23d"),
        ({"raw_path": b"/a%2Fb;v=1"}, "https://api.example.com/a%2Fb;v=1"),
        ({"raw_path": b"/a?x=1", "query_string": b"x=1"}, "https://api.example.com/a?x=1"),
        ({"raw_path": b"//evil.example/x"}, "https://api.example.com//evil.example/x"),
        ({"raw_path": b"*"}, "https://api.example.com/*"),
        ({"raw_path": b"/\xff#"}, "https://api.example.com/%FF%23"),
        ({"query_string": b"a=#b"}, "https://api.example.com/a?a=%23b"),
        ({"headers": [(b"host", b"api.example.com:8443")]}, "https://api.example.com:8443/a"),
        ({"headers": [(b"host", b"[::1]:80")]}, "https://[::1]:80/a"),
        ({"headers": []}, "https://10.0.0.1:443/a"),
        ({"headers": [], "server": ("::1", 80)}, "https://[::1]:80/a"),
        ({"headers": [], "server": ("/run/app.sock", None)}, "https://unknown.invalid/a"),
        ({"headers": [], "server": None}, "https://unknown.invalid/a"),
        ({"headers": [(b"host", b"x/accounts/1?")]}, "https://unknown.invalid/a"),
        ({"headers": [(b"host", b"user@x")]}, "https://unknown.invalid/a"),
        ({"headers": [(b"host", b"x"), (b"host", b"y")]}, "https://unknown.invalid/a"),
        ({"raw_path": b"/" + b"p" * 70_000}, "https://api.example.com/" + "p" * (32_768 - 24) + "/."),
        (
            {"raw_path": b"/" + b"p" * (65_536 - 24), "query_string": b"a=1&b=2"},
            "https://api.example.com/" + "p" * (32_768 - 24) + "/.",
        ),
        ({"query_string": b"a=1&" + b"b" * 70_000}, "https://api.example.com/a/."),
    ],
)
async def test_the_url_is_absolute_and_its_parts_cannot_be_confused(
    collector: Collector, wrap: Wrap, scope: dict[str, Any], url: str
) -> None:
    await call(wrap(sends(START, END)), scope)
    await eventually(lambda: len(collector.captures) == 1)
    assert collector.captures[0].request.url == url
