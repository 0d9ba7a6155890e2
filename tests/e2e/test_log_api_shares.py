"""One token sends all that it may to a log API that it shares with others."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import asyncpg
import httpx
import pytest
from pydantic import SecretStr

from auditap.database.connection import administrator
from auditap.database.tokens import create_token
from auditap.settings import load_settings
from log_api.ports import Permission
from tests.audit_database import AuditDatabase
from tests.e2e.pipeline import until
from tests.e2e.test_reading_commands import served
from tests.ports import free_port
from tests.records import record
from tests.unit.log_api.stored_log import StoredLog

DAY_MS = 86_400_000
BUSY_MS = (time.time_ns() // 1_000_000 // DAY_MS - 5) * DAY_MS
QUIET_MS = BUSY_MS + 2 * DAY_MS
A, B = "a" * 32, "b" * 32
_WITHIN_S = 120
# Fewer than the connections that one token may have.
_STUCK_MIN = 4


class Shared(NamedTuple):
    """A log API, its owner's connection, and tokens: thirty for account A, one for B."""

    client: httpx.AsyncClient
    owner: asyncpg.Connection
    of_a: Sequence[str]
    of_b: str

    async def list_day(self, account: str, token: str, day_ms: int) -> int:
        """Return the status of a list of one day."""
        response = await self.client.get(
            f"/client/v4/accounts/{account}/logs/audit",
            params={"since": day(day_ms), "before": day(day_ms + DAY_MS), "raw_method": "PUT"},
            headers=bearer(token),
        )
        return response.status_code

    @asynccontextmanager
    async def stuck_scans(self, tokens: Sequence[str]) -> AsyncIterator[list[asyncio.Task[int]]]:
        """Let A scan a day whose partition is locked, thirty times at once. Yields once the scans have their connections."""
        partition = f"auditap.audit_records_{day(BUSY_MS).replace('-', '')}"
        scans: list[asyncio.Task[int]] = []
        try:
            async with self.owner.transaction():
                await self.owner.execute(f"LOCK TABLE {partition} IN ACCESS EXCLUSIVE MODE")
                for number in range(30):
                    scan = self.list_day(A, tokens[number % len(tokens)], BUSY_MS)
                    scans.append(asyncio.create_task(scan))
                await until(self.are_stuck, _WITHIN_S, "scans that wait for the lock")
                yield scans
        finally:
            await asyncio.gather(*scans, return_exceptions=True)

    async def are_stuck(self) -> bool:
        return await self.waiting_statements() >= _STUCK_MIN

    async def waiting_statements(self) -> int:
        return int(
            await self.owner.fetchval(
                "SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted"
                " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            )
        )

    async def metric(self, name: str) -> float:
        text = (await self.client.get("/metrics")).text
        return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name))


def day(at_ms: int) -> str:
    return f"{datetime.fromtimestamp(at_ms / 1000, UTC):%Y-%m-%d}"


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture
async def shared(audit_database: AuditDatabase, tmp_path: Path) -> AsyncIterator[Shared]:
    settings = load_settings(
        data_dir=tmp_path / "auditap-data",
        api={"address": {"port": free_port()}},
        postgres={"reader_dsn": SecretStr(audit_database.reader_dsn)},
    )
    async with administrator(audit_database.admin_dsn) as owner, served(settings) as client:
        await StoredLog(owner).add(
            [
                record(at_ms + number, account_id=account, raw_method="PUT")
                for at_ms in (BUSY_MS, QUIET_MS)
                for account in (A, B)
                for number in range(20)
            ]
        )
        until_then = datetime.now(UTC) + timedelta(days=1)

        async def token(account: str) -> str:
            return (await create_token(owner, account, [account], list(Permission), until_then))[1]

        yield Shared(client, owner, [await token(A) for _ in range(30)], await token(B))


@pytest.mark.parametrize("tokens", [1, 30])
async def test_scans_of_one_account_leave_room_for_others(shared: Shared, tokens: int) -> None:
    async with shared.stuck_scans(shared.of_a[:tokens]) as scans:
        lists = [await shared.list_day(B, shared.of_b, QUIET_MS) for _ in range(12)]
        ready = [(await shared.client.get("/readyz")).status_code for _ in range(12)]
        assert not any(scan.done() for scan in scans)
        assert await shared.metric("auditap_log_api_requests_waiting") >= 20
    assert (lists, ready) == ([200] * 12, [200] * 12)
    # With the lock gone, the scans go on, and nothing is left of their contest.
    assert {scan.result() for scan in scans} == {200}
    assert await shared.metric("auditap_log_api_connections_in_use") == 0
    assert await shared.metric("auditap_log_api_requests_waiting") == 0


async def test_what_is_no_query_needs_no_connection_of_queries(shared: Shared) -> None:
    async with shared.stuck_scans(shared.of_a[:1]):
        # Never seen before, so each is looked up in the database.
        wrong = [
            (await shared.client.get("/client/v4/user", headers=bearer(f"wrong{number}")))
            for number in range(9)
        ]
        verified = await shared.client.get("/client/v4/user/tokens/verify", headers=bearer(shared.of_a[1]))
    assert {response.status_code for response in wrong} == {401}
    assert verified.status_code == 200
    assert await shared.metric('auditap_log_api_token_lookups_total{result="unknown"}') == 9


async def test_the_query_of_a_client_that_has_gone_ends(shared: Shared) -> None:
    async with shared.stuck_scans(shared.of_a[:1]) as scans:
        for scan in scans:
            scan.cancel()

        async def ended() -> bool:
            return await shared.waiting_statements() == 0

        # The partition is still locked: nothing but the disconnects can have ended them.
        await until(ended, _WITHIN_S, "cancelled statements")
        assert await shared.list_day(A, shared.of_a[0], QUIET_MS) == 200
    assert await shared.metric("auditap_log_api_connections_in_use") == 0
    gone = 'auditap_log_api_requests_total{route="/client/v4/accounts/{account_id}/logs/audit",status="499"}'
    assert await shared.metric(gone) == 30


@pytest.mark.parametrize("tokens", [1, 30])
async def test_streams_of_one_account_leave_room_for_others(shared: Shared, tokens: int) -> None:
    async with AsyncExitStack() as stack:

        async def opened(account: str, token: str, path: str) -> int:
            url = f"/client/v4/accounts/{account}/logs/audit/{path}"
            response = await stack.enter_async_context(
                shared.client.stream("GET", url, headers=bearer(token))
            )
            return response.status_code

        of_a = [await opened(A, shared.of_a[number % tokens], "tail") for number in range(40)]
        of_b = [await opened(B, shared.of_b, "tail") for _ in range(3)]
        whole = f"export?since={day(QUIET_MS)}&before={day(QUIET_MS + DAY_MS)}"
        of_b.append(await opened(B, shared.of_b, whole))
        assert await shared.metric("auditap_log_api_streams") >= 10
    assert of_b == [200] * 4
    assert set(of_a) == {200, 429}
    assert await shared.metric('auditap_log_api_refused_total{reason="share"}') == of_a.count(429)

    async def ended() -> bool:
        return await shared.metric("auditap_log_api_streams") == 0

    await until(ended, _WITHIN_S, "streams whose clients have gone")
