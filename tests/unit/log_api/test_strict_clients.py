"""Any record that can be stored passes clients that reject a page for one value that they do not know."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from auditap.database.tokens import create_token
from log_api.app import log_api_app
from log_api.config import LogApiConfig
from log_api.database import PostgresLogDatabase
from log_api.ports import Permission
from schemas.metric_defs import Metrics
from tests.audit_database import AuditDatabase
from tests.records import POLICY_UPDATE, record
from tests.unit.log_api.api_client import NOW_MS, RANGE, TOKEN, A, ApiClient, add_token
from tests.unit.log_api.memory_log import MemoryLog
from tests.unit.log_api.stored_log import StoredLog
from tests.unit.log_api.strict_clients import StrictPage

_text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=8)
_json = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | _text,
    lambda each: st.lists(each, max_size=2) | st.dictionaries(_text, each, max_size=2),
    max_leaves=4,
)
_addresses = st.from_regex(r"[ab.'+é]{1,4}@([ab.-]{1,3}\.)?[abé]{1,3}", fullmatch=True) | st.emails()
# Numbers that no double holds, and texts that look like them.
_numbers = st.sampled_from(["1e400", "-1.5E+0999", "9" * 400, "1e-400", "1e30", '"1e400"', r'"\"1e999"'])
_far = st.sampled_from(["%s", "[%s]", '{"n":%s, "e":"2e345"}']).flatmap(lambda at: _numbers.map(at.__mod__))
_plain = st.tuples(st.sampled_from(["", " ", "\n\t"]), _json.map(json.dumps)).map("".join)
_bodies = st.none() | _plain | _far
_columns = st.fixed_dictionaries(
    {
        "account_name": st.none() | _text,
        "actor_email": st.none() | _text | _addresses,
        "actor_context": st.sampled_from(["api", "api_key", "dash", "teapot", None]),
        "actor_type": st.sampled_from(["account", "delegated_service", "user", "robot", None]),
        "resource_request": _bodies,
        "resource_response": _bodies,
        "zone_id": st.none() | _text,
        "zone_name": st.none() | _text,
    }
)


def _in_double(number: str) -> float | str:
    return float(number) if math.isfinite(float(number)) else number


@pytest.fixture
async def api(memory_log: MemoryLog, settings: LogApiConfig) -> AsyncIterator[ApiClient]:
    add_token(memory_log, TOKEN, {A}, Permission.AUDIT_LOGS, Permission.ACCESS_LOGS)
    config = replace(settings, organizations={"acme": (A,)})
    client = ApiClient(log_api_app(memory_log, config, Metrics(), lambda: NOW_MS), config)
    yield client
    await client.close()


@given(columns=_columns)
@hypothesis_settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
async def test_any_record_passes_strict_clients(
    api: ApiClient, memory_log: MemoryLog, columns: dict[str, Any]
) -> None:
    memory_log.rows.clear()
    await memory_log.add([record(NOW_MS, account_id=A, **columns)])
    for path in (f"/accounts/{A}", "/organizations/acme"):
        response = await api.get(f"{path}/logs/audit", RANGE, api.headers)
        [shown] = StrictPage.model_validate_json(response.content).result
        assert shown.account.name == (columns["account_name"] or A)
        assert shown.zone.name == (columns["zone_name"] or columns["zone_id"] or "")
        # Who it was is not lost with what is no address.
        [plain] = response.json()["result"]
        assert columns["actor_email"] in {
            shown.actor.email or None,
            plain["auditap"].get("actor_email"),
        }
        for side in ("request", "response"):
            text = columns[f"resource_{side}"]
            if text is not None:
                body = json.loads(text, parse_int=_in_double, parse_float=_in_double)
                assert getattr(shown.resource, side) == (body if isinstance(body, dict) else {"value": body})


async def test_who_is_no_address_is_where_no_client_checks(api: ApiClient, memory_log: MemoryLog) -> None:
    login = {"resource_product": "access", "resource_type": "login"}
    await memory_log.add([record(NOW_MS, account_id=A, actor_email="CORP\\alice", **login)])
    v1 = await api.get(f"/accounts/{A}/audit_logs", {}, api.headers)
    logins = await api.get(f"/accounts/{A}/access/logs/access_requests", {}, api.headers)
    cells = await api.get(f"/accounts/{A}/logs/audit/export", {**RANGE, "format": "csv"}, api.headers)
    assert v1.json()["result"][0]["actor"]["email"] == "CORP\\alice"
    assert logins.json()["result"][0]["user_email"] == "CORP\\alice"
    assert ",CORP\\alice," in cells.text


async def test_unknown_values_can_be_kept(
    audit_database: AuditDatabase, stored_log: StoredLog, settings: LogApiConfig
) -> None:
    unknown = {
        "actor_context": "api",
        "actor_type": "delegated_service",
        "actor_email": "CORP\\alice",
    }
    await stored_log.add([record(NOW_MS, account_id=A, **{**POLICY_UPDATE, **unknown})])
    _, token = await create_token(
        stored_log.connection, "strict", [A], [Permission.AUDIT_LOGS], datetime.max.replace(tzinfo=UTC)
    )
    for keep, expected in ((False, (None, None, None)), (True, tuple(unknown.values()))):
        config = replace(settings, keep_unknown_values=keep, organizations={"acme": (A,)})
        database = PostgresLogDatabase(audit_database.reader_dsn, config, Metrics())
        await database.start()
        client = ApiClient(log_api_app(database, config, Metrics(), lambda: NOW_MS), config, token)
        for path in (f"/accounts/{A}", "/organizations/acme"):
            response = await client.get(f"{path}/logs/audit", RANGE, client.headers)
            [shown] = response.json()["result"]
            assert tuple(shown["actor"].get(name) for name in ("context", "type", "email")) == expected
        await client.close()
        await database.stop()
