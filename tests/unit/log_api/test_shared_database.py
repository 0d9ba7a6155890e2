"""What several tokens read at the same time from a real Postgres."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID

import pytest

from auditap.database.tokens import create_token
from log_api import cpu_turns, keyset_scan
from log_api.config import LogApiConfig
from log_api.connections import Session
from log_api.database import PostgresLogDatabase
from log_api.ports import LogReads, Permission, Token
from log_api.records import Row
from log_api.sql_builder import Condition, Field, ListQuery, Statement, SummaryQuery
from schemas.metric_defs import Metrics
from tests.audit_database import AuditDatabase
from tests.records import record
from tests.unit.log_api.stored_log import StoredLog

DAY_MS = 86_400_000
FIRST_MS = (int(datetime.now(UTC).timestamp() * 1000) // DAY_MS - 10) * DAY_MS
A, B = "a" * 32, "b" * 32


def token(account: str) -> Token:
    return Token(UUID(int=int(account, 16)), frozenset({account}), frozenset(), 0)


class Statements:
    """Every statement of a scan, by the account that it is for. `before` is called before each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.of: list[str] = []
        ordinary = Session.rows

        async def noted(session: Session, statement: Statement, timeout_s: float) -> Sequence[Row]:
            accounts: Any = statement.arguments[0]
            self.of.append(accounts[0])
            await self.before()
            return await ordinary(session, statement, timeout_s)

        monkeypatch.setattr(Session, "rows", noted)

    async def before(self) -> None: ...


@pytest.fixture
async def one_connection(
    audit_database: AuditDatabase, stored_log: StoredLog, settings: LogApiConfig
) -> AsyncIterator[PostgresLogDatabase]:
    """A database with one connection for all tokens, and ten days of records."""
    await stored_log.add(
        [
            record(FIRST_MS + hour * 3_600_000, account_id=account, raw_method="PUT")
            for hour in range(240)
            for account in (A, B)
        ]
    )
    database = PostgresLogDatabase(
        audit_database.reader_dsn,
        replace(settings, connections_max=3, statement_timeout_ms=60_000),
        Metrics(),
    )
    await database.start()
    yield database
    await database.stop()


async def page(reads: LogReads) -> int:
    """Read a page by a filter that no index serves and no record meets."""
    condition = Condition("raw_method", False, ("HEAD",))
    query = ListQuery(
        reads_account(reads), FIRST_MS, FIRST_MS + 10 * DAY_MS, limit=5, conditions=(condition,)
    )
    return len((await reads.page(query)).records)


async def summary(reads: LogReads) -> int:
    bounds = (FIRST_MS, FIRST_MS + 10 * DAY_MS)
    counts = await reads.counts(SummaryQuery(reads_account(reads), bounds, Field.ACTION_TYPE))
    return sum(one.records for one in counts)


def reads_account(reads: LogReads) -> tuple[str, ...]:
    tenant = reads.turns.requester.tenant
    assert isinstance(tenant, frozenset)
    return tuple(tenant)


@pytest.mark.parametrize(("scan", "expected"), [(page, 0), (summary, 240)])
async def test_a_scan_lets_others_read_between_its_statements(
    one_connection: PostgresLogDatabase, monkeypatch: pytest.MonkeyPatch, scan: Any, expected: int
) -> None:
    # Windows that do not grow.
    monkeypatch.setattr(keyset_scan, "_FIRST_RECORDS", 10)
    monkeypatch.setattr(keyset_scan, "_FIRST_RECORDS_PER_ACCOUNT_MIN", 10)
    monkeypatch.setattr(keyset_scan, "_GROWTH_MAX", 1.0)
    statements = Statements(monkeypatch)
    others: list[asyncio.Task[int]] = []
    queue = one_connection._pool._queue
    assert queue is not None

    async def let_the_other_begin() -> None:
        if not others:
            others.append(asyncio.create_task(scan(one_connection.reads_of(token(B)))))
            while not queue.waiting:
                await asyncio.sleep(0)

    monkeypatch.setattr(statements, "before", let_the_other_begin)
    assert await scan(one_connection.reads_of(token(A))) == expected
    assert await others[0] == expected
    # They took turns: neither had all of its statements before the other began or after it ended.
    first_of_b, last_of_a = statements.of.index(B), len(statements.of) - statements.of[::-1].index(A)
    turns = sum(one != two for one, two in pairwise(statements.of))
    assert first_of_b < last_of_a
    assert turns > 10
    assert queue.held == queue.waiting == 0


async def test_many_unknown_tokens_are_looked_up_in_few_statements(
    postgres_log: PostgresLogDatabase, stored_log: StoredLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    expires_at = datetime.now(UTC) + timedelta(days=1)
    token_id, text = await create_token(
        stored_log.connection, "known", [A], [Permission.AUDIT_LOGS], expires_at
    )
    statements: list[int] = []
    ordinary = Session.fetch

    async def counted(session: Session, text: str, *arguments: Any) -> Sequence[Any]:
        statements.append(len(arguments[0]))
        return await ordinary(session, text, *arguments)

    monkeypatch.setattr(Session, "fetch", counted)
    unknown = [hashlib.sha256(str(number).encode()).digest() for number in range(2_000)]
    known = hashlib.sha256(text.encode()).digest()
    found = await asyncio.gather(*map(postgres_log.token, [*unknown, known, known]))
    assert found[:-2] == [None] * 2_000
    assert [one and one.id for one in found[-2:]] == [token_id, token_id]
    assert sum(statements) == 2_001
    assert len(statements) <= 6


async def test_common_reads_have_one_statement_under_way(
    postgres_log: PostgresLogDatabase, stored_log: StoredLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    statements: list[str] = []
    ordinary = Session.value

    async def counted(session: Session, text: str, *arguments: Any) -> Any:
        statements.append(text)
        return await ordinary(session, text, *arguments)

    monkeypatch.setattr(Session, "value", counted)
    # On a busy machine time passes between the first caller and the last, who then may not have a read that began before.
    for shared in (postgres_log._readiness, postgres_log._watermark_ms):
        monkeypatch.setattr(shared, "_timer", lambda: 0.0)
    assert set(await asyncio.gather(*(postgres_log.ready() for _ in range(500)))) == {True}
    assert set(await asyncio.gather(*(postgres_log.complete_before_ms() for _ in range(500)))) == {None}
    assert len(statements) <= 6


async def test_records_are_made_a_few_at_a_time(
    postgres_log: PostgresLogDatabase, stored_log: StoredLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stored_log.add([record(FIRST_MS + number, account_id=A) for number in range(500)])
    monkeypatch.setattr(cpu_turns, "_TURN_S", 0.0)
    made: list[int] = []
    iterations: set[int] = set()
    reads = postgres_log.reads_of(token(A))
    ordinary = type(reads)._audit_records
    iteration = 0

    def noted(self: Any, rows: Sequence[Row]) -> Any:
        made.append(len(rows))
        iterations.add(iteration)
        return ordinary(self, rows)

    monkeypatch.setattr(type(reads), "_audit_records", noted)
    reading = asyncio.create_task(reads.page(ListQuery((A,), FIRST_MS, FIRST_MS + DAY_MS, limit=500)))
    while not reading.done():
        await asyncio.sleep(0)
        iteration += 1
    assert len((await reading).records) == sum(made) == 500
    assert max(made) <= 16
    # Whatever else is ready goes on after each.
    assert len(iterations) == len(made)
