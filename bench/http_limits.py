"""What senders without a token can do to a collector: memory, and the latency of a good client beside them.

`python -m bench.http_limits [--python OTHER_TREE/.venv/bin/python]` starts `auditap collect` with an embedded log and 1,024
file descriptors, attacks it in a process of its own, and prints a table. With `--against OTHER_TREE/.venv/bin/python` it
compares the cost of the intake with another tree's instead, in turns.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import multiprocessing
import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Event
from pathlib import Path

from bench.results import conditions, table
from bench.servers import cpu_s, peak_mb
from bench.workload import EXAMPLE_DOCUMENT, example_lines
from tests.ports import free_port

_TOKEN = "a-token-of-the-good-client"  # noqa: S105  it opens nothing
_DESCRIPTORS = 1_024
_IDLE = 1_300
_HEAD_BYTES = 40 << 20
_BATCH = 10
_REQUESTS = 400
_PACE_S = 0.02
_WAIT_S = 120
_TIMEOUT_S = 30
_CONNECTIONS = 6
_INTAKE_S = 8.0
_TURNS = 4

Attack = Callable[[int, Event, Event], None]


def _send(port: int, pieces: Iterator[bytes], went: Event) -> None:
    """Send until the server ends the connection."""
    went.set()
    with socket.create_connection(("127.0.0.1", port)) as attacker, contextlib.suppress(OSError):
        attacker.settimeout(_TIMEOUT_S)
        for piece in pieces:
            attacker.sendall(piece)
        attacker.recv(1)


def _head(field: bytes, size_bytes: int) -> Iterator[bytes]:
    yield b"GET / HTTP/1.1\r\nhost: a\r\n"
    piece = field * (65_536 // len(field))
    for _ in range(size_bytes // len(piece)):
        yield piece


def many_headers(port: int, went: Event, _stop: Event) -> None:
    _send(port, _head(b"a: b\r\n", _HEAD_BYTES), went)


def one_header(port: int, went: Event, _stop: Event) -> None:
    pieces = _head(b"x", _HEAD_BYTES)
    _send(port, (piece if number else piece + b"a: " for number, piece in enumerate(pieces)), went)


def endless_header(port: int, went: Event, stop: Event) -> None:
    """Send one header after the other on new connections, none of which ends."""
    while not stop.is_set():
        _send(port, (b"GET / HTTP/1.1\r\na: " if not at else b"x" * 65_536 for at in range(1_000)), went)


def idle(port: int, went: Event, stop: Event) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (4_096, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    _held = [socket.create_connection(("127.0.0.1", port), timeout=_TIMEOUT_S) for _ in range(_IDLE)]
    time.sleep(2)
    went.set()
    stop.wait()


@contextmanager
def _under(attack: Attack, port: int, times: int = 1) -> Iterator[list[multiprocessing.Process]]:
    context = multiprocessing.get_context("spawn")
    stop, processes = context.Event(), []
    for _ in range(times):
        went = context.Event()
        process = context.Process(target=attack, args=(port, went, stop))
        process.start()
        went.wait(_WAIT_S)
        processes.append(process)
    try:
        yield processes  # type: ignore[misc]
    finally:
        stop.set()
        for process in processes:
            process.join(_WAIT_S)
            process.kill()


class _Collector:
    """`auditap collect` of some tree, with an embedded log."""

    def __init__(self, python: Path, folder: Path) -> None:
        self.port = free_port()
        self.socket = folder / "collector.sock"
        digest = hashlib.sha256(_TOKEN.encode()).hexdigest()
        (folder / "auditap.toml").write_text(
            f'[redaction]\ndocuments = [{{path = "{EXAMPLE_DOCUMENT.resolve()}", envelope = "result"}}]\n'
            f'[collector]\ntokens = [{{sha256 = "{digest}", taps = ["*"]}}]\naddress = {{port = {self.port}}}\n'
        )
        environment = {
            **os.environ,
            "AUDITAP_CONFIG": str(folder / "auditap.toml"),
            "AUDITAP_DATA_DIR": str(folder),
        }
        self._process = subprocess.Popen(  # noqa: S603
            [python, "-m", "auditap", "collect"],
            env=environment,
            cwd=python.parents[2],
            stdout=subprocess.DEVNULL,
            stderr=(folder / "stderr.txt").open("w"),
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (_DESCRIPTORS, _DESCRIPTORS)),  # noqa: PLW1509
        )
        self.pid = self._process.pid
        deadline = time.monotonic() + _WAIT_S
        while not (self._listens() and _answers_on(self.socket, "/readyz")):
            assert time.monotonic() < deadline, (folder / "stderr.txt").read_text()
            time.sleep(0.1)

    def _listens(self) -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextmanager
def collector(python: Path) -> Iterator[_Collector]:
    with tempfile.TemporaryDirectory(prefix="auditap-bench-") as folder:
        started = _Collector(python, Path(folder))
        try:
            yield started
        finally:
            started.stop()


def _answers_on(path: Path, route: str = "/healthz") -> bool:
    """Return whether a new connection to the Unix socket is served."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        try:
            client.connect(str(path))
            client.sendall(f"GET {route} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n".encode())
            return client.recv(15) == b"HTTP/1.1 200 OK"
        except OSError:
            return False


def _request(body: bytes) -> bytes:
    head = f"POST /v1/captures HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {_TOKEN}\r\ncontent-type: application/x-ndjson\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def latencies_ms(port: int) -> tuple[list[float], int]:
    """Return the latencies of batches that are sent at a steady pace, and how many were accepted.

    Where a connection is lost, the next batch takes a new one. A batch that is not accepted counts with the time that it
    was waited for.
    """
    request = _request(b"\n".join(example_lines(_BATCH, 1)))
    took: list[float] = []
    accepted = 0
    streams = None
    for _ in range(_REQUESTS):
        began = time.perf_counter()
        try:
            async with asyncio.timeout(5):
                streams = streams or await asyncio.open_connection("127.0.0.1", port)
                streams[1].write(request)
                answer = await streams[0].readuntil(b"\r\n\r\n")
                await streams[0].readuntil(b"}")
                assert answer.startswith(b"HTTP/1.1 200"), answer
                accepted += 1
        except (OSError, asyncio.IncompleteReadError, TimeoutError):
            if streams is not None:
                streams[1].close()
            streams = None
        took.append((time.perf_counter() - began) * 1000)
        await asyncio.sleep(_PACE_S)
    if streams is not None:
        streams[1].close()
    return sorted(took), accepted


def _latency_row(name: str, running: _Collector) -> list[str]:
    before = cpu_s(running.pid)
    took, accepted = asyncio.run(latencies_ms(running.port))
    alive = "yes" if _answers_on(running.socket) else "no"
    p99 = took[int(len(took) * 0.99)]
    return [
        name,
        f"{accepted:,} of {_REQUESTS:,}",
        f"{statistics.median(took):.1f}",
        f"{p99:.1f}",
        f"{took[-1]:.1f}",
        alive,
        f"{cpu_s(running.pid) - before:.1f}",
    ]


def _memory_row(python: Path, name: str, attack: Attack) -> list[str]:
    with collector(python) as running:
        before = peak_mb(running.pid)
        with _under(attack, running.port, times=2) as processes:
            for process in processes:
                process.join(_WAIT_S)
            after = peak_mb(running.pid)
        return [name, f"{before:,.0f}", f"{after:,.0f}"]


def measure(python: Path) -> str:
    memory = [
        _memory_row(python, "40 MiB of small headers", many_headers),
        _memory_row(python, "one header of 40 MiB", one_header),
    ]
    rows = []
    with collector(python) as running:
        rows.append(_latency_row("alone", running))
    with collector(python) as running, _under(endless_header, running.port, times=2):
        rows.append(_latency_row("2 endless headers, again and again", running))
    with collector(python) as running, _under(idle, running.port):
        rows.append(_latency_row(f"{_IDLE:,} idle connections", running))
    return "\n\n".join(
        (
            table(["two connections, each with", "MB before", "MB, peak"], memory),
            table(
                [
                    "good client beside",
                    "accepted",
                    "p50 ms",
                    "p99 ms",
                    "worst ms",
                    "Unix socket answers",
                    "CPU s",
                ],
                rows,
            ),
        )
    )


async def send_batches(port: int, seconds: float, batch: int) -> int:
    """Send batches over several connections, as fast as they are accepted; return how many pairs were."""
    body = b"\n".join(example_lines(batch, 1))
    request = _request(body)
    until, sent = time.monotonic() + seconds, 0

    async def connection() -> None:
        nonlocal sent
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.monotonic() < until:
            writer.write(request)
            answer = await reader.readuntil(b"}")
            assert answer.startswith(b"HTTP/1.1 200"), answer
            sent += batch
        writer.close()

    await asyncio.gather(*(connection() for _ in range(_CONNECTIONS)))
    return sent


def _intake_cost_us(python: Path, batch: int) -> tuple[float, float]:
    """Return the CPU time a pair of the collector, in microseconds, and its rate."""
    with collector(python) as running:
        asyncio.run(send_batches(running.port, 2, batch))
        before, began = cpu_s(running.pid), time.monotonic()
        sent = asyncio.run(send_batches(running.port, _INTAKE_S, batch))
        return (cpu_s(running.pid) - before) / sent * 1e6, sent / (time.monotonic() - began)


def compare(python: Path, other: Path) -> str:
    rows = []
    for batch in (1, 100):
        ours, theirs = [], []
        for _ in range(_TURNS):
            theirs.append(_intake_cost_us(other, batch))
            ours.append(_intake_cost_us(python, batch))
        cost = [min(cost for cost, _ in each) for each in (theirs, ours)]
        rate = [max(rate for _, rate in each) for each in (theirs, ours)]
        rows.append(
            [
                f"{batch}",
                *(f"{each:.1f}" for each in cost),
                f"{cost[0] / cost[1]:.3f}",
                *(f"{each:,.0f}" for each in rate),
                f"{rate[1] / rate[0]:.3f}",
            ]
        )
    head = ["pairs a batch", "CPU µs a pair, other", "this", "ratio", "pairs/s, other", "this", "ratio"]
    return f"Best of {_TURNS} turns of {_INTAKE_S:.0f} s each.\n\n{table(head, rows)}"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--python", type=Path, default=Path(sys.executable))
    options.add_argument("--against", type=Path)
    given = options.parse_args()
    result = measure(given.python) if given.against is None else compare(given.python, given.against)
    print(f"{conditions()}\n\n{result}")


if __name__ == "__main__":
    main()
