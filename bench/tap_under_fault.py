"""What a user of a tapped service notices while the collector is dead, hung, slow or refusing.

`python -m bench.tap_under_fault` serves the same application twice, with the tap and without, and sends requests to both in turn, so
that both of a pair meet the same conditions. There are five runs for each fault, and the difference of the 99th
percentiles is the median of the five. `> bench/RESULTS-tap-under-fault.md` keeps the output.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import os
import platform
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from auditap.runtime.http_server import HttpServer, bind_tcp_socket
from auditap_tap import AuditTapMiddleware
from tests.ports import free_port

_RUNS = 5
_WARM_UP_PAIRS = 200
# Full after some hundreds of requests: the runs see the tap while it queues, and while it drops.
_QUEUE_BYTES_MAX = 4 * 1024 * 1024
_SLOW_S = 2.0
_BODY = b'{"name": "Origin down", "enabled": true, "note": "' + b"x" * 900 + b'"}'
_HEADERS = {"content-type": "application/json", "x-request-id": "8e9f1a2b3c4d5e6f"}

Respond = Callable[[socket.socket], None]


@dataclass
class Run:
    """Milliseconds of each request, with the tap and without, and how many got no response."""

    tapped_ms: list[float] = field(default_factory=list)
    bare_ms: list[float] = field(default_factory=list)
    failed: int = 0

    @property
    def p99_difference_ms(self) -> float:
        return _p99(self.tapped_ms) - _p99(self.bare_ms)


def _p99(values: Sequence[float]) -> float:
    return sorted(values)[int(len(values) * 0.99)]


async def _serve(port: int, collector: str | None) -> None:
    async def echo(request: Request) -> Response:
        return Response(await request.body(), media_type="application/json")

    app = Starlette(routes=[Route("/accounts/{account}/policies", echo, methods=["POST"])])
    served = (
        app
        if collector is None
        else AuditTapMiddleware(
            app, collector=collector, tap_id="bench", queue_bytes_max=_QUEUE_BYTES_MAX, close_ms_max=100
        )
    )
    server = HttpServer(served, [bind_tcp_socket("127.0.0.1", port)])
    await server.start()
    await asyncio.Event().wait()


@contextlib.contextmanager
def serving(collector: str | None) -> Iterator[int]:
    """Serve the application in a process of its own and yield its port."""
    port = free_port()
    command = [sys.executable, "-m", "bench.tap_under_fault", "--serve", str(port)]
    process = subprocess.Popen(command + (["--collector", collector] if collector else []))  # noqa: S603
    try:
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            assert process.poll() is None
            time.sleep(0.05)
        yield port
    finally:
        process.kill()
        process.wait()


def hung(_connection: socket.socket) -> None:
    time.sleep(3_600)


def slow(connection: socket.socket) -> None:
    time.sleep(_SLOW_S)
    _send_response(connection, "200 OK", b'{"accepted": 0, "refused": []}')


def refusing(connection: socket.socket) -> None:
    _send_response(connection, "503 Service Unavailable", b'{"error": "away"}')


def healthy(connection: socket.socket) -> None:
    _send_response(connection, "200 OK", b'{"accepted": 0, "refused": []}')


def _send_response(connection: socket.socket, status: str, body: bytes) -> None:
    connection.sendall(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)


@contextlib.contextmanager
def collector(respond: Respond | None) -> Iterator[str]:
    """Yield the address of a collector that responds like this; with None, nobody listens there."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "collector.sock"
        if respond is None:
            yield f"unix:{path}"
            return
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(path))
        listening.listen()
        threading.Thread(target=_accept_connections, args=(listening, respond), daemon=True).start()
        yield f"unix:{path}"
        listening.close()


def _accept_connections(listening: socket.socket, respond: Respond) -> None:
    with contextlib.suppress(OSError):
        while True:
            connection, _ = listening.accept()
            threading.Thread(target=_respond_to_requests, args=(connection, respond), daemon=True).start()


def _respond_to_requests(connection: socket.socket, respond: Respond) -> None:
    """Read whole requests, whose length the tap sends, and respond to each."""
    with contextlib.suppress(OSError, ValueError), connection, connection.makefile("rb") as reader:
        while True:
            length = 0
            while (line := reader.readline()) not in (b"\r\n", b""):
                name, _, value = line.partition(b":")
                if name.lower() == b"content-length":
                    length = int(value)
            if not line:
                return
            reader.read(length)
            respond(connection)


def measured(tapped_port: int, bare_port: int, pairs: int, seed: int) -> Run:
    """Send pairs of requests to both, in a random order within each pair."""
    drawn, run = random.Random(seed), Run()
    tapped, bare = (http.client.HTTPConnection("127.0.0.1", port) for port in (tapped_port, bare_port))
    both = [(tapped, run.tapped_ms), (bare, run.bare_ms)]
    for _ in range(pairs):
        drawn.shuffle(both)
        for connection, times_ms in both:
            began = time.perf_counter()
            if not _is_successful(connection):
                run.failed += 1
            times_ms.append((time.perf_counter() - began) * 1000)
    tapped.close()
    bare.close()
    return run


def _is_successful(connection: http.client.HTTPConnection) -> bool:
    try:
        connection.request("POST", "/accounts/1f0c2b7d9e8a/policies", _BODY, _HEADERS)
        response = connection.getresponse()
        return response.read() == _BODY and response.status == 200
    except (OSError, http.client.HTTPException):
        connection.close()
        return False


def line(name: str, runs: Sequence[Run]) -> str:
    """Return one row of the table."""
    median = statistics.median
    differences = [run.p99_difference_ms for run in runs]
    return (
        f"| {name} | {sum(run.failed for run in runs)} of {sum(2 * len(run.bare_ms) for run in runs)}"
        f" | {median(median(run.tapped_ms) - median(run.bare_ms) for run in runs):+.3f}"
        f" | {median(_p99(run.bare_ms) for run in runs):.2f} | {median(differences):+.3f}"
        f" | {', '.join(f'{each:+.2f}' for each in differences)} |"
    )


def main(pairs: int) -> int:
    """Measure every fault, print the table and return the exit code: 1 if a request failed."""
    print(
        "# A tapped service while its collector is healthy, dead, hung, slow or refusing\n\n"
        "This page is the output of `python -m bench.tap_under_fault`.\n\n"
        f"Load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores, Python {platform.python_version()},"
        f" {_RUNS} runs of {pairs} pairs each.\n"
    )
    print(
        "| collector | requests failed | p50 added by the tap, ms | p99 without tap, ms | p99 added by the tap, ms: median | each run |"
    )
    print("| --- | ---: | ---: | ---: | ---: | --- |")
    failed = 0
    for name, respond in (
        ("healthy", healthy),
        ("dead", None),
        ("hung", hung),
        ("slow", slow),
        ("refusing", refusing),
    ):
        with collector(respond) as address, serving(address) as tapped, serving(None) as bare:
            measured(tapped, bare, _WARM_UP_PAIRS, 0)
            runs = [measured(tapped, bare, pairs, seed) for seed in range(_RUNS)]
        print(line(name, runs), flush=True)
        failed += sum(run.failed for run in runs)
    return 1 if failed else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.tap_under_fault", description=__doc__)
    parser.add_argument("--pairs", type=int, default=2_000, help="of requests in each run")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--collector", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.serve is not None:
        asyncio.run(_serve(chosen.serve, chosen.collector))
    else:
        sys.exit(main(chosen.pairs))
