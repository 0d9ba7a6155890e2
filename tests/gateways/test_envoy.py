"""Envoy, whose external processing filter sends to a receiver in observability mode."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from gateway_tap.receivers.ext_proc_server import ExtProcServer
from tests.gateways.faults import FaultContract, ReceiverFaultContract
from tests.gateways.gateway import Abilities, Place, Running, filled, process
from tests.gateways.inside import InsideContract
from tests.gateways.receiving import RECEIVER_SOCKET, receiving
from tests.ports import free_port

_SETTINGS = Path(__file__).parents[2] / "deploy" / "auditap_gateways" / "envoy" / "envoy.yaml"

_FILTERS = "# Both filters of the tap come first"
_ROUTER = "- name: envoy.filters.http.router"


class EnvoyGateway:
    """Envoy with the settings of deploy/auditap_gateways/envoy; or without the tap's filters, to compare with.

    `receives`: whether it brings its receiver with it.
    """

    name = "envoy"
    abilities = Abilities()

    def __init__(self, *, receives: bool = True, is_tapped: bool = True) -> None:
        self._receives = receives and is_tapped
        self._is_tapped = is_tapped

    @asynccontextmanager
    async def running(self, place: Place) -> AsyncIterator[Running]:
        port = free_port()
        receiver = place.folder / RECEIVER_SOCKET
        values = {"PORT": port, "UPSTREAM_PORT": place.upstream_port, "RECEIVER_SOCKET": receiver}
        settings = place.folder / "envoy.yaml"
        text = filled(_SETTINGS, values)
        if not self._is_tapped:
            before, filters, after = text.partition(_FILTERS)
            assert filters
            text = before + _ROUTER + after.partition(_ROUTER)[2]
        settings.write_text(text)
        envoy = Path(sys.executable).with_name("envoy")
        command: tuple[str | Path, ...] = (envoy, "-c", settings, "--concurrency", "2")
        command += ("--disable-hot-restart", "--log-level", "warning")
        async with (
            receiving(ExtProcServer(receiver) if self._receives else None, self.name, place),
            process(command, place.folder, [port]) as server,
        ):
            yield Running(port, port, server.pid)


class TestEnvoy(InsideContract):
    gateway = EnvoyGateway()


class TestEnvoyFaults(FaultContract):
    gateway = EnvoyGateway()


class TestEnvoyReceiverFaults(ReceiverFaultContract):
    gateway = EnvoyGateway(receives=False)
    keeps_what_passes = False
