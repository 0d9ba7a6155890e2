"""Debian's nginx with the Lua module, and the tap in Lua, with the example configuration of deploy/auditap_gateways/openresty."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from schemas.heartbeat import TapState
from tests.gateways.contract import Bench
from tests.gateways.exchanges import WIDGET
from tests.gateways.faults import FaultBench, FaultContract
from tests.gateways.gateway import Abilities, Place, Running, filled, installed, process
from tests.gateways.journal import Run
from tests.gateways.nginx import NginxContract, with_locations
from tests.ports import free_port

_HERE = Path(__file__).resolve().parents[2] / "deploy" / "auditap_gateways" / "openresty"
_MODULES = Path("/usr/lib/nginx/modules")
_UNLOGGED = """
    location /unlogged/ {
      log_by_lua_block { local _ = "without the tap" }
      proxy_pass http://service/;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
    }
"""


def _configuration(place: Place, port: int, h2_port: int) -> str:
    values = {
        "MODULES": _MODULES,
        "LUA_FOLDER": _HERE,
        "COLLECTOR_SOCKET": place.collector_socket,
        "UPSTREAM_PORT": place.upstream_port,
        "PORT": port,
        "H2_PORT": h2_port,
    }
    return filled(_HERE / "nginx.conf", values)


def _command(nginx: str, folder: Path, configuration: str) -> tuple[str | Path, ...]:
    path = folder / "nginx.conf"
    path.write_text(configuration)
    # Workers of root would be nobody, whom neither the folder nor the collector's socket lets in.
    directives = "daemon off;" + (" user root;" if os.getuid() == 0 else "")
    return (nginx, "-e", "stderr", "-p", folder, "-c", path, "-g", directives)


class OpenRestyGateway:
    """nginx with the tap in Lua, which begins a run in each worker; or without it, to compare with."""

    name = "openresty"
    # nginx passes 103 on since 1.29. Before, it takes it for the final response.
    # WebSocket passes in one location alone.
    abilities = Abilities(passes_early_hints=False, passes_websocket=False)

    def __init__(self, *, is_tapped: bool = True) -> None:
        self._is_tapped = is_tapped

    @asynccontextmanager
    async def running(self, place: Place) -> AsyncIterator[Running]:
        nginx, port, h2_port = installed("nginx", "libnginx-mod-http-lua"), free_port(), free_port()
        configuration = with_locations(_configuration(place, port, h2_port), "")
        configuration = configuration.replace("    location / {", _UNLOGGED + "    location / {")
        if not self._is_tapped:
            lines = configuration.splitlines(keepends=True)
            configuration = "".join(line for line in lines if "_by_lua_block { require" not in line)
        command = _command(nginx, place.folder, configuration)
        async with process(command, place.folder, [port, h2_port]) as server:
            yield Running(port, h2_port, server.pid)


class TestOpenResty(NginxContract):
    gateway = OpenRestyGateway()

    @pytest.mark.parametrize("is_http2", [False, True])
    async def test_a_request_is_not_taken_for_one_whose_last_hook_did_not_run(
        self, bench: Bench, is_http2: bool
    ) -> None:
        """nginx gives a request the address of an earlier one."""
        marker = f"reused-{is_http2}"
        async with bench.through(marker).client(http2=is_http2) as client:
            for number in range(50):
                await client.post("/unlogged/", content=b"{}")
                headers = {"x-request-id": f"{marker}-{number}"}
                await client.put(f"/widgets?number={number}", content=WIDGET, headers=headers)
        for number in range(50):
            request = (await bench.collected.one_of(f"{marker}-{number}")).request
            assert (request.method, request.url.partition("?")[2]) == ("PUT", f"number={number}")
        assert not bench.collected.of(marker)


class TestOpenRestyFaults(FaultContract):
    gateway = OpenRestyGateway()

    async def test_a_crashed_worker_is_reported_with_its_last_number(self, faults: FaultBench) -> None:
        await faults.until_all_arrived(await faults.send("before", 50, b"{}"))
        await faults.until(
            lambda: len(faults.journal.heartbeats()) == len(faults.running.children()), _nothing
        )
        for pid in faults.running.children():
            os.kill(pid, signal.SIGKILL)
        crashed = set(faults.journal.heartbeats())
        await faults.until(lambda: crashed <= set(_in_state(faults, TapState.KILLED)), _nothing)
        for run, highest in _in_state(faults, TapState.KILLED).items():
            assert highest == max(faults.journal.numbers().get(run, {0}))

    async def test_a_reload_ends_each_run_with_all_its_captures(self, faults: FaultBench) -> None:
        await faults.until(
            lambda: len(faults.journal.heartbeats()) == len(faults.running.children()), _nothing
        )
        first = set(faults.journal.heartbeats())
        sent = await faults.send("before", 300, b"{}")
        os.kill(faults.running.pid, signal.SIGHUP)
        # Until then, an old worker may close a connection that has only just begun, with a tap or without.
        await faults.until(lambda: first < set(faults.journal.heartbeats()), _nothing)
        await faults.until(lambda: first <= set(_in_state(faults, TapState.ENDED)), _nothing)
        sent |= await faults.send("after", 300, b"{}")
        await faults.until_all_arrived(sent)
        await faults.until(lambda: not faults.unaccounted(), faults.unaccounted)


def _in_state(faults: FaultBench, state: TapState) -> dict[Run, int]:
    """Return the runs that were reported in this state, and their highest numbers."""
    return {
        run: beat.highest
        for run, beats in faults.journal.heartbeats().items()
        for beat in beats
        if beat.state is state
    }


def _nothing() -> str:
    return "the heartbeats did not arrive"


@pytest.mark.parametrize(
    ("setting", "wrong", "sentence"),
    [
        ('collector = "unix:', 'collector = "', "collector must be unix:/path/of/socket"),
        (
            'collector = "unix:',
            'collector = "http://198.51.100.7:8400", ignored = "',
            "collector must be unix:",
        ),
        (
            'collector = "unix:',
            'collector = "http://127.0.0.1:8400", ignored = "',
            "token is required over TCP",
        ),
        ('tap_id = "openresty"', 'tap_id = "-"', "tap_id must be 1 to 64 letters"),
        ('tap_id = "openresty"', 'tap_id = "a", token = "short"', "token must have at least 16 characters"),
        (
            'tap_id = "openresty"',
            'tap_id = "a", queue_bytes_max = 0',
            "queue_bytes_max must be a whole number",
        ),
        ('tap_id = "openresty"', 'tap_id = "a", lease_ms = 99', "lease_ms must be 100 to 86400000"),
        (
            'tap_id = "openresty"',
            'tap_id = "a", request_headers = { "a b" }',
            "request_headers must be a list",
        ),
        ('kept_in = "auditap"', 'kept_in = "other"', "kept_in names no lua_shared_dict"),
    ],
)
def test_nginx_does_not_start_with_a_wrong_setting(
    tmp_path: Path, setting: str, wrong: str, sentence: str
) -> None:
    place = Place(tmp_path, 1, tmp_path / "collector.sock", 0, "")
    configuration = _configuration(place, free_port(), free_port())
    assert setting in configuration
    command = _command(
        installed("nginx", "libnginx-mod-http-lua"), tmp_path, configuration.replace(setting, wrong)
    )
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 1
    assert f"auditap: {sentence}" in ended.stderr
