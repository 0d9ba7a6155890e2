"""HAProxy, whose log goes through a ring to a receiver."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from gateway_tap.formats.haproxy import HAPROXY
from gateway_tap.receivers.line_stream import LineStream
from tests.gateways.contract import GatewayContract
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


class TestHaproxyReceiverFaults(ReceiverFaultContract):
    gateway = HaproxyGateway(receives=False)
