from __future__ import annotations

import asyncio
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from auditap.runtime.connection_share import ConnectionCounts, ConnectionShare
from auditap.runtime.http_server import HttpServer, bind_tcp_socket

WITHIN_S = 60


def shares(count: int) -> list[ConnectionShare]:
    counts = ConnectionCounts.new(count)
    # As other processes map them.
    return [ConnectionShare(ConnectionCounts(counts.descriptor, count), index) for index in range(count)]


def ours(*among: ConnectionShare) -> list[bool]:
    return [each.is_ours for each in among]


def test_a_connection_is_for_those_that_have_fewest_of_all_that_accept() -> None:
    one, two, _ = shares(3)
    one.begin()
    one.add(1)
    assert ours(one) == [True]
    two.begin()
    assert ours(one, two) == [False, True]
    two.add(1)
    assert ours(one, two) == [True, True]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, it is a temporary file")
def test_counts_need_no_folder_to_write_to(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As in a container whose file system is read-only."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    assert len(ConnectionCounts.new(2).counts) == 2


def test_what_has_two_more_than_another_gives_up_one_and_then_none_for_a_while() -> None:
    one, two = shares(2)
    for each in (one, two):
        each.begin()
    one.add(1)
    assert not one.sheds_one(100.0)
    one.add(1)
    assert not two.sheds_one(100.0)
    assert one.sheds_one(100.0)
    assert not one.sheds_one(100.2)
    assert one.sheds_one(100.6)


def test_nothing_is_given_up_for_a_process_that_has_ended() -> None:
    counts = ConnectionCounts.new(2)
    one, two = (ConnectionShare(counts, index) for index in range(2))
    one.begin()
    two.begin()
    one.add(9)
    counts.remove(1)
    assert one.is_ours
    assert not one.sheds_one(100.0)


async def hello(request: Request) -> Response:
    return Response(request.app.state.name)


@asynccontextmanager
async def serving(listening: socket.socket, share: ConnectionShare, name: str) -> AsyncIterator[None]:
    app = Starlette(routes=[Route("/", hello)])
    app.state.name = name
    server = HttpServer(app, [listening.dup()], share=share)
    share.begin()
    await server.start()
    yield
    await server.stop()


@pytest.fixture
def listening() -> socket.socket:
    return bind_tcp_socket("127.0.0.1", 0)


@asynccontextmanager
async def clients(listening: socket.socket, count: int) -> AsyncIterator[list[httpx.AsyncClient]]:
    made = [
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{listening.getsockname()[1]}") for _ in range(count)
    ]
    yield made
    for each in made:
        await each.aclose()
    listening.close()


async def answering(made: list[httpx.AsyncClient]) -> list[str]:
    return sorted([each.text for each in await asyncio.gather(*(client.get("/") for client in made))])


async def test_servers_of_one_socket_have_as_many_connections_each(listening: socket.socket) -> None:
    one, two = shares(2)
    async with (
        serving(listening, one, "one"),
        serving(listening, two, "two"),
        clients(listening, 8) as made,
    ):
        async with asyncio.timeout(WITHIN_S):
            while await answering(made) != ["one"] * 4 + ["two"] * 4:
                await asyncio.sleep(0)


async def test_connections_move_to_a_server_that_comes_later(listening: socket.socket) -> None:
    one, two = shares(2)
    async with serving(listening, one, "one"), clients(listening, 6) as made:
        assert await answering(made) == ["one"] * 6
        async with serving(listening, two, "two"), asyncio.timeout(WITHIN_S):
            while await answering(made) != ["one"] * 3 + ["two"] * 3:
                await asyncio.sleep(0)


async def test_a_server_takes_what_another_leaves_waiting(listening: socket.socket) -> None:
    one, absent = shares(2)
    absent.begin()
    async with serving(listening, one, "one"), clients(listening, 3) as made:
        assert await answering(made) == ["one"] * 3
