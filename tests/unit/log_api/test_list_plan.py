"""The plans of a page's statements: by index, and only in the partitions of the time range."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from auditap.database.connection import administrator
from log_api.config import LogApiConfig
from log_api.connections import Session
from log_api.database import PostgresLogDatabase
from log_api.keyset_scan import TimeLimits, find_page_ids
from log_api.records import Row
from log_api.sql_builder import AccessPath, Condition, Direction, ListQuery, Statement, scan_statement
from schemas.metric_defs import Metrics
from schemas.sql import query as sql_file
from tests.audit_database import AuditDatabase
from tests.unit.log_api.stored_log import reads

if TYPE_CHECKING:
    pass

DAY_MS = 86_400_000
DAYS = 6
FIRST_MS = (int(datetime.now(UTC).timestamp() * 1000) // DAY_MS - DAYS) * DAY_MS
ROWS_A_DAY = 4_000
# Per day: 4,000 records of 20 accounts, every eighth with a backfilled account.
_SEED = """
WITH made AS (
    SELECT
        (lpad(to_hex($1::bigint + n * $2), 12, '0') || '7' || lpad(to_hex(n % 4096), 3, '0') || '8'
            || substr(md5(n::text), 1, 15))::uuid AS id,
        'account' || n % 20 AS account_id,
        n % 8 = 0 AS late
    FROM generate_series(0, $3 - 1) AS n
), stored AS (
    INSERT INTO auditap.audit_records (
        id, account_id, action_result, action_type, receipt, received_ms, event_digest, enrichment
    )
    SELECT id, CASE WHEN NOT late THEN account_id END, 'success', 'update', '{}', 0, '', 'partial' FROM made
)
INSERT INTO auditap.audit_enrichments (id, account_id, state) SELECT id, account_id, 'complete' FROM made WHERE late
"""


@pytest.fixture(scope="module")
async def filled(audit_database: AuditDatabase) -> AsyncIterator[asyncpg.Connection]:
    async with administrator(audit_database.admin_dsn) as connection:
        last_ms = FIRST_MS + DAYS * DAY_MS - 1
        await connection.execute("SELECT auditap.ensure_partitions($1, $2)", FIRST_MS, last_ms)
        await connection.execute(_SEED, FIRST_MS, DAY_MS // ROWS_A_DAY, ROWS_A_DAY * DAYS)
        yield connection


@pytest.fixture
async def reader(
    filled: asyncpg.Connection, audit_database: AuditDatabase, settings: LogApiConfig
) -> AsyncIterator[PostgresLogDatabase]:
    database = PostgresLogDatabase(audit_database.reader_dsn, settings, Metrics())
    await database.start()
    yield database
    await database.stop()


class Explained:
    """A `Reader` that records the plan of every statement."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.nodes: list[dict[str, Any]] = []

    async def rows(self, statement: Statement, timeout_s: float) -> Sequence[Row]:
        text = await self._session.value(
            f"EXPLAIN (ANALYZE, FORMAT JSON) {statement.text}", *statement.arguments
        )
        self.nodes += _nodes(json.loads(text)[0]["Plan"])
        return await self._session.rows(statement, timeout_s)

    async def give_way(self) -> None: ...


async def scans(reader: PostgresLogDatabase, query: ListQuery) -> list[dict[str, Any]]:
    """Return the plan nodes that read a table, for all statements of a page, run as the log API runs them."""

    async def read(session: Session) -> list[dict[str, Any]]:
        explained = Explained(session)
        found = await find_page_ids(explained, query, TimeLimits(30, 30))
        if found.ids:
            whole = (list(found.ids), min(found.ids), max(found.ids), None)
            await explained.rows(Statement(sql_file("records_by_id"), whole), 30)
        return [node for node in explained.nodes if "Relation Name" in node]

    return await reader._pool.run(read)


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from _nodes(child)


def _days(nodes: list[dict[str, Any]]) -> set[str]:
    return {re.sub(r"\D", "", node["Relation Name"]) for node in nodes}


def _day(number: int) -> str:
    return f"{datetime.fromtimestamp((FIRST_MS + number * DAY_MS) / 1000, UTC):%Y%m%d}"


def _rows_read(nodes: list[dict[str, Any]]) -> float:
    rows: float = sum(
        node["Actual Loops"] * (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) for node in nodes
    )
    return rows


@pytest.mark.parametrize("direction", list(Direction))
@pytest.mark.parametrize("analyzed", [False, True])
async def test_a_page_of_one_day_reads_that_partition_alone_by_index(
    reader: PostgresLogDatabase, filled: asyncpg.Connection, direction: Direction, *, analyzed: bool
) -> None:
    if analyzed:
        await filled.execute("ANALYZE auditap.audit_records, auditap.audit_enrichments")
    day = FIRST_MS + 2 * DAY_MS
    nodes = await scans(reader, ListQuery(("account3",), day, day + DAY_MS, direction, 50))
    assert _days(nodes) == {_day(2)}
    assert not [node for node in nodes if node["Node Type"] == "Seq Scan"]


@pytest.mark.parametrize("direction", list(Direction))
async def test_a_page_of_a_long_range_reads_no_more_than_it_returns(
    reader: PostgresLogDatabase, filled: asyncpg.Connection, direction: Direction
) -> None:
    await filled.execute("ANALYZE auditap.audit_records, auditap.audit_enrichments")
    query = ListQuery(("account8",), FIRST_MS, FIRST_MS + DAYS * DAY_MS, direction, 20)
    nodes = await scans(reader, query)
    read = [node for node in nodes if node["Actual Loops"]]
    nearest = _day(DAYS - 1) if direction is Direction.DESC else _day(0)
    assert _days([node for node in read if node["Relation Name"].startswith("audit_records")]) == {nearest}
    # The page and one more record from either access path, each fetched from both tables.
    assert _rows_read(nodes) <= 4 * DAYS * (query.limit + 1)
    assert not [node for node in read if node["Node Type"] == "Seq Scan"]


async def test_a_filter_on_a_backfilled_value_reads_no_other_partition(reader: PostgresLogDatabase) -> None:
    day = FIRST_MS + DAY_MS
    condition = Condition("actor_email", False, ("nobody@example.com",))
    nodes = await scans(reader, ListQuery(("account1",), day, day + DAY_MS, conditions=(condition,)))
    assert _days(nodes) == {_day(1)}


@pytest.mark.parametrize("name", ["resource_id", "raw_cf_ray_id", "actor_id", "resource_type", "zone_id"])
async def test_a_filter_without_matches_does_not_read_every_record(
    reader: PostgresLogDatabase, filled: asyncpg.Connection, name: str
) -> None:
    await filled.execute("VACUUM ANALYZE auditap.audit_records, auditap.audit_enrichments")
    condition = Condition(name, False, ("nowhere",))
    query = ListQuery(("account3",), FIRST_MS, FIRST_MS + DAYS * DAY_MS, limit=10, conditions=(condition,))
    nodes = await scans(reader, query)
    # The first window record by record, then the false positives of the Bloom filters.
    assert _rows_read(nodes) < ROWS_A_DAY * DAYS / 4
    assert [node for node in nodes if node["Node Type"] == "Bitmap Heap Scan"] or name == "resource_id"


async def test_an_organization_is_read_by_the_index_on_accounts(reader: PostgresLogDatabase) -> None:
    day = FIRST_MS + 2 * DAY_MS
    query = ListQuery(tuple(f"account{number}" for number in range(10)), day, day + DAY_MS, limit=20)
    nodes = await scans(reader, query)
    assert _days(nodes) == {_day(2)}
    assert not [node for node in nodes if node["Node Type"] == "Seq Scan"]


async def test_every_record_of_the_account_is_found_once(
    reader: PostgresLogDatabase, filled: asyncpg.Connection
) -> None:
    expected = await filled.fetch(
        "SELECT id FROM auditap.audit_log WHERE account_id = 'account8' ORDER BY id DESC"
    )
    query = ListQuery(("account8",), FIRST_MS, FIRST_MS + DAYS * DAY_MS, limit=1000)
    found = []
    page = await reads(reader).page(query)
    while True:
        found += [one.id for one in page.records]
        if page.after is None:
            break
        page = await reads(reader).page(
            ListQuery(("account8",), query.since_ms, query.before_ms, limit=1000, after=page.after)
        )
    assert found == [row["id"].hex for row in expected]
    assert len(found) == ROWS_A_DAY * DAYS // 20


async def test_a_repeated_query_of_one_day_locks_that_partition_alone(reader: PostgresLogDatabase) -> None:
    """After five runs Postgres would choose a generic plan, which opens and locks every partition."""
    day = FIRST_MS + 2 * DAY_MS
    query = ListQuery(("account3",), day, day + DAY_MS)
    statement = scan_statement(query, AccessPath.BACKFILLED_ACCOUNTS, query.id_range(), 100)
    assert reader._pool._pool is not None
    async with reader._pool._pool.acquire() as connection:
        prepared = await connection.prepare(statement.text)
        for _ in range(10):
            await prepared.fetch(*statement.arguments)
        async with connection.transaction():
            await prepared.fetch(*statement.arguments)
            locked = await connection.fetch(
                "SELECT relation::regclass::text AS name FROM pg_locks"
                " WHERE pid = pg_backend_pid() AND locktype = 'relation'"
            )
    days = {found[0] for row in locked if (found := re.findall(r"_(\d{8})", row["name"]))}
    assert days == {_day(2)}
