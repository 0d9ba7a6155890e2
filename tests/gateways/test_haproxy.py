"""HAProxy, whose log goes through a ring to a receiver."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway_tap.formats.haproxy import HAPROXY
from gateway_tap.receivers.line_stream import LineStream
from tests.gateways.contract import Bench, GatewayContract
from tests.gateways.exchanges import EXCHANGES
from tests.gateways.faults import ReceiverFaultContract
from tests.gateways.gateway import Abilities, Place, Running, filled, installed, process
from tests.gateways.receiving import RECEIVER_SOCKET, receiving
from tests.ports import free_port

_FOLDER = Path(__file__).parents[2] / "deploy" / "auditap_gateways" / "haproxy"


class HaproxyGateway:
    """HAProxy with the configuration of deploy/auditap_gateways/haproxy. `receives`: whether it brings its receiver with it."""

    name = "haproxy"
    abilities = Abilities(body_bytes_max=16_000, sees_client_leave=False)

    def __init__(self, *, receives: bool = True) -> None:
        self._receives = receives

    @asynccontextmanager
    async def running(self, place: Place) -> AsyncIterator[Running]:
        haproxy = installed("haproxy", "haproxy")
        port, h2_port = free_port(), free_port()
        receiver = place.folder / RECEIVER_SOCKET
        values = {
            "LUA": _FOLDER / "auditap.lua",
            "RECEIVER_SOCKET": receiver,
            "PORT": port,
            "H2_PORT": h2_port,
            "UPSTREAM_PORT": place.upstream_port,
        }
        configuration = place.folder / "haproxy.cfg"
        configuration.write_text(filled(_FOLDER / "haproxy.cfg", values))
        command = (haproxy, "-db", "-f", configuration)
        async with (
            receiving(LineStream(receiver, HAPROXY) if self._receives else None, self.name, place),
            process(command, place.folder, [port, h2_port]) as server,
        ):
            yield Running(port, h2_port, server.pid)


class TestHaproxy(GatewayContract):
    gateway = HaproxyGateway()

    @pytest.mark.parametrize(
        ("name", "sent"),
        [
            ("no HTTP", b"nonsense\r\n\r\n"),
            ("a wrong header", b"GET / HTTP/1.1\r\nhost: a\r\nbad header\r\n\r\n"),
            ("a long URL", b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nhost: a\r\n\r\n"),
            ("a long header", b"GET / HTTP/1.1\r\nhost: a\r\nx: " + b"y" * 100_000 + b"\r\n\r\n"),
            ("two lengths", b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5, 6\r\n\r\n"),
        ],
        ids=lambda given: given if isinstance(given, str) else "",
    )
    async def test_what_haproxy_cannot_read_makes_no_gap(self, bench: Bench, name: str, sent: bytes) -> None:
        async def number_of(marker: str) -> int:
            await EXCHANGES[0].send(bench.through(marker))
            tap = (await bench.collected.one_of(marker)).tap
            assert tap is not None
            return tap.seq or 0

        before = await number_of(f"before {name}")
        reader, writer = await asyncio.open_connection("127.0.0.1", bench.running.port)
        writer.write(sent)
        assert b" 400 " in await asyncio.wait_for(reader.readline(), 60)
        writer.close()
        assert await number_of(f"after {name}") == before + 1


class TestHaproxyReceiverFaults(ReceiverFaultContract):
    gateway = HaproxyGateway(receives=False)
