"""What belongs to the application and its server passes through the tap as it was, whatever iterables and buffers they use."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from auditap_tap.exchange import Message, Receive, Scope, Send
from schemas.capture import body_bytes
from tests.unit.auditap_tap.apps import END, START, call, sends
from tests.unit.auditap_tap.tapped import Collector, Wrap, eventually

HEADERS = [(b"content-type", b"application/json"), (b"location", b"/orders/7"), (b"x-actor-id", b"u1")]


def one_by_one(headers: list[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
    yield from headers


def pairs_read_once(headers: list[tuple[bytes, bytes]]) -> list[Iterator[bytes]]:
    return [iter(header) for header in headers]


@pytest.mark.parametrize("give", [one_by_one, iter, pairs_read_once, lambda headers: map(tuple, headers)])
async def test_response_headers_that_can_be_read_once_reach_server_and_capture(
    collector: Collector, wrap: Wrap, give: Any
) -> None:
    start = {**START, "headers": give(HEADERS)}
    [sent, _] = await call(wrap(sends(start, END)))
    assert [tuple(header) for header in sent["headers"]] == HEADERS
    await eventually(lambda: len(collector.captures) == 1)
    assert collector.captures[0].response.headers == {"content-type": "application/json", "x-actor-id": "u1"}


async def test_the_applications_own_message_is_not_written_to(wrap: Wrap) -> None:
    headers = one_by_one(HEADERS)
    start = {**START, "headers": headers}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start)
        await send(END)

    await call(wrap(app))
    assert start["headers"] is headers


class OwnError(Exception):
    pass


async def test_an_error_in_the_applications_headers_is_raised_where_the_server_would_raise_it(
    wrap: Wrap,
) -> None:
    def failing() -> Iterator[tuple[bytes, bytes]]:
        yield HEADERS[0]
        raise OwnError

    with pytest.raises(OwnError):
        await call(wrap(sends({**START, "headers": failing()}, END)))


@pytest.mark.parametrize("give", [one_by_one, pairs_read_once])
async def test_request_headers_that_can_be_read_once_reach_the_application_and_the_layers_around_it(
    collector: Collector, wrap: Wrap, give: Any
) -> None:
    read: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        read.append([tuple(header) for header in scope["headers"]])
        await sends(START, END)(scope, receive, send)

    inner = wrap(app)

    async def outer(scope: Scope, receive: Receive, send: Send) -> None:
        await inner(scope, receive, send)
        read.append([tuple(header) for header in scope["headers"]])

    headers = [(b"host", b"shop.example"), (b"user-agent", b"curl/8"), (b"cookie", b"c=1")]
    await call(
        outer, {"headers": give(headers), "client": iter(("192.0.2.7", 5)), "server": iter(("::1", 80))}
    )
    assert read == [headers, headers]
    await eventually(lambda: len(collector.captures) == 1)
    [capture] = collector.captures
    assert capture.request.headers == {"host": "shop.example", "user-agent": "curl/8"}
    assert capture.client_ip == "192.0.2.7"


async def test_what_is_reused_after_a_message_was_sent_is_not_what_is_captured(
    collector: Collector, wrap: Wrap
) -> None:
    buffer = bytearray(b'{"a": 1}')
    name, value = bytearray(b"X-Actor-Id"), bytearray(b"u1")
    headers: list[Any] = [[name, memoryview(value)]]
    client: list[Any] = ["192.0.2.7", 5]
    path, query = bytearray(b"/a/b"), bytearray(b"q=1")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        message: dict[str, Any] = {**START, "headers": headers}
        await send(message)
        body = {**END, "body": memoryview(buffer)}
        await send({**body, "more_body": True})
        for each in (buffer, name, value, path, query):
            each[:] = b"-" * len(each)
        headers.clear()
        client[0] = "203.0.113.9"
        message.clear()
        await send(END)

    scope = {"raw_path": path, "query_string": query, "client": client}
    part = {"type": "http.request", "body": memoryview(bytearray(b"whole")), "more_body": False}
    await call(wrap(app), {**scope, "headers": [(bytearray(b"host"), bytearray(b"h"))]}, [part])
    await eventually(lambda: len(collector.captures) == 1)
    [capture] = collector.captures
    assert capture.request.url == "https://h/a/b?q=1"
    assert capture.client_ip == "192.0.2.7"
    assert capture.response.headers == {"x-actor-id": "u1"}
    assert body_bytes(capture.response) == b'{"a": 1}'


async def test_a_memoryview_is_as_long_as_its_bytes(collector: Collector, wrap: Wrap) -> None:
    wide = memoryview(bytes(800)).cast("Q")
    tap = wrap(sends(START, {**END, "body": wide}, END), body_bytes_max=799)
    await call(tap)
    await eventually(lambda: len(collector.captures) == 1)
    assert collector.captures[0].response.truncated


@pytest.mark.parametrize("side", ["request", "response"])
async def test_a_body_of_which_a_part_cannot_be_copied_does_not_pass_for_whole(
    collector: Collector, wrap: Wrap, side: str
) -> None:
    parts: list[Any] = [b'{"a": 1}', 7, b""]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["more_body"]:
            pass
        await send(dict(START))
        for number, part in enumerate(parts if side == "response" else []):
            await send({**END, "body": part, "more_body": number < 2})
        if side == "request":
            await send(dict(END))

    incoming = [
        {"type": "http.request", "body": part, "more_body": number < 2}
        for number, part in enumerate(parts if side == "request" else [b"x"])
    ]
    await call(wrap(app), messages=[*incoming, {"type": "http.request", "body": b"", "more_body": False}])
    await eventually(lambda: len(collector.captures) == 1)
    assert getattr(collector.captures[0], side).truncated


class Server:
    """Gives a request's body in parts, also after the response is complete; then nothing more, for ever."""

    def __init__(self, parts: list[bytes]) -> None:
        self.parts = parts
        self.asked = 0
        self.sent: list[Message] = []

    async def receive(self) -> Message:
        self.asked += 1
        if not self.parts:
            await asyncio.Event().wait()
        part = self.parts.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(self.parts)}

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    async def call(self, app: Any, **scope: Any) -> None:
        async def with_server(inner: Scope, _receive: Receive, _send: Send) -> None:
            await app(inner, self.receive, self.send)

        headers = [(b"host", b"h"), (b"content-length", b"9"), *scope.pop("headers", [])]
        await call(with_server, {"headers": headers, **scope})


@pytest.fixture
def _all_the_time_to_read_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine may take longer than the tap waits."""
    monkeypatch.setattr("auditap_tap.exchange._READ_ON_S_MAX", 60.0)


@pytest.mark.usefixtures("_all_the_time_to_read_on")
async def test_a_body_that_the_application_left_is_read_once_the_response_is_complete(
    collector: Collector, wrap: Wrap
) -> None:
    server = Server([b'{"a"', b": 1}"])
    asked_before_the_end: list[int] = []

    async def denies(scope: Scope, receive: Receive, send: Send) -> None:
        await sends({**START, "status": 403}, END)(scope, receive, send)
        asked_before_the_end.append(server.asked)

    await server.call(wrap(denies))
    assert asked_before_the_end == [0]
    await eventually(lambda: len(collector.captures) == 1)
    [capture] = collector.captures
    assert body_bytes(capture.request) == b'{"a": 1}'
    assert (capture.request.not_read, capture.request.truncated) == (False, False)
    assert (capture.response.status, capture.response.complete) == (403, True)


@pytest.mark.usefixtures("_all_the_time_to_read_on")
async def test_what_the_application_reads_after_its_response_is_not_taken_from_it(
    collector: Collector, wrap: Wrap
) -> None:
    server = Server([b"one", b"two"])
    read: list[Any] = []

    async def reads_late(scope: Scope, receive: Receive, send: Send) -> None:
        await sends(START, END)(scope, receive, send)
        read.append((await receive())["body"])

    await server.call(wrap(reads_late))
    assert read == [b"one"]
    await eventually(lambda: len(collector.captures) == 1)
    assert body_bytes(collector.captures[0].request) == b"onetwo"


@pytest.mark.usefixtures("_all_the_time_to_read_on")
async def test_the_rest_of_a_body_is_read_within_its_bound_of_bytes(collector: Collector, wrap: Wrap) -> None:
    server = Server([b"x" * 600] * 9)
    await server.call(wrap(sends(START, END), body_bytes_max=1_000))
    assert server.asked == 2
    await eventually(lambda: len(collector.captures) == 1)
    assert (collector.captures[0].request.truncated, collector.captures[0].request.not_read) == (True, False)


async def test_a_body_that_does_not_arrive_is_given_up(
    collector: Collector, wrap: Wrap, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("auditap_tap.exchange._READ_ON_S_MAX", 0.01)
    await Server([]).call(wrap(sends(START, END)))
    await eventually(lambda: len(collector.captures) == 1)
    assert collector.captures[0].request.not_read
    assert collector.captures[0].response.complete


async def test_a_pair_does_not_wait_for_an_application_that_works_on(
    collector: Collector, wrap: Wrap, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("auditap_tap.exchange._READ_ON_S_MAX", 0.01)
    may_end = asyncio.Event()

    async def works_on(scope: Scope, receive: Receive, send: Send) -> None:
        await sends(START, END)(scope, receive, send)
        await may_end.wait()

    task = asyncio.create_task(Server([b"x"]).call(wrap(works_on)))
    await eventually(lambda: len(collector.captures) == 1)
    assert not task.done()
    may_end.set()
    await task
    assert collector.captures[0].request.not_read


@pytest.mark.parametrize(
    ("scope", "why"),
    [
        ({"headers": [(b"expect", b"100-continue")]}, "the server would send 100 after the response"),
        ({"method": "GET"}, "its body is never copied"),
        ({"headers": [(b"content-type", b"image/png")]}, "its body is never recorded"),
    ],
)
async def test_nothing_more_is_asked_of_the_server_where_that_is_wrong(
    collector: Collector, wrap: Wrap, scope: dict[str, Any], why: str
) -> None:
    server = Server([b"x"])
    await server.call(wrap(sends(START, END)), **scope)
    assert server.asked == 0, why
    await eventually(lambda: len(collector.captures) == 1)


async def test_a_server_that_fails_after_the_response_is_not_noticed(
    collector: Collector, wrap: Wrap
) -> None:
    async def gone() -> Message:
        raise OSError

    app = wrap(sends(START, END))

    async def with_server(scope: Scope, _receive: Receive, send: Send) -> None:
        await app(scope, gone, send)

    await call(with_server, {"headers": [(b"content-length", b"1")]})
    await eventually(lambda: len(collector.captures) == 1)
    assert collector.captures[0].request.not_read
