"""(d) Scaling: `python -m bench.scaling`; `--rows 20000000` for a table of that size."""

from __future__ import annotations

import argparse
import asyncio
import copy
import json
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from auditap.database.connection import administrator
from auditap.runtime.logs import configure_logs
from bench.pipeline import Run, measured
from bench.redactor import measured as timed
from bench.redactor import through
from bench.results import BENCH, table, write_section
from bench.servers import Servers, servers
from bench.workload import EXAMPLE_DOCUMENT, batches, example_config, example_lines, now_ms
from gateway_tap.intake import read_batch
from gateway_tap.limits import IntakeLimits
from redactor.config import DocumentConfig
from redactor.openapi.document import parse_document
from redactor.pipeline.redactor import Redactor

_OPERATIONS = (29, 500, 2_745)
_BATCHES = (1, 10, 100, 500)
_PAIRS = 5_000
_COUNTS = (1, 2, 4)
_ROUNDS = 3
_DAY_MS = 86_400_000


def documents() -> str:
    """Redaction with more and more operations in the document, of which the traffic uses the same few."""
    lines = example_lines(_PAIRS)
    source = yaml.safe_load(EXAMPLE_DOCUMENT.read_text())
    rows = []
    for wanted in _OPERATIONS:
        document = parse_document(
            DocumentConfig(Path("d.json"), envelope="result"), json.dumps(grown(source, wanted)).encode()
        )
        redactor = Redactor([document], replace(example_config(), get_responses_kept=frozenset()))
        took = timed("", len(lines), through(redactor, lines), rounds=3)
        rows.append([f"{wanted:,}", f"{took.cpu_us:.1f}"])
    return "Operations in the document, and the redactor's CPU µs a pair on the same traffic:\n\n" + table(
        ["operations", "CPU µs a pair"], rows
    )


def grown(source: Any, operations: int) -> Any:
    """Return a document with this many operations: the additional ones are copies of its paths below other prefixes."""
    document = copy.deepcopy(source)
    counted = sum(
        len({"get", "put", "post", "patch", "delete", "head"} & set(item))
        for item in source["paths"].values()
    )
    number = 0
    while counted < operations:
        number += 1
        for path, item in source["paths"].items():
            methods = {"get", "put", "post", "patch", "delete", "head"} & set(item)
            if counted >= operations:
                break
            added = copy.deepcopy(item)
            for method in methods:
                added[method]["operationId"] = f"{item[method].get('operationId', path)}-{number}"
            document["paths"][f"/copies/{number}{path}"] = added
            counted += len(methods)
    return document


def batch_sizes() -> str:
    lines = example_lines(_PAIRS)
    limits = IntakeLimits()
    rows = []
    for size in _BATCHES:
        bodies = list(batches(lines, size))

        def intake(bodies: list[bytes] = bodies) -> int:
            return sum(len(read_batch(body, "application/x-ndjson", limits).captures) for body in bodies)

        rows.append([str(size), f"{timed('', len(lines), intake, rounds=3).cpu_us:.2f}"])
    return "Captures in one request, and CPU µs a capture to split and decode them:\n\n" + table(
        ["captures", "CPU µs"], rows
    )


async def ingestors(running: Servers, seconds: float, counts: Sequence[int] = _COUNTS) -> str:
    """Rates with as many ingestors as partitions, each in an empty table."""
    rows = []
    for count in counts:
        run = await measured(
            running, f"by-{count}", seconds=seconds, pairs_per_s=None, partitions=count, ingestors=count
        )
        rows.append([f"{count} and {count}", f"{run.rate:,.0f}"])
    return (
        f"End to end as fast as accepted, {seconds:.0f} s each, into an empty table; stored/s, to the last row:\n\n"
        + table(["partitions and ingestors", "stored/s"], rows)
    )


async def filled(running: Servers, count: int, seconds: float, rounds: int = _ROUNDS) -> str:
    """The rate into a table whose current partition holds `count` rows, and into an empty one, in turns."""
    there = await running.database("filled")
    took_s, bytes_ = await fill(there.admin_dsn, count)
    runs: list[tuple[Run, Run]] = []
    for turn in range(rounds):
        empty = await measured(running, f"empty-{turn}", seconds=seconds, pairs_per_s=None)
        full = await measured(running, f"filled-{turn}", seconds=seconds, pairs_per_s=None, database=there)
        runs.append((empty, full))
    rows = [
        [
            f"{empty.rate:,.0f}",
            f"{full.rate:,.0f}",
            f"{full.rate / empty.rate:.2f}",
            f"{empty.cpu_us('postgres'):.1f}",
            f"{full.cpu_us('postgres'):.1f}",
        ]
        for empty, full in runs
    ]
    median = statistics.median(full.rate / empty.rate for empty, full in runs)
    return (
        f"The same with 4 partitions and one ingestor, {seconds:.0f} s each, in turns: into an empty table, and into one of"
        f" {count:,} rows ({bytes_ / 1e9:.1f} GB with indexes, filled in {took_s:.0f} s), all of them in the partition"
        f" that is written to. Median rate relative to the empty table: **{median:.2f}**.\n\n"
        + table(
            [
                "empty, stored/s",
                "filled, stored/s",
                "relative to empty",
                "Postgres' CPU µs a row, empty",
                "filled",
            ],
            rows,
        )
    )


async def fill(admin_dsn: str, count: int) -> tuple[float, int]:
    """Make today's partition with `count` rows from its beginning until now; return the seconds and bytes it took.

    Rows first, by two sessions, then the indexes, which attaching the partition makes.
    """
    began, end_ms = time.monotonic(), now_ms()
    start_ms = end_ms // _DAY_MS * _DAY_MS
    async with administrator(admin_dsn) as connection:
        name = await connection.fetchval(_PARTITION, start_ms)
        await connection.execute(
            f"CREATE TABLE {name} (LIKE auditap.audit_records INCLUDING ALL EXCLUDING INDEXES)"
        )
        parts = [(1, count // 2), (count // 2 + 1, count)]
        await asyncio.gather(*(_fill(admin_dsn, name, *part, count, start_ms, end_ms) for part in parts))
        await connection.execute("SET maintenance_work_mem = '512MB'")
        bounds = await connection.fetchval(_BOUNDS, start_ms, start_ms + _DAY_MS)
        await connection.execute(
            f"ALTER TABLE auditap.audit_records ATTACH PARTITION {name} FOR VALUES {bounds}", timeout=7200
        )
        await connection.execute(f"VACUUM ANALYZE {name}", timeout=7200)
        await connection.execute("CHECKPOINT", timeout=7200)
        bytes_: int = await connection.fetchval("SELECT pg_total_relation_size($1::text::regclass)", name)
    return time.monotonic() - began, bytes_


async def _fill(
    admin_dsn: str, name: str, first: int, last: int, count: int, start_ms: int, end_ms: int
) -> None:
    async with administrator(admin_dsn) as connection:
        await connection.execute(
            _FILL.format(name=name), first, last, count, start_ms, end_ms - start_ms, timeout=7200
        )


_PARTITION = """
SELECT 'auditap.audit_records_' || to_char(to_timestamp($1::bigint / 1000) AT TIME ZONE 'UTC', 'YYYYMMDD')
"""
_BOUNDS = "SELECT format('FROM (%L) TO (%L)', auditap.first_id_at($1), auditap.first_id_at($2))"
_FILL = """
INSERT INTO {name} (
    id, account_id, action_description, action_result, action_type, actor_id, actor_email, actor_ip_address, actor_type,
    raw_cf_ray_id, raw_method, raw_status_code, raw_uri, raw_user_agent, resource_id, resource_product, resource_request,
    resource_response, resource_scope, resource_type, receipt, operation_id, tap_id, tap_epoch, tap_seq, received_ms,
    event_digest, enrichment
)
SELECT
    (lpad(to_hex(at_ms), 12, '0') || '7' || substr(hash, 1, 3) || '8' || substr(hash, 4, 15))::uuid,
    account, 'Update a notification policy', 'success', 'update', md5((n % 5000)::text),
    'someone@people.example', '203.0.113.9', 'user', substr(hash, 1, 16), 'PUT', 200,
    '/accounts/' || account || '/alerting/v3/policies/' || hash, 'Mozilla/5.0 (X11; Linux x86_64)', hash,
    'alerting', '{{"name":"Origin down","enabled":true,"alert_type":"origin_unreachable"}}', '{{"id":"x"}}', 'accounts',
    'policies', '{{"request":{{"kept":3}},"response":{{"kept":1}}}}', 'notification-policies-update', 'bench', 1, n, at_ms,
    decode(hash, 'hex'), 'complete'
FROM (
    SELECT n, $4::bigint + n * $5::bigint / $3::bigint AS at_ms, md5(n::text) AS hash, md5((n % 500)::text) AS account
    FROM generate_series($1::bigint, $2::bigint) AS n
) AS made
"""


async def live(rows: int, seconds: float) -> str:
    async with servers() as running:
        return await ingestors(running, seconds) + "\n\n" + await filled(running, rows, seconds)


def run(rows: int = 1_000_000, seconds: float = 10) -> None:
    configure_logs("warning", "json")
    sections = [documents(), batch_sizes(), asyncio.run(live(rows, seconds))]
    write_section("(d) Scaling", "\n\n".join(sections))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rows", type=int, default=1_000_000)
    options.add_argument("--seconds", type=float, default=10, help="of each run")
    asked = options.parse_args()
    run(asked.rows, asked.seconds)


if __name__ == "__main__":
    os.chdir(BENCH.parent)
    main()
