"""(b) The ingestor alone: a topic full of events, until all are rows. `python -m bench.ingestor`."""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple, NoReturn

import asyncpg
import msgspec
import uvloop
from aiokafka import AIOKafkaConsumer

from auditap.database.connection import administrator
from auditap.runtime.logs import configure_logs
from bench.results import BENCH, table, write_section
from bench.servers import Servers, servers
from bench.workload import example_config, example_lines, now_ms
from enricher.cache import LookupCache
from enricher.config import CacheConfig
from enricher.enrich import Enricher
from enricher.ports import Absent, Found, Kind
from eventlog.kafka.client import KafkaConnection
from eventlog.kafka.publisher import KafkaPublisher, KafkaPublisherSettings
from eventlog.kafka.source import KafkaSource, KafkaSourceSettings
from ingestor.config import IngestorConfig
from ingestor.ingest import Ingestor
from ingestor.postgres_store import PostgresStore
from redactor.pipeline.redactor import Redactor, redact_lines
from schemas.event import AuditEvent, EncodedEvent
from schemas.identity import new_id
from schemas.metric_defs import Metrics
from schemas.record import COLUMNS
from schemas.sql import query
from tests.audit_database import AuditDatabase

_ROUNDS = 3
_EVENTS = 60_000
_PARTITIONS = 4
_BATCH = 5_000
_DECODER = msgspec.json.Decoder(AuditEvent)


class Rate(NamedTuple):
    """The cost of storing `rows` events."""

    rows: int
    wall_s: float
    cpu_s: float


class Names:
    """A lookup that finds every id at once."""

    async def look_up(self, kind: Kind, key: str) -> Found | Absent:
        if kind is Kind.USER:
            return Found(email=f"{key}@people.example")
        return Found(name=key, account_id="a" * 32 if kind is Kind.ZONE else None)


async def fill(bootstrap: str, topic: str, events: int) -> None:
    """Publish events with fresh ids, drawn from the example."""
    redactor = Redactor.from_config(example_config())
    samples = list(redact_lines(redactor, example_lines(5_000)))
    settings = KafkaPublisherSettings(KafkaConnection(bootstrap), topic, publish_deadline_ms=120_000)
    publisher = KafkaPublisher(settings)
    await publisher.start()
    for first in range(0, events, 1_000):
        batch = []
        for index in range(first, min(first + 1_000, events)):
            sample = samples[index % len(samples)]
            event_id = new_id(now_ms())
            batch.append(EncodedEvent(event_id, sample[:7] + event_id.encode() + sample[39:], now_ms()))
        await publisher.publish(batch)
    await publisher.stop()


async def ours(bootstrap: str, topic: str, group: str, database: AuditDatabase, events: int) -> Rate:
    """The ingestor as it runs in production, its cache warm after the first batches."""
    cache = LookupCache(Names(), dict.fromkeys(Kind, CacheConfig()), Metrics())
    store = await PostgresStore.connect(database.writer_dsn, connections_max=8, command_timeout_ms=60_000)
    settings = KafkaSourceSettings(KafkaConnection(bootstrap), topic, group)
    ingestor = Ingestor(
        connect=lambda listener: KafkaSource(settings, listener),
        enrichment=Enricher(cache, 1_000, unresolvable_after_ms=0),
        store=store,
        dead_letters=store,
        gap_ledger=store,
        config=IngestorConfig(),
        metrics=Metrics(),
        clock_ms=store.clock_ms,
    )
    stop = asyncio.Event()
    task = asyncio.create_task(ingestor.run(stop))
    try:
        return await until_stored(database, events)
    finally:
        stop.set()
        await task
        await cache.stop()
        await store.close()


async def probe(bootstrap: str, topic: str, group: str, database: AuditDatabase, events: int) -> Rate:
    """Consume, decode, COPY with conflict check, commit: one batch after the other, with the next one in flight."""
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=bootstrap,
        group_id=group,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    pool = await asyncpg.create_pool(database.writer_dsn, min_size=2, max_size=2, init=_staging)
    await consumer.start()
    task = asyncio.create_task(_probe(consumer, pool))
    stored = asyncio.create_task(until_stored(database, events))
    try:
        # The probe ends with an error alone: then nothing more is stored.
        done, _ = await asyncio.wait({stored, task}, return_when=asyncio.FIRST_COMPLETED)
        return await (stored if stored in done else task)
    finally:
        for each in (stored, task):
            each.cancel()
        await asyncio.gather(stored, task, return_exceptions=True)
        await consumer.stop()
        await pool.close()


async def _staging(connection: asyncpg.Connection) -> None:
    await connection.execute("SELECT auditap.ensure_partitions($1, $1)", now_ms())
    await connection.execute(query("create_staging"))


async def _probe(consumer: AIOKafkaConsumer, pool: asyncpg.Pool) -> NoReturn:
    free = asyncio.Semaphore(2)
    async with asyncio.TaskGroup() as storing:
        while True:
            taken = await consumer.getmany(timeout_ms=200, max_records=_BATCH)
            rows = [_bare_row(record) for records in taken.values() for record in records]
            if not rows:
                continue
            await free.acquire()
            storing.create_task(_store(pool, rows)).add_done_callback(lambda _: free.release())
            await consumer.commit()


async def _store(pool: asyncpg.Pool, rows: list[tuple[object, ...]]) -> None:
    async with pool.acquire() as connection, connection.transaction():
        await connection.copy_records_to_table("staging", records=rows, columns=COLUMNS)
        await connection.execute(query("store_records").format(columns=", ".join(COLUMNS)))


def _bare_row(record: object) -> tuple[object, ...]:
    event = _DECODER.decode(record.value)  # type: ignore[attr-defined]
    action, actor, raw, resource = event.action, event.actor, event.raw, event.resource
    return (
        event.id,
        event.account.id,
        None,
        *(action.description, action.result, action.type),
        *(
            actor.id,
            actor.context,
            actor.email,
            actor.ip_address,
            actor.token_id,
            actor.token_name,
            actor.type,
        ),
        *(raw.cf_ray_id, raw.method, raw.status_code, raw.uri, raw.user_agent),
        *(resource.id, resource.product),
        *(
            None if text is msgspec.UNSET else bytes(text).decode()
            for text in (resource.request, resource.response)
        ),
        *(resource.scope, resource.type),
        *(event.zone.id, None, "{}", event.receipt.operation),
        *(event.tap.id, event.tap.epoch, event.tap.seq),
        *(record.timestamp, b"0123456789abcdef", "complete", None),  # type: ignore[attr-defined]
        *(None, None, None),
    )


async def until_stored(database: AuditDatabase, events: int) -> Rate:
    """Return from the last look that found no row to the last row, so that joining the group is not measured."""
    async with administrator(database.admin_dsn) as connection:

        async def rows() -> int:
            return int(await connection.fetchval("SELECT count(*) FROM auditap.audit_records") or 0)

        found = 0
        while not found:
            began, cpu = time.perf_counter(), time.process_time()
            await asyncio.sleep(0.02)
            found = await rows()
        while found < events:
            await asyncio.sleep(0.1)
            found = await rows()
        return Rate(found, time.perf_counter() - began, time.process_time() - cpu)


async def compare(running: Servers, events: int = _EVENTS, rounds: int = _ROUNDS) -> str:
    topic = await running.topic("bench-ingest", _PARTITIONS)
    await fill(running.kafka.bootstrap, topic, events)
    ways: dict[str, Callable[[str, str, str, AuditDatabase, int], Awaitable[Rate]]] = {
        "the ingestor, enriched from a warm cache": ours,
        "a bare probe": probe,
    }
    found: dict[str, list[Rate]] = {name: [] for name in ways}
    for turn in range(rounds):
        for index, (name, way) in enumerate(ways.items()):
            database = await running.database(f"bench_{turn}_{index}")
            group = f"g-{turn}-{index}"
            found[name].append(await way(running.kafka.bootstrap, topic, group, database, events))
    rates = {
        name: statistics.median(each.rows / each.wall_s for each in all_) for name, all_ in found.items()
    }
    cpu = {name: statistics.median(each.cpu_s / each.rows for each in all_) for name, all_ in found.items()}
    bare = rates["a bare probe"]
    rows = [
        [name, f"{rate:,.0f}", f"{rate / bare:.2f}", f"{cpu[name] * 1e6:.1f}"] for name, rate in rates.items()
    ]
    return (
        f"{events:,} events in {_PARTITIONS} partitions, stored in a fresh database by one process; medians of {rounds}"
        " turns, Kafka and Postgres on the same machine. The probe consumes, decodes, copies into a staging table and"
        " inserts with conflict check into the same tables and indexes, two batches in flight.\n\n"
        + table(["", "rows/s", "relative to the probe", "Python's CPU µs a row"], rows)
    )


async def measure() -> str:
    async with servers() as running:
        return await compare(running)


def run() -> None:
    configure_logs("warning", "json")
    write_section("(b) The ingestor alone", uvloop.run(measure()))


if __name__ == "__main__":
    os.chdir(BENCH.parent)
    run()
