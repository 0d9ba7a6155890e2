"""How fast the watcher is, and how soon it tells: `python -m bench.watch` (Kafka, Postgres and the watcher on this machine).

First a backlog, judged as fast as it goes; then a steady stream in which every hundredth event raises an alert.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path

from auditap.embedded_postgres import EmbeddedPostgres
from auditap.kafka import publisher_settings
from auditap.settings import KafkaSettings
from redactor.publisher import KafkaPublisher
from tests.audit_database import migrated
from tests.e2e.pipeline import Pipeline, Process, free_port, until
from tests.e2e.watched import ACCOUNTS, PlantedStream, encoded, event
from tests.kafka_broker import KafkaBroker

BACKLOG = int(os.environ.get("BACKLOG", "60000"))
PER_S = int(os.environ.get("PER_S", "3000"))
SECONDS = int(os.environ.get("SECONDS", "20"))
_TICK_S = 0.1


async def main() -> None:
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_DIR")) as name:
        folder = Path(name)
        (folder / "kafka").mkdir()
        async with KafkaBroker(folder / "kafka") as kafka, EmbeddedPostgres(folder / "postgres") as postgres:
            await measure(folder, kafka.bootstrap, postgres.dsn())


async def measure(folder: Path, bootstrap: str, dsn: str) -> None:
    database = await migrated(dsn)
    (folder / "run").mkdir()
    pipeline = Pipeline(folder / "run", database, bootstrap=bootstrap, topic="bench.", documents="")
    topics = pipeline.process("topics")
    await topics.start(None)
    await topics.wait()
    publisher = KafkaPublisher(
        publisher_settings(KafkaSettings(bootstrap_servers=bootstrap, topic="bench.events"))
    )
    await publisher.start()
    stream = PlantedStream(BACKLOG, int(time.time() * 1000) - 3_700_000)
    for first in range(0, BACKLOG, 1000):
        await publisher.publish([encoded(one) for one in stream.events[first : first + 1000]])
    port = free_port()
    watcher = pipeline.process(
        "watch",
        AUDITAP_POSTGRES__WATCHER_DSN=database.watcher_dsn,
        AUDITAP_WATCH__ADDRESS__PORT=str(port),
    )
    try:
        await watcher.start(port)
        await backlog(pipeline, watcher)
        await steady(pipeline, publisher)
    finally:
        await pipeline.stop_processes()
        await publisher.stop()


async def backlog(pipeline: Pipeline, watcher: Process) -> None:
    async def begun() -> bool:
        return await watched(pipeline) > 0

    async def done() -> bool:
        return await watched(pipeline) >= BACKLOG

    await until(begun, 120, "the first events watched", watcher.log)
    began, cpu, before = time.monotonic(), cpu_s(watcher.pid), await watched(pipeline)
    await until(done, 300, "the backlog watched", watcher.log)
    seconds, cpu_seconds = time.monotonic() - began, cpu_s(watcher.pid) - cpu
    events = BACKLOG - before
    print(
        f"backlog: {events / seconds:,.0f} events/s, {events / cpu_seconds:,.0f} for each second of one core"
    )


async def steady(pipeline: Pipeline, publisher: KafkaPublisher) -> None:
    started, sent = time.time(), 0
    while sent < PER_S * SECONDS:
        due = int((time.time() - started) * PER_S) - sent
        now_ms = int(time.time() * 1000)
        await publisher.publish([encoded(one(sent + number, now_ms)) for number in range(due)])
        sent += due
        await asyncio.sleep(_TICK_S)
    print(f"sent: {sent / (time.time() - started):,.0f} events/s, every hundredth raises an alert")

    async def told() -> bool:
        return await watched(pipeline) >= BACKLOG + sent

    await until(told, 120, "the stream watched")
    rows = await pipeline.fetch(
        "SELECT extract(epoch FROM raised_at) * 1000 - ('x' || left(replace(record_id::text, '-', ''), 12))::bit(48)::bigint"
        " AS late_ms FROM auditap.alerts WHERE rule = 'two-factor-off' AND raised_at > to_timestamp($1)",
        started,
    )
    late = sorted(float(row["late_ms"]) for row in rows)
    p50, p99 = (late[int(len(late) * share)] for share in (0.5, 0.99))
    print(
        f"{len(late)} alerts: p50 {p50:,.0f} ms, p99 {p99:,.0f} ms after the action; load {os.getloadavg()[0]:.1f}"
    )


def one(number: int, now_ms: int):  # type: ignore[no-untyped-def]  # noqa: ANN201
    account = ACCOUNTS[number % len(ACCOUNTS)]
    if number % 100 == 0:
        return event(
            now_ms, account=account, kind="delete", type="two_factor", actor={"id": f"steady-{number}"}
        )
    kind = "view" if number % 2 else "update"
    return event(now_ms, account=account, kind=kind, product="alerting", type="policies")


async def watched(pipeline: Pipeline) -> int:
    rows = await pipeline.fetch("SELECT coalesce(sum(next_offset), 0) FROM auditap.watch_positions")
    return int(rows[0][0])


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
