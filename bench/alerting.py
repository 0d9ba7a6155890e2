"""Rate and delay of alerting: `python -m bench.alerting` (Kafka, Postgres and alerting on this machine).

First a backlog, evaluated as fast as possible; then a steady stream in which every hundredth event raises an alert.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from importlib.resources import files
from pathlib import Path

from auditap.runtime.embedded_postgres import EmbeddedPostgres
from auditap.runtime.kafka import publisher_settings
from auditap.settings import KafkaSettings
from eventlog.kafka.publisher import KafkaPublisher
from tests.audit_database import migrated
from tests.e2e.pipeline import Pipeline, Process, until
from tests.e2e.planted_incidents import ACCOUNTS, PlantedStream, encoded, event
from tests.kafka_broker import KafkaBroker
from tests.ports import free_port

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
    alerting = pipeline.process(
        "alerting",
        AUDITAP_POSTGRES__ALERTING_DSN=database.alerting_dsn,
        AUDITAP_ALERTING__ADDRESS__PORT=str(port),
        AUDITAP_ALERTING__RULES=str(files("alerting").joinpath("cloudflare_rules.yaml")),
    )
    try:
        await alerting.start(port)
        await backlog(pipeline, alerting)
        await steady(pipeline, publisher)
    finally:
        await pipeline.stop_processes()
        await publisher.stop()


async def backlog(pipeline: Pipeline, alerting: Process) -> None:
    async def begun() -> bool:
        return await evaluated(pipeline) > 0

    async def done() -> bool:
        return await evaluated(pipeline) >= BACKLOG

    await until(begun, 120, "the first events evaluated", alerting.log)
    began, cpu, before = time.monotonic(), cpu_s(alerting.pid), await evaluated(pipeline)
    await until(done, 300, "the backlog evaluated", alerting.log)
    seconds, cpu_seconds = time.monotonic() - began, cpu_s(alerting.pid) - cpu
    events = BACKLOG - before
    print(f"backlog: {events / seconds:,.0f} events/s, {events / cpu_seconds:,.0f} per second of CPU time")


async def steady(pipeline: Pipeline, publisher: KafkaPublisher) -> None:
    started, sent = time.time(), 0
    while sent < PER_S * SECONDS:
        due = int((time.time() - started) * PER_S) - sent
        now_ms = int(time.time() * 1000)
        await publisher.publish([encoded(one(sent + number, now_ms)) for number in range(due)])
        sent += due
        await asyncio.sleep(_TICK_S)
    print(f"sent: {sent / (time.time() - started):,.0f} events/s, every hundredth raises an alert")

    async def done() -> bool:
        return await evaluated(pipeline) >= BACKLOG + sent

    await until(done, 120, "the stream evaluated")
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


async def evaluated(pipeline: Pipeline) -> int:
    rows = await pipeline.fetch("SELECT coalesce(sum(next_offset), 0) FROM auditap.alert_positions")
    return int(rows[0][0])


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
