"""Any record that can be stored passes clients that reject a page for one value that they do not know."""

from __future__ import annotations

import json
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
_bodies = st.none() | st.tuples(st.sampled_from(["", " ", "\n\t"]), _json.map(json.dumps)).map("".join)
_columns = st.fixed_dictionaries(
    {
        "account_name": st.none() | _text,
        "actor_context": st.sampled_from(["api", "api_key", "dash", "teapot", None]),
        "actor_type": st.sampled_from(["account", "delegated_service", "user", "robot", None]),
        "resource_request": _bodies,
        "resource_response": _bodies,
        "zone_id": st.none() | _text,
        "zone_name": st.none() | _text,
    }
)


@pytest.fixture
async def api(memory_log: MemoryLog, settings: LogApiConfig) -> AsyncIterator[ApiClient]:
    add_token(memory_log, TOKEN, {A})
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
        for side in ("request", "response"):
            text = columns[f"resource_{side}"]
            if text is not None:
                body = json.loads(text)
                assert getattr(shown.resource, side) == (body if isinstance(body, dict) else {"value": body})


async def test_unknown_values_can_be_kept(
    audit_database: AuditDatabase, stored_log: StoredLog, settings: LogApiConfig
) -> None:
    unknown = {"actor_context": "api", "actor_type": "delegated_service"}
    await stored_log.add([record(NOW_MS, account_id=A, **{**POLICY_UPDATE, **unknown})])
    _, token = await create_token(
        stored_log.connection, "strict", [A], [Permission.AUDIT_LOGS], datetime.max.replace(tzinfo=UTC)
    )
    for keep, expected in ((False, (None, None)), (True, ("api", "delegated_service"))):
        config = replace(settings, keep_unknown_values=keep, organizations={"acme": (A,)})
        database = PostgresLogDatabase(audit_database.reader_dsn, config, Metrics())
        await database.start()
        client = ApiClient(log_api_app(database, config, Metrics(), lambda: NOW_MS), config, token)
        for path in (f"/accounts/{A}", "/organizations/acme"):
            response = await client.get(f"{path}/logs/audit", RANGE, client.headers)
            [shown] = response.json()["result"]
            assert (shown["actor"].get("context"), shown["actor"].get("type")) == expected
        await client.close()
        await database.stop()
