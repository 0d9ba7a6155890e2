"""However the bytes of requests are split over packets, the responses are the same."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Sequence

import uvicorn
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from auditap.runtime.http_connection import HttpConnection
from auditap.runtime.http_limits import EndReason, HttpLimits
from tests.unit.auditap.http_servers import UNHURRIED, Owner, Wire

LIMITS = HttpLimits(
    headers_bytes_max=100,
    headers_max=4,
    target_bytes_max=20,
    small_chunks_max=3,
    chunk_bytes_min=4,
    **UNHURRIED,
)


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    request = Request(scope, receive)
    body = await request.body()
    names = b",".join(name for name, _ in scope["headers"])
    await PlainTextResponse(b"%b %b %b" % (scope["raw_path"], names, body))(scope, receive, send)


CONFIG = uvicorn.Config(app, lifespan="off", ws="none", log_config=None)


async def responses(pieces: Sequence[bytes]) -> tuple[bytes, list[EndReason], bool]:
    """Return what the server writes, why it ended the connection, and whether it did, given packets."""
    owner, wire, state = Owner(), Wire(), ServerState()
    connection = HttpConnection(
        CONFIG, state, {}, loop=asyncio.get_running_loop(), limits=LIMITS, owner=owner
    )
    connection.connection_made(wire)
    waiting = deque(pieces)
    while waiting and not wire.closing:
        if wire.paused:
            await asyncio.gather(*state.tasks)
        else:
            connection.data_received(waiting.popleft())
        await asyncio.sleep(0)
    for _ in range(20):
        await asyncio.sleep(0)
    ended = wire.closing
    connection.connection_lost(ConnectionResetError())
    await asyncio.gather(*state.tasks, return_exceptions=True)
    connection._unset_keepalive_if_required()
    return wire.written, owner.reasons, ended


def around(limit: int) -> st.SearchStrategy[int]:
    return st.integers(0, 3) | st.integers(limit - 3, limit + 3)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    target = b"/" + b"t" * draw(around(LIMITS.target_bytes_max - 1))
    names = [b"n" + b"a" * draw(st.integers(0, 3)) for _ in range(draw(st.integers(0, LIMITS.headers_max)))]
    fields = [name + b": " + b"v" * draw(st.integers(0, 3)) + b"\r\n" for name in names]
    body = draw(st.binary(max_size=40) | st.sampled_from([b"\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n"]))
    if draw(st.booleans()):
        left = LIMITS.headers_bytes_max - sum(map(len, fields)) - len(b"z: \r\n")
        fields.append(b"z: " + b"v" * max(0, draw(st.integers(left - 3, left + 3))) + b"\r\n")
    if draw(st.booleans()):
        fields.append(b"connection: upgrade\r\nupgrade: a\r\n")
    framing = draw(st.sampled_from(["none", "length", "chunks"]))
    method = b"GET" if framing == "none" else b"POST"
    if framing == "length":
        fields.append(b"content-length: %d\r\n" % len(body))
    if framing == "chunks":
        fields.append(b"transfer-encoding: chunked\r\n")
        size = draw(st.integers(1, 20))
        chunks = [body[at : at + size] for at in range(0, len(body), size)]
        trailer = draw(st.sampled_from([b"", b"t: v\r\n"]))
        body = (
            b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n" + trailer + b"\r\n"
        )
    return b"%b %b HTTP/1.1\r\n%b\r\n%b" % (
        method,
        target,
        b"".join(fields),
        b"" if framing == "none" else body,
    )


@given(data=st.data(), sent=st.lists(requests() | st.binary(max_size=30), min_size=1, max_size=3))
async def test_responses_do_not_depend_on_packets(data: st.DataObject, sent: list[bytes]) -> None:
    whole = b"".join(sent)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(whole)), max_size=12)))
    pieces = [whole[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    assert await responses([piece for piece in pieces if piece]) == await responses([whole] if whole else [])


async def test_responses_do_not_depend_on_packets_of_one_byte() -> None:
    whole = (
        b"POST /a HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nt: v\r\n\r\n"
        b"POST /b HTTP/1.1\r\ncontent-length: 4\r\n\r\n\r\n\r\nGET /%b HTTP/1.1\r\n\r\n" % (b"c" * 30)
    )
    written, reasons, ended = await responses([whole])
    assert re.findall(rb"HTTP/1.1 (\d+)", written) == [b"200", b"200", b"414"]
    assert (reasons, ended) == ([EndReason.TARGET_BYTES], True)
    assert await responses([whole[at : at + 1] for at in range(len(whole))]) == (written, reasons, ended)
