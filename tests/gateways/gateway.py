"""What a gateway under test is: how it is started between a client, the upstream and a collector."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest

_LISTENS_WITHIN_S = 60
_ENDS_WITHIN_S = 30
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Place:
    """Where a gateway runs: its own empty folder, the upstream's port, and the collector."""

    folder: Path
    upstream_port: int
    collector_socket: Path
    collector_port: int
    """Loopback TCP of the same collector."""
    token: str
    """The bearer token for it over TCP, good for every tap id."""


@dataclass(frozen=True)
class Abilities:
    """What a tap can see; everything else it brings as all others do."""

    body_bytes_max: int = 256 * 1024
    """A longer body is `truncated`."""
    copies_chunked_uploads: bool = True
    """Whether a request's body is copied whose length is not known in advance. If not, it is `truncated`."""
    sees_client_leave: bool = True
    """Whether the gateway ends an exchange whose client leaves. If not, it arrives as the service ended it."""
    passes_early_hints: bool = True
    """Whether the gateway, without a tap, brings the response that follows a 103."""
    passes_websocket: bool = True
    """Whether the gateway under test lets a connection become a WebSocket everywhere. None passes another protocol on."""
    sees_inside_of_upgrades: bool = False
    """Whether the tap runs within a server that speaks the other protocol itself, and so sees each request inside of it."""


@dataclass(frozen=True)
class Running:
    """A gateway that runs. `h2_port` takes HTTP/2 in plain text, by prior knowledge. `pid`: its (main) process."""

    port: int
    h2_port: int
    pid: int

    def children(self) -> list[int]:
        """Return the processes that the main one has started: its workers."""
        return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]

    def cpu_s(self) -> float:
        """Return the CPU seconds that its processes have taken so far."""
        return sum(process_cpu_s(pid) for pid in (self.pid, *self.children()))


def process_cpu_s(pid: int) -> float:
    """Return the CPU seconds that a process has taken so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


class Gateway(Protocol):
    """A gateway with its tap, as its page in docs/gateways describes it."""

    name: str
    abilities: Abilities

    def running(self, place: Place) -> AbstractAsyncContextManager[Running]:
        """Start the gateway with its tap in front of the upstream. It listens on loopback alone, and ends with the context."""


def installed(program: str, package: str) -> str:
    """Return the path of a program from a package of the distribution. Skips the test without it, and fails it under CI=true."""
    path = shutil.which(program) or shutil.which(program, path="/usr/local/sbin:/usr/sbin:/sbin")
    if path is None:
        sentence = f"{program} is missing: install the package {package}"
        if os.environ.get("CI", "").lower() in {"1", "true"}:
            pytest.fail(sentence)
        pytest.skip(sentence)
    return path


def filled(template: Path, values: Mapping[str, object]) -> str:
    """Return an example configuration of the project with every `${NAME}` of a test's place filled in. Other dollar signs stay.

    Fails where a value has no place in the template.
    """
    text = template.read_text()
    for name, value in values.items():
        assert f"${{{name}}}" in text, f"{template.name} has no ${{{name}}}"
        text = text.replace(f"${{{name}}}", str(value))
    return text


def without_tap(configuration: str) -> str:
    """Return a configuration without what stands between "auditap" and "end of auditap", to compare with."""
    bare, cuts = re.subn(r"(?ms)^\s*# auditap\n.*?^\s*# end of auditap\n", "", configuration)
    assert cuts
    return bare


@asynccontextmanager
async def process(
    command: Sequence[str | Path],
    folder: Path,
    ports: Sequence[int],
    environment: Mapping[str, str] | None = None,
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a server until the context ends; entered once it listens on all of `ports`. Its output is in `folder`/log."""
    log_file = folder / "log"
    with log_file.open("ab") as log:
        started = await asyncio.create_subprocess_exec(
            *map(str, command),
            cwd=folder,
            env={**os.environ, **(environment or {})},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        async with asyncio.timeout(_LISTENS_WITHIN_S):
            for port in ports:
                while not _listens(port):
                    assert started.returncode is None, log_file.read_text()
                    await asyncio.sleep(0.02)
        yield started
    finally:
        await _end(started)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def _end(started: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        started.send_signal(signal.SIGCONT)
        started.terminate()
    try:
        await asyncio.wait_for(started.wait(), _ENDS_WITHIN_S)
    except TimeoutError:
        started.kill()
        await started.wait()
