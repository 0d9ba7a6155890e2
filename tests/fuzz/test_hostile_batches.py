"""The collector's endpoint has one clear answer for every hostile batch, and its log gets the same clear receipts."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator, Callable, Mapping
from itertools import chain

import httpx
import pytest

from auditap.runtime.redacting_sink import RedactingSink
from gateway_tap.collector import collector_app
from gateway_tap.limits import IntakeLimits
from schemas.event import decode_event
from schemas.metric_defs import Metrics
from tests.fakes.event_log import MemoryEventLog, MemoryPublisher
from tests.fuzz.shapes import BODIES, ENCODED, HEADERS, PATHS, Expected, capture, redactor
from tests.fuzz.test_random_pairs import line_of

NDJSON = {"content-type": "application/x-ndjson"}


@pytest.fixture
def log() -> MemoryEventLog:
    return MemoryEventLog()


@pytest.fixture
async def collector(log: MemoryEventLog) -> AsyncIterator[httpx.AsyncClient]:
    publisher = MemoryPublisher(log)
    await publisher.start()
    metrics = Metrics()
    one = redactor()
    sink = RedactingSink(lambda: one, publisher, metrics)
    app = collector_app(
        sink,
        identity_key=b"k" * 32,
        limits=IntakeLimits(),
        tokens=None,
        metrics=metrics,
        clock_ms=lambda: 1_769_192_714_749,
    )
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://collector") as client:
        yield client


def _small(token: str) -> int | None:
    return int(token) if len(token) < 20 else None


def receipts(log: MemoryEventLog) -> list[dict[str, object]]:
    return [
        json.loads(each.value, parse_int=_small)["receipt"]
        for each in chain(*log.partitions.values())
        if decode_event(each.value)
    ]


SMALL_BODIES = {name: (body, want) for name, (body, want) in BODIES.items() if len(body) < 2_000_000}


@pytest.mark.parametrize("name", [*SMALL_BODIES, *(each for each in ENCODED if "bomb" not in each)])
async def test_a_hostile_body_is_accepted_with_its_reason(
    collector: httpx.AsyncClient, log: MemoryEventLog, name: str
) -> None:
    if name in ENCODED:
        coding, make, expected = ENCODED[name]
        pair = capture(make(), headers={"content-encoding": coding})
    else:
        body, expected = SMALL_BODIES[name]
        pair = capture(body)
    answer = await collector.post("/v1/captures", content=line_of(pair), headers=NDJSON)
    assert answer.json() | {"accepted": 1, "refused": []} == answer.json()
    (receipt,) = receipts(log)
    found = receipt["request"]
    assert found == ({"reason": expected.reason} if expected.reason else {"kept": expected.kept})


async def test_hostile_paths_and_headers_are_accepted_together(
    collector: httpx.AsyncClient, log: MemoryEventLog
) -> None:
    pairs = [capture(b'{"name": "a"}', url=url) for url, _ in PATHS.values()]
    pairs += [capture(b'{"name": "a"}', headers=headers) for headers, _ in HEADERS.values()]
    answer = await collector.post("/v1/captures", content=b"\n".join(map(line_of, pairs)), headers=NDJSON)
    assert answer.json() | {"accepted": len(pairs), "refused": []} == answer.json()
    wanted: list[Expected] = [each for _, each in (*PATHS.values(), *HEADERS.values())]
    assert len(receipts(log)) == len(wanted)
    unmatched = [each.get("unmatched") for each in receipts(log)]
    assert sum(each is not None for each in unmatched) == sum(each.unmatched is not None for each in wanted)


def _line(body: str) -> bytes:
    pair = {"request": {"method": "POST", "url": "/things", "body": body}, "response": {"status": 200}}
    return json.dumps(pair).encode()


REFUSED_LINES: Mapping[str, tuple[Callable[[], bytes], str]] = {
    "depth 100,000": (lambda: b"[" * 100_000, "invalid"),
    "depth 100,000 in a field": (
        lambda: b'{"request": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        "invalid",
    ),
    "a body of 5 MB": (lambda: _line("a" * 5_000_000), "too_large"),
    "a lone surrogate": (
        lambda: b'{"request": {"method": "GET", "url": "\\ud800"}, "response": {"status": 200}}',
        "malformed",
    ),
    "NUL": (lambda: b"\0", "malformed"),
    "a BOM": (lambda: b"\xef\xbb\xbf" + _line("a"), "malformed"),
    "UTF-16": (lambda: _line("a").decode().encode("utf-16-be"), "malformed"),
    "NaN": (lambda: b'{"request": NaN}', "malformed"),
    "a number of 1 MB": (lambda: b'{"duration_ms": ' + b"9" * 1_000_000 + b"}", "invalid"),
    "a method of 1 MB": (lambda: _line("a").replace(b"POST", b"P" * 1_000_000), "invalid"),
    "a tap that is another's": (lambda: _line("a")[:-1] + b', "tap": {"id": "a\\nb"}}', "invalid"),
}


@pytest.mark.parametrize("name", REFUSED_LINES)
async def test_a_hostile_line_is_refused_alone(
    collector: httpx.AsyncClient, log: MemoryEventLog, name: str
) -> None:
    make, reason = REFUSED_LINES[name]
    content = b"\n".join([_line("a"), make(), _line("b")])
    answer = (await collector.post("/v1/captures", content=content, headers=NDJSON)).json()
    assert answer["accepted"] == 2
    assert [(each["index"], each["reason"]) for each in answer["refused"]] == [(1, reason)]
    assert len(receipts(log)) == 2


BATCHES: Mapping[str, tuple[Callable[[], bytes], dict[str, str], int]] = {
    "a number of 50 MB": (lambda: b"9" * 50_000_000, NDJSON, 413),
    "a gzip bomb": (lambda: gzip.compress(bytes(200_000_000), 1), NDJSON | {"content-encoding": "gzip"}, 413),
    "a zstd bomb": (lambda: b"\x28\xb5\x2f\xfd", NDJSON | {"content-encoding": "zstd"}, 415),
    "1,000,000 line ends": (lambda: b"\n" * 1_000_000, NDJSON, 413),
    "1,000,000 elements": (
        lambda: b"[" + b"0," * 1_999_999 + b"0]",
        {"content-type": "application/json"},
        413,
    ),
    "depth 100,000": (lambda: b"[" * 100_000 + b"]" * 100_000, {"content-type": "application/json"}, 400),
    "a media type nobody knows": (lambda: b"{}", {"content-type": "text/html"}, 415),
    "a header with odd bytes": (lambda: b"{}", {"content-type": "application/json\x7f"}, 415),
}


@pytest.mark.parametrize("name", BATCHES)
async def test_a_hostile_batch_is_refused_whole(
    collector: httpx.AsyncClient, log: MemoryEventLog, name: str
) -> None:
    make, headers, status = BATCHES[name]
    answer = await collector.post("/v1/captures", content=make(), headers=headers)
    assert answer.status_code == status
    assert answer.json().keys() == {"error"}
    assert receipts(log) == []
