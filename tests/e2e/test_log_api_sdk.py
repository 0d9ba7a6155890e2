"""The official SDK, in its strict mode, against a real server on a real Postgres."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from urllib.parse import urlsplit

import cloudflare
import httpx
import pytest
from cloudflare import AsyncCloudflare, Cloudflare
from cloudflare.types.accounts.logs import AuditListResponse

from auditap.child_process import free_port
from auditap.database import administrator, create_token, revoke_token
from auditap.http_server import HttpServer, bind_tcp_socket
from log_api.app import log_api_app
from log_api.config import LogApiConfig
from log_api.database import PostgresLogDatabase
from log_api.ports import Permission
from schemas.metric_defs import Metrics
from schemas.record import Record
from tests.audit_database import migrated
from tests.records import record
from tests.unit.log_api.stored_log import StoredLog

DAY_MS = 86_400_000
TODAY_MS = time.time_ns() // 1_000_000 // DAY_MS * DAY_MS
SINCE_MS, BEFORE_MS = TODAY_MS - 3 * DAY_MS, TODAY_MS
SINCE, BEFORE = (f"{datetime.fromtimestamp(at / 1000, UTC):%Y-%m-%d}" for at in (SINCE_MS, BEFORE_MS))
A, B = "a" * 32, "b" * 32
SETTINGS = LogApiConfig(cursor_key=b"k" * 32, token_cache_ms=1)
DirectionName = Literal["asc", "desc"]


@dataclass(frozen=True)
class Served:
    """A log API on loopback, its log, and a token of account A."""

    base_url: str
    log: StoredLog
    token: str

    def client(self, token: str | None = None) -> AsyncCloudflare:
        return AsyncCloudflare(
            api_token=token or self.token,
            base_url=self.base_url,
            max_retries=0,
            _strict_response_validation=True,
        )

    async def token_for(self, accounts: Sequence[str] | None, *permissions: str) -> tuple[uuid.UUID, str]:
        return await create_token(
            self.log.connection,
            "e2e",
            accounts,
            permissions or (Permission.AUDIT_LOGS,),
            datetime.now(UTC) + timedelta(hours=1),
        )


@asynccontextmanager
async def serving(reader_dsn: str) -> AsyncIterator[str]:
    database = PostgresLogDatabase(reader_dsn, SETTINGS)
    await database.start()
    app = log_api_app(database, SETTINGS, Metrics(), lambda: time.time_ns() // 1_000_000)
    bound = bind_tcp_socket("127.0.0.1", 0)
    server = HttpServer(app, [bound])
    port = bound.getsockname()[1]
    await server.start()
    try:
        yield f"http://127.0.0.1:{port}/client/v4"
    finally:
        await server.stop()
        await database.stop()


@pytest.fixture(scope="module")
async def served(postgres: str) -> AsyncIterator[Served]:
    name = f"log_api_sdk_{uuid.uuid4().hex}"
    async with administrator(postgres) as connection:
        await connection.execute(f"CREATE DATABASE {name}")
        database = await migrated(urlsplit(postgres)._replace(path=f"/{name}").geturl())
        async with administrator(database.admin_dsn) as owner, serving(database.reader_dsn) as base_url:
            one = Served(base_url, StoredLog(owner), "")
            _, token = await one.token_for([A])
            yield Served(base_url, one.log, token)
        await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def api(served: Served) -> Served:
    """The server with an empty log."""
    await served.log.connection.execute("TRUNCATE auditap.audit_records, auditap.audit_enrichments")
    return served


def some_records(count: int, account_id: str, seed: int) -> list[Record]:
    """Records all over the range, many in the same millisecond, every ninth of which lacks its account."""
    drawn = random.Random(seed)
    return [
        record(
            SINCE_MS + drawn.randrange(3 * DAY_MS // 500) * 500,
            account_id=None if number % 9 == 0 else account_id,
            account_name=drawn.choice(["Acme", None]),
            action_description="Update a policy",
            action_result=drawn.choice(["success", "failure"]),
            action_type=drawn.choice(["create", "update", "delete", "view"]),
            actor_context=drawn.choice(["api", "dash", "oauth", "not-in-the-sdk", None]),
            actor_email=drawn.choice(["one@example.com", "two@example.com", None]),
            actor_ip_address=drawn.choice(["203.0.113.9", "2001:db8::7", None]),
            actor_type=drawn.choice(["user", "system", "not-in-the-sdk", None]),
            raw_cf_ray_id=f"ray{number}",
            raw_method=drawn.choice(["PUT", "POST", "DELETE"]),
            raw_status_code=drawn.choice([200, 403, 500, None]),
            raw_uri="/policies/1?dry=1",
            resource_product=drawn.choice(["alerting", "dns"]),
            resource_request=drawn.choice(['{"price":1.10,"lone":"\\ud800"}', '["x"]', "null", None]),
            resource_scope="accounts",
            zone_id=drawn.choice(["z1", None]),
            zone_name=drawn.choice(["example.com", None]),
            tap_id="gw",
        )
        for number in range(count)
    ]


async def store(log: StoredLog, records: Sequence[Record], account_id: str) -> None:
    """Store records, and what was found out later about those that lack their account."""
    await log.add(records)
    for one in records:
        if one.account_id is None:
            await log.complete(one.id, account_id=account_id, account_name="Later")


def every_id(records: Sequence[AuditListResponse]) -> list[str]:
    return [one.id or "" for one in records]


@pytest.mark.parametrize("direction", ["desc", "asc"])
async def test_every_record_once_while_others_arrive(api: Served, direction: DirectionName) -> None:
    present, later = some_records(2500, A, 1), some_records(1000, A, 2)
    await store(api.log, present, A)
    await store(api.log, some_records(300, B, 3), B)
    found: list[str] = []
    pages = 0
    async with api.client() as client:
        page = await client.accounts.logs.audit.list(
            account_id=A, since=SINCE, before=BEFORE, limit=100, direction=direction
        )
        while True:
            found += every_id(page.result)
            pages += 1
            await store(api.log, later[(pages - 1) * 45 : pages * 45], A)
            if not page.has_next_page():
                break
            page = await page.get_next_page()
    counts = Counter(found)
    assert max(counts.values()) == 1
    assert {one.id.hex for one in present} <= set(counts)
    assert set(counts) <= {one.id.hex for one in [*present, *later]}
    # Some of what came later stood before the reader's place, some behind it.
    assert len(present) < len(counts) < len(present) + len(later)
    assert pages > 25
    assert found == sorted(found, reverse=direction == "desc")


async def test_the_same_by_the_other_cursor(api: Served) -> None:
    records = some_records(520, A, 4)
    await store(api.log, records, A)
    found: list[str] = []
    query = {"since": SINCE, "before": BEFORE, "limit": "25.0"}
    headers = {"Authorization": f"Bearer {api.token}"}
    async with httpx.AsyncClient(base_url=api.base_url, headers=headers) as client:
        while True:
            body = (await client.get(f"/accounts/{A}/logs/audit", params=query)).json()
            assert body["result_info"]["count"] == len(body["result"])
            found += [one["id"] for one in body["result"]]
            if "cursor" not in body["result_info"]:
                break
            query["cursor"] = body["result_info"]["cursor"]
    assert found == sorted((one.id.hex for one in records), reverse=True)


def _value(one: Record, name: str, late: dict[str, str]) -> Any:
    found = getattr(one, name)
    return late.get(name) if found is None and one.account_id is None else found


# What the SDK is asked, and which of the records that has to be.
FILTERS: list[tuple[dict[str, Any], dict[str, Any], Any]] = [
    ({}, {"action_result": "success"}, lambda v: v("action_result") == "success"),
    ({"action_result": {"not": ["success"]}}, {}, lambda v: v("action_result") != "success"),
    ({"action_result": {"not": ["success", "failure"]}}, {}, lambda _: False),
    ({}, {"action_type": ["create", "view"]}, lambda v: v("action_type") in {"create", "view"}),
    ({"actor_email": {"not": ["one@example.com"]}}, {}, lambda v: v("actor_email") != "one@example.com"),
    ({}, {"actor_ip_address": "203.0.113.0/24"}, lambda v: v("actor_ip_address") == "203.0.113.9"),
    ({"raw_status_code": {"not": [200, 500]}}, {}, lambda v: v("raw_status_code") not in {200, 500}),
    ({}, {"account_name": "Later"}, lambda v: v("account_name") == "Later"),
    ({}, {"raw_cf_ray_id": "ray17"}, lambda v: v("raw_cf_ray_id") == "ray17"),
    (
        {"zone_name": {"not": ["example.com"]}, "raw_method": {"not": ["DELETE"]}},
        {"resource_product": "dns"},
        lambda v: (
            v("zone_name") != "example.com" and v("raw_method") != "DELETE" and v("resource_product") == "dns"
        ),
    ),
    ({}, {"resource_id": "matches-nothing"}, lambda _: False),
]


@pytest.mark.parametrize("direction", ["desc", "asc"])
@pytest.mark.parametrize(("negative", "positive", "expected"), FILTERS)
async def test_filters_as_the_sdk_spells_them(
    api: Served, direction: DirectionName, negative: dict[str, Any], positive: dict[str, Any], expected: Any
) -> None:
    records = some_records(400, A, 5)
    await store(api.log, records, A)
    await store(api.log, some_records(50, B, 6), B)
    async with api.client() as client:
        pages = client.accounts.logs.audit.list(
            account_id=A,
            since=SINCE,
            before=BEFORE,
            limit=60,
            direction=direction,
            extra_query=positive,
            **negative,
        )
        found = [one.id async for one in pages]
    late = {"account_name": "Later"}
    wanted = [one.id.hex for one in records if expected(lambda name, one=one: _value(one, name, late))]
    assert found == sorted(wanted, reverse=direction == "desc")


async def test_a_record_as_the_sdk_reads_it(api: Served) -> None:
    at_ms = SINCE_MS + 66_314_749
    await api.log.add(
        [
            record(
                at_ms,
                account_id=A,
                account_name="Acme",
                action_description="Update a policy",
                actor_id="u1",
                actor_context="dash",
                actor_email="one@example.com",
                actor_ip_address="203.0.113.9",
                actor_type="user",
                raw_cf_ray_id="ray1",
                raw_method="PUT",
                raw_status_code=200,
                raw_uri="/accounts/x/alerting/v3/policies/1",
                raw_user_agent="curl",
                resource_id="p1",
                resource_product="alerting",
                resource_request='{"enabled":true}',
                resource_response='{"id":"p1"}',
                resource_scope="accounts",
                resource_type="policies",
            )
        ]
    )
    async with api.client() as client:
        (one,) = (await client.accounts.logs.audit.list(account_id=A, since=SINCE, before=BEFORE)).result
    assert one.account is not None
    assert (one.account.id, one.account.name) == (A, "Acme")
    assert one.action is not None
    assert one.action.time == datetime.fromtimestamp(at_ms / 1000, UTC)
    assert (one.action.description, one.action.result, one.action.type) == (
        "Update a policy",
        "success",
        "update",
    )
    assert one.actor is not None
    assert (one.actor.context, one.actor.type, one.actor.token_id, one.actor.token_name) == (
        "dash",
        "user",
        None,
        None,
    )
    assert (one.actor.id, one.actor.email, one.actor.ip_address) == ("u1", "one@example.com", "203.0.113.9")
    assert one.raw is not None
    assert (one.raw.cf_rayid, one.raw.method, one.raw.status_code, one.raw.user_agent) == (
        "ray1",
        "PUT",
        200,
        "curl",
    )
    assert one.resource is not None
    assert (one.resource.id, one.resource.request, one.resource.response) == (
        "p1",
        {"enabled": True},
        {"id": "p1"},
    )
    assert one.zone is not None
    assert (one.zone.id, one.zone.name) == (None, None)


async def test_the_synchronous_client(api: Served) -> None:
    await store(api.log, some_records(150, A, 7), A)

    def read() -> tuple[int, str | None]:
        with Cloudflare(
            api_token=api.token, base_url=api.base_url, max_retries=0, _strict_response_validation=True
        ) as client:
            listed = client.accounts.logs.audit.list(
                account_id=A, since=datetime.fromtimestamp(SINCE_MS / 1000, UTC), before=BEFORE
            )
            verified = client.user.tokens.verify()
            return len(list(listed)), verified.status if verified else None

    assert await asyncio.to_thread(read) == (150, "active")


async def test_a_token_sees_its_own_accounts_alone(api: Served) -> None:
    await store(api.log, some_records(90, A, 8), A)
    foreign = some_records(90, B, 9)
    await store(api.log, foreign, B)
    their_ids = {one.id.hex for one in foreign}
    async with api.client() as client:
        with pytest.raises(cloudflare.PermissionDeniedError):
            await client.accounts.logs.audit.list(account_id=B, since=SINCE, before=BEFORE)
        tries: list[dict[str, Any]] = [{}, {"id": sorted(their_ids)[:100]}, {"account_name": "Later"}]
        for query in tries:
            pages = client.accounts.logs.audit.list(
                account_id=A, since=SINCE, before=BEFORE, limit=1000, extra_query=query
            )
            assert not their_ids & {one.id async for one in pages}
        _, other = await api.token_for([B])
        async with api.client(other) as theirs:
            page = await theirs.accounts.logs.audit.list(account_id=B, since=SINCE, before=BEFORE, limit=10)
        assert page.result_info is not None
        assert page.result_info.cursors is not None
        with pytest.raises(cloudflare.BadRequestError):
            await client.accounts.logs.audit.list(
                account_id=A, since=SINCE, before=BEFORE, cursor=page.result_info.cursors.after or ""
            )


async def test_a_revoked_token_stops_working(api: Served) -> None:
    token_id, token = await api.token_for([A])
    async with api.client(token) as client:
        verified = await client.user.tokens.verify()
        assert verified is not None
        assert (verified.id, verified.status) == (token_id.hex, "active")
        assert verified.expires_on is not None
        await revoke_token(api.log.connection, token_id)
        await asyncio.sleep(2 * SETTINGS.token_cache_ms / 1000)
        with pytest.raises(cloudflare.AuthenticationError) as refused:
            await client.user.tokens.verify()
    assert refused.value.errors[0].code == 10000


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"account_id": "no such"}, cloudflare.NotFoundError),
        ({"since": "yesterday"}, cloudflare.BadRequestError),
        ({"limit": 5000}, cloudflare.BadRequestError),
        ({"cursor": "tampered"}, cloudflare.BadRequestError),
    ],
)
async def test_errors_as_the_sdk_reads_them(
    api: Served, change: dict[str, Any], error: type[Exception]
) -> None:
    async with api.client() as client:
        with pytest.raises(error):
            await client.accounts.logs.audit.list(
                **{"account_id": A, "since": SINCE, "before": BEFORE, **change}
            )


async def test_a_database_that_is_away() -> None:
    async with (
        serving(f"postgresql://auditap_reader:x@127.0.0.1:{free_port()}/none") as base_url,
        httpx.AsyncClient(base_url=base_url, headers={"Authorization": "Bearer x"}) as client,
    ):
        response = await client.get(f"/accounts/{A}/logs/audit", params={"since": SINCE, "before": BEFORE})
    assert response.status_code == 503
    assert int(response.headers["retry-after"]) >= 1
    assert response.json()["success"] is False
