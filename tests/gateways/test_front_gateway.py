"""The gateway that `auditap up` runs in front of a service."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from auditap.runtime.front_gateway import FrontGateway
from auditap.settings import load_settings
from tests.gateways.contract import GatewayContract
from tests.gateways.gateway import Abilities, Place, Running
from tests.ports import free_port


class UpGateway:
    """nginx, as `auditap up` starts it."""

    name = "up"
    abilities = Abilities()

    @asynccontextmanager
    async def running(self, place: Place) -> AsyncIterator[Running]:
        port = free_port()
        settings = load_settings(
            data_dir=place.folder,
            collector={"socket": place.collector_socket},
            up={"upstream": f"http://127.0.0.1:{place.upstream_port}", "gateway_port": port},
        )
        async with FrontGateway(settings) as gateway:
            assert gateway._process is not None
            yield Running(port, port, gateway._process.pid)


class TestFrontGateway(GatewayContract):
    gateway = UpGateway()
