from __future__ import annotations

import asyncio
import gzip
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from auditap_tap import AuditTapMiddleware
from auditap_tap.exchange import Message, Receive, Scope, Send
from schemas.capture import body_bytes
from tests.unit.auditap_tap.apps import END, START, call, one_route, sends
from tests.unit.auditap_tap.tapped import Collector, Wrap, client_of, eventually
from tests.unit.gateway_tap.servers import loopback, serving


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
        await eventually(lambda: len(collector.captures) == 1)
    [capture] = collector.captures
    assert capture.response.complete
    assert capture.response.truncated
    assert body_bytes(capture.response) is None


async def test_a_client_that_disconnects_leaves_an_incomplete_pair(collector: Collector, wrap: Wrap) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b'{"line": 1}\n'
            await asyncio.sleep(0.001)

    async def handler(request: Request) -> Response:
        return StreamingResponse(endless(), media_type="application/x-ndjson")

    async with client_of(wrap(one_route(handler))) as client:
        async with client.stream("POST", "/") as answer:
            await anext(answer.aiter_raw())
        await eventually(lambda: len(collector.captures) == 1)
    assert collector.captures[0].response.status == 200
    assert not collector.captures[0].response.complete


async def test_a_client_that_disconnects_before_the_response_gives_status_499(
    collector: Collector, wrap: Wrap
) -> None:
    async def waits(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    listener, _ = loopback()
    async with serving(wrap(waits), listener, lifespan="off"):
        with socket.create_connection(listener.getsockname()) as gone:
            gone.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{")
        await eventually(lambda: len(collector.captures) == 1)
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
    await eventually(lambda: len(collector.captures) == 1)
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
    await eventually(lambda: len(collector.captures) == 1)
    assert not collector.captures[0].response.complete


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
    await eventually(lambda: len(collector.captures) == 1)
    assert collector.captures[0].response.complete is complete


async def test_a_response_whose_last_message_the_server_did_not_accept_is_incomplete(
    collector: Collector, wrap: Wrap
) -> None:
    with pytest.raises(OSError, match=r"^$"):
        await call(wrap(sends(START, END)), failing_at=1)
    await eventually(lambda: len(collector.captures) == 1)
    assert not collector.captures[0].response.complete


async def test_a_disconnect_after_the_last_message_leaves_the_response_complete(
    collector: Collector, wrap: Wrap
) -> None:
    async def reads_on(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(dict(START))
        await send(dict(END))
        assert (await receive())["type"] == "http.disconnect"

    await call(wrap(reads_on))
    await eventually(lambda: len(collector.captures) == 1)
    assert collector.captures[0].response.complete


async def test_a_disconnect_while_the_last_message_is_sent_leaves_the_response_complete(
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

        async def send_and_signal(message: Message) -> None:
            await send(message)
            if message["type"] == "http.response.body":
                await listening[0]()

        await tap(scope, gone, send_and_signal)

    await call(server)
    await eventually(lambda: len(collector.captures) == 1)
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
    await eventually(lambda: len(collector.captures) == 1)
    assert collector.captures[0].response.truncated
    assert collector.captures[0].response.complete


async def test_the_application_writes_to_the_scope_that_outer_layers_read(wrap: Wrap) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["route"] = "set by the application"
        await sends(START, END)(scope, receive, send)

    scope: dict[str, Any] = {}
    inner = wrap(app)

    async def outer(inner_scope: Scope, receive: Receive, send: Send) -> None:
        await inner(inner_scope, receive, send)
        scope.update(inner_scope)

    await call(outer)
    assert scope["route"] == "set by the application"


async def test_a_response_is_captured_as_the_application_sent_it_whatever_outer_layers_do(
    collector: Collector, wrap: Wrap, socket_dir: Path
) -> None:
    async def handler(request: Request) -> Response:
        return JSONResponse({"name": "x" * 1_000})

    options: dict[str, Any] = {
        "collector": f"unix:{collector.path}",
        "tap_id": "t-1",
        "close_ms_max": 200,
        "state_dir": None,
    }
    app = Starlette(
        routes=[Route("/", handler, methods=["POST"])],
        middleware=[Middleware(GZipMiddleware), Middleware(AuditTapMiddleware, **options)],
    )
    async with client_of(app) as client:
        answer = await client.post("/")
        assert answer.headers["content-encoding"] == "gzip"
        await eventually(lambda: len(collector.captures) == 1)
    assert body_bytes(collector.captures[0].response) == answer.content
    assert "content-encoding" not in collector.captures[0].response.headers


async def test_a_compressed_response_is_captured_compressed(collector: Collector, wrap: Wrap) -> None:
    async def handler(request: Request) -> Response:
        return JSONResponse({"name": "x" * 1_000})

    inner = Starlette(routes=[Route("/", handler, methods=["POST"])], middleware=[Middleware(GZipMiddleware)])
    async with client_of(wrap(inner)) as client:
        answer = await client.post("/")
        await eventually(lambda: len(collector.captures) == 1)
    assert collector.captures[0].response.headers["content-encoding"] == "gzip"
    assert gzip.decompress(body_bytes(collector.captures[0].response) or b"") == answer.content
