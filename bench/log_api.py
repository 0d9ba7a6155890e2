"""Measures the log API on 5 million records: pages, filters, history, export; and the cost of its indexes at ingest.

`python -m bench.log_api --dir FOLDER` starts an embedded Postgres in the folder, fills it once, and writes
`bench/RESULTS-log-api.md`. Everything goes over HTTP on loopback; client and server share the process.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import asyncpg
import httpx

from auditap.database.connection import administrator
from auditap.database.schema import ensure_database
from auditap.database.tokens import create_token
from auditap.runtime.embedded_postgres import EmbeddedPostgres
from auditap.runtime.http_server import HttpServer, bind_tcp_socket
from auditap.runtime.logs import configure_logs
from bench.seed_records import DAY_MS, Seed, account_id, rows, seed_records
from log_api.app import log_api_app
from log_api.config import LogApiConfig
from log_api.database import PostgresLogDatabase
from log_api.ports import Permission
from schemas.identity import rfc3339_ms
from schemas.metric_defs import Metrics
from schemas.record import COLUMNS
from schemas.sql import query as sql_file
from tests.audit_database import AuditDatabase, migrated

RESULTS = Path(__file__).parent / "RESULTS-log-api.md"
_DATABASE = "bench"
_RANKS = (0, 1, 5, 20, 100, 400)
_COST_ROWS = 200_000
_COST_BATCH = 2_000
_PROBES = ("first", "after")


@dataclass(frozen=True)
class Line:
    """One measured line of the report. Times in milliseconds."""

    what: str
    times: Sequence[float]
    target: str

    def text(self) -> str:
        ordered = sorted(self.times)
        p99 = ordered[min(int(len(ordered) * 0.99), len(ordered) - 1)]
        return (
            f"| {self.what} | {len(ordered)} | {ordered[len(ordered) // 2]:.1f} | {p99:.1f} | {self.target} |"
        )


class Bench:
    """Sends requests to a running log API and records their durations."""

    def __init__(self, client: httpx.AsyncClient, seed: Seed) -> None:
        self._client = client
        self._seed = seed
        self._start_ms = seed.end_ms - seed.days * DAY_MS

    async def ask(self, account: str, path: str = "", **query: str) -> tuple[float, httpx.Response]:
        """Return the duration of one request in milliseconds, and its response."""
        whole = {"since": rfc3339_ms(self._start_ms), "before": rfc3339_ms(self._seed.end_ms)}
        began = time.perf_counter()
        answer = await self._client.get(f"/accounts/{account}/logs/audit{path}", params={**whole, **query})
        took_ms = (time.perf_counter() - began) * 1000
        assert answer.status_code == 200, answer.text
        return took_ms, answer

    async def days(self) -> Line:
        times = []
        for day in range(self._seed.days):
            at_ms = self._start_ms + day * DAY_MS
            for rank in _RANKS:
                took_ms, _ = await self.ask(
                    account_id(rank), since=rfc3339_ms(at_ms), before=rfc3339_ms(at_ms + DAY_MS)
                )
                times.append(took_ms)
        return Line("first page of an account's day", times, "p99 < 25 ms")

    async def histories(self) -> Line:
        times = []
        for rank in _RANKS:
            _, page = await self.ask(account_id(rank), limit="30")
            for one in page.json()["result"]:
                took_ms, _ = await self.ask(
                    account_id(rank), f"/{one['id']}/history", action_time=one["action"]["time"]
                )
                times.append(took_ms)
        return Line("history of a resource, 30 days", times, "< 25 ms")

    async def filters(self) -> list[Line]:
        lines = []
        read: tuple[tuple[str, Callable[[Any], str]], ...] = (
            ("actor_id", lambda one: one["actor"]["id"]),
            ("actor_email", lambda one: one["actor"]["email"]),
            ("action_type", lambda one: one["action"]["type"]),
            ("resource_id", lambda one: one["resource"]["id"]),
            ("resource_type", lambda one: one["resource"]["type"]),
            ("resource_product", lambda one: one["resource"]["product"]),
            ("raw_cf_ray_id", lambda one: one["raw"]["cf_ray_id"]),
        )
        for name, of in read:
            there: list[float] = []
            nowhere: list[float] = []
            for rank in _RANKS:
                _, page = await self.ask(account_id(rank), limit="100")
                found = page.json()["result"]
                values = [of(one) for one in found[:: max(len(found) // 5, 1)]]
                if name == "action_type":
                    # One in 25 records.
                    values.append("delete")
                there += [(await self.ask(account_id(rank), **{name: value}))[0] for value in values]
                if name != "action_type":
                    probes = [f"nowhere-{probe}" for probe in _PROBES]
                    nowhere += [(await self.ask(account_id(rank), **{name: value}))[0] for value in probes]
            lines.append(Line(f"`{name}`, a value that occurs, 30 days", there, "< 150 ms"))
            if nowhere:
                lines.append(Line(f"`{name}`, a value that does not occur, 30 days", nowhere, "< 150 ms"))
        return lines

    async def export(self) -> str:
        account = account_id(0)
        query = {"since": rfc3339_ms(self._start_ms), "before": rfc3339_ms(self._seed.end_ms)}
        exported, began, resident = 0, time.perf_counter(), []
        async with self._client.stream(
            "GET", f"/accounts/{account}/logs/audit/export", params=query
        ) as answer:
            async for chunk in answer.aiter_raw():
                before = exported // 100_000
                exported += chunk.count(b"\n")
                if exported // 100_000 > before:
                    resident.append(_resident_mb())
        took_s = time.perf_counter() - began
        return (
            f"Export of the largest account: {exported:,} rows in {took_s:.1f} s, {exported / took_s:,.0f} rows/s"
            f" (target: 20,000); resident memory of client and server together, after each 100,000 rows:"
            f" {', '.join(f'{one:.0f}' for one in resident)} MB."
        )


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


async def store_cost(connection: asyncpg.Connection, seed: Seed) -> str:
    """Store the same rows with and without the indexes of migration 0002, in alternating batches, as the ingestor does."""
    plain = [
        "ALTER TABLE scratch.plain ADD PRIMARY KEY (id)",
        "CREATE INDEX ON scratch.plain (account_id, id)",
        "CREATE INDEX ON scratch.plain (id) WHERE enrichment = 'partial'",
    ]
    await connection.execute("DROP SCHEMA IF EXISTS scratch CASCADE")
    await connection.execute("CREATE SCHEMA scratch")
    await connection.execute("CREATE TABLE scratch.plain (LIKE auditap.audit_records)")
    for statement in plain:
        await connection.execute(statement)
    await connection.execute("CREATE TABLE scratch.whole (LIKE auditap.audit_records INCLUDING ALL)")
    await connection.execute(sql_file("create_staging"))
    took_s = {"plain": 0.0, "whole": 0.0}
    made = rows(seed)
    for number in range(_COST_ROWS // _COST_BATCH):
        batch = list(islice(made, _COST_BATCH))
        for table in sorted(took_s, reverse=bool(number % 2)):
            began = time.perf_counter()
            async with connection.transaction():
                await connection.copy_records_to_table("staging", columns=COLUMNS, records=batch)
                insert = sql_file("store_records").format(columns=", ".join(COLUMNS))
                await connection.execute(insert.replace("auditap.audit_records", f"scratch.{table}"))
            took_s[table] += time.perf_counter() - began
    await connection.execute("DROP SCHEMA scratch CASCADE")
    return (
        f"Storing {_COST_ROWS:,} rows in batches of {_COST_BATCH:,} (COPY into staging, insert with conflict check):"
        f" {_COST_ROWS / took_s['plain']:,.0f} rows/s with the primary key and the indexes of 0001,"
        f" {_COST_ROWS / took_s['whole']:,.0f} rows/s with those of 0002 in addition:"
        f" {took_s['whole'] / took_s['plain']:.2f} times the duration, in one run."
    )


@asynccontextmanager
async def filled_database(folder: Path, seed: Seed) -> AsyncIterator[AuditDatabase]:
    """Yield a filled database in the folder. It is filled again only if the number of records differs."""
    async with EmbeddedPostgres(folder) as server:
        async with administrator(server.dsn()) as connection:
            await ensure_database(connection, _DATABASE)
        database = await migrated(server.dsn("postgres", _DATABASE))
        async with administrator(database.admin_dsn) as connection:
            there = await connection.fetchval("SELECT count(*) FROM auditap.audit_records")
            if there != seed.records:
                await connection.execute("TRUNCATE auditap.audit_records, auditap.audit_enrichments")
                print(f"COPY took {await seed_records(connection, seed):.0f} s")
                await connection.execute("VACUUM ANALYZE auditap.audit_records", timeout=3600)
            # Seeded rows do not move with the clock, so the benchmark uses the days that they cover.
        yield database


@asynccontextmanager
async def served(database: AuditDatabase) -> AsyncIterator[httpx.AsyncClient]:
    """Serve the log API over the database and yield a client with a token for every account."""
    settings = LogApiConfig(cursor_key=b"k" * 32, requests_burst=1_000_000)
    reader = PostgresLogDatabase(database.reader_dsn, settings, Metrics())
    await reader.start()
    bound = bind_tcp_socket("127.0.0.1", 0)
    base_url = f"http://127.0.0.1:{bound.getsockname()[1]}{settings.prefix}"
    server = HttpServer(
        log_api_app(reader, settings, Metrics(), lambda: time.time_ns() // 1_000_000), [bound]
    )
    await server.start()
    async with administrator(database.admin_dsn) as connection:
        until = datetime.now(UTC) + timedelta(days=1)
        _, token = await create_token(connection, "bench", None, list(Permission), until)
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(base_url=base_url, headers=headers, timeout=60) as client:
        yield client
    await server.stop()
    await reader.stop()


async def last_ms(database: AuditDatabase) -> int:
    """Return the end of the last day with records, or the start of today if there are none."""
    async with administrator(database.admin_dsn) as connection:
        last = await connection.fetchval("SELECT id FROM auditap.audit_records ORDER BY id DESC LIMIT 1")
    last_ms = int(last.int) >> 80
    return (last_ms // DAY_MS + 1) * DAY_MS


async def run(folder: Path, records: int, days: int, accounts: int) -> str:
    end_ms = int(time.time() * 1000) // DAY_MS * DAY_MS
    async with filled_database(folder, Seed(records, days, accounts, end_ms)) as database:
        seed = Seed(records, days, accounts, await last_ms(database))
        async with served(database) as client:
            bench = Bench(client, seed)
            await bench.days()  # what was just started is not measured
            lines = [await bench.days(), await bench.histories(), *await bench.filters()]
            export = await bench.export()
        async with administrator(database.admin_dsn) as connection:
            largest = await connection.fetchval(
                "SELECT count(*) FROM auditap.audit_records WHERE account_id = $1", account_id(0)
            )
            version = await connection.fetchval("SHOW server_version")
            cost = await store_cost(connection, seed)
    load = os.getloadavg()
    made = (
        f"{records:,} records over {days} days, {accounts} accounts by Zipf's law, the largest with {largest:,};"
        f" Postgres {version} with its default settings. {os.cpu_count()} cores ({platform.machine()}), Python"
        f" {platform.python_version()}; load average {load[0]:.1f} over the last minute, {load[1]:.1f} over five"
        f" (client, server and Postgres included); nice value {os.nice(0)}."
    )
    measured = (
        "Milliseconds over HTTP, including the checks of the request and writing the response; accounts of rank"
        f" {', '.join(map(str, _RANKS))}."
    )
    report = [
        "# Benchmark of the log API",
        "",
        made,
        "",
        measured,
        "",
        "| | requests | median | p99 | target |",
        "| --- | --- | --- | --- | --- |",
        *(line.text() for line in lines),
        "",
        export,
        "",
        cost,
        "",
        "`python -m bench.log_api --dir FOLDER` repeats the measurement.",
        "",
    ]
    return "\n".join(report)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--dir", type=Path, required=True)
    options.add_argument("--records", type=int, default=5_000_000)
    options.add_argument("--days", type=int, default=30)
    options.add_argument("--accounts", type=int, default=500)
    asked = options.parse_args()
    asked.dir.mkdir(parents=True, exist_ok=True)
    configure_logs("warning", "json")
    report = asyncio.run(run(asked.dir, asked.records, asked.days, asked.accounts))
    print(report)
    RESULTS.write_text(report)


if __name__ == "__main__":
    main()
