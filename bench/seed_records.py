"""Fills a database with records: accounts by Zipf's law, spread over days, as the ingestor would have stored them.

`python -m bench.seed_records DSN --records 5000000` (administrator's DSN of an empty, migrated database).
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import random
import time
from bisect import bisect
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from uuid import UUID

import asyncpg

from schemas.record import COLUMNS

DAY_MS = 86_400_000
_CHUNK_RECORDS = 20_000
_RECEIPT = '{"document":"5f1c9e0f2a7b4c3d","operation":"op","request":{"kept":3},"response":{"kept":4}}'
_TYPES = (("view", 55, "GET"), ("update", 30, "PUT"), ("create", 11, "POST"), ("delete", 4, "DELETE"))
_PRODUCTS = ("alerting", "dns_records", "workers", "firewall", "queues", "access", "pages", "rulesets")
_KINDS = ("policies", "rules", "scripts", "routes", "members")


@dataclass(frozen=True)
class Seed:
    """How much is made: `records` over `days` that end at `end_ms`, of `accounts` whose sizes follow Zipf's law."""

    records: int
    days: int
    accounts: int
    end_ms: int
    exponent: float = 1.2
    seed: int = 1


def account_id(rank: int) -> str:
    """Return the id of the account of a rank; 0 is the largest."""
    return hashlib.md5(f"account {rank}".encode(), usedforsecurity=False).hexdigest()


def rows(seed: Seed) -> Iterator[tuple[object, ...]]:
    """Return the rows in the order of their ids."""
    drawn = random.Random(seed.seed)
    weights = list(accumulate(1 / (rank + 1) ** seed.exponent for rank in range(seed.accounts)))
    types = [name for name, share, _ in _TYPES for _ in range(share)]
    methods = {name: method for name, _, method in _TYPES}
    start_ms = seed.end_ms - seed.days * DAY_MS
    names = [account_id(rank) for rank in range(seed.accounts)]
    for number in range(seed.records):
        at_ms = start_ms + number * seed.days * DAY_MS // seed.records
        rank = bisect(weights, drawn.random() * weights[-1])
        account = names[rank]
        actor = f"{account[:24]}{int(drawn.paretovariate(0.7)) % 500:08x}"
        kind = types[drawn.randrange(100)]
        product = _PRODUCTS[drawn.randrange(8)]
        resource = f"{account[:16]}{drawn.randrange(1 + seed.records // (10 * (rank + 1))):016x}"
        bits = drawn.getrandbits(74)
        body = (
            None
            if kind == "view"
            else f'{{"name":"policy {bits % 1000}","enabled":true,"priority":{bits % 100}}}'
        )
        yield (
            UUID(int=at_ms << 80 | 0x7 << 76 | (bits >> 62) << 64 | 0b10 << 62 | bits & (1 << 62) - 1),
            account,
            f"Account {rank}",
            "Update a policy",
            "failure" if bits % 50 == 0 else "success",
            kind,
            actor,
            "api_token" if bits % 3 else "dash",
            f"{actor[-8:]}@{account[:6]}.example.com",
            f"198.51.{bits % 100}.{bits % 250}",
            None,
            None,
            "user",
            f"{bits & (1 << 64) - 1:016x}-FRA",
            methods[kind],
            403 if bits % 50 == 0 else 200,
            f"/accounts/{account}/{product}/v3/policies/{resource}",
            "terraform-provider/5.1 go/1.22",
            resource,
            product,
            body,
            body,
            "accounts",
            _KINDS[bits % 5],
            None,
            None,
            _RECEIPT,
            f"{product}-update-policy",
            "gw-1",
            1,
            number,
            at_ms + 40,
            bits.to_bytes(10).ljust(16, b"\0"),
            "complete",
            None,
            None,
            None,
            None,
        )


async def seed_records(connection: asyncpg.Connection, seed: Seed) -> float:
    """Fill the database's partitions and return the seconds that COPY took, statistics and vacuum not included."""
    await connection.execute(
        "SELECT auditap.ensure_partitions($1, $2)", seed.end_ms - seed.days * DAY_MS, seed.end_ms
    )
    made = rows(seed)
    copying_s = 0.0
    while chunk := [row for _, row in zip(range(_CHUNK_RECORDS), made, strict=False)]:
        began = time.perf_counter()
        await connection.copy_records_to_table(
            "audit_records", schema_name="auditap", columns=COLUMNS, records=chunk, timeout=600
        )
        copying_s += time.perf_counter() - began
    return copying_s


async def _main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("dsn")
    options.add_argument("--records", type=int, default=5_000_000)
    options.add_argument("--days", type=int, default=30)
    options.add_argument("--accounts", type=int, default=500)
    asked = options.parse_args()
    end_ms = int(time.time() * 1000) // DAY_MS * DAY_MS
    connection = await asyncpg.connect(asked.dsn)
    try:
        seconds = await seed_records(connection, Seed(asked.records, asked.days, asked.accounts, end_ms))
        print(f"{asked.records} records, COPY took {seconds:.1f} s")
        await connection.execute("VACUUM ANALYZE auditap.audit_records", timeout=1800)
    finally:
        await connection.close()


if __name__ == "__main__":
    asyncio.run(_main())
