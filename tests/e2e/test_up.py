"""`auditap up` as a newcomer starts it: it shows a record, ends on Ctrl-C without a trace, and goes on where it was."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import get_args

import httpx
from prometheus_client.parser import text_string_to_metric_families

from auditap_example.traffic import capture_example
from schemas.metric_defs import Command, definitions
from tests.e2e.pipeline import until
from tests.gateways.gateway import installed
from tests.ports import free_port

ROOT = Path(__file__).parents[2]
SHOP = ROOT / "examples" / "shop"
_WITHIN_S = 240
PORTS = (
    "AUDITAP_COLLECTOR__ADDRESS__PORT",
    "AUDITAP_API__ADDRESS__PORT",
    "AUDITAP_INGEST__ADDRESS__PORT",
    "AUDITAP_ALERTING__ADDRESS__PORT",
    "AUDITAP_UP__EXAMPLE_PORT",
    "AUDITAP_UP__DIRECTORY_PORT",
    "AUDITAP_UP__GATEWAY_PORT",
)
PARTS = dict(zip(get_args(Command), (PORTS[0], PORTS[2], PORTS[1], PORTS[3]), strict=True))


class Up:
    """One run of `auditap up`, in a process group of its own as a terminal gives it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # Not the default ones, which something else on this machine may use.
        self.ports = {variable: str(free_port()) for variable in PORTS}
        self.output = folder / "up.out"
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, *options: str) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("AUDITAP_")}
        with self.output.open("wb") as output:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "auditap",
                "up",
                *options,
                cwd=self._folder,
                env=environment | self.ports | {"COLUMNS": "500", "AUDITAP_UP__TRAFFIC_PER_S": "20"},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    async def shows(self, text: str) -> None:
        async def shown() -> bool:
            assert self._process is not None
            assert self._process.returncode is None, self.text()
            return text in self.text()

        await until(shown, _WITHIN_S, text, self.text)

    async def interrupt(self) -> int:
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGINT)
        async with asyncio.timeout(120):
            return await self._process.wait()

    async def end(self) -> None:
        if self._process is not None and self._process.returncode is None:
            await self.interrupt()

    def text(self) -> str:
        # It may be in the middle of a character.
        return self.output.read_text(errors="replace")

    def curl_lines(self) -> list[str]:
        return re.findall(r"^curl .*$", self.text(), re.MULTILINE)


def shell(line: str, folder: Path) -> str:
    """Return what a command prints; nothing where a server had no time for it."""
    return subprocess.run(
        ["bash", "-c", line], cwd=folder, capture_output=True, text=True, check=False
    ).stdout


async def exposed(port: str) -> set[str]:
    """Return the names of the metrics on this port's page."""
    async with httpx.AsyncClient(timeout=120) as client:
        page = (await client.get(f"http://127.0.0.1:{port}/metrics")).text
    families = {(family.name, family.type) for family in text_string_to_metric_families(page)}
    # The client's format has the time at which a counter began as a gauge of its own.
    return {name for name, kind in families if not (kind == "gauge" and name.endswith("_created"))}


def processes_of(folder: Path) -> list[str]:
    """Return the command lines of processes that work below `folder`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                below = (entry / "cwd").resolve().is_relative_to(folder)
            except OSError:
                continue
            if str(folder) in command or below:
                found.append(command)
    return found


async def test_the_shop_of_the_readme_is_recorded_without_its_card_number(tmp_path: Path) -> None:
    shutil.copytree(SHOP, tmp_path, dirs_exist_ok=True)
    up, port = Up(tmp_path), free_port()
    service = None
    try:
        await up.start()
        await up.shows("auditap is up")
        for command, variable in PARTS.items():
            assert await exposed(up.ports[variable]) == {
                each.name for each in definitions() if command in each.commands
            }
        service = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "uvicorn", "service:app", "--port", str(port)),
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT), "XDG_STATE_HOME": str(tmp_path)},
            stderr=asyncio.subprocess.DEVNULL,
        )
        order = {"status": "shipped", "card_number": "4111111111111111"}

        async def updated() -> bool:
            try:
                async with httpx.AsyncClient(timeout=120) as client:
                    return (await client.put(f"http://127.0.0.1:{port}/orders/1042", json=order)).is_success
            except httpx.ConnectError:
                return False

        await until(updated, _WITHIN_S, "the shop's answer")
        api = f"AUDITAP_API__ADDRESS__PORT={up.ports['AUDITAP_API__ADDRESS__PORT']}"
        query = f"{api} {sys.executable} -m auditap query --account acme --json"

        found = ""

        async def recorded() -> bool:
            nonlocal found
            found = await asyncio.to_thread(shell, query, tmp_path)
            return '"request":{"status":"shipped"}' in found

        await until(recorded, _WITHIN_S, "the record of the update", up.text)
        assert "bo@acme.example" in found
        assert order["card_number"] not in found
        await assert_the_tutorial_makes_one_record(tmp_path, up, query)
    finally:
        if service is not None:
            service.terminate()
            await service.wait()
        await up.end()


async def assert_the_tutorial_makes_one_record(folder: Path, up: Up, query: str) -> None:
    """Run what the tutorial says about a capture and the ways to send it, in a folder with the shop's document."""
    tutorial = (ROOT / "docs" / "tutorial.md").read_text()
    blocks = re.findall(r"^```sh\n(.*?)^```", tutorial, re.MULTILINE | re.DOTALL)
    [made] = [each for each in blocks if "cat > captures.ndjson" in each]
    [sent] = [each for each in blocks if "curl -sS --unix-socket" in each]
    command = f'auditap() {{ "{sys.executable}" -m auditap "$@"; }}\n'
    shown = await asyncio.to_thread(shell, command + made, folder)
    assert "account: from the response header x-account-id" in shown
    sent = sent.replace("8400", up.ports["AUDITAP_COLLECTOR__ADDRESS__PORT"])
    accepted = await asyncio.to_thread(shell, command + sent, folder)
    assert accepted.count('"accepted":1,"refused":[]') == 2, accepted
    assert "1 accepted, 0 refused" in accepted

    async def recorded() -> bool:
        return "ana@acme.example" in await asyncio.to_thread(shell, query, folder)

    await until(recorded, _WITHIN_S, "the tutorial's record", up.text)
    assert shell(query, folder).count("ana@acme.example") == 1


async def test_a_service_in_another_language_is_recorded_by_a_gateway_in_front_of_it(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples" / "notes", tmp_path, dirs_exist_ok=True)
    up, port = Up(tmp_path), free_port()
    node = installed("node", "nodejs")
    service = await asyncio.create_subprocess_exec(
        node, "server.mjs", cwd=tmp_path, env=os.environ | {"PORT": str(port)}
    )
    began_s = time.monotonic()
    try:
        await up.start("--spec", "openapi.yaml", "--upstream", f"http://127.0.0.1:{port}")
        await up.shows("Waiting for the first request through your service")
        assert f"Call your service at http://127.0.0.1:{up.ports['AUDITAP_UP__GATEWAY_PORT']}" in up.text()
        note = {"title": "Rotate the keys", "text": "unmarked-text"}
        async with httpx.AsyncClient(timeout=120) as client:
            url = f"http://127.0.0.1:{up.ports['AUDITAP_UP__GATEWAY_PORT']}/accounts/acme/notes"
            created = await client.post(url, json=note)
        assert (created.status_code, created.json()["title"]) == (201, "Rotate the keys")
        await up.shows("First record")
        print(f"first record {time.monotonic() - began_s:.1f} s after `auditap up` was called")  # noqa: T201
        api = f"AUDITAP_API__ADDRESS__PORT={up.ports['AUDITAP_API__ADDRESS__PORT']}"
        query = f"{api} {sys.executable} -m auditap query --json"
        found = await asyncio.to_thread(shell, query, tmp_path)
        record = json.loads(found.splitlines()[0])
        assert record["resource"]["request"] == {"title": "Rotate the keys"}
        assert record["resource"]["response"] == {"id": "n-1", "title": "Rotate the keys"}
        assert record["actor"]["email"] == "ana@example.com"
        assert "unmarked-text" not in found
        assert "s3cret" not in found
        await assert_the_doctor_says_where_a_request_is_lost(tmp_path, up, port)
        assert await up.interrupt() == 0
        assert processes_of(tmp_path) == [f"{node} server.mjs "]
    finally:
        service.terminate()
        await service.wait()
        await up.end()


async def assert_the_doctor_says_where_a_request_is_lost(folder: Path, up: Up, service_port: int) -> None:
    ports = " ".join(f"{name}={port}" for name, port in up.ports.items())

    async def hops(port: str, path: str, *options: str) -> list[tuple[str, bool | None]]:
        url = f"http://127.0.0.1:{port}{path}"
        line = f"{ports} {sys.executable} -m auditap doctor {url} --json {' '.join(options)}"
        found = json.loads(await asyncio.to_thread(shell, line, folder))
        return [(hop["name"], hop["passed"]) for hop in found["hops"]]

    gateway = up.ports["AUDITAP_UP__GATEWAY_PORT"]
    passed = ("gateway", "tap", "collector", "ingestor", "record", "operation")
    through = [(name, True) for name in passed]
    assert await hops(gateway, "/accounts/acme/notes") == through
    assert await hops(gateway, "/v2/notes") == [*through[:-1], ("operation", False)]
    # Past the gateway: the service gets it, and nobody else.
    assert await hops(str(service_port), "/accounts/acme/notes", "--wait", "2") == [
        ("gateway", True),
        ("tap", False),
    ]
    assert await hops(str(free_port()), "/") == [("gateway", False)]


def postgres_of(folder: Path) -> int | None:
    """Return the process id of the embedded Postgres; None while there is none."""
    try:
        pid, _, _ = (folder / "auditap-data/postgres/cluster/postmaster.pid").read_text().partition("\n")
    except FileNotFoundError:
        return None
    return int(pid) if pid else None


async def test_up_shows_records_stops_without_a_trace_and_goes_on(tmp_path: Path) -> None:
    up = Up(tmp_path)
    try:
        await up.start()
        await up.shows("First record")
        await up.shows("ALERT ")
        [send, _] = up.curl_lines()

        async def accepted() -> bool:
            return '{"accepted":1,"refused":[]' in await asyncio.to_thread(shell, send, tmp_path)

        await until(accepted, _WITHIN_S, "a collector with time for the capture")

        # By its resource, because the traffic may be more than a page.
        narrowed = f"limit=3&resource_id={capture_example()['request']['url'].rpartition('/')[2]}"

        async def arrived() -> bool:
            line = up.curl_lines()[1].replace("limit=3", narrowed)
            return "Origin down" in await asyncio.to_thread(shell, line, tmp_path)

        await until(arrived, _WITHIN_S, "the record of the capture that was sent")
        assert await up.interrupt() == 0
        assert processes_of(tmp_path) == []

        await up.start()
        await up.shows("First record")
        await until(arrived, _WITHIN_S, "the record of the run before")

        killed = postgres_of(tmp_path)
        assert killed is not None
        os.kill(killed, signal.SIGKILL)

        async def restarted() -> bool:
            return postgres_of(tmp_path) not in {None, killed}

        await until(restarted, _WITHIN_S, "another Postgres in place of the one that was killed")
        await until(arrived, _WITHIN_S, "the record after Postgres was killed")
        assert await up.interrupt() == 0
        assert processes_of(tmp_path) == []
    finally:
        await up.end()
