"""What a tap inside a gateway costs: latency and CPU of a request, with the tap and without, in the same run.

`python -m bench.gateways` runs each gateway twice beside another, as the tests run it, in front of one upstream, and sends requests to both
in turn, so that both of a pair meet the same conditions. Each request and each response has a JSON body of about 1 KB.
"""

from __future__ import annotations

import asyncio
import os
import platform
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from tests.gateways.collected import TOKEN
from tests.gateways.faults import start_collector
from tests.gateways.gateway import Gateway, Place, process
from tests.gateways.journal import Journal
from tests.gateways.test_nginx import NginxGateway
from tests.gateways.test_openresty import OpenRestyGateway
from tests.gateways.test_traefik import TraefikGateway
from tests.ports import free_port

_ROUNDS = 5
_PAIRS = 2_000
_WARM_UP_PAIRS = 300
_CPU_REQUESTS = 5_000
_REQUESTS_A_CONNECTION = 900  # nginx closes a connection after 1,000
_ENVIRONMENT = {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}
_TICKS = os.sysconf("SC_CLK_TCK")
_BODY = b'{"name": "Origin down", "enabled": true, "note": "' + b"x" * 950 + b'"}'
_REQUEST = (
    b"POST /accounts/71217cafeaf3b0af4feb976ec66332ab/policies HTTP/1.1\r\nHost: api.example\r\nUser-Agent: bench/1.0\r\n"
    b"X-Request-Id: 8e9f1a2b3c4d5e6f\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    % len(_BODY)
) + _BODY
_RESPONSE = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Actor-Email: bo@acme.example\r\nContent-Length: %d\r\n\r\n"
    % len(_BODY)
) + _BODY

GATEWAYS: dict[str, Callable[..., Gateway]] = {
    "openresty": OpenRestyGateway,
    "nginx": NginxGateway,
    "traefik": TraefikGateway,
}


@dataclass
class Side:
    """A gateway with the tap or without: its port and process, and what was measured."""

    port: int
    pid: int
    connection: socket.socket | None = None
    sent: int = 0
    ms: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)

    def request(self) -> float:
        """Send one request, and return how long its response took in milliseconds."""
        if self.connection is None or self.sent % _REQUESTS_A_CONNECTION == 0:
            self._connect()
        assert self.connection is not None
        self.sent += 1
        began_s = time.perf_counter()
        self.connection.sendall(_REQUEST)
        received = b""
        while not received.endswith(b'x"}'):
            part = self.connection.recv(65_536)
            assert part
            received += part
        return (time.perf_counter() - began_s) * 1000

    def _connect(self) -> None:
        if self.connection is not None:
            self.connection.close()
        self.connection = socket.create_connection(("127.0.0.1", self.port))
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def cpu_s(self) -> float:
        """Return the CPU time of the process and its children, in seconds."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        stats = (
            Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in [self.pid, *children]
        )
        return sum(int(stat[11]) + int(stat[12]) for stat in stats) / _TICKS


def _serve_upstream(port: int) -> None:
    """Answer every request with the same response, from a thread for each connection."""
    listening = socket.create_server(("127.0.0.1", port))

    def serve(connection: socket.socket) -> None:
        received = b""
        while part := connection.recv(65_536):
            received += part
            if received.startswith(b"GET"):
                # A test's question whether the gateway passes requests on.
                received = b""
                connection.sendall(_RESPONSE)
            # The request's body ends like this, and nothing else of it does.
            while (end := received.find(b'x"}')) >= 0:
                received = received[end + 3 :]
                connection.sendall(_RESPONSE)

    while True:
        connection, _ = listening.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=serve, args=(connection,), daemon=True).start()


def _measure(tapped: Side, bare: Side) -> None:
    for _ in range(_WARM_UP_PAIRS):
        tapped.request()
        bare.request()
    for _ in range(_ROUNDS):
        for number in range(_PAIRS):
            # In turn, because the second of two finds the machine awake.
            for side in (tapped, bare) if number % 2 else (bare, tapped):
                side.ms.append(side.request())
        for side in (tapped, bare):
            before_s = side.cpu_s()
            for _ in range(_CPU_REQUESTS):
                side.request()
            side.cpu_us.append((side.cpu_s() - before_s) / _CPU_REQUESTS * 1e6)


async def _compare(name: str) -> None:
    upstream_port = free_port()
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="auditap-")))
        socket_path, journal = folder / "collector.sock", Journal(folder / "journal")
        collector = await start_collector(socket_path, journal.path)
        stack.callback(collector.kill)
        # In a process of its own: in this one, the two would wait for each other's lock.
        command = (sys.executable, "-m", "bench.gateways", "--upstream", str(upstream_port))
        await stack.enter_async_context(process(command, folder, [upstream_port], _ENVIRONMENT))
        sides = []
        for is_tapped in (True, False):
            own = folder / f"gateway-{is_tapped}"
            own.mkdir()
            place = Place(own, upstream_port, socket_path, 0, TOKEN)
            running = await stack.enter_async_context(GATEWAYS[name](is_tapped=is_tapped).running(place))
            sides.append(Side(running.port, running.pid))
        tapped, bare = sides
        await asyncio.to_thread(_measure, tapped, bare)
        arrived = sum(map(len, journal.numbers().values()))
    cells = (
        name,
        *(f"{statistics.median(side.ms):.3f}" for side in (bare, tapped)),
        *(f"{_p99(side.ms):.2f}" for side in (bare, tapped)),
        *(f"{statistics.median(side.cpu_us):.0f}" for side in (bare, tapped)),
        f"{arrived:,}",
    )
    print("| " + " | ".join(cells) + " |", flush=True)


def _p99(values: list[float]) -> float:
    return sorted(values)[int(len(values) * 0.99)]


def main() -> None:
    if sys.argv[1:2] == ["--upstream"]:
        _serve_upstream(int(sys.argv[2]))
    print("# What a tap inside a gateway costs\n")
    print(
        "This page is the output of `python -m bench.gateways`. CPU is that of the gateway's processes; what the collector and the"
    )
    print("service use is not in it.\n")
    print(
        f"{os.cpu_count()} cores that client, gateways, service and collector share, Python {platform.python_version()}.\n"
    )
    print(
        "| gateway | p50 without tap, ms | with | p99 without, ms | with | CPU µs a request without | with | captures arrived |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |", flush=True)
    for name in sys.argv[1:] or GATEWAYS:
        asyncio.run(_compare(name))


if __name__ == "__main__":
    main()
