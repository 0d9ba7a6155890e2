"""Compares the rate of ingest with and without the backfill of a million partial records.

`python -m bench.enrichment_backfill --dir FOLDER` starts an embedded Postgres in the folder, fills it with partial records, and then
ingests without end while the backfill runs for a while and rests for a while, in turns, until nothing is partial. Both
rates come from the same run, so that whatever else the machine does falls on both. Writes
`bench/RESULTS-enrichment-backfill.md`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import platform
import statistics
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import asyncpg
import uvloop

from auditap.database.connection import administrator
from auditap.database.schema import ensure_database
from auditap.runtime.embedded_postgres import EmbeddedPostgres
from auditap.runtime.logs import configure_logs
from enricher.cache import LookupCache
from enricher.config import CacheConfig
from enricher.enrich import Enricher
from enricher.ports import Absent, Found, Kind
from eventlog.ports import Batch, EventSource, LoggedEvent, Partition, RevokeListener
from ingestor.config import IngestorConfig
from ingestor.enrichment_backfill import EnrichmentBackfill
from ingestor.ingest import Ingestor
from ingestor.postgres_store import PostgresStore
from schemas.event import Account, encode_event
from schemas.identity import new_id
from schemas.metric_defs import Metrics
from tests.audit_database import AuditDatabase, migrated
from tests.records import event

RESULTS = Path(__file__).parent / "RESULTS-enrichment-backfill.md"
_DATABASE = "bench"
_ACCOUNTS = 2_000
_FILL = """
INSERT INTO auditap.audit_records (
    id, account_id, action_result, action_type, raw_method, raw_status_code, receipt, received_ms, event_digest, enrichment
)
SELECT
    (lpad(to_hex(at.ms), 12, '0') || '7' || substr(drawn.hex, 1, 3) || '8' || substr(drawn.hex, 4, 15))::uuid,
    'a' || n % $3::bigint, 'success', 'update', 'PUT', 200, '{}', at.ms, decode(drawn.hex, 'hex'), 'partial'
FROM generate_series(0, $2::bigint - 1) AS n
CROSS JOIN LATERAL (SELECT $1::bigint + n * 86400000 / $2::bigint AS ms) AS at
CROSS JOIN LATERAL (SELECT md5(n::text) AS hex) AS drawn
"""
_KEPT_MIN = 0.8


class Directory:
    """A lookup that finds every account at once."""

    async def look_up(self, kind: Kind, key: str) -> Found | Absent:
        return Found(name=f"{kind} {key}")


class EndlessSource:
    """An endless source: the same events again and again with new ids, which is cheap to produce."""

    def __init__(self, listener: RevokeListener) -> None:
        self._listener = listener
        self._offset = 0
        self._values = [
            encode_event(event(0, id="0" * 32, account=Account(id=f"a{number % _ACCOUNTS}")))
            for number in range(_ACCOUNTS)
        ]

    async def start(self) -> None:
        await self._listener.on_assigned({Partition("bench", 0): 1})

    async def fetch(self, events_max: int) -> Sequence[Batch]:
        if events_max == 0:
            await asyncio.sleep(0.005)
            return ()
        await asyncio.sleep(0)
        now_ms = time.time_ns() // 1_000_000
        events = [
            LoggedEvent(
                self._offset + number,
                now_ms,
                self._values[number % _ACCOUNTS].replace(b"0" * 32, new_id(now_ms).encode()),
            )
            for number in range(events_max)
        ]
        self._offset += events_max
        return [Batch(Partition("bench", 0), 1, events)]

    async def commit(self, positions: Mapping[Partition, int]) -> None:
        pass

    async def stop(self) -> None:
        pass


async def fill(audit: AuditDatabase, count: int) -> None:
    """Store partial records of the last day, as an ingestor does while its lookup service is away."""
    connection = await asyncpg.connect(audit.admin_dsn)
    end_ms = time.time_ns() // 1_000_000
    start_ms = end_ms - 86_400_000
    try:
        await connection.execute("SELECT auditap.ensure_partitions($1, $2)", start_ms, end_ms)
        await connection.execute(_FILL, start_ms, count, _ACCOUNTS, timeout=1_200)
        await connection.execute(
            "INSERT INTO auditap.partial_records SELECT id FROM auditap.audit_records", timeout=600
        )
        await connection.execute("ANALYZE", timeout=600)
    finally:
        await connection.close()


class Windows:
    """Records stored and enriched per second, in each turn with the backfill and without."""

    def __init__(self, metrics: Metrics) -> None:
        self._registry = metrics.registry
        self.ingested: dict[bool, list[float]] = {True: [], False: []}
        self.enriched: list[float] = []

    async def measure(self, seconds: float, *, backfilling: bool) -> None:
        began, before = time.perf_counter(), self._counts()
        await asyncio.sleep(seconds)
        took, after = time.perf_counter() - began, self._counts()
        self.ingested[backfilling].append((after[0] - before[0]) / took)
        if backfilling:
            self.enriched.append((after[1] - before[1]) / took)
        print(
            f"backfilling={backfilling}: {self.ingested[backfilling][-1]:.0f} ingested/s,"
            f" {(after[1] - before[1]) / took:.0f} enriched/s"
        )

    def _counts(self) -> tuple[float, float]:
        stored = self._registry.get_sample_value("auditap_records_stored_total") or 0
        labels = {"state": "complete"}
        return stored, self._registry.get_sample_value("auditap_records_backfilled_total", labels) or 0

    @property
    def kept(self) -> float:
        """Return the share of its rate that ingest keeps: the median over pairs of consecutive turns."""
        pairs = zip(self.ingested[True], self.ingested[False], strict=False)
        return statistics.median(with_ / without for with_, without in pairs)


async def measure(audit: AuditDatabase, asked: argparse.Namespace) -> tuple[Windows, int]:
    """Ingest, with the backfill on and off in turns, until no record is partial; return the rates and the number enriched."""
    metrics = Metrics()
    store = await PostgresStore.connect(audit.writer_dsn, connections_max=6, command_timeout_ms=30_000)
    cache = LookupCache(Directory(), {Kind.ACCOUNT: CacheConfig()}, metrics)
    enricher = Enricher(cache, 500, unresolvable_after_ms=0)

    def connect(listener: RevokeListener) -> EventSource:
        return EndlessSource(listener)

    ingestor = Ingestor(
        connect=connect,
        enrichment=enricher,
        store=store,
        dead_letters=store,
        gap_ledger=store,
        config=IngestorConfig(),
        metrics=metrics,
        clock_ms=store.clock_ms,
    )
    backfill = EnrichmentBackfill(
        store=store,
        resolver=enricher,
        metrics=metrics,
        interval_ms=200,
        records_max=asked.batch,
        share_max=asked.share,
    )
    stop = asyncio.Event()
    ingesting = asyncio.create_task(ingestor.run(stop))
    windows = Windows(metrics)
    try:
        await asyncio.sleep(5)  # until the names are in the cache and the disk knows the load
        while await left(audit):
            resting = asyncio.Event()
            backfilling = asyncio.create_task(backfill.run(resting))
            await windows.measure(asked.on_s, backfilling=True)
            resting.set()
            await backfilling
            await windows.measure(asked.off_s, backfilling=False)
        enriched = sum(windows.enriched) * asked.on_s
    finally:
        stop.set()
        await ingesting
        await cache.stop()
        await store.close()
    return windows, round(enriched)


async def left(audit: AuditDatabase) -> bool:
    async with administrator(audit.admin_dsn) as connection:
        return bool(await connection.fetchval("SELECT EXISTS (SELECT FROM auditap.partial_records)"))


async def states(audit: AuditDatabase, first: UUID) -> dict[str, int]:
    """Return the number of initial records by enrichment state."""
    connection = await asyncpg.connect(audit.admin_dsn)
    try:
        rows = await connection.fetch(
            "SELECT enrichment, count(*) AS count FROM auditap.audit_log WHERE id < $1 GROUP BY 1",
            first,
            timeout=600,
        )
        return {row["enrichment"]: row["count"] for row in rows}
    finally:
        await connection.close()


def report(windows: Windows, asked: argparse.Namespace, found: dict[str, int], load: str) -> str:
    enriched = [*windows.enriched[:2], statistics.median(windows.enriched[:-1] or windows.enriched)]
    states_found = ", ".join(f"{count:,} `{state}`" for state, count in found.items())
    return f"""# Enrichment backfill beside ingest

`python -m bench.enrichment_backfill --dir FOLDER` on {datetime.now(UTC):%Y-%m-%d}; {os.cpu_count()} cores, load average {load}; Python
{platform.python_version()}, embedded Postgres on the same machine. One ingestor process stores events as fast as it can. The backfill runs in turns
of {asked.on_s:.0f} s with pauses of {asked.off_s:.0f} s, so that both rates come from one run. Steps of {asked.batch:,} records,
`backfill_share_max` {asked.share}, lookups that respond at once.

| | |
| --- | --- |
| partial records before | {asked.records:,} |
| afterwards | {states_found} |
| ingest without the backfill: first two turns, median of all {len(windows.ingested[False])} | {_rates(windows.ingested[False])} records/s |
| ingest beside the backfill: first two turns, median of all {len(windows.ingested[True])} | {_rates(windows.ingested[True])} records/s |
| share of its rate that ingest keeps, median over neighbouring turns | **{windows.kept:.2f}** (target: at least {_KEPT_MIN}) |
| enriched, first two turns, median | {", ".join(f"{each:,.0f}" for each in enriched)} records/s |
"""


def _rates(turns: Sequence[float]) -> str:
    return ", ".join(f"{each:,.0f}" for each in [*turns[:2], statistics.median(turns)])


async def run(asked: argparse.Namespace) -> None:
    configure_logs("warning", "console")
    async with EmbeddedPostgres(asked.dir, settings={"max_wal_size": "4GB"}) as server:
        async with administrator(server.dsn()) as connection:
            if not asked.go_on:
                await connection.execute(f"DROP DATABASE IF EXISTS {_DATABASE} WITH (FORCE)")
            await ensure_database(connection, _DATABASE)
        audit = await migrated(server.dsn(database=_DATABASE))
        if not asked.go_on:
            print(f"storing {asked.records} partial records")
            await fill(audit, asked.records)
        first = UUID(new_id(time.time_ns() // 1_000_000))
        load = f"{os.getloadavg()[0]:.1f} before"
        windows, enriched = await measure(audit, asked)
        load += f", {os.getloadavg()[0]:.1f} at the end"
        found = await states(audit, first)
        print(f"enriched {enriched}, states {found}, kept {windows.kept:.2f}")
        if not asked.dry:
            RESULTS.write_text(report(windows, asked, found, load))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--dir", type=Path, required=True)
    options.add_argument("--records", type=int, default=1_000_000)
    options.add_argument("--batch", type=int, default=5_000)
    options.add_argument("--share", type=float, default=0.5)
    options.add_argument("--on-s", type=float, default=30)
    options.add_argument("--off-s", type=float, default=10)
    options.add_argument("--go-on", action="store_true", help="With what an earlier run left to be done.")
    options.add_argument("--dry", action="store_true", help="Write no results.")
    with contextlib.suppress(KeyboardInterrupt):
        asked = options.parse_args()
        asked.dir.mkdir(parents=True, exist_ok=True)
        uvloop.run(run(asked))


if __name__ == "__main__":
    main()
