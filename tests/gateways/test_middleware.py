"""The ASGI middleware, around a small gateway of the test's own: the tap that all others are compared with."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.gateways.contract import GatewayContract
from tests.gateways.gateway import Abilities, Place, Running, process
from tests.ports import free_port


class MiddlewareGateway:
    """Hypercorn, which speaks HTTP/1.1 and HTTP/2, with the middleware around a proxy."""

    name = "middleware"
    abilities = Abilities(sees_inside_of_upgrades=True)

    @asynccontextmanager
    async def running(self, place: Place) -> AsyncIterator[Running]:
        port = free_port()
        command = (
            sys.executable,
            "-m",
            "hypercorn",
            "--bind",
            f"127.0.0.1:{port}",
            # By default it closes a connection after five idle seconds, perhaps as a client sends the next request.
            "--keep-alive",
            "600",
            "tests.gateways.proxy:app",
        )
        environment = {
            "UPSTREAM_PORT": str(place.upstream_port),
            "COLLECTOR_SOCKET": str(place.collector_socket),
            "STATE_DIR": str(place.folder),
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        async with process(command, place.folder, [port], environment) as server:
            yield Running(port, port, server.pid)


class TestMiddleware(GatewayContract):
    gateway = MiddlewareGateway()
