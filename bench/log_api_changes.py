"""Measures what changed: of a resource with 10,000 records, in a history, and in pages of v1.

`python -m bench.log_api_changes --dir FOLDER` starts an embedded Postgres in the folder, fills it, and writes
`bench/RESULTS-log-api-changes.md`. Everything goes over HTTP on loopback; client and server share the process.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import msgspec

from auditap.database.connection import administrator
from auditap.runtime.logs import configure_logs
from bench.log_api import Line, filled_database, last_ms, served
from bench.seed_records import DAY_MS, Seed, account_id
from schemas.identity import rfc3339_ms
from schemas.record import COLUMNS
from tests.records import POLICY_UPDATE, record

RESULTS = Path(__file__).parent / "RESULTS-log-api-changes.md"
_RECORDS = 10_000
_REQUESTS = 200
# A resource that is changed each time, one that is almost only viewed, and one of large bodies.
_KINDS: dict[str, Callable[[int], dict[str, Any]]] = {
    "changed": lambda number: {"resource_request": _body(number, 3)},
    "viewed": lambda number: (
        {"resource_request": _body(number, 3)}
        if number % 1_000 == 0
        else {"action_type": "view", "resource_request": None, "resource_response": None}
    ),
    "large": lambda number: {"resource_request": _body(number, 1_200)},
}


def _body(number: int, members: int) -> str:
    inside = ",".join(f'"m{member}":"value {number % 7 * member}"' for member in range(members))
    return f'{{"number":{number},{inside}}}'


async def add_resources(connection: asyncpg.Connection, seed: Seed) -> dict[str, list[Any]]:
    """Store the records of one resource of each kind, spread over the days, and return their ids."""
    start_ms, step_ms = seed.end_ms - seed.days * DAY_MS, seed.days * DAY_MS // _RECORDS
    ids: dict[str, list[Any]] = {}
    for kind, columns_of in _KINDS.items():
        await connection.execute("DELETE FROM auditap.audit_records WHERE resource_id = $1", kind)
        made = []
        for number in range(_RECORDS if kind != "large" else 500):
            columns = {
                **POLICY_UPDATE,
                "account_id": account_id(0),
                "resource_id": kind,
                "receipt": '{"document":"d1","operation":"putPolicy"}',
                **columns_of(number),
            }
            made.append(record(start_ms + number * step_ms, **columns))
        await connection.copy_records_to_table(
            "audit_records",
            schema_name="auditap",
            columns=COLUMNS,
            records=[msgspec.structs.astuple(one) for one in made],
        )
        ids[kind] = [one.id.hex for one in made if one.action_type != "view"]
    await connection.execute("VACUUM ANALYZE auditap.audit_records", timeout=3600)
    return ids


async def _times(client: httpx.AsyncClient, paths: Sequence[str], query: dict[str, str]) -> list[float]:
    times = []
    for path in paths:
        began = time.perf_counter()
        answer = await client.get(f"/accounts/{account_id(0)}/{path}", params=query)
        times.append((time.perf_counter() - began) * 1000)
        assert answer.status_code == 200, answer.text
    return times


async def measured(client: httpx.AsyncClient, seed: Seed, ids: dict[str, list[Any]]) -> list[Line]:
    lines = []
    for kind, held in ids.items():
        requests = _REQUESTS if kind != "large" else _REQUESTS // 5
        some = (held * _REQUESTS)[:: max(len(held) // requests, 1)][:requests]
        paths = [f"logs/audit/{one}/changes" for one in some]
        await _times(client, paths[:10], {})
        what = {
            "changed": f"changes of one of a resource's {_RECORDS:,} changes",
            "viewed": f"changes of a resource with {len(held)} changes among {_RECORDS:,} views",
            "large": "changes of a resource with 23 KB of recorded values each time",
        }[kind]
        target = "none" if kind == "large" else "p99 < 25 ms"
        lines.append(Line(what, await _times(client, paths, {}), target))
    newest = ids["changed"][-1]
    times = {"since": rfc3339_ms(seed.end_ms - seed.days * DAY_MS), "before": rfc3339_ms(seed.end_ms)}
    history = {**times, "action_time": times["since"], "limit": "100"}
    path = f"logs/audit/{newest}/history"
    for name, query in (("", history), (" with changes", {**history, "changes": "true"})):
        lines.append(Line(f"history, 100 records{name}", await _times(client, [path] * 50, query), "none"))
    at_once = {**times, "per_page": "1000"}
    lines.append(
        Line("a page of v1 with 1,000 records", await _times(client, ["audit_logs"] * 20, at_once), "none")
    )
    return lines


async def run(folder: Path, records: int, days: int, accounts: int) -> str:
    end_ms = int(time.time() * 1000) // DAY_MS * DAY_MS
    async with filled_database(folder, Seed(records, days, accounts, end_ms)) as database:
        seed = Seed(records, days, accounts, await last_ms(database))
        async with administrator(database.admin_dsn) as connection:
            ids = await add_resources(connection, seed)
            version = await connection.fetchval("SHOW server_version")
        async with served(database) as client:
            lines = await measured(client, seed, ids)
    load = os.getloadavg()
    made = (
        f"{records:,} records over {days} days in daily partitions, and three resources of the largest account; Postgres"
        f" {version} with its default settings. {os.cpu_count()} cores ({platform.machine()}), Python"
        f" {platform.python_version()}; load average {load[0]:.1f} over the last minute, {load[1]:.1f} over five (client, server"
        " and Postgres included, and other work on the machine)."
    )
    report = [
        "# Benchmark of what changed",
        "",
        made,
        "",
        "Milliseconds over HTTP, including the checks of the request and writing the response.",
        "",
        "| | requests | median | p99 | target |",
        "| --- | --- | --- | --- | --- |",
        *(line.text() for line in lines),
        "",
        "`python -m bench.log_api_changes --dir FOLDER` repeats the measurement.",
        "",
    ]
    return "\n".join(report)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--dir", type=Path, required=True)
    options.add_argument("--records", type=int, default=200_000)
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
