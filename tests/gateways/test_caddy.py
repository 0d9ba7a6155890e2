"""Caddy, which writes its access log to a file in memory that a receiver reads."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from gateway_tap.formats.caddy import CADDY
from gateway_tap.receivers.file_tail import FileTail
from tests.gateways.contract import GatewayContract
from tests.gateways.faults import FaultBench, ReceiverFaultContract
from tests.gateways.gateway import Abilities, Place, Running, filled, process, without_tap
from tests.gateways.receiving import IN_MEMORY, RECEIVER_SOCKET, receiving
from tests.ports import free_port

_CADDYFILE = Path(__file__).parents[2] / "deploy" / "auditap_gateways" / "caddy" / "Caddyfile"
_ROLL = "roll_size 16MiB"
_NOT_STREAMED = "/widgets /compressed /big /silent /unavailable /early-hints"


class CaddyGateway:
    """Caddy with the Caddyfile of deploy/auditap_gateways/caddy; or without the tap, to compare with.

    `receives`: whether it brings its receiver with it. `response_paths`: whose responses the tap copies. `roll_mib`: a fourth of what it
    keeps while the receiver is away.
    """

    name = "caddy"
    abilities = Abilities(copies_chunked_uploads=False)

    def __init__(
        self,
        *,
        receives: bool = True,
        is_tapped: bool = True,
        response_paths: str = _NOT_STREAMED,
        roll_mib: int = 16,
    ) -> None:
        self._receives = receives and is_tapped
        self._roll = f"roll_size {roll_mib}MiB"
        self._is_tapped = is_tapped
        self._response_paths = response_paths

    @asynccontextmanager
    async def running(self, place: Place) -> AsyncIterator[Running]:
        port = free_port()
        with tempfile.TemporaryDirectory(prefix="auditap-", dir=IN_MEMORY) as memory:
            log_file = Path(memory, "caddy.log") if self._receives else place.folder / RECEIVER_SOCKET
            values = {"PORT": port, "UPSTREAM_PORT": place.upstream_port, "LOG_FILE": log_file}
            caddyfile = place.folder / "Caddyfile"
            text = filled(_CADDYFILE, {**values, "RESPONSE_PATHS": self._response_paths})
            assert _ROLL in text
            text = text.replace(_ROLL, self._roll)
            caddyfile.write_text(text if self._is_tapped else without_tap(text))
            command = (Path(sys.executable).with_name("caddy"), "run", "--config", caddyfile)
            async with (
                receiving(FileTail(log_file, CADDY) if self._receives else None, self.name, place),
                process(command, place.folder, [port], {"HOME": str(place.folder)}) as server,
            ):
                yield Running(port, port, server.pid)


class TestCaddy(GatewayContract):
    gateway = CaddyGateway()


class TestCaddyReceiverFaults(ReceiverFaultContract):
    gateway = CaddyGateway(receives=False, roll_mib=1)

    async def test_what_the_file_cannot_hold_is_a_gap(self, receiver_faults: FaultBench) -> None:
        await self.exceed_what_the_gateway_keeps(receiver_faults, b"x" * 90_000)
