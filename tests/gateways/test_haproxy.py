"""HAProxy, whose log goes through a ring to a receiver."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from gateway_tap.formats.haproxy import HAPROXY
from gateway_tap.receivers.line_stream import LineStream
from tests.gateways.contract import GatewayContract
from tests.gateways.gateway import Abilities, Place, Running, filled, installed, process
from tests.gateways.receiving import receiving
from tests.ports import free_port

_FOLDER = Path(__file__).parents[2] / "deploy" / "auditap_gateways" / "haproxy"


class HaproxyGateway:
    """HAProxy with the configuration of deploy/auditap_gateways/haproxy."""

    name = "haproxy"
    abilities = Abilities(body_bytes_max=16_000, sees_client_leave=False)

    @asynccontextmanager
    async def running(self, place: Place) -> AsyncIterator[Running]:
        haproxy = installed("haproxy", "haproxy")
        port, h2_port = free_port(), free_port()
        receiver = place.folder / "receiver.sock"
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
            receiving(LineStream(receiver, HAPROXY), HAPROXY.name, place),
            process(command, place.folder, [port, h2_port]) as server,
        ):
            yield Running(port, h2_port, server.pid)


class TestHaproxy(GatewayContract):
    gateway = HaproxyGateway()
