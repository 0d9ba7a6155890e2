"""Listing and acknowledging alerts."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from auditap.database.tokens import create_token, revoke_token
from log_api.app import log_api_app
from log_api.config import LogApiConfig
from log_api.database import PostgresLogDatabase
from log_api.ports import AlertQuery, Permission, Token
from schemas.identity import new_id
from schemas.metric_defs import Metrics
from tests.unit.log_api.api_client import NOW_MS, A, ApiClient, add_token
from tests.unit.log_api.memory_log import MemoryLog
from tests.unit.log_api.stored_log import ALERT, StoredLog, reads

PATH = f"/accounts/{A}/logs/audit/alerts"
READER, KEEPER = "atp_reader", "atp_keeper"


def alert_id(before_ms: int = 0) -> UUID:
    return UUID(new_id(NOW_MS - before_ms))


def add(log: MemoryLog, one: UUID, account: str = A, **changes: Any) -> None:
    unseen = {"acknowledged_at": None, "acknowledged_by": None, "note": None}
    row = {**ALERT, **unseen, "id": one, "account_id": account, "raised_at": datetime.now(UTC)}
    log.raised[one] = {**row, **changes}


@pytest.fixture
async def api(memory_log: MemoryLog, settings: LogApiConfig) -> AsyncIterator[ApiClient]:
    add_token(memory_log, READER, {A}, Permission.ALERTS)
    add_token(
        memory_log, KEEPER, {A}, Permission.ALERTS, Permission.ACKNOWLEDGE_ALERTS, email="k@example.com"
    )
    add_token(memory_log, "atp_other", {A})
    client = ApiClient(log_api_app(memory_log, settings, Metrics(), lambda: NOW_MS), settings, READER)
    yield client
    await client.close()


async def ids(api: ApiClient, **query: str) -> list[str]:
    response = await api.get(PATH, query, api.headers)
    assert response.status_code == 200
    return [one["id"] for one in response.json()["result"]]


async def test_alerts_are_listed_in_pages_newest_first(api: ApiClient, memory_log: MemoryLog) -> None:
    held = [alert_id(number * 60_000) for number in range(5)]
    for one in held:
        add(memory_log, one)
    add(memory_log, alert_id(), "another account")
    found: list[str] = []
    after: dict[str, str] = {}
    for _ in range(3):
        response = (await api.get(PATH, {"limit": "2", **after}, api.headers)).json()
        found += [one["id"] for one in response["result"]]
        after = {"after": response["result_info"].get("after", "")}
    assert found == [one.hex for one in held]
    assert after == {"after": ""}


async def test_filters(api: ApiClient, memory_log: MemoryLog) -> None:
    high, low = alert_id(0), alert_id(1)
    add(memory_log, high)
    add(memory_log, low, severity="low", rule="other", acknowledged_at=datetime.now(UTC), acknowledged_by="x")
    assert await ids(api, severity="high") == [high.hex]
    assert await ids(api, rule="other") == [low.hex]
    assert await ids(api, acknowledged="true") == [low.hex]
    assert await ids(api, acknowledged="false") == [high.hex]
    assert await ids(api, before="2026-01-01") == []
    assert (await api.get(PATH, {"severity": "loud"}, api.headers)).status_code == 400


async def test_acknowledging_needs_its_own_permission(api: ApiClient, memory_log: MemoryLog) -> None:
    one = alert_id()
    add(memory_log, one)
    path = f"{PATH}/{one.hex}/acknowledge"
    keeper = {"authorization": f"Bearer {KEEPER}"}
    assert (await api.get(path, "", api.headers, "POST")).status_code == 403
    assert (await api.get(PATH, "", {"authorization": "Bearer atp_other"})).status_code == 403
    response = await api.get(path, "", keeper, "POST")
    assert response.json()["result"]["acknowledged"]["by"] == "k@example.com"
    assert (await api.get(f"{PATH}/{alert_id().hex}/acknowledge", "", keeper, "POST")).status_code == 404
    assert (await api.get(path, "", keeper)).status_code == 405


async def test_the_database_pages_filters_and_acknowledges_once(
    postgres_log: PostgresLogDatabase, stored_log: StoredLog
) -> None:
    held = [alert_id(number) for number in range(4)]
    for number, one in enumerate(held):
        await stored_log.add_alert(one, A, severity="high" if number % 2 else "low")
    await stored_log.add_alert(alert_id(), "b")
    whole = AlertQuery(A, UUID(int=0), UUID(int=(1 << 128) - 1), None, None, None, 10)
    assert [one["id"] for one in await reads(postgres_log).alerts(whole)] == [one.hex for one in held]
    assert len(await reads(postgres_log).alerts(whole._replace(severities=("high",)))) == 2
    assert len(await reads(postgres_log).alerts(whole._replace(rules=("none",)))) == 0
    assert [
        one["id"] for one in await reads(postgres_log).alerts(whole._replace(before=held[1], limit=1))
    ] == [held[2].hex]
    ana, bob = await _tokens(postgres_log, stored_log, "ana", "bob")
    assert await reads(postgres_log).acknowledge("b", held[0], ana) is None
    first = await reads(postgres_log).acknowledge(A, held[0], ana)
    second = await reads(postgres_log).acknowledge(A, held[0], bob)
    assert first is not None
    assert first == second
    assert first["acknowledged"]["by"] == "ana"
    assert len(await reads(postgres_log).alerts(whole._replace(acknowledged=True))) == 1
    assert len(await reads(postgres_log).alerts(whole._replace(acknowledged=False))) == 3


async def test_the_database_acknowledges_for_a_token_that_may(
    postgres_log: PostgresLogDatabase, stored_log: StoredLog
) -> None:
    await stored_log.add_alert(alert_id(), A)
    whole = AlertQuery(A, UUID(int=0), UUID(int=(1 << 128) - 1), None, None, None, 10)
    [held] = [UUID(one["id"]) for one in await reads(postgres_log).alerts(whole)]
    refused = [
        *await _tokens(postgres_log, stored_log, "reads", permission=Permission.ALERTS),
        *await _tokens(postgres_log, stored_log, "other", accounts=["b"]),
        *await _tokens(postgres_log, stored_log, "expired", days=-1),
    ]
    [revoked] = await _tokens(postgres_log, stored_log, "revoked")
    await revoke_token(stored_log.connection, revoked.id)
    for token in [*refused, revoked, revoked._replace(sha256=b"0" * 32)]:
        assert await reads(postgres_log).acknowledge(A, held, token) is None
    assert len(await reads(postgres_log).alerts(whole._replace(acknowledged=True))) == 0
    [ana] = await _tokens(postgres_log, stored_log, "ana", email="ana@example.com")
    # What the caller says of the token counts for nothing.
    done = await reads(postgres_log).acknowledge(A, held, ana._replace(email="boss@example.com", name="boss"))
    assert done is not None
    assert done["acknowledged"]["by"] == "ana@example.com"


async def _tokens(
    log: PostgresLogDatabase,
    stored: StoredLog,
    *names: str,
    accounts: Sequence[str] = (A,),
    permission: Permission = Permission.ACKNOWLEDGE_ALERTS,
    days: int = 1,
    email: str | None = None,
) -> list[Token]:
    expires = datetime.now(UTC) + timedelta(days=days)
    found = []
    for name in names:
        _, text = await create_token(stored.connection, name, accounts, [permission], expires, email=email)
        token = await log.token(hashlib.sha256(text.encode()).digest())
        assert token is not None
        found.append(token)
    return found
