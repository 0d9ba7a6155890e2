"""What every gateway's tap has to do while its collector is away: no user notices, and every number is accounted for."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.audit_database import AuditDatabase
from tests.freezing import frozen
from tests.gateways.collected import TOKEN
from tests.gateways.gateway import Gateway, Place, Running
from tests.gateways.journal import Journal, Run, log_file
from tests.gateways.ledger import ingested
from tests.gateways.receiving import RECEIVER_SOCKET
from tests.gateways.upstream import Upstream

_WITHIN_S = 90
_CLIENTS = 10
_FROZEN_S = 3
_ATTEMPTS = 9
_SMALL = b'{"id":"w-9","name":"bolt"}'
_LARGE = json.dumps({"id": "large", "filler": "y" * 400_000}).encode()
# Fits into the copies of all taps, so that it is what fills their queues.
_FILLING = json.dumps({"id": "filling", "filler": "y" * 200_000}).encode()


@dataclass
class FaultBench:
    """A gateway between clients and an upstream, and a collector that can be killed, started again and frozen."""

    running: Running
    journal: Journal
    socket: Path
    collector: asyncio.subprocess.Process
    database: AuditDatabase
    receiving: Sequence[str | Path] = ()
    """What the collector's receiver is started with, if it has one."""

    async def kill_collector(self) -> None:
        self.collector.kill()
        await self.collector.wait()

    async def start_collector(self) -> None:
        self.collector = await start_collector(self.socket, self.journal.path, self.receiving)

    async def send(self, name: str, count: int, body: bytes) -> set[str]:
        """Send so many requests, each of which has to succeed, and return their ids."""
        markers = [f"{name}-{number}" for number in range(count)]
        waiting = iter(markers)
        url = f"http://127.0.0.1:{self.running.port}"
        async with httpx.AsyncClient(base_url=url, timeout=_WITHIN_S, trust_env=False) as client:

            async def send_waiting() -> None:
                for marker in waiting:
                    headers = {"x-request-id": marker, "content-type": "application/json"}
                    response = await client.post("/widgets", content=body, headers=headers)
                    assert response.status_code == 201
                    assert response.json()["received_bytes"] == len(body)

            await asyncio.gather(*(send_waiting() for _ in range(_CLIENTS)))
        return set(markers)

    async def until(self, condition: Callable[[], bool], what: Callable[[], object]) -> None:
        try:
            async with asyncio.timeout(_WITHIN_S):
                while not condition():
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise AssertionError(str(what())) from None

    async def until_idle(self) -> None:
        """Wait until each run has reported, from now on, that nothing of it is pending."""
        known = {run: len(beats) for run, beats in self.journal.heartbeats().items()}

        def is_idle() -> bool:
            beats = self.journal.heartbeats()
            return all(
                any(beat.pending_from == beat.highest + 1 for beat in beats[run][count:])
                for run, count in known.items()
            )

        await self.until(is_idle, lambda: "a run still has pending numbers")

    async def until_all_arrived(self, markers: set[str]) -> None:
        await self.until(
            lambda: markers <= self.journal.markers(),
            lambda: f"{len(markers - self.journal.markers())} of {len(markers)} captures did not arrive",
        )

    async def until_in_the_ledger(self) -> None:
        """Ingest what the collector has written, and wait until the gap ledger has all that was dropped, with its causes."""
        async with ingested(log_file(self.journal.path), self.database) as ledger, asyncio.timeout(_WITHIN_S):
            while await ledger.dropped() != self.journal.gaps():
                await asyncio.sleep(0.1)

    def unaccounted(self) -> list[tuple[Run, list[int]]]:
        """Return, of each run, the numbers of which the collector has neither the capture nor a report."""
        dropped, missing = self.journal.dropped(), []
        for run, arrived in self.journal.numbers().items():
            known = arrived | dropped.get(run, set())
            beats = self.journal.heartbeats().get(run, [])
            highest = max([*known, *(beat.highest for beat in beats)])
            lost = [number for number in range(1, highest + 1) if number not in known]
            if lost:
                missing.append((run, lost[:10]))
        return missing


@asynccontextmanager
async def fault_bench(
    gateway: Gateway, upstream: Upstream, folder: Path, database: AuditDatabase, *, has_receiver: bool = False
) -> AsyncIterator[FaultBench]:
    """Run the gateway with a collector process beside it, both in `folder`.

    `has_receiver`: the collector has the receiver for the gateway, which is started without one.
    """
    socket, journal = folder / "collector.sock", Journal(folder / "journal")
    own = folder / "gateway"
    own.mkdir()
    receiving = (gateway.name, own / RECEIVER_SOCKET, folder / "state") if has_receiver else ()
    collector = await start_collector(socket, journal.path, receiving)
    place = Place(own, upstream.port, socket, 0, TOKEN)
    try:
        async with gateway.running(place) as running:
            bench = FaultBench(running, journal, socket, collector, database, receiving)
            try:
                yield bench
            finally:
                collector = bench.collector
    finally:
        if collector.returncode is None:
            collector.kill()
            await collector.wait()


async def start_collector(
    socket: Path, journal: Path, receiving: Sequence[str | Path] = ()
) -> asyncio.subprocess.Process:
    """Start a collector process, and return once it listens."""
    started = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.gateways.journal", *map(str, (socket, journal, *receiving)), cwd=_ROOT
    )
    async with asyncio.timeout(_WITHIN_S):
        while True:
            try:
                _, writer = await asyncio.open_unix_connection(str(socket))
            except OSError:
                assert started.returncode is None
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return started


_ROOT = Path(__file__).resolve().parents[2]


class FaultContract:
    """The contract while the collector is away. A gateway's test is a subclass that names the gateway."""

    gateway: Gateway

    async def test_captures_wait_for_a_collector_that_was_killed(self, faults: FaultBench) -> None:
        before = await faults.send("before", 20, _SMALL)
        await faults.until_all_arrived(before)
        await faults.kill_collector()
        during = await faults.send("during", 300, _SMALL)
        await faults.start_collector()
        after = await faults.send("after", 20, _SMALL)
        await faults.until_all_arrived(before | during | after)
        await faults.until(lambda: not faults.unaccounted(), faults.unaccounted)
        assert not any(faults.journal.dropped().values())

    async def test_a_frozen_collector_costs_no_request_and_no_number(self, faults: FaultBench) -> None:
        before = await faults.send("before", 20, _SMALL)
        await faults.until_all_arrived(before)
        with frozen(faults.collector.pid):
            await faults.send("large", 50, _LARGE)
            await faults.send("filling", 500, _FILLING)
        # Until it has sent what waits, the tap may have no room for more.
        await faults.until_idle()
        after = await faults.send("after", 20, _SMALL)
        await faults.until_all_arrived(before | after)
        # The queue could not hold all of them: what it did not hold is counted.
        full = "buffer_full"
        await faults.until(
            lambda: any(faults.journal.dropped(full).values()), lambda: "nothing reported as dropped"
        )
        await faults.until(lambda: not faults.unaccounted(), faults.unaccounted)
        assert any(cause == full for _, cause in faults.journal.gaps())
        await faults.until_in_the_ledger()


class ReceiverFaultContract:
    """The contract of a receiver that is away together with its collector. A gateway's test is a subclass that names the gateway.

    Every request that was sent has a number in the end, under which its capture arrived or is reported as dropped.
    """

    gateway: Gateway
    keeps_what_passes = True
    """Whether the gateway keeps what passes while the receiver is away, as far as it has room."""

    async def test_a_receiver_that_was_killed_costs_no_request_and_no_number(
        self, receiver_faults: FaultBench
    ) -> None:
        faults = receiver_faults
        sent = await faults.send("before", 20, _SMALL)
        await faults.until_all_arrived(sent)
        await faults.kill_collector()
        sent |= await faults.send("during", 100, _LARGE)
        await faults.start_collector()
        sent |= await self._send_until_one_arrives(faults)
        await self.all_are_accounted_for(faults, sent)
        assert _causes(faults) == (set() if self.keeps_what_passes else {"lost"})

    async def test_a_frozen_receiver_costs_no_request_and_no_number(
        self, receiver_faults: FaultBench
    ) -> None:
        faults = receiver_faults
        sent = await faults.send("before", 20, _SMALL)
        await faults.until_all_arrived(sent)
        with frozen(faults.collector.pid):
            sent |= await faults.send("large", 100, _LARGE)
            # Longer than a gateway waits before it gives the connection up.
            await asyncio.sleep(_FROZEN_S)
            sent |= await faults.send("late", 100, _LARGE)
        sent |= await self._send_until_one_arrives(faults)
        await self.all_are_accounted_for(faults, sent)

    async def exceed_what_the_gateway_keeps(self, faults: FaultBench, body: bytes) -> set[str]:
        """Send more of these bodies than it has room for while the receiver is away, and wait until what is lost is in the ledger.

        Returns the ids of all requests.
        """
        sent = await faults.send("before", 20, _SMALL)
        await faults.until_all_arrived(sent)
        await faults.kill_collector()
        sent |= await faults.send("exceeding", 200, body)
        await faults.start_collector()
        sent |= await self._send_until_one_arrives(faults)
        await faults.until(lambda: bool(faults.journal.gaps()), lambda: "nothing reported as dropped")
        assert _causes(faults) == {"lost"}
        await faults.until_in_the_ledger()
        return sent

    async def _send_until_one_arrives(self, faults: FaultBench) -> set[str]:
        """Send requests until one arrives: gateways wait a while before they connect again."""
        sent: set[str] = set()
        async with asyncio.timeout(_WITHIN_S):
            while not sent & faults.journal.markers():
                sent |= await faults.send(f"after-{len(sent)}", 10, _SMALL)
                await asyncio.sleep(0.2)
        return sent

    async def all_are_accounted_for(self, faults: FaultBench, sent: set[str]) -> None:
        """Wait for it. Send more meanwhile: what one thread of a gateway lost shows when that thread sends again."""
        for attempt in range(_ATTEMPTS):
            with suppress(TimeoutError):
                async with asyncio.timeout(_WITHIN_S / _ATTEMPTS):
                    while _counted(faults) < len(sent) or faults.unaccounted():
                        await asyncio.sleep(0.1)
                break
            sent |= await faults.send(f"more-{attempt}", 50, _SMALL)
        assert not faults.unaccounted()
        assert _counted(faults) == len(sent)
        assert faults.journal.markers() <= sent
        await faults.until_in_the_ledger()


def _counted(faults: FaultBench) -> int:
    """Return how many numbers arrived or are reported as dropped."""
    dropped, arrived = faults.journal.dropped(), faults.journal.numbers()
    return sum(
        len(arrived.get(run, set()) | dropped.get(run, set())) for run in arrived.keys() | dropped.keys()
    )


def _causes(faults: FaultBench) -> set[str]:
    return {cause for _, cause in faults.journal.gaps()}
