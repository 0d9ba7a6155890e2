"""(c) End to end: captures over the Unix socket in batches of 100, until they are rows. `python -m bench.pipeline`.

Collector, ingestors, Kafka, Postgres and sender are processes on this machine.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import asyncpg

from auditap.database.connection import administrator
from auditap.runtime.logs import configure_logs
from bench.results import BENCH, table, write_section
from bench.servers import Servers, cpu_s, peak_mb, servers
from bench.workload import EXAMPLE_DOCUMENT, example_lines, now_ms
from schemas.identity import first_id_at
from tests.audit_database import AuditDatabase
from tests.e2e.pipeline import Pipeline

_BATCH = 100
_CONNECTIONS = 6
_TAIL_CHARS = 35  # `"<32 hex digits>"}`: a line ends with its id
_SAMPLED = 200  # of so many pairs one is waited for
_POLL_S = 0.05
_PROCESSED_S_MAX = 120
_WARMING_S_MAX = 3


class Lines:
    """Batches of captures with current ids. Only the ids at the end of the lines are new, which is cheap."""

    def __init__(self, seed: int) -> None:
        self._heads = [line[:-_TAIL_CHARS] for line in example_lines(5_000, seed)]
        assert all(head.endswith(b'"id":') for head in self._heads)
        self._at = 0
        self._drawn = Random(seed).getrandbits(48) << 13
        self.sampled: dict[str, int] = {}

    def batch(self) -> bytes:
        """Return the next 100 lines, and remember the ids of some."""
        at_ms = now_ms()
        lines = []
        for _ in range(_BATCH):
            self._drawn += 1
            event_id = f"{at_ms:012x}7000{0x8000000000000000 | self._drawn:016x}"
            lines.append(self._heads[self._at % len(self._heads)] + f'"{event_id}"}}'.encode())
            if self._at % _SAMPLED == 0:
                self.sampled[event_id] = at_ms
            self._at += 1
        return b"\n".join(lines)


@dataclass
class Run:
    """The measurements of one run."""

    sent: int = 0
    stored: int = 0
    refused: int = 0
    sending_s: float = 0.0
    storing_s: float = 0.0
    latencies_ms: list[float] = field(default_factory=list)
    cpu_s: dict[str, float] = field(default_factory=dict)
    peak_mb: dict[str, float] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        return self.stored / self.storing_s

    def cpu_us(self, part: str) -> float:
        """Return the CPU time of a part, in microseconds a pair."""
        return self.cpu_s[part] / self.sent * 1e6

    def latency(self, share: float) -> str:
        ordered = sorted(self.latencies_ms)
        return f"{ordered[min(int(len(ordered) * share), len(ordered) - 1)]:,.0f}" if ordered else "-"


class Sender:
    """Sends batches over several connections, each of which waits for the response."""

    def __init__(self, socket: Path, lines: Lines, run: Run, connections: int = _CONNECTIONS) -> None:
        self._socket = socket
        self._connections = connections
        self._lines = lines
        self._run = run

    async def send(self, until: float, batches_per_s: float | None) -> None:
        """Send until a time of `time.monotonic`, as fast as accepted or at a pace; at least one batch on each connection."""
        began = time.monotonic()
        turns = self._paced(began, batches_per_s) if batches_per_s else self._unpaced()
        await asyncio.gather(*(self._connection(until, turns) for _ in range(self._connections)))
        self._run.sending_s = time.monotonic() - began

    def _unpaced(self) -> Iterator[float]:
        while True:
            yield 0.0

    def _paced(self, began: float, batches_per_s: float) -> Iterator[float]:
        number = 0
        while True:
            yield began + number / batches_per_s
            number += 1

    async def _connection(self, until: float, turns: Iterator[float]) -> None:
        connection = _Connection(self._socket)
        while True:
            await asyncio.sleep(max(0.0, next(turns) - time.monotonic()))
            body = self._lines.batch()
            while not await connection.takes(body):
                self._run.refused += 1
                await asyncio.sleep(0.2)
            self._run.sent += _BATCH
            if time.monotonic() >= until:
                break
        await connection.close()


class _Connection:
    """A connection to the collector, opened again where a worker that had more than others ended it with its response."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def takes(self, body: bytes) -> bool:
        """Send a batch, and return whether it was accepted and not refused as too much."""
        if self._streams is None:
            self._streams = await asyncio.open_unix_connection(str(self._socket))
        reader, writer = self._streams
        head = f"POST /v1/captures HTTP/1.1\r\nhost: c\r\ncontent-type: application/x-ndjson\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        fields = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = next(
            int(line.partition(b":")[2])
            for line in fields.split(b"\r\n")
            if line.startswith(b"content-length:")
        )
        answer = await reader.readexactly(length)
        if b"connection: close" in fields:
            await self.close()
        if fields.startswith(b"http/1.1 200"):
            assert b'"refused":[]' in answer, answer
            return True
        assert fields.startswith(b"http/1.1 503"), fields
        return False

    async def close(self) -> None:
        if self._streams is not None:
            _, writer = self._streams
            self._streams = None
            writer.close()
            await writer.wait_closed()


async def record_latencies(connection: asyncpg.Connection, lines: Lines, run: Run) -> None:
    """Record the latency until sampled pairs can be queried."""
    waiting: dict[str, int] = {}
    while True:
        await asyncio.sleep(_POLL_S)
        waiting |= lines.sampled
        lines.sampled.clear()
        oldest_first = list(waiting)[:500]
        if not oldest_first:
            continue
        found = await connection.fetch(
            "SELECT id FROM auditap.audit_records WHERE id = ANY($1::text[]::uuid[]) AND id >= $2::text::uuid",
            oldest_first,
            oldest_first[0],
        )
        at_ms = now_ms()
        for row in found:
            run.latencies_ms.append(at_ms - waiting.pop(row["id"].hex))


class _Pipeline(Pipeline):
    partitions = 4

    def environment(self, **more: str) -> dict[str, str]:
        return super().environment(**more) | {"AUDITAP_KAFKA__PARTITIONS": str(self.partitions)}


async def measured(
    running: Servers,
    name: str,
    *,
    seconds: float,
    pairs_per_s: int | None,
    partitions: int = 4,
    ingestors: int = 1,
    database: AuditDatabase | None = None,
) -> Run:
    """Start the pipeline on a new topic and, without `database`, a new database; send; wait until everything is stored."""
    run = Run()
    folder = running.folder / name
    folder.mkdir()
    folder.chmod(0o755)
    documents = f'[redaction]\ndocuments = [{{path = "{EXAMPLE_DOCUMENT.resolve()}", envelope = "result"}}]'
    pipeline = _Pipeline(
        folder,
        database or await running.database(name.replace("-", "_")),
        bootstrap=running.kafka.bootstrap,
        topic=f"{name}-",
        documents=documents,
    )
    pipeline.partitions = partitions
    try:
        await pipeline.start(ingestors)
        assert pipeline.collector is not None
        pids = {"collector": [pipeline.collector.pid], "ingestor": [each.pid for each in pipeline.ingestors]}
        pids |= {"kafka": [running.kafka.pid or 0], "postgres": [running.postmaster_pid]}
        lines = Lines(seed=len(name))
        warming = Run()
        await Sender(pipeline.socket, lines, warming).send(
            time.monotonic() + min(seconds, _WARMING_S_MAX), pairs_per_s and pairs_per_s / _BATCH
        )
        await _stored(pipeline, warming.sent)
        lines.sampled.clear()
        await _run(pipeline, lines, run, pids, seconds, pairs_per_s, warming.sent)
    finally:
        await pipeline.stop()
    return run


async def _run(
    pipeline: Pipeline,
    lines: Lines,
    run: Run,
    pids: dict[str, list[int]],
    seconds: float,
    pairs_per_s: int | None,
    warmed: int,
) -> None:
    async with administrator(pipeline.database.admin_dsn) as connection:
        began, began_ms = time.monotonic(), now_ms()
        cpu = {name: sum(map(cpu_s, each)) for name, each in pids.items()} | {"sender": time.process_time()}
        recording = asyncio.create_task(record_latencies(connection, lines, run))
        sender = Sender(pipeline.socket, lines, run)
        await sender.send(began + seconds, pairs_per_s and pairs_per_s / _BATCH)
        await _stored(pipeline, warmed + run.sent)
        run.storing_s = time.monotonic() - began
        run.cpu_s = {name: sum(map(cpu_s, each)) - cpu[name] for name, each in pids.items()}
        run.cpu_s["sender"] = time.process_time() - cpu["sender"]
        run.peak_mb = {name: max(map(peak_mb, each)) for name, each in pids.items()}
        await asyncio.sleep(1)
        recording.cancel()
        await asyncio.gather(recording, return_exceptions=True)
    async with administrator(pipeline.database.admin_dsn) as connection:
        # Rows that existed before, and those of the warm-up, are older.
        run.stored = await connection.fetchval(
            "SELECT count(*) FROM auditap.audit_records WHERE id >= $1", first_id_at(began_ms)
        )
    assert run.stored == run.sent, (run.stored, run.sent)


async def _stored(pipeline: Pipeline, wanted: int) -> None:
    """Return once the ingestors have stored this many records."""
    deadline = time.monotonic() + _PROCESSED_S_MAX
    while time.monotonic() < deadline:
        stored = [int(await each.metric("auditap_records_stored_total")) for each in pipeline.ingestors]
        if sum(stored) >= wanted:
            return
        await asyncio.sleep(0.2)


def report(runs: dict[str, Run]) -> str:
    rows = [
        [
            name,
            f"{run.stored:,}",
            f"{run.sent / run.sending_s:,.0f}",
            f"{run.rate:,.0f}",
            run.latency(0.5),
            run.latency(0.99),
        ]
        for name, run in runs.items()
    ]
    head = ["", "pairs, none lost", "accepted/s", "stored/s, to the last row", "p50 ms", "p99 ms"]
    parts = list(next(iter(runs.values())).cpu_s)
    costs = [
        [
            name,
            *(f"{run.cpu_us(part):.1f}" for part in parts),
            f"{sum(run.cpu_s.values()) / run.sent * 1e6:.0f}",
        ]
        for name, run in runs.items()
    ]
    named = ["collector", "ingestor", "kafka"]
    memory = [[name, *(f"{run.peak_mb[part]:,.0f}" for part in named)] for name, run in runs.items()]
    return "\n\n".join(
        (
            "Latency is the time from the capture until a query finds the row: one pair in 200, polled every 50 ms.",
            table(head, rows),
            "CPU µs a pair, by process:",
            table(["", *parts, "together"], costs),
            "Peak memory in MB, by process (the largest of several ingestors):",
            table(["", *named], memory),
        )
    )


async def measure(seconds: float) -> str:
    async with servers() as running:
        runs = {
            "as fast as accepted": await measured(running, "maximum", seconds=seconds, pairs_per_s=None),
            "10,000 pairs/s": await measured(running, "steady", seconds=seconds, pairs_per_s=10_000),
        }
    return f"{seconds:.0f} s each, 4 partitions, one collector, one ingestor.\n\n" + report(runs)


def run(seconds: float = 60) -> None:
    configure_logs("warning", "json")
    write_section("(c) End to end", asyncio.run(measure(seconds)))


def main() -> None:
    options: Any = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", type=float, default=60)
    run(options.parse_args().seconds)


if __name__ == "__main__":
    os.chdir(BENCH.parent)
    main()
