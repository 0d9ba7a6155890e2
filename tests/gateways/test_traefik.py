"""Traefik with the tap as a local plugin, with the example configuration of deploy/auditap_gateways/traefik."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from schemas.heartbeat import TapState
from tests.gateways.faults import FaultBench, FaultContract
from tests.gateways.gateway import Abilities, Place, Running, filled, installed, process
from tests.gateways.inside import InsideContract
from tests.ports import free_port

_HERE = Path(__file__).resolve().parents[2] / "deploy" / "auditap_gateways" / "traefik"
_GO_CACHE = Path(__file__).resolve().parents[2] / ".cache" / "go-build"
_ROUTES_WITHIN_S = 60


@asynccontextmanager
async def started(place: Place, port: int, change: Callable[[str], str]) -> AsyncIterator[int]:
    """Start Traefik with the routes of the example, changed in this way, and yield its process id."""
    traefik = Path(sys.executable).with_name("traefik")
    shutil.copytree(_HERE / "plugins-local", place.folder / "plugins-local")
    dynamic, static = place.folder / "dynamic.yml", place.folder / "traefik.yml"
    values = {"COLLECTOR_SOCKET": place.collector_socket, "UPSTREAM_PORT": place.upstream_port}
    dynamic.write_text(change(filled(_HERE / "dynamic.yml", values)))
    static.write_text(filled(_HERE / "traefik.yml", {"PORT": port, "DYNAMIC": dynamic}))
    async with process((traefik, f"--configFile={static}"), place.folder, [port]) as server:
        yield server.pid


async def _routed(port: int) -> None:
    """Return once Traefik, which listens before it has read its routes, passes a request on."""
    async with asyncio.timeout(_ROUTES_WITHIN_S), httpx.AsyncClient(trust_env=False) as client:
        while (await client.get(f"http://127.0.0.1:{port}/widgets")).status_code == 404:
            await asyncio.sleep(0.05)


class TraefikGateway:
    """Traefik with the tap; or without it, to compare with."""

    name = "traefik"
    abilities = Abilities()

    def __init__(self, *, is_tapped: bool = True) -> None:
        self._is_tapped = is_tapped

    @asynccontextmanager
    async def running(self, place: Place) -> AsyncIterator[Running]:
        port = free_port()
        async with started(place, port, self._routes) as pid:
            await _routed(port)
            yield Running(port, port, pid)

    def _routes(self, routes: str) -> str:
        if self._is_tapped:
            return routes
        assert "middlewares: [audit]" in routes
        return routes.replace("middlewares: [audit]", "middlewares: []")


class TestTraefik(InsideContract):
    gateway = TraefikGateway()
    double_slashed = ""


def test_a_body_is_read_on_while_the_exchange_ends(tmp_path: Path) -> None:
    """By Go's race detector: Traefik's interpreter has none."""
    installed("gcc", "gcc")
    plugin = shutil.copytree(_HERE / "plugins-local" / "src" / "auditap", tmp_path / "auditap")
    for test in Path(__file__).with_name("traefik").glob("*_test.go"):
        shutil.copy(test, plugin)
    environment = {
        "CGO_ENABLED": "1",
        "GOCACHE": str(_GO_CACHE),
        "GOFLAGS": "-mod=mod -buildvcs=false",
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
    }
    command = (installed("go", "golang-go"), "test", "-race", "-count=3", "-timeout=120s", ".")
    ended = subprocess.run(
        command, cwd=plugin, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


class TestTraefikFaults(FaultContract):
    gateway = TraefikGateway()

    async def test_the_run_ends_with_traefik(self, faults: FaultBench) -> None:
        sent = await faults.send("last", 50, b"{}")
        [run] = faults.journal.heartbeats()
        os.kill(faults.running.pid, signal.SIGTERM)
        await faults.until_all_arrived(sent)
        ended = TapState.ENDED
        await faults.until(
            lambda: any(beat.state is ended for beat in faults.journal.heartbeats()[run]), lambda: "no end"
        )
        assert not faults.unaccounted()


@pytest.mark.parametrize(
    ("setting", "wrong", "sentence"),
    [
        ('collector: "unix:', 'collector: "', "collector must be unix:/path/of/socket"),
        ('collector: "unix:', 'collector: "http://198.51.100.7:8400" # "', "collector must be unix:"),
        ('collector: "unix:', 'collector: "http://127.0.0.1:8400" # "', "token is required over TCP"),
        ("tapId: traefik", "tapId: -1", "tapId must be 1 to 64 letters"),
        ("tapId: traefik", "tapId: a\n          token: short", "token must have at least 16 characters"),
        (
            "tapId: traefik",
            "tapId: a\n          bodyBytesMax: -1",
            "bodyBytesMax and retryMsMax must be above 0",
        ),
        (
            "tapId: traefik",
            "tapId: a\n          requestHeaders: [a b]",
            "requestHeaders and responseHeaders must be",
        ),
    ],
)
async def test_traefik_refuses_a_wrong_setting(
    tmp_path: Path, setting: str, wrong: str, sentence: str
) -> None:
    def damaged(routes: str) -> str:
        assert setting in routes
        return routes.replace(setting, wrong)

    place = Place(tmp_path, 1, tmp_path / "collector.sock", 0, "")
    async with started(place, free_port(), damaged):
        async with asyncio.timeout(_ROUTES_WITHIN_S):
            while sentence not in (tmp_path / "log").read_text():
                await asyncio.sleep(0.05)
