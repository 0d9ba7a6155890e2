"""Any request gets a documented response that repeats nothing of the request; on a real Postgres."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from auditap.database.tokens import create_token
from log_api.app import log_api_app
from log_api.config import LogApiConfig
from log_api.database import PostgresLogDatabase
from log_api.ports import Permission
from log_api.sql_builder import FILTERS
from schemas.metric_defs import Metrics
from tests.records import record
from tests.unit.log_api.api_client import NOW_MS, ApiClient
from tests.unit.log_api.stored_log import StoredLog

CANARY = "canary7f3a"
ACCOUNT = "fuzzed"

_NAMES = [*FILTERS, "audit_log_id", "product_category", "since", "before", "limit", "cursor", "direction"]
_hostile = st.sampled_from(
    [
        "%00",
        "%ff",
        "%ed%a0%80",
        "%F0%9F%92%A9",
        "'",
        '"',
        "\\",
        "%25s",
        "$1",
        "{0}",
        "1e400",
        "-0",
        "nan",
        "%0A",
        "%",
    ]
)
_values = st.one_of(
    st.text(max_size=20).map(lambda text: quote(text.encode("utf-8", "surrogatepass"))),
    st.tuples(_hostile, st.just(CANARY)).map("".join),
    st.tuples(st.just(CANARY), _hostile).map("".join),
    st.sampled_from(
        ["success", "update", "dash", "user", "accounts", "asc", "desc", "200", "10.0.0.0/8", "::1", "1"]
    ),
    st.integers(-(10**30), 10**30).map(str),
    st.datetimes().map(lambda at: f"{at:%Y-%m-%dT%H:%M:%S}Z"),
    st.uuids().map(str),
)
_spelled = st.tuples(
    st.sampled_from(_NAMES), st.sampled_from(["", "", ".not", "[]", "[not]", ".not[]", ".", "[", "%00"])
)
_pairs = st.lists(st.tuples(_spelled.map("".join), _values), max_size=6)


@pytest.fixture
async def api(postgres_log: PostgresLogDatabase, stored_log: StoredLog) -> AsyncIterator[ApiClient]:
    _, token = await create_token(
        stored_log.connection, "fuzz", None, [Permission.AUDIT_LOGS], datetime.max.replace(tzinfo=UTC)
    )
    config = LogApiConfig(cursor_key=b"k" * 32, requests_burst=1_000_000)
    client = ApiClient(log_api_app(postgres_log, config, Metrics(), lambda: NOW_MS), config, token)
    yield client
    await client.close()


@given(pairs=_pairs, with_range=st.booleans())
@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
async def test_any_query_of_the_list_gets_a_documented_response(
    api: ApiClient, pairs: list[tuple[str, str]], *, with_range: bool
) -> None:
    time_range = [("since", "2026-01-23"), ("before", "2026-01-24")] if with_range else []
    query = "&".join(f"{name}={value}" for name, value in [*time_range, *pairs])
    response = await api.list(query, account=ACCOUNT)
    assert response.status_code in {200, 400}
    assert CANARY not in response.text


@given(account=st.text(min_size=1, max_size=40))
@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
async def test_any_account_gets_a_documented_response(api: ApiClient, account: str) -> None:
    sent = quote(account.encode("utf-8", "surrogatepass"), safe="").replace(".", "%2E")
    response = await api.list({}, account=sent)
    assert response.status_code in {200, 404}
    assert json.loads(response.content)["success"] is (response.status_code == 200)


async def test_the_fuzzed_list_is_not_empty(api: ApiClient, stored_log: StoredLog) -> None:
    await stored_log.add([record(NOW_MS, account_id=ACCOUNT)])
    assert len((await api.list({}, account=ACCOUNT)).json()["result"]) == 1
