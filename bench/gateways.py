"""What a tap at a gateway costs, and what a user notices while the collector is dead or hung. `python -m bench.gateways`.

Each gateway runs three times at once, as the tests run it, in front of one upstream: without the tap, and with it twice, each with a collector
of its own. Requests go to them in turn, so that all meet the same conditions. `python -m bench.gateways NAME …` measures these gateways
alone and prints the tables, without the page and its plots.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from bench.gateway_plots import draw
from bench.results import BENCH, conditions, table
from tests.freezing import frozen
from tests.gateways.collected import TOKEN
from tests.gateways.faults import start_collector
from tests.gateways.gateway import Gateway, Place, Running, process, process_cpu_s
from tests.gateways.journal import Journal
from tests.gateways.receiving import IN_MEMORY, RECEIVER_SOCKET
from tests.gateways.test_caddy import CaddyGateway
from tests.gateways.test_envoy import EnvoyGateway
from tests.gateways.test_haproxy import HaproxyGateway
from tests.gateways.test_nginx import NginxGateway
from tests.gateways.test_openresty import OpenRestyGateway
from tests.gateways.test_traefik import TraefikGateway
from tests.ports import free_port

_ROUNDS = 5
_PAIRS = 1_000
_CPU_REQUESTS = 2_500
_LARGE_REQUESTS = 200
_WARM_UP = 200
_FILLING_S = 12.0
_FILLING_CLIENTS = 4
_SAMPLE_S = 0.25
_ARRIVES_WITHIN_S = 60
_WITHIN_MS = 5.0
_LARGE_BYTES = 400_000
_REQUESTS_A_CONNECTION = 900  # nginx closes a connection after 1,000
_ROOT = Path(__file__).resolve().parents[1]
_MB = 1_000_000
_ENVOY_GIVES_UP_S = 1.5
_QUEUE_MB = 64 * 1024 * 1024 / _MB


@dataclass(frozen=True)
class Tapped:
    """A gateway to measure. `make` takes `is_tapped`; where the collector has a receiver for it, `receives`, too.

    `filling_bytes`: a body as long as its tap copies. `queues`: how many queues of 64 MiB it declares; 0 where it has none, and holds
    what passes until it gives a hung connection up.
    """

    make: Callable[..., Gateway]
    has_receiver: bool
    filling_bytes: int = 200_000
    queues: int = 1

    def gateway(self, *, is_tapped: bool) -> Gateway:
        if self.has_receiver:
            return self.make(is_tapped=is_tapped, receives=False)
        return self.make(is_tapped=is_tapped)


def _caddy(**options: bool) -> Gateway:
    return CaddyGateway(response_paths="/accounts/*", **options)


GATEWAYS = {
    "envoy": Tapped(EnvoyGateway, has_receiver=True, queues=0),
    "haproxy": Tapped(HaproxyGateway, has_receiver=True, filling_bytes=15_000),
    "caddy": Tapped(_caddy, has_receiver=True, filling_bytes=90_000),
    "nginx": Tapped(NginxGateway, has_receiver=False),
    "openresty": Tapped(OpenRestyGateway, has_receiver=False, queues=2),
    "traefik": Tapped(TraefikGateway, has_receiver=False),
}


def _json(size: int) -> bytes:
    start, end = b'{"name": "Origin down", "enabled": true, "note": "', b'x"}'
    return start + b"x" * (size - len(start) - len(end)) + end


def _request(size: int) -> bytes:
    return (
        b"POST /accounts/71217cafeaf3b0af4feb976ec66332ab/policies HTTP/1.1\r\nHost: api.example\r\nUser-Agent: bench/1.0\r\n"
        b"X-Request-Id: 8e9f1a2b3c4d5e6f\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        % size
    ) + _json(size)


_SMALL = _request(1_000)
_LARGE = _request(_LARGE_BYTES)
_RESPONSE = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Actor-Email: bo@acme.example\r\nContent-Length: 1000\r\n\r\n"
    + _json(1_000)
)


class Client:
    """A connection to a gateway, opened anew before the gateway closes it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._sent = 0
        self._connection: socket.socket | None = None

    def request(self, request: bytes) -> float:
        """Send one request, and return how long its response took in milliseconds. Fails where it is not 200."""
        if self._connection is None or self._sent % _REQUESTS_A_CONNECTION == 0:
            self.close()
            self._connection = socket.create_connection(("127.0.0.1", self._port))
            self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sent += 1
        began_s = time.perf_counter()
        self._connection.sendall(request)
        received = b""
        while not received.endswith(b'x"}'):
            part = self._connection.recv(65_536)
            assert part
            received += part
        took_ms = (time.perf_counter() - began_s) * 1000
        assert received.startswith(b"HTTP/1.1 200 ")
        return took_ms

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()


@dataclass
class Side:
    """One of the three: the gateway, its client, its collector, and what was measured."""

    running: Running
    folder: Path
    collector: asyncio.subprocess.Process | None
    client: Client
    ms: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    large_ms: list[float] = field(default_factory=list)

    def memory_mb(self) -> float:
        """Return the memory of the gateway's processes, what they share counted once, and of the file that Caddy writes in memory."""
        pids = (self.running.pid, *self.running.children())
        files = sum(path.stat().st_blocks * 512 for path in self.folder.glob("receiver*"))
        return (sum(map(_proportional_bytes, pids)) + files) / _MB


@dataclass
class Measured:
    """All of one gateway. `curve`: seconds since the collector was frozen and the gateway's memory in MB."""

    bare: Side
    tapped: Side
    killed: Side
    collector_us: float
    arrived: int
    dropped: int
    requests: int
    before_mb: float = 0.0
    filled_mb: float = 0.0
    curve: list[tuple[float, float]] = field(default_factory=list)


def _proportional_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(pid)


def _serve_upstream(port: int) -> None:
    """Answer every request with the same response, from a thread for each connection."""
    listening = socket.create_server(("127.0.0.1", port))

    def serve(connection: socket.socket) -> None:
        with connection, suppress(ConnectionError):
            answer(connection)

    def answer(connection: socket.socket) -> None:
        last = b""
        while part := connection.recv(262_144):
            if not last and part.startswith(b"GET"):
                # A test's question whether the gateway passes requests on.
                connection.sendall(_RESPONSE)
                continue
            # A request's body ends like this, and nothing else of it does.
            last = (last + part)[-(len(part) + 2) :]
            if last.endswith(b'x"}'):
                last = b""
                connection.sendall(_RESPONSE)
            else:
                last = last[-2:]

    while True:
        connection, _ = listening.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=serve, args=(connection,), daemon=True).start()


def _in_turns(sides: Sequence[Side], times: int) -> Iterator[Side]:
    """Yield each side so often, every time in another order: the second of two finds the machine awake."""
    orders = list(itertools.permutations(sides))
    for number in range(times):
        yield from orders[number % len(orders)]


def _measure_costs(sides: Sequence[Side]) -> None:
    for _ in range(_ROUNDS):
        for side in _in_turns(sides, _PAIRS):
            side.ms.append(side.client.request(_SMALL))
        for side in sides:
            before_s = side.running.cpu_s()
            for _ in range(_CPU_REQUESTS):
                side.client.request(_SMALL)
            side.cpu_us.append((side.running.cpu_s() - before_s) / _CPU_REQUESTS * 1e6)


def _fill(side: Side, request: bytes, curve: list[tuple[float, float]], began_s: float) -> float:
    """Send such requests for _FILLING_S from several clients, note the gateway's memory, and return how many MB were sent."""
    ends_s = time.monotonic() + _FILLING_S
    sent = []

    def send() -> None:
        client = Client(side.running.port)
        while time.monotonic() < ends_s:
            client.request(request)
            sent.append(len(request))
        client.close()

    threads = [threading.Thread(target=send) for _ in range(_FILLING_CLIENTS)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        curve.append((time.monotonic() - began_s, side.memory_mb()))
        time.sleep(_SAMPLE_S)
    return sum(sent) / _MB


def _measure_faults(found: Measured, filling: bytes) -> None:
    """Send large bodies with one collector killed and one frozen, then fill the queue of the frozen one's tap."""
    sides = (found.bare, found.tapped, found.killed)
    for side in _in_turns(sides, _WARM_UP // 4):
        side.client.request(_LARGE)
        side.client.request(filling)
    frozen_one, killed_one = found.tapped.collector, found.killed.collector
    assert frozen_one is not None
    assert killed_one is not None
    killed_one.kill()
    with frozen(frozen_one.pid):
        began_s = time.monotonic()
        found.before_mb = found.tapped.memory_mb()
        found.curve.append((0.0, found.before_mb))
        for _ in range(_ROUNDS):
            for side in _in_turns(sides, _LARGE_REQUESTS):
                side.large_ms.append(side.client.request(_LARGE))
            found.curve.append((time.monotonic() - began_s, found.tapped.memory_mb()))
        found.filled_mb = _fill(found.tapped, filling, found.curve, began_s)


async def _start(
    stack: AsyncExitStack, name: str, folder: Path, upstream_port: int, *, is_tapped: bool
) -> Side:
    """Start a gateway in a folder of its own, with a collector beside it if it has the tap."""
    measured, own = GATEWAYS[name], folder / "gateway"
    own.mkdir(parents=True)
    collector = None
    if is_tapped:
        receiving = (name, own / RECEIVER_SOCKET, folder / "state") if measured.has_receiver else ()
        collector = await start_collector(folder / "collector.sock", folder / "journal", receiving)
        stack.push_async_callback(_end, collector)
    place = Place(own, upstream_port, folder / "collector.sock", 0, TOKEN)
    running = await stack.enter_async_context(measured.gateway(is_tapped=is_tapped).running(place))
    client = Client(running.port)
    stack.callback(client.close)
    return Side(running, own, collector, client)


async def _end(collector: asyncio.subprocess.Process) -> None:
    if collector.returncode is None:
        collector.kill()
    await collector.wait()


async def _until_accounted(journal: Journal, requests: int) -> tuple[int, int]:
    """Return how many captures have arrived and how many are reported as dropped, once these are all or a while has passed."""
    deadline_s = time.monotonic() + _ARRIVES_WITHIN_S
    while True:
        arrived, dropped = journal.numbers(), journal.dropped()
        lost = sum(len(numbers - arrived.get(run, set())) for run, numbers in dropped.items())
        counted = sum(map(len, arrived.values()))
        if counted + lost >= requests or time.monotonic() > deadline_s:
            return counted, lost
        await asyncio.sleep(1)


async def measure(name: str) -> Measured:
    """Measure one gateway."""
    upstream_port = free_port()
    async with AsyncExitStack() as stack:
        # In memory, where a receiver of files looks for them.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="auditap-", dir=IN_MEMORY)))
        # In a process of its own: in this one, the two would wait for each other's lock.
        command = (sys.executable, "-m", "bench.gateways", "--upstream", str(upstream_port))
        environment = {"PYTHONPATH": str(_ROOT)}
        await stack.enter_async_context(process(command, folder, [upstream_port], environment))
        bare = await _start(stack, name, folder / "bare", upstream_port, is_tapped=False)
        tapped = await _start(stack, name, folder / "tapped", upstream_port, is_tapped=True)
        killed = await _start(stack, name, folder / "killed", upstream_port, is_tapped=True)
        for side in _in_turns((bare, tapped, killed), _WARM_UP):
            side.client.request(_SMALL)
        assert tapped.collector is not None
        before_s = process_cpu_s(tapped.collector.pid)
        await asyncio.to_thread(_measure_costs, (bare, tapped))
        requests = _ROUNDS * (_PAIRS + _CPU_REQUESTS)
        requests += _WARM_UP
        accounted = await _until_accounted(Journal(folder / "tapped" / "journal"), requests)
        collector_us = (process_cpu_s(tapped.collector.pid) - before_s) / (requests - _WARM_UP) * 1e6
        found = Measured(bare, tapped, killed, collector_us, *accounted, requests)
        await asyncio.to_thread(_measure_faults, found, _request(GATEWAYS[name].filling_bytes))
        return found


def _p99(values: Sequence[float]) -> float:
    return sorted(values)[int(len(values) * 0.99)]


def _costs(found: dict[str, Measured]) -> str:
    head = ["gateway", "p50 without tap, ms", "with", "p99 without, ms", "with"]
    head += [
        "gateway's CPU µs a request without",
        "with",
        "ratio",
        "collector's CPU µs",
        "captures arrived",
        "dropped and counted",
    ]
    rows = []
    for name, each in found.items():
        bare, tapped = each.bare, each.tapped
        bare_us, tapped_us = statistics.median(bare.cpu_us), statistics.median(tapped.cpu_us)
        row = [name, *(f"{statistics.median(side.ms):.3f}" for side in (bare, tapped))]
        row += [f"{_p99(side.ms):.2f}" for side in (bare, tapped)]
        row += [
            f"{bare_us:.0f}",
            f"{tapped_us:.0f}",
            f"{tapped_us / bare_us:.1f}" if bare_us else "-",
            f"{each.collector_us:.0f}",
        ]
        rows.append([*row, f"{each.arrived:,} of {each.requests:,}", f"{each.dropped:,}"])
    return table(head, rows)


def _faults(found: dict[str, Measured]) -> str:
    head = ["gateway", "p99 without tap, ms", "in its rounds", "collector killed", "difference"]
    head += ["collector frozen", "difference", f"within {_WITHIN_MS:.0f} ms"]
    rows = []
    for name, each in found.items():
        bare_ms = each.bare.large_ms
        rounds = [_p99(bare_ms[at : at + _LARGE_REQUESTS]) for at in range(0, len(bare_ms), _LARGE_REQUESTS)]
        row = [name, f"{_p99(bare_ms):.1f}", f"{min(rounds):.1f} to {max(rounds):.1f}"]
        differences_ms = []
        for side in (each.killed, each.tapped):
            differences_ms.append(_p99(side.large_ms) - _p99(bare_ms))
            row += [f"{_p99(side.large_ms):.1f}", f"{differences_ms[-1]:+.1f}"]
        rows.append([*row, "yes" if max(differences_ms) <= _WITHIN_MS else "**no**"])
    return table(head, rows)


def _memory(found: dict[str, Measured]) -> str:
    head = [
        "gateway",
        "start, MB",
        "maximum",
        "end",
        "growth",
        "in the last third of the time",
        "bound, MB",
        "bodies sent, MB",
    ]
    rows = []
    for name, each in found.items():
        mb = [value for _, value in each.curve]
        later_mb = [value for at_s, value in each.curve if at_s > each.curve[-1][0] * 2 / 3]
        queue_mb = GATEWAYS[name].queues * _QUEUE_MB or each.filled_mb / _FILLING_S * _ENVOY_GIVES_UP_S
        cells = (
            mb[0],
            max(mb),
            mb[-1],
            max(mb) - mb[0],
            later_mb[-1] - later_mb[0],
            queue_mb,
            each.filled_mb,
        )
        rows.append([name, *(f"{cell:,.0f}" for cell in cells)])
    return table(head, rows)


_PAGE = """# What a tap at a gateway costs

`python -m bench.gateways` writes this page. Each gateway runs three times at once: without the tap, and twice with it, each with a collector of
its own, which redacts what arrives and writes it to the embedded log. Requests go to them in turn.

## While all is well

Requests and responses have bodies of 1 KB, one request at a time. CPU is user and system time of the gateway's processes; that of the collector, in which the receivers
of Envoy, HAProxy and Caddy are, is apart. One client sends without a pause for half of the time: where gateway and collector together need more than the two cores give, as with
Envoy's, what does not arrive is counted. One request more than these asks Traefik whether it has read its routes.

{costs}

![Latency and CPU of a request, with the tap and without](gateways.png)

## While the collector is dead or hung

Requests have bodies of {large:,} bytes, one at a time, {requests:,} to each of the three. No request failed: one that fails ends the benchmark. The difference is that of the
99th percentiles. "In its rounds": the lowest and highest 99th percentile of {rounds} rounds without the tap, which shows what the machine does by itself.

{faults}

## Memory while the collector hangs

The collector is frozen. After the requests above, {clients} clients send bodies as long as the tap copies for {seconds:.0f} s, without a pause. Memory is that of the
gateway's processes (proportional set size), and of the file in memory that Caddy writes. The bound is the queue that the tap declares, OpenResty's for each
of two workers; for Envoy, which has no queue, what passes in the 1.5 s after which it gives a hung connection up. HAProxy has its ring from the beginning. The heaps of OpenResty (Lua) and Traefik (Go)
grow to about twice what they hold before they are swept.

{memory}

![Memory of each gateway while its collector is frozen](gateways-memory.png)

{conditions}
"""


def _page(found: dict[str, Measured]) -> str:
    return _PAGE.format(
        costs=_costs(found),
        faults=_faults(found),
        memory=_memory(found),
        conditions=conditions(),
        large=_LARGE_BYTES,
        requests=_ROUNDS * _LARGE_REQUESTS,
        rounds=_ROUNDS,
        clients=_FILLING_CLIENTS,
        seconds=_FILLING_S,
    )


def run() -> None:
    """Measure all gateways, write the page and draw the plots."""
    found = {name: asyncio.run(measure(name)) for name in GATEWAYS}
    page = _page(found)
    print(page)
    (BENCH / "RESULTS-gateways.md").write_text(page)
    draw(
        {name: (each.bare.ms, each.tapped.ms) for name, each in found.items()},
        {
            name: (
                statistics.median(each.bare.cpu_us),
                statistics.median(each.tapped.cpu_us),
                each.collector_us,
            )
            for name, each in found.items()
        },
        {name: each.curve for name, each in found.items()},
    )


def main() -> None:
    os.chdir(_ROOT)
    match sys.argv[1:]:
        case ["--upstream", port]:
            _serve_upstream(int(port))
        case []:
            run()
        case names:
            print(_page({name: asyncio.run(measure(name)) for name in names}))


if __name__ == "__main__":
    main()
