"""`auditap up` as a newcomer starts it: it shows a record, ends on Ctrl-C without a trace, and goes on where it was."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.e2e.pipeline import until

pytestmark = pytest.mark.timeout(180)


class Up:
    """One run of `auditap up`, in a process group of its own as a terminal gives it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.output = folder / "up.out"
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("AUDITAP_")}
        with self.output.open("wb") as output:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "auditap",
                "up",
                cwd=self._folder,
                env=environment | {"COLUMNS": "500", "AUDITAP_UP__TRAFFIC_PER_S": "20"},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    async def shows(self, text: str) -> None:
        async def shown() -> bool:
            assert self._process is not None
            assert self._process.returncode is None, self.output.read_text()
            return text in self.output.read_text()

        await until(shown, 60, text, self.output.read_text)

    async def interrupt(self) -> int:
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGINT)
        async with asyncio.timeout(40):
            return await self._process.wait()

    async def end(self) -> None:
        if self._process is not None and self._process.returncode is None:
            await self.interrupt()

    def curl_lines(self) -> list[str]:
        return re.findall(r"^curl .*$", self.output.read_text(), re.MULTILINE)


def curl(line: str, folder: Path) -> str:
    return subprocess.run(["bash", "-c", line], cwd=folder, capture_output=True, text=True, check=True).stdout


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


async def test_up_shows_records_stops_without_a_trace_and_goes_on(tmp_path: Path) -> None:
    if any(is_taken(port) for port in (8400, 8401, 8402, 8403, 8404, 8405)):
        pytest.skip("the default ports are taken on this machine")
    up = Up(tmp_path)
    try:
        await up.start()
        await up.shows("First record")
        await up.shows("ALERT ")
        send, read = up.curl_lines()
        assert '{"accepted":1,"refused":[]}' in curl(send, tmp_path)

        async def arrived() -> bool:
            return "Origin down" in curl(read.replace("limit=3", "limit=1000"), tmp_path)

        await until(arrived, 20, "the record of the capture that was sent")
        assert await up.interrupt() == 0
        assert processes_of(tmp_path) == []

        await up.start()
        await up.shows("First record")
        assert "Origin down" in curl(up.curl_lines()[1].replace("limit=3", "limit=1000"), tmp_path)
        assert await up.interrupt() == 0
        assert processes_of(tmp_path) == []
    finally:
        await up.end()


def is_taken(port: int) -> bool:
    try:
        httpx.get(f"http://127.0.0.1:{port}/", timeout=1)
    except httpx.ConnectError:
        return False
    except httpx.HTTPError:
        return True
    return True
