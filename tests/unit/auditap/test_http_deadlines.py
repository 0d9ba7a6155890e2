"""Time limits of one connection, by a clock that the tests set."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
import uvicorn
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from auditap.runtime.http_connection import HttpConnection
from auditap.runtime.http_limits import EndReason, HttpLimits
from tests.unit.auditap.http_servers import Owner, Wire

LIMITS = HttpLimits()
BODY_S = LIMITS.body_ms_max / 1000
LONG = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 200001\r\n\r\n" + b"x" * 200_000


@dataclass
class Served:
    """A connection whose application reads the body once the gate is open."""

    connection: HttpConnection
    wire: Wire
    owner: Owner
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    async def settle(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    gate = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await gate.wait()
        body = await Request(scope, receive).body()
        await PlainTextResponse(str(len(body)))(scope, receive, send)

    owner, wire, state = Owner(), Wire(), ServerState()
    config = uvicorn.Config(app, lifespan="off", ws="none", log_config=None)
    connection = HttpConnection(
        config, state, {}, loop=asyncio.get_running_loop(), limits=LIMITS, owner=owner
    )
    connection.connection_made(wire)
    yield Served(connection, wire, owner, gate)
    gate.set()
    connection.connection_lost(ConnectionResetError())
    await asyncio.gather(*state.tasks, return_exceptions=True)
    connection._unset_keepalive_if_required()


async def test_while_nothing_is_read_no_time_passes_for_the_sender(served: Served) -> None:
    now_s = asyncio.get_running_loop().time()
    served.connection.data_received(LONG)
    assert served.wire.paused
    # For longer than a body may take, and not quite for twice as long.
    for _ in range(19):
        now_s += BODY_S / 10
        served.connection.check(now_s)
    served.gate.set()
    await served.settle()
    served.connection.check(now_s + BODY_S - 1)
    assert not served.owner.reasons
    served.connection.data_received(b"x")
    await served.settle()
    assert served.wire.written.endswith(b"200001")


async def test_from_when_it_is_read_the_sender_has_the_time_of_a_body(served: Served) -> None:
    now_s = asyncio.get_running_loop().time()
    served.connection.data_received(LONG)
    served.connection.check(now_s + 5 * BODY_S)
    served.gate.set()
    await served.settle()
    served.connection.check(now_s + 6 * BODY_S + 1)
    assert served.owner.reasons == [EndReason.BODY_TIME]
    assert b" 408 " in served.wire.written


async def test_a_client_that_left_as_it_was_refused_harms_nobody(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def left(_wire: Wire) -> None:
        raise OSError(107, "Transport endpoint is not connected")

    monkeypatch.setattr(Wire, "write_eof", left)
    served.connection.data_received(b"GET / HTTP/1.1\r\n")
    # An error here would end the server: its timer calls this.
    served.connection.check(asyncio.get_running_loop().time() + LIMITS.head_ms_max / 1000 + 1)
    assert served.owner.reasons == [EndReason.HEAD_TIME]
