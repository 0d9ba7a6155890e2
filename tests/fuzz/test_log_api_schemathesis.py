"""Schemathesis against the log API on a real Postgres: no fault of ours, and no answer that the document lacks.

`make test` sends a few requests to each route; AUDITAP_TEST_FUZZ_EXAMPLES says how many else.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from auditap.database.connection import administrator
from auditap.database.tokens import create_token
from auditap.runtime.http_limits import HttpLimits
from auditap.runtime.http_server import HttpServer, bind_tcp_socket
from log_api.app import log_api_app
from log_api.config import LogApiConfig, LogApiLimits, ProductCategory
from log_api.contract import Contract
from log_api.database import PostgresLogDatabase
from log_api.ports import Permission
from schemas.metric_defs import Metrics
from tests.audit_database import drop_database, migrated
from tests.records import record
from tests.unit.log_api.stored_log import StoredLog, unhurried

EXAMPLES = int(os.environ.get("AUDITAP_TEST_FUZZ_EXAMPLES", "20"))
ACCOUNT = "a" * 32
SETTINGS = LogApiConfig(
    cursor_key=b"k" * 32,
    limits=unhurried(LogApiLimits(tail_time_ms=20)),
    statement_timeout_ms=60_000,
    tail_interval_ms=10,
    requests_burst=1_000_000,
    organizations={"acme": (ACCOUNT,)},
    product_categories={"messaging": ProductCategory("Messaging", {"queues": "Queues"})},
)
CHECKS: list[Any] = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
pytestmark = pytest.mark.timeout(900 + EXAMPLES * 30)


class Served(NamedTuple):
    """Where the log API is, a token for it, and a record that is there."""

    base_url: str
    headers: dict[str, str]
    record_id: str


@pytest.fixture(scope="module")
async def served(postgres: str) -> AsyncIterator[Served]:
    name = f"schemathesis_{os.getpid()}"
    async with administrator(postgres) as connection:
        await connection.execute(f"CREATE DATABASE {name}")
    database = await migrated(postgres.replace("/postgres?", f"/{name}?"))
    now_ms = time.time_ns() // 1_000_000
    stored = [
        record(
            now_ms - number * 1000,
            account_id=ACCOUNT,
            actor_email="one@example.com",
            resource_id="p1",
            resource_product="access" if number % 2 else "queues",
            resource_type="login",
            resource_request='{"country":"pt","n":1.10}',
        )
        for number in range(40)
    ]
    async with administrator(database.admin_dsn) as owner:
        await StoredLog(owner).add(stored)
        _, token = await create_token(
            owner,
            "fuzz",
            None,
            list(Permission),
            datetime.now(UTC) + timedelta(days=1),
            email="one@example.com",
            requests_per_s=1e6,
        )
    reader = PostgresLogDatabase(database.reader_dsn, SETTINGS, Metrics())
    await reader.start()
    bound = bind_tcp_socket("127.0.0.1", 0)
    port = bound.getsockname()[1]
    server = HttpServer(
        log_api_app(reader, SETTINGS, Metrics(), lambda: time.time_ns() // 1_000_000),
        [bound],
        # What the server refuses by itself is not in the document, and is tested elsewhere.
        limits=HttpLimits(target_bytes_max=1 << 24, headers_bytes_max=1 << 24, headers_max=1 << 16),
    )
    await server.start()
    yield Served(
        f"http://127.0.0.1:{port}{SETTINGS.prefix}", {"Authorization": f"Bearer {token}"}, stored[0].id.hex
    )
    await server.stop()
    await reader.stop()
    async with administrator(postgres) as connection:
        await drop_database(connection, name)


OPERATIONS = [operation.id for operation in Contract(SETTINGS).operations]


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("operation_id", OPERATIONS)
async def test_every_answer_is_a_documented_one(
    served: Served, operation_id: str, mode: GenerationMode
) -> None:
    # Elsewhere, because the server turns in this loop.
    await asyncio.to_thread(explore, served, operation_id, mode)


def explore(served: Served, operation_id: str, mode: GenerationMode) -> None:
    schema = schemathesis.openapi.from_dict(Contract(SETTINGS).document)
    operation = schema.find_operation_by_id(operation_id)
    if mode is GenerationMode.NEGATIVE and not (operation.query or operation.path_parameters):
        # There is nothing to get wrong.
        return

    @given(case=operation.as_strategy(generation_mode=mode), known=st.booleans())
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=EXAMPLES <= 100,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def ask(case: schemathesis.Case[Any], known: bool) -> None:
        if known:
            # What is there is rarely drawn.
            names = {"account_id": ACCOUNT, "organization_id": "acme", "audit_id": served.record_id}
            names["alert_id"] = served.record_id  # of which there is none
            case.path_parameters = {name: names[name] for name in case.path_parameters}
        response = case.call(base_url=served.base_url, headers=served.headers, timeout=120)
        case.validate_response(response, checks=CHECKS)

    ask()
