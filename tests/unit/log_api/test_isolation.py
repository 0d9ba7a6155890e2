"""Isolation of accounts: for every route and parameter of the document, a token of account A sees nothing of account B."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import pytest

from auditap.database.tokens import create_token
from log_api.app import log_api_app
from log_api.config import LogApiConfig, LogApiLimits
from log_api.contract import Contract, Operation
from log_api.database import PostgresLogDatabase
from log_api.path_segments import ALL_ACCOUNTS
from log_api.ports import Permission
from log_api.sql_builder import FILTERS
from schemas.identity import id_ms, rfc3339_ms
from schemas.metric_defs import Metrics
from schemas.record import Record
from tests.records import POLICY_UPDATE, record
from tests.unit.log_api.api_client import ApiClient
from tests.unit.log_api.stored_log import StoredLog, unhurried

DAY_MS = 86_400_000
TODAY_MS = int(datetime.now(UTC).timestamp() * 1000) // DAY_MS * DAY_MS
AT_MS = TODAY_MS - 3 * DAY_MS + DAY_MS // 2
MINE, THEIRS = "account-of-mine", "account-of-theirs"
SETTINGS = LogApiConfig(
    cursor_key=b"k" * 32,
    organizations={"org-of-mine": (MINE,), "org-of-theirs": (THEIRS,), "org-of-both": (MINE, THEIRS)},
    limits=unhurried(LogApiLimits(tail_time_ms=3)),
    statement_timeout_ms=60_000,
    tail_interval_ms=1,
)
OPERATIONS = [one for one in Contract(SETTINGS).operations if not one.public]
OF_ACCOUNTS = [one for one in OPERATIONS if "account_id" in one.path or "organization_id" in one.path]
FOR_ONE_ACCOUNT = {"listAlerts", "acknowledgeAlert"}
WITH_CURSORS = [one for one in OPERATIONS if ("cursor", "query") in Contract(SETTINGS)._parameters[one.id]]
# The values that the records of both accounts share.
SHARED: Mapping[str, Any] = {
    **POLICY_UPDATE,
    "action_type": "update",
    "actor_token_id": "t1",
    "actor_token_name": "deploy",
    "exchange_host": "api.example.com",
    "resource_product": "access",
    "resource_type": "login",
    "zone_id": "z1",
    "zone_name": "example.com",
}


def their_records() -> list[Record]:
    secret = {**SHARED, "resource_request": '{"name":"SECRET"}', "action_description": "SECRET"}
    return [
        record(AT_MS, account_id=THEIRS, **secret),
        # Its account is backfilled.
        record(AT_MS + 1, account_id=None, **{**secret, "account_name": None}),
        # A record without an account, which no token of an account may see.
        record(AT_MS + 2, account_id=None, **secret),
    ]


class Isolated(NamedTuple):
    """A client with a token of my account, and the ids of their records."""

    api: ApiClient
    their_ids: list[str]


@pytest.fixture
async def isolated(postgres_log: PostgresLogDatabase, stored_log: StoredLog) -> AsyncIterator[Isolated]:
    theirs = their_records()
    await stored_log.add([record(AT_MS, account_id=MINE, **SHARED), *theirs])
    await stored_log.complete(theirs[1].id, account_id=THEIRS, account_name="SECRET")
    _, token = await create_token(
        stored_log.connection,
        "mine",
        [MINE],
        list(Permission),
        datetime.now(UTC) + timedelta(days=1),
        email="one@example.com",
        requests_per_s=1e6,
    )
    for one in theirs:
        await stored_log.add_alert(one.id, THEIRS, title="SECRET")
    await stored_log.add_alert(UUID(int=1 << 80), MINE)
    config = replace(SETTINGS, requests_burst=1_000_000)
    # The clock moves with each call, so that tails end.
    ticks = itertools.count(AT_MS)
    client = ApiClient(log_api_app(postgres_log, config, Metrics(), lambda: next(ticks)), config, token)
    yield Isolated(client, [one.id.hex for one in theirs])
    await client.close()


def queries(operation: Operation, their_id: str) -> Iterator[dict[str, str]]:
    """Yield queries with each parameter of a route alone, set to a value of their records; and one without parameters."""
    held = Contract(SETTINGS)._parameters[operation.id]
    needed = {name for (name, place), one in held.items() if place == "query" and one.required}
    base = {name: _value(name, their_id) for name in needed}
    yield base
    optional = [name for name, place in held if place == "query" and name not in needed]
    for name in optional:
        yield {**base, name: _value(name, their_id)}
    for values in itertools.product(["json", "true"], ["ndjson", "csv"], ["asc", "desc"]):
        chosen = dict(zip(("export", "format", "direction"), values, strict=True))
        yield {**base, **{name: value for name, value in chosen.items() if name in optional}}


def _value(name: str, their_id: str) -> str:
    base = name.removesuffix(".not")
    known = {
        "id": their_id,
        "audit_log_id": their_id,
        "after": "0" * 32,
        "since": rfc3339_ms(AT_MS - 1000),
        "before": rfc3339_ms(AT_MS + 1000),
        "until": rfc3339_ms(AT_MS + 1000),
        "action_time": rfc3339_ms(id_ms(their_id)),
        "action.type": "update",
        "actor.email": "one@example.com",
        "actor.ip": "0.0.0.0/0",
        "zone.name": "example.com",
        "action_result": "success",
        "unmatched": "no_path",
        "altered": "false",
        "email": "example",
        "page": "1",
        "limit": "1000",
        "per_page": "1000",
    }
    if base in known:
        return known[base]
    return str(SHARED[base]) if base in FILTERS else "true"


def paths(operation: Operation, account: str, organization: str, audit_id: str) -> str:
    return operation.path.format(
        account_id=account, organization_id=organization, audit_id=audit_id, alert_id=audit_id
    )


@pytest.mark.parametrize("operation", OF_ACCOUNTS, ids=lambda one: one.id)
async def test_routes_of_another_account_are_denied(isolated: Isolated, operation: Operation) -> None:
    for their_id, organization in itertools.product(
        isolated.their_ids, ["org-of-theirs", "org-of-both", "none"]
    ):
        path = paths(operation, THEIRS, organization, their_id)
        for query in queries(operation, their_id):
            response = await isolated.api.get(path, query, isolated.api.headers, operation.method)
            assert response.status_code == 403
            assert "SECRET" not in response.text


@pytest.mark.parametrize("account", [MINE, ALL_ACCOUNTS])
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda one: one.id)
async def test_responses_hold_nothing_of_another_account(
    isolated: Isolated, operation: Operation, account: str
) -> None:
    answered = 0
    for their_id in isolated.their_ids:
        path = paths(operation, account, "org-of-mine", their_id)
        for query in queries(operation, their_id):
            response = await isolated.api.get(path, query, isolated.api.headers, operation.method)
            # Dead letters have no account: no token for some accounts may count them.
            allowed = {400, 403} if operation.id == "countDeadLetters" else {200, 400, 404}
            assert response.status_code in allowed
            answered += response.status_code in allowed - {400, 404}
            for secret in ("SECRET", THEIRS, *isolated.their_ids):
                assert secret not in response.text
    if account == ALL_ACCOUNTS and operation.id in FOR_ONE_ACCOUNT:
        assert not answered
    else:
        assert answered or "_id}" in operation.path.removeprefix("/accounts/{account_id}")


@pytest.mark.parametrize("operation", WITH_CURSORS, ids=lambda one: one.id)
async def test_a_cursor_of_another_account_is_rejected(
    isolated: Isolated, operation: Operation, stored_log: StoredLog
) -> None:
    _, all_seeing = await create_token(
        stored_log.connection, "all", None, list(Permission), datetime.now(UTC) + timedelta(days=1)
    )
    query = {**next(queries(operation, isolated.their_ids[0])), "limit": "1"}
    theirs = paths(operation, THEIRS, "org-of-theirs", isolated.their_ids[0])
    body = json.loads(
        (await isolated.api.get(theirs, query, {"Authorization": f"Bearer {all_seeing}"})).content
    )
    mine = (
        await isolated.api.get("/accounts/" + MINE + "/logs/audit", queries_range(), isolated.api.headers)
    ).json()["result"]
    path = paths(operation, MINE, "org-of-mine", mine[0]["id"])
    cursor = body["result_info"]["cursor"]
    assert (
        await isolated.api.get(path, {**query, "cursor": cursor}, isolated.api.headers)
    ).status_code == 400


def queries_range() -> dict[str, str]:
    return {"since": rfc3339_ms(AT_MS - 1000), "before": rfc3339_ms(AT_MS + 1000)}
