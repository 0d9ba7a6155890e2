from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import logging
import os
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from gateway_tap import middleware
from gateway_tap.collector import collector_app
from gateway_tap.intake import IntakeLimits
from gateway_tap.middleware import AuditTapMiddleware, Message, Receive, Scope, Send, TapStats
from gateway_tap.ports import IdentifiedCapture
from gateway_tap.unix_socket import bind_unix_socket
from schemas.capture import Capture, body_bytes
from schemas.errors import NotDurable
from schemas.identity import id_ms, parse_id, parse_rfc3339_ms
from schemas.metric_defs import Metrics
from tests.unit.gateway_tap.servers import FakeSink, loopback, serving

CANARY = "c4n4ry-5up3r-53cr3t"
Wrap = Callable[..., AuditTapMiddleware]


class Collector:
    """A real collector on a Unix socket, and what it took."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sink = FakeSink()
        self.metrics = Metrics()

    @property
    def captures(self) -> list[Capture]:
        return [taken.capture for taken in self.taken]

    @property
    def taken(self) -> list[IdentifiedCapture]:
        return self.sink.taken

    @property
    def drops_reported(self) -> float:
        return self.metrics.registry.get_sample_value("auditap_captures_dropped_by_taps_total") or 0.0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        app = collector_app(
            self.sink,
            identity_key=b"k",
            limits=IntakeLimits(),
            tokens=None,
            metrics=self.metrics,
            clock_ms=lambda: 0,
        )
        async with serving(app, bind_unix_socket(self.path)):
            try:
                yield
            finally:
                self.sink.gate.set()


@pytest.fixture
async def collector(socket_dir: Path) -> AsyncIterator[Collector]:
    running = Collector(socket_dir / "collector.sock")
    async with running.running():
        yield running


@pytest.fixture
async def wrap(socket_dir: Path) -> AsyncIterator[Wrap]:
    """Wraps an application in a tap that sends to this test's collector, and closes it after the test."""
    taps: list[AuditTapMiddleware] = []

    def make(app: Any, **options: Any) -> AuditTapMiddleware:
        defaults: dict[str, Any] = {
            "collector": f"unix:{socket_dir}/collector.sock",
            "tap_id": "t-1",
            "linger_ms": 1,
        }
        defaults |= {"close_ms_max": 200, "state_dir": None}
        taps.append(AuditTapMiddleware(app, **{**defaults, **options}))
        return taps[-1]

    yield make
    for tap in taps:
        await asyncio.to_thread(tap.close)


def held_bytes(tap: AuditTapMiddleware) -> int:
    assert tap._tap is not None
    return tap._tap.queue._bytes


async def settled(condition: Callable[[], bool]) -> None:
    """Wait until what another thread does has been done; the bound is there to fail, not to measure."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


@asynccontextmanager
async def client_of(app: Any, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    listener, url = loopback()
    async with serving(app, listener, **options), httpx.AsyncClient(base_url=url, timeout=20) as client:
        yield client


async def echo(request: Request) -> Response:
    body = await request.body()
    return Response(body, media_type=request.headers.get("content-type"), headers={"x-actor-id": "u1"})


def one_route(handler: Callable[[Request], Awaitable[Response]]) -> Starlette:
    methods = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
    return Starlette(routes=[Route("/{rest:path}", handler, methods=methods)])


async def test_a_pair_arrives_as_it_was(collector: Collector, wrap: Wrap) -> None:
    before_ms = time.time_ns() // 1_000_000
    tap = wrap(one_route(echo))
    async with client_of(tap) as client:
        url = str(client.base_url) + "/a%2Fb/%C3%A4?x=1&y=%20"
        headers = {"user-agent": "test/1", "content-type": "application/json", "cf-ray": "9bb-FRA"}
        answer = await client.put(url, content=b'{"a": "\xc3\xa4"}', headers=headers)
        await settled(lambda: len(collector.captures) == 1)
    assert answer.content == b'{"a": "\xc3\xa4"}'
    [taken] = collector.taken
    capture = taken.capture
    assert (capture.request.method, capture.request.url) == ("PUT", url)
    assert capture.request.headers == {**headers, "host": url.split("/")[2]}
    assert capture.response.status == 200
    assert capture.response.headers == {"x-actor-id": "u1", "content-type": "application/json"}
    assert body_bytes(capture.request) == body_bytes(capture.response) == answer.content
    assert not capture.request.truncated
    assert not capture.response.truncated
    assert capture.response.complete
    assert capture.client_ip == "127.0.0.1"
    assert capture.duration_ms is not None
    assert capture.duration_ms > 0
    assert capture.id is not None
    assert capture.captured_at is not None
    assert parse_id(capture.id) == capture.id == taken.id
    assert before_ms <= id_ms(taken.id) == parse_rfc3339_ms(capture.captured_at)
    assert capture.tap is not None
    assert (capture.tap.id, capture.tap.seq) == ("t-1", 1)
    assert tap.stats == TapStats(captured=1, accepted=1)


async def test_numbers_count_within_one_start(collector: Collector, wrap: Wrap) -> None:
    tap = wrap(one_route(echo))
    async with client_of(tap) as client:
        for _ in range(3):
            await client.get("/")
        await asyncio.to_thread(tap.close)
        await client.get("/")
        await settled(lambda: len(collector.captures) == 4)
    positions = [capture.tap for capture in collector.captures if capture.tap]
    assert [position.seq for position in positions] == [1, 2, 3, 1]
    epochs = [position.epoch or 0 for position in positions]
    assert epochs[0] == epochs[1] == epochs[2] != epochs[3]
    assert max(epochs) < 1 << 53
    assert len({taken.id for taken in collector.taken}) == 4


@pytest.mark.parametrize("body", [b"\x1f\x8b\x00\xff", bytes(range(256))])
async def test_bytes_that_are_no_text_arrive_unchanged(collector: Collector, wrap: Wrap, body: bytes) -> None:
    async with client_of(wrap(one_route(echo))) as client:
        await client.post("/", content=body, headers={"content-type": "application/json"})
        await settled(lambda: len(collector.captures) == 1)
    assert body_bytes(collector.captures[0].request) == body_bytes(collector.captures[0].response) == body


async def test_headers_that_are_not_chosen_never_enter_the_queue(wrap: Wrap) -> None:
    seen: list[Any] = []

    async def handler(request: Request) -> Response:
        answer = JSONResponse({}, headers={"set-cookie": CANARY, "x-secret": CANARY, "x-actor-email": "e"})
        answer.headers["X-Tenant-Id"] = "t"
        return answer

    tap = wrap(one_route(handler), request_headers=["X-Extra"], response_headers=["x-tenant-*"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(middleware._Queue, "put", lambda _, pair: seen.append(pair))
        async with client_of(tap) as client:
            secret = {
                "authorization": CANARY,
                "cookie": CANARY,
                "x-api-key": CANARY,
                "proxy-authorization": CANARY,
            }
            kept = {"x-extra": "kept", "x-http-method-override": "DELETE", "x-request-id": "r1"}
            await client.post("/", headers={**secret, **kept})
    [pair] = seen
    assert {name for name, _ in pair.request_headers} >= {
        b"x-extra",
        b"x-http-method-override",
        b"x-request-id",
    }
    assert sorted(name for name, _ in pair.response_headers) == [
        b"content-type",
        b"x-actor-email",
        b"x-tenant-id",
    ]
    held = [getattr(pair, name) for name in pair.__slots__]
    assert CANARY not in repr(held)
    assert CANARY not in middleware._encode(pair, "t-1", 1).decode()
    assert repr(pair) == "<pair>"


async def test_repeated_headers_stay_repeated(collector: Collector, wrap: Wrap) -> None:
    async def handler(request: Request) -> Response:
        answer = Response()
        answer.headers.append("x-actor-id", "a")
        answer.headers.append("x-actor-id", "b")
        answer.headers.append("set-cookie", "one=1")
        answer.headers.append("set-cookie", "two=2")
        return answer

    async with client_of(wrap(one_route(handler))) as client:
        answer = await client.get(
            "/", headers=[("x-request-id", "1"), ("x-request-id", "2"), ("x-request-id", "3")]
        )
        await settled(lambda: len(collector.captures) == 1)
    assert answer.headers.get_list("set-cookie") == ["one=1", "two=2"]
    assert collector.captures[0].response.headers["x-actor-id"] == ["a", "b"]
    assert collector.captures[0].request.headers["x-request-id"] == ["1", "2", "3"]


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
async def test_bodies_of_reading_methods_are_not_copied(wrap: Wrap, method: str) -> None:
    taken: list[int] = []

    def take(_: Any, size_bytes: int) -> bool:
        taken.append(size_bytes)
        return True

    tap = wrap(one_route(echo))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(middleware._Queue, "take", take)
        async with client_of(tap) as client:
            answer = await client.request(method, "/", content=b"{}")
            assert answer.content == (b"" if method == "HEAD" else b"{}")
            assert taken == []
            await client.post("/", content=b"{}")
    assert taken == [2, 2]


async def test_bodies_of_chosen_methods_only(collector: Collector, wrap: Wrap) -> None:
    async with client_of(wrap(one_route(echo), methods_without_bodies=["POST"])) as client:
        await client.request("GET", "/", content=b"{}")
        await client.post("/", content=b"{}")
        await settled(lambda: len(collector.captures) == 2)
    read, written = collector.captures
    assert (body_bytes(read.request), body_bytes(read.response)) == (b"{}", b"{}")
    assert (body_bytes(written.request), body_bytes(written.response)) == (None, None)
    assert not written.request.truncated


async def test_a_body_over_the_bound_is_given_up_and_marked(collector: Collector, wrap: Wrap) -> None:
    tap = wrap(one_route(echo), body_bytes_max=1_000)
    async with client_of(tap) as client:
        assert len((await client.post("/", content=b"x" * 1_000)).content) == 1_000
        assert len((await client.post("/", content=b"x" * 1_001)).content) == 1_001
        await settled(lambda: tap.stats.accepted == 2)
    whole, cut = collector.captures
    assert not whole.request.truncated
    assert len(body_bytes(whole.response) or b"") == 1_000
    assert cut.request.truncated
    assert cut.response.truncated
    assert cut.response.complete
    assert body_bytes(cut.request) is body_bytes(cut.response) is None


async def test_a_body_given_up_leaves_its_place_to_others(collector: Collector, wrap: Wrap) -> None:
    async def reads(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["more_body"]:
            pass
        await sends(START, END)(scope, receive, send)

    tap = wrap(reads, body_bytes_max=1_000)
    part = {"type": "http.request", "body": b"x" * 600, "more_body": True}
    await call(tap, messages=[part, part, {**part, "more_body": False}])
    await settled(lambda: tap.stats.accepted == 1)
    assert collector.captures[0].request.truncated
    await settled(lambda: held_bytes(tap) == 0)


async def test_a_body_that_the_application_never_read_is_marked(collector: Collector, wrap: Wrap) -> None:
    async def handler(request: Request) -> Response:
        return Response()

    async with client_of(wrap(one_route(handler))) as client:
        await client.post("/", content=b"unread")
        await client.post("/", content=b"")
        await settled(lambda: len(collector.captures) == 2)
    assert [capture.request.truncated for capture in collector.captures] == [True, False]


async def test_a_stream_passes_unbuffered(collector: Collector, wrap: Wrap) -> None:
    read_by_client = [asyncio.Event() for _ in range(3)]

    async def events() -> AsyncIterator[bytes]:
        for number, was_read in enumerate(read_by_client):
            yield f"data: {number}\n\n".encode()
            # The next one is only made once the client holds this one.
            await was_read.wait()

    async def handler(request: Request) -> Response:
        return StreamingResponse(events(), media_type="text/event-stream")

    async with client_of(wrap(one_route(handler))) as client, client.stream("POST", "/") as answer:
        number = 0
        async for chunk in answer.aiter_raw():
            assert chunk == f"data: {number}\n\n".encode()
            assert collector.captures == []
            read_by_client[number].set()
            number += 1
        assert number == 3
        await settled(lambda: len(collector.captures) == 1)
    [capture] = collector.captures
    assert capture.response.complete
    assert capture.response.truncated
    assert body_bytes(capture.response) is None


async def test_a_client_that_goes_away_leaves_an_incomplete_pair(collector: Collector, wrap: Wrap) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b'{"line": 1}\n'
            await asyncio.sleep(0.001)

    async def handler(request: Request) -> Response:
        return StreamingResponse(endless(), media_type="application/x-ndjson")

    async with client_of(wrap(one_route(handler))) as client:
        async with client.stream("POST", "/") as answer:
            await anext(answer.aiter_raw())
        await settled(lambda: len(collector.captures) == 1)
    assert collector.captures[0].response.status == 200
    assert not collector.captures[0].response.complete


async def test_a_client_that_goes_away_before_the_answer_is_a_499(collector: Collector, wrap: Wrap) -> None:
    async def waits(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    listener, _ = loopback()
    async with serving(wrap(waits), listener, lifespan="off"):
        with socket.create_connection(listener.getsockname()) as gone:
            gone.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{")
        await settled(lambda: len(collector.captures) == 1)
    [capture] = collector.captures
    assert (capture.response.status, capture.response.complete) == (499, False)
    assert capture.request.truncated
    assert capture.request.url == "http://a/"


class BoomError(Exception):
    pass


@pytest.mark.parametrize("started", [False, True])
async def test_the_applications_exception_is_raised_again(
    collector: Collector, wrap: Wrap, started: bool
) -> None:
    async def fails(scope: Scope, receive: Receive, send: Send) -> None:
        if started:
            await send({"type": "http.response.start", "status": 201, "headers": []})
            await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise BoomError

    with pytest.raises(BoomError):
        await call(wrap(fails))
    await settled(lambda: len(collector.captures) == 1)
    [capture] = collector.captures
    assert (capture.response.status, capture.response.complete) == (201 if started else 500, False)
    assert body_bytes(capture.response) == (b"half" if started else None)


async def test_a_cancelled_request_stays_cancelled(collector: Collector, wrap: Wrap) -> None:
    entered = asyncio.Event()

    async def hangs(scope: Scope, receive: Receive, send: Send) -> None:
        entered.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(call(wrap(hangs)))
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await settled(lambda: len(collector.captures) == 1)
    assert not collector.captures[0].response.complete


async def call(
    app: Any,
    scope: dict[str, Any] | None = None,
    messages: list[dict[str, Any]] | None = None,
    failing_at: int | None = None,
) -> list[Message]:
    """Call an application as a server would, and return what it sent."""
    sent: list[Message] = []
    incoming = iter(messages or [{"type": "http.request", "body": b"", "more_body": False}])

    async def receive() -> Message:
        return next(incoming, {"type": "http.disconnect"})

    async def send(message: Message) -> None:
        if len(sent) == failing_at:
            raise OSError
        sent.append(message)

    base: dict[str, Any] = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "scheme": "https",
        "path": "/a",
        "raw_path": b"/a",
        "query_string": b"",
        "headers": [(b"host", b"api.example.com")],
        "client": None,
        "server": ("10.0.0.1", 443),
        "extensions": {},
    }
    await app({**base, **(scope or {})}, receive, send)
    return sent


START = {"type": "http.response.start", "status": 200, "headers": []}
END = {"type": "http.response.body", "body": b"", "more_body": False}


def sends(*messages: dict[str, Any]) -> Callable[[Scope, Receive, Send], Awaitable[None]]:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(dict(message))

    return app


TRAILERS = {"type": "http.response.trailers", "headers": []}


@pytest.mark.parametrize(
    ("messages", "complete"),
    [
        ([START, END], True),
        ([START], False),
        ([START, {**END, "more_body": True}], False),
        ([{"type": "http.response.early_hint", "links": []}, START, END], True),
        ([{**START, "trailers": True}, END], False),
        ([{**START, "trailers": True}, END, {**TRAILERS, "more_trailers": True}], False),
        ([{**START, "trailers": True}, END, {**TRAILERS, "more_trailers": True}, TRAILERS], True),
    ],
)
async def test_a_response_is_complete_when_its_last_message_is_sent(
    collector: Collector, wrap: Wrap, messages: list[dict[str, Any]], complete: bool
) -> None:
    assert await call(wrap(sends(*messages))) == messages
    await settled(lambda: len(collector.captures) == 1)
    assert collector.captures[0].response.complete is complete


async def test_a_last_message_that_the_server_did_not_take_is_not_sent(
    collector: Collector, wrap: Wrap
) -> None:
    with pytest.raises(OSError, match=r"^$"):
        await call(wrap(sends(START, END)), failing_at=1)
    await settled(lambda: len(collector.captures) == 1)
    assert not collector.captures[0].response.complete


async def test_a_disconnect_that_follows_from_the_end_is_none(collector: Collector, wrap: Wrap) -> None:
    async def reads_on(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(dict(START))
        await send(dict(END))
        assert (await receive())["type"] == "http.disconnect"

    await call(wrap(reads_on))
    await settled(lambda: len(collector.captures) == 1)
    assert collector.captures[0].response.complete


async def test_a_disconnect_told_while_the_end_is_being_sent_is_none(
    collector: Collector, wrap: Wrap
) -> None:
    listening: list[Receive] = []

    async def listens(scope: Scope, receive: Receive, send: Send) -> None:
        listening.append(receive)
        await sends(START, END)(scope, receive, send)

    tap = wrap(listens)

    async def server(scope: Scope, receive: Receive, send: Send) -> None:
        async def gone() -> Message:
            return {"type": "http.disconnect"}

        async def send_and_tell(message: Message) -> None:
            await send(message)
            if message["type"] == "http.response.body":
                await listening[0]()

        await tap(scope, gone, send_and_tell)

    await call(server)
    await settled(lambda: len(collector.captures) == 1)
    assert collector.captures[0].response.complete


async def test_files_cannot_bypass_the_tap(collector: Collector, wrap: Wrap) -> None:
    offered: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        offered.append(scope["extensions"])
        scope["route"] = "set by the application"
        await sends(START, {"type": "http.response.pathsend", "path": "/f"})(scope, receive, send)

    extensions: dict[str, Any] = {"http.response.pathsend": {}, "http.response.zerocopysend": {}, "tls": {}}
    scope = {"extensions": extensions}
    await call(wrap(app), scope)
    assert offered == [{"tls": {}}]
    assert len(extensions) == 3
    await settled(lambda: len(collector.captures) == 1)
    assert collector.captures[0].response.truncated
    assert collector.captures[0].response.complete


async def test_what_outer_layers_read_in_the_scope_is_there(wrap: Wrap) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["route"] = "set by the application"
        await sends(START, END)(scope, receive, send)

    scope: dict[str, Any] = {}
    inner = wrap(app)

    async def outer(given: Scope, receive: Receive, send: Send) -> None:
        await inner(given, receive, send)
        scope.update(given)

    await call(outer)
    assert scope["route"] == "set by the application"


async def test_sees_what_the_application_said_whatever_outer_layers_make_of_it(
    collector: Collector, wrap: Wrap, socket_dir: Path
) -> None:
    async def handler(request: Request) -> Response:
        return JSONResponse({"name": "x" * 1_000})

    options: dict[str, Any] = {"collector": f"unix:{collector.path}", "tap_id": "t-1", "close_ms_max": 200}
    app = Starlette(
        routes=[Route("/", handler, methods=["POST"])],
        middleware=[Middleware(GZipMiddleware), Middleware(AuditTapMiddleware, **options)],
    )
    async with client_of(app) as client:
        answer = await client.post("/")
        assert answer.headers["content-encoding"] == "gzip"
        await settled(lambda: len(collector.captures) == 1)
    assert body_bytes(collector.captures[0].response) == answer.content
    assert "content-encoding" not in collector.captures[0].response.headers


async def test_a_compressed_response_stays_as_it_went_out(collector: Collector, wrap: Wrap) -> None:
    async def handler(request: Request) -> Response:
        return JSONResponse({"name": "x" * 1_000})

    inner = Starlette(routes=[Route("/", handler, methods=["POST"])], middleware=[Middleware(GZipMiddleware)])
    async with client_of(wrap(inner)) as client:
        answer = await client.post("/")
        await settled(lambda: len(collector.captures) == 1)
    assert collector.captures[0].response.headers["content-encoding"] == "gzip"
    assert gzip.decompress(body_bytes(collector.captures[0].response) or b"") == answer.content


async def test_websockets_pass_through_and_are_not_captured(collector: Collector, wrap: Wrap) -> None:
    passed: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        passed.append((scope, receive, send))

    async def receive() -> Message:
        return {}

    async def send(message: Message) -> None:
        pass

    tap = wrap(app)
    scope = {"type": "websocket", "path": "/"}
    await tap(scope, receive, send)
    assert passed == [(scope, receive, send)]
    assert tap.stats == TapStats()


async def test_excluded_paths_are_not_captured(collector: Collector, wrap: Wrap) -> None:
    tap = wrap(one_route(echo), exclude_paths=["/healthz", "/static/"])
    async with client_of(tap) as client:
        for path in ("/healthz", "/healthz/deep", "/static/a.js", "/healthzz", "/", "/static"):
            assert (await client.get(path)).status_code == 200
        await settled(lambda: len(collector.captures) == 2)
    assert [httpx.URL(capture.request.url).path for capture in collector.captures] == ["/healthzz", "/"]


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
        ({"raw_path": b"/" + b"p" * 70_000}, "https://api.example.com/" + "p" * (32_768 - 24) + "/.."),
        ({"query_string": b"a=1&" + b"b" * 70_000}, "https://api.example.com/a?a=1"),
    ],
)
async def test_the_url_is_absolute_and_nobodys_trick(
    collector: Collector, wrap: Wrap, scope: dict[str, Any], url: str
) -> None:
    await call(wrap(sends(START, END)), scope)
    await settled(lambda: len(collector.captures) == 1)
    assert collector.captures[0].request.url == url


async def test_a_dead_collector_changes_nothing_and_what_waits_is_sent_when_it_is_back(
    socket_dir: Path, wrap: Wrap, caplog: pytest.LogCaptureFixture
) -> None:
    tap = wrap(one_route(echo))
    async with client_of(tap) as client:
        with caplog.at_level(logging.DEBUG):
            for number in range(20):
                answer = await client.post(f"/{CANARY}", content=f"{CANARY}{number}".encode())
                assert answer.text == f"{CANARY}{number}"
            await settled(lambda: bool(caplog.records))
            back = Collector(socket_dir / "collector.sock")
            async with back.running():
                await settled(lambda: tap.stats.accepted == 20)
    assert sorted(taken.capture.tap.seq or 0 for taken in back.taken if taken.capture.tap) == [*range(1, 21)]
    assert tap.stats == TapStats(captured=20, accepted=20)
    said = [record.getMessage() for record in caplog.records if record.name == "auditap.tap"]
    # The third is said where the tap ends, long after the collector.
    assert len(said) <= 3
    assert "takes captures again" in said[1]
    assert "cannot be reached (FileNotFoundError)" in said[0]
    assert CANARY not in "".join(said)


@contextlib.contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)
        yield listener


async def test_a_hung_collector_changes_nothing(socket_dir: Path, wrap: Wrap) -> None:
    with listening(socket_dir / "collector.sock"):
        tap = wrap(one_route(echo), timeout_ms=50)
        async with client_of(tap) as client:
            for number in range(50):
                assert (await client.post("/", content=b"%d" % number)).content == b"%d" % number
        await asyncio.to_thread(tap.close)
    assert tap.stats.captured == 50
    await settled(lambda: tap.stats.dropped == 50)


async def test_a_slow_collector_changes_nothing(collector: Collector, wrap: Wrap) -> None:
    collector.sink.gate.clear()
    tap = wrap(one_route(echo))
    async with client_of(tap) as client:
        for number in range(50):
            assert (await client.post("/", content=b"%d" % number)).content == b"%d" % number
        assert tap.stats.accepted == 0
        collector.sink.gate.set()
        await settled(lambda: tap.stats.accepted == 50)


async def test_a_full_queue_drops_counts_and_reports(collector: Collector, wrap: Wrap) -> None:
    collector.sink.gate.clear()
    tap = wrap(one_route(echo), queue_bytes_max=20_000)
    async with client_of(tap) as client:
        for _ in range(30):
            assert len((await client.post("/", content=b"x" * 900)).content) == 900
        dropped = tap.stats.dropped
        assert 0 < dropped < 30
        collector.sink.gate.set()
        await settled(lambda: collector.drops_reported == dropped)
        await client.get("/")
        await settled(lambda: tap.stats.accepted == 31 - dropped)
    assert collector.drops_reported == dropped
    assert tap.stats == TapStats(captured=31, accepted=31 - dropped, dropped=dropped)
    await settled(lambda: held_bytes(tap) == 0)
    seqs = [capture.tap.seq for capture in collector.captures if capture.tap]
    assert len(set(seqs)) == len(seqs) == 31 - dropped


async def test_drops_are_reported_again_until_they_are_acknowledged(collector: Collector, wrap: Wrap) -> None:
    tap = wrap(one_route(echo))
    async with client_of(tap) as client:
        await client.get("/")
        await settled(lambda: tap.stats.accepted == 1)
        assert tap._tap is not None
        tap._tap.queue.count_dropped(7)
        collector.sink.failures = [NotDurable("away"), NotDurable("away")]
        await client.get("/")
        await settled(lambda: tap.stats.accepted == 2)
        await client.get("/")
        await settled(lambda: tap.stats.accepted == 3)
    assert collector.drops_reported == 7


async def test_drops_are_reported_without_waiting_for_a_pair(collector: Collector, wrap: Wrap) -> None:
    tap = wrap(sends(START, END), queue_bytes_max=10)
    await call(tap)
    await settled(lambda: collector.drops_reported == 1)
    assert tap.stats == TapStats(captured=1, dropped=1)


async def test_a_batch_not_taken_is_sent_again_with_the_same_ids(collector: Collector, wrap: Wrap) -> None:
    offered: list[list[str]] = []
    accept = collector.sink.accept

    async def watching(captures: Any, received_ms: int, refused: Any = ()) -> None:
        offered.append([taken.id for taken in captures])
        await accept(captures, received_ms, refused)

    collector.sink.accept = watching  # type: ignore[method-assign]
    collector.sink.failures = [NotDurable("away"), ValueError("bug")]
    tap = wrap(one_route(echo))
    async with client_of(tap) as client:
        await client.get("/")
        await settled(lambda: tap.stats.accepted == 1)
    assert offered == [[collector.taken[0].id]] * 3
    assert tap.stats == TapStats(captured=1, accepted=1)


async def test_a_batch_is_tried_within_a_bound(collector: Collector, wrap: Wrap) -> None:
    collector.sink.failures = [NotDurable("away")] * 1_000
    tap = wrap(one_route(echo), retry_ms_max=1)
    async with client_of(tap) as client:
        await client.get("/")
        await settled(lambda: tap.stats.dropped == 1)
        collector.sink.failures.clear()
        await client.get("/")
        await settled(lambda: collector.drops_reported == 1)
    assert tap.stats == TapStats(captured=2, accepted=1, dropped=1)


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
        await settled(lambda: tap.stats.accepted == 37)
    sizes = [len(batch) for batch, _ in collector.sink.batches]
    assert sizes[0] == 1
    assert max(sizes) == 10
    assert sizes[-1] == 2


async def test_refused_pairs_are_counted(collector: Collector, wrap: Wrap) -> None:
    tap = wrap(sends({**START, "status": 17}, END))
    await call(tap)
    await settled(lambda: tap.stats.refused == 1)
    assert tap.stats == TapStats(captured=1, refused=1)


async def test_a_batch_refused_as_a_whole_is_not_sent_again(socket_dir: Path, wrap: Wrap) -> None:
    asked: list[bytes] = []

    async def refuses(request: Request) -> Response:
        asked.append(await request.body())
        return Response(status_code=415)

    async with serving(one_route(refuses), bind_unix_socket(socket_dir / "collector.sock")):
        tap = wrap(one_route(echo))
        await call(tap)
        await settled(lambda: tap.stats.dropped == 1)
        await asyncio.to_thread(tap.close)
    # What comes after it is empty, and reports the drop.
    assert len([body for body in asked if b'"request"' in body]) == 1


async def test_over_tcp_with_token_and_gzip(socket_dir: Path, wrap: Wrap) -> None:
    seen: list[tuple[str, str, bytes]] = []

    async def takes(request: Request) -> Response:
        headers = request.headers
        seen.append(
            (headers["authorization"], headers["content-type"], gzip.decompress(await request.body()))
        )
        return JSONResponse({"accepted": 1, "refused": []})

    listener, url = loopback()
    async with serving(one_route(takes), listener):
        tap = wrap(one_route(echo), collector=url, token="s3cret", compress=True)
        await call(tap)
        await settled(lambda: tap.stats.accepted == 1)
    assert {(authorization, content_type) for authorization, content_type, _ in seen} == {
        ("Bearer s3cret", "application/x-ndjson")
    }
    [body] = [body for *_, body in seen if b'"request"' in body]
    assert json.loads(body)["tap"]["id"] == "t-1"


async def test_the_connection_is_kept(collector: Collector, wrap: Wrap) -> None:
    made = 0
    connect = middleware._UnixConnection.connect

    def counting(self: Any) -> None:
        nonlocal made
        made += 1
        connect(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(middleware._UnixConnection, "connect", counting)
        tap = wrap(one_route(echo))
        for number in range(1, 6):
            await call(tap)
            await settled(lambda number=number: tap.stats.accepted == number)  # type: ignore[misc]
    assert made == 1


async def test_shutdown_of_the_application_sends_what_is_left(collector: Collector, wrap: Wrap) -> None:
    tap = wrap(one_route(echo), linger_ms=60_000, close_ms_max=10_000)
    async with client_of(tap) as client:
        await client.get("/")
        assert collector.captures == []
    assert len(collector.captures) == 1
    assert tap.stats == TapStats(captured=1, accepted=1)


async def test_shutdown_with_a_hung_collector_ends_all_the_same(
    socket_dir: Path, wrap: Wrap, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    post = middleware._Tap._post

    def counting(self: Any, path: str, body: bytes, dropped: int) -> Any:
        asked.append(len(body))
        return post(self, path, body, dropped)

    monkeypatch.setattr(middleware._Tap, "_post", counting)
    with listening(socket_dir / "collector.sock"):
        tap = wrap(one_route(echo), close_ms_max=20, timeout_ms=100, batch_pairs_max=1)
        async with client_of(tap) as client:
            for _ in range(20):
                await client.get("/")
        await settled(lambda: tap.stats.dropped == 20)
    # Once the time is up, the rest is dropped together: not each batch after a time limit of its own.
    assert len(asked) < 10


@pytest.mark.parametrize("broken", ["_Exchange", "_Pair", "_Tap", "_encode", "_is_never_kept", "_authority"])
async def test_a_failure_of_the_tap_itself_is_swallowed_and_counted(
    collector: Collector, wrap: Wrap, broken: str, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise ValueError(CANARY)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(middleware, broken, fails)
        tap = wrap(one_route(echo))
        async with client_of(tap) as client:
            for _ in range(3):
                assert (await client.post("/", content=CANARY.encode())).text == CANARY
            await settled(lambda: tap.stats.failed >= 3)
    assert collector.captures == []
    assert CANARY not in caplog.text


@pytest.mark.parametrize(
    "name", ["_Queue.put", "_Queue.take", "_Body.add", "_HeaderChoice.of", "_Exchange._response_ends_with"]
)
async def test_a_failure_on_the_way_is_swallowed_and_counted(
    collector: Collector, wrap: Wrap, name: str
) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise ValueError(CANARY)

    owner, _, method = name.partition(".")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(getattr(middleware, owner), method, fails)
        tap = wrap(one_route(echo))
        async with client_of(tap) as client:
            assert (await client.post("/", content=CANARY.encode())).text == CANARY
            assert tap.stats.failed >= 1


async def test_the_sender_lives_on_after_a_failure(collector: Collector, wrap: Wrap) -> None:
    tap = wrap(one_route(echo))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(middleware._Tap, "_next_batch", lambda _: 1 / 0)
        await call(tap)
        await settled(lambda: tap.stats.failed >= 1)
    await call(tap)
    await settled(lambda: tap.stats.accepted == 2)


def test_a_forked_process_is_a_start_of_its_own() -> None:
    tap = AuditTapMiddleware(
        sends(START, END), collector="unix:/nowhere", tap_id="t-1", close_ms_max=1, state_dir=None
    )
    first = tap._running_tap()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "getpid", lambda: -1)
        second = tap._running_tap()
        assert second is not first
        assert second.queue is not first.queue
        assert tap._running_tap() is second
        tap.close()
    first.close()


def test_epochs_of_the_same_second_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    now_ns = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now_ns)
    tap = AuditTapMiddleware(sends(), collector="unix:/nowhere", tap_id="t-1", close_ms_max=1, state_dir=None)
    epochs = set()
    for _ in range(8):
        epochs.add(tap._running_tap().epoch)
        tap.close()
    assert len(epochs) == 8
    assert {epoch >> 20 for epoch in epochs} == {now_ns // 1_000_000_000}
    assert max(epochs) < 1 << 53


def test_nothing_runs_before_the_first_request() -> None:
    before = threading.active_count()
    AuditTapMiddleware(sends(), collector="unix:/nowhere", tap_id="t-1")
    assert threading.active_count() == before


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"tap_id": ""}, "tap_id must be"),
        ({"tap_id": "a b"}, "tap_id must be"),
        ({"tap_id": "a\n"}, "tap_id must be"),
        ({"collector": "unix:"}, "needs a path"),
        ({"collector": "/run/c.sock"}, "collector must be unix:"),
        ({"collector": "http://127.0.0.1:1/v1"}, "collector must be unix:"),
        ({"collector": "http://collector:8400"}, "https unless it is on loopback"),
        ({"token": "a\nb"}, "token must be"),
        ({"lease_ms": 5_000}, "heartbeat_ms less than"),
        ({"heartbeat_ms": 10, "lease_ms": 99}, "lease_ms must be"),
    ],
)
def test_a_wrong_setting_is_told_in_a_sentence(settings: dict[str, Any], sentence: str) -> None:
    right: dict[str, Any] = {"collector": "unix:/c.sock", "tap_id": "t-1"}
    with pytest.raises(ValueError, match=sentence):
        AuditTapMiddleware(sends(), **{**right, **settings})


@pytest.mark.parametrize(
    "url", ["http://localhost", "http://[::1]:8400", "http://127.0.0.9:1/", "https://c.example", "unix:/c"]
)
def test_right_addresses(url: str) -> None:
    context = ssl.create_default_context()
    AuditTapMiddleware(sends(), collector=url, tap_id="t-1", ssl_context=context)
