"""(d) How it scales: `python -m bench.scaling`; `--rows 20000000` fills the table first, which takes its time."""

from __future__ import annotations

import argparse
import asyncio
import copy
import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from auditap.database import administrator
from auditap.logs import configure_logs
from bench.pipeline import measured
from bench.redactor import measured as timed
from bench.redactor import through
from bench.results import BENCH, table, write_section
from bench.servers import Servers, servers
from bench.workload import EXAMPLE_DOCUMENT, batches, example_config, example_lines, now_ms
from gateway_tap.intake import IntakeLimits, read_batch
from redactor.config import DocumentConfig
from redactor.document import parse_document
from redactor.redact import Redactor

_OPERATIONS = (67, 500, 2_745)
_BATCHES = (1, 10, 100, 500)
_SECONDS = 10
_DAY_MS = 86_400_000


def documents() -> str:
    """The example's document with operations added that nobody asks for, beside those that are."""
    lines = example_lines(5_000)
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
    """A document with as many operations: copies of its paths below other beginnings."""
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
    lines = example_lines(5_000)
    limits = IntakeLimits()
    rows = []
    for size in _BATCHES:
        bodies = list(batches(lines, size))

        def intake(bodies: list[bytes] = bodies) -> int:
            return sum(len(read_batch(body, "application/x-ndjson", limits).captures) for body in bodies)

        rows.append([str(size), f"{timed('', len(lines), intake, rounds=3).cpu_us:.2f}"])
    return "Captures in one request, and CPU µs a capture to take them apart and decode them:\n\n" + table(
        ["captures", "CPU µs"], rows
    )


async def ingestors(running: Servers, rows_before: int) -> str:
    rows = []
    for count in (1, 2, 4):
        run = await measured(
            running, f"by-{count}", seconds=_SECONDS, pairs_per_s=None, partitions=count, ingestors=count
        )
        rows.append([f"{count} and {count}, empty table", f"{run.rate:,.0f}"])
    if rows_before:
        run = await measured(
            running, "filled", seconds=_SECONDS, pairs_per_s=None, prepare=lambda dsn: fill(dsn, rows_before)
        )
        rows.append([f"4 and 1, {rows_before:,} rows there", f"{run.rate:,.0f}"])
    return f"End to end as fast as it is taken, {_SECONDS} s each, stored/s to the last row:\n\n" + table(
        ["partitions and ingestors", "stored/s"], rows
    )


async def fill(admin_dsn: str, count: int) -> None:
    """Put so many rows into the days before today, by SQL; half a kilobyte each."""
    began = time.monotonic()
    today = now_ms() // _DAY_MS * _DAY_MS
    async with administrator(admin_dsn) as connection:
        await connection.execute(
            "SELECT auditap.ensure_partitions($1, $2)", today - 7 * _DAY_MS, today, timeout=600
        )
        await connection.execute(_FILL, count, today - 7 * _DAY_MS, 7 * _DAY_MS, timeout=7200)
        await connection.execute("VACUUM ANALYZE auditap.audit_records", timeout=7200)
    print(f"filled with {count:,} rows in {time.monotonic() - began:.0f} s")


_FILL = """
INSERT INTO auditap.audit_records (
    id, account_id, action_description, action_result, action_type, actor_id, actor_email, actor_ip_address, actor_type,
    raw_cf_ray_id, raw_method, raw_status_code, raw_uri, raw_user_agent, resource_id, resource_product, resource_request,
    resource_response, resource_scope, resource_type, receipt, operation_id, tap_id, tap_epoch, tap_seq, received_ms,
    event_digest, enrichment
)
SELECT
    (lpad(to_hex(at_ms), 12, '0') || '7' || substr(hash, 1, 3) || '8' || substr(hash, 4, 15))::uuid,
    md5((n % 500)::text), 'Update a notification policy', 'success', 'update', md5((n % 5000)::text),
    'someone@people.example', '203.0.113.9', 'user', substr(hash, 1, 16), 'PUT', 200,
    '/accounts/' || md5((n % 500)::text) || '/alerting/v3/policies/' || hash, 'Mozilla/5.0 (X11; Linux x86_64)', hash,
    'alerting', '{"name":"Origin down","enabled":true,"alert_type":"origin_unreachable"}', '{"id":"x"}', 'accounts',
    'policies', '{"request":{"kept":3},"response":{"kept":1}}', 'notification-policies-update', 'bench', 1, n, at_ms,
    decode(hash, 'hex'), 'complete'
FROM (
    SELECT n, $2::bigint + (n::numeric * $3::bigint / $1::bigint)::bigint AS at_ms, md5(n::text) AS hash
    FROM generate_series(1, $1::bigint) AS n
) AS made
"""


async def live(rows_before: int) -> str:
    async with servers() as running:
        return await ingestors(running, rows_before)


def run(rows_before: int = 1_000_000) -> None:
    configure_logs("warning", "json")
    sections = [documents(), batch_sizes(), asyncio.run(live(rows_before))]
    write_section("(d) How it scales", "\n\n".join(sections))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rows", type=int, default=1_000_000)
    run(options.parse_args().rows)


if __name__ == "__main__":
    os.chdir(BENCH.parent)
    main()
