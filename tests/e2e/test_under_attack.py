"""Processes as users start them, with few descriptors, while senders without a token hold connections and send without end."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import resource
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from auditap_example.document import document_file
from tests.ports import free_port

pytestmark = pytest.mark.processes

TOKEN = "a-token-of-the-good-client"
HEALTH_TOKEN = "a-token-of-health-routes"
DESCRIPTORS = 256
WITHIN_S = 120
CAPTURE = (
    b'{"id":"019bec5a21ad70008000%012x","request":{"method":"GET","url":"/a"},"response":{"status":200}}'
)


class Collector:
    """`auditap collect` with an embedded log and its health routes on an address of their own."""

    def __init__(self, folder: Path) -> None:
        self.port, self.health_port = free_port(), free_port()
        self.socket = folder / "c.sock"
        self.log_file = folder / "stderr.txt"
        (folder / "health.token").write_text(HEALTH_TOKEN)
        digest = hashlib.sha256(TOKEN.encode()).hexdigest()
        self.config = folder / "auditap.toml"
        self.config.write_text(
            f'data_dir = "."\nlog_format = "json"\nhealth_token_file = "health.token"\n'
            f'[redaction]\ndocuments = [{{path = "{document_file()}"}}]\n'
            f'[collector]\nsocket = "c.sock"\ntokens = [{{sha256 = "{digest}", taps = ["*"]}}]\n'
            f"address = {{port = {self.port}}}\nhealth_address = {{port = {self.health_port}}}\n"
        )
        self.accepted = self.pid = 0

    def memory_bytes(self) -> int:
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * resource.getpagesize()

    async def health(self, route: str, *, token: str | None = HEALTH_TOKEN) -> httpx.Response:
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        async with httpx.AsyncClient(headers=headers, timeout=WITHIN_S) as client:
            return await client.get(f"http://127.0.0.1:{self.health_port}{route}")

    async def send(self, *, over_unix: bool) -> httpx.Response:
        """Send a capture over a new connection."""
        transport = httpx.AsyncHTTPTransport(uds=str(self.socket)) if over_unix else None
        headers = {"authorization": f"Bearer {TOKEN}", "content-type": "application/x-ndjson"}
        async with httpx.AsyncClient(transport=transport, headers=headers, timeout=WITHIN_S) as client:
            self.accepted += 1
            return await client.post(
                f"http://127.0.0.1:{self.port}/v1/captures", content=CAPTURE % self.accepted
            )

    async def is_ready(self) -> bool:
        try:
            return (await self.health("/readyz")).status_code == 200
        except httpx.TransportError:
            return False


@asynccontextmanager
async def collecting(folder: Path) -> AsyncIterator[Collector]:
    collector = Collector(folder)
    environment = {**os.environ, "AUDITAP_CONFIG": str(collector.config)}
    # What bounds the process is the hard limit, up to which it raises the soft one.
    limited = f"ulimit -n {DESCRIPTORS}; exec {sys.executable} -m auditap collect"
    with collector.log_file.open("wb") as log:
        process = await asyncio.create_subprocess_exec("sh", "-c", limited, env=environment, stderr=log)
    collector.pid = process.pid
    try:
        async with asyncio.timeout(WITHIN_S):
            while not await collector.is_ready():
                assert process.returncode is None, collector.log_file.read_text()
                await asyncio.sleep(0.05)
        yield collector
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


def connections(port: int) -> list[socket.socket]:
    return [socket.create_connection(("127.0.0.1", port), timeout=WITHIN_S) for _ in range(3 * DESCRIPTORS)]


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4_096 if hard == resource.RLIM_INFINITY else min(hard, 4_096)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_idle_connections_keep_nobody_out(tmp_path: Path, many_descriptors: None) -> None:
    async with collecting(tmp_path) as collector:
        held = await asyncio.to_thread(connections, collector.port)
        try:
            for over_unix in (True, False, True, False):
                assert (await collector.send(over_unix=over_unix)).json()["accepted"] == 1
            assert (await collector.health("/readyz")).status_code == 200
            metrics = (await collector.health("/metrics")).text
        finally:
            for connection in held:
                connection.close()
        assert 'auditap_http_connections_ended_total{listener="tcp",reason="displaced"}' in metrics
        assert "auditap_captures_accepted_total 4.0" in metrics
        assert TOKEN not in metrics
        assert "127.0.0." not in metrics
    assert "Traceback" not in collector.log_file.read_text()


async def test_endless_heads_cost_no_memory(tmp_path: Path) -> None:
    def flood(piece: bytes) -> None:
        with (
            contextlib.suppress(ConnectionError),
            socket.create_connection(("127.0.0.1", collector.port)) as attacker,
        ):
            attacker.sendall(b"GET / HTTP/1.1\r\nhost: a\r\n")
            for _ in range(40 * 1024 * 1024 // len(piece)):
                attacker.sendall(piece)

    async with collecting(tmp_path) as collector:
        before = collector.memory_bytes()
        floods = [b"a: b\r\n" * 10_000, b"x" * 65_536] * 2
        attacks = [asyncio.create_task(asyncio.to_thread(flood, each)) for each in floods]
        while not all(attack.done() for attack in attacks):
            assert (await collector.send(over_unix=False)).json()["accepted"] == 1
        await asyncio.gather(*attacks)
        # A request's own memory, many times over; the heads themselves were 160 MiB, and took ten times as much.
        assert collector.memory_bytes() - before < 64 * 1024 * 1024


async def test_health_routes_are_on_their_own_address_alone(tmp_path: Path) -> None:
    async with collecting(tmp_path) as collector:
        for route in ("/healthz", "/readyz", "/metrics"):
            assert (await collector.health(route)).status_code == 200
            assert (await collector.health(route, token=None)).status_code == 401
            assert (await collector.health(route, token=TOKEN)).status_code == 401
            for uds in (None, str(collector.socket)):
                transport = httpx.AsyncHTTPTransport(uds=uds)
                async with httpx.AsyncClient(transport=transport, timeout=WITHIN_S) as client:
                    answer = await client.get(f"http://127.0.0.1:{collector.port}{route}")
                    assert answer.status_code == 404
