"""The official SDK, in its strict mode, against a real server on a real Postgres."""

from __future__ import annotations

import asyncio
import json
import random
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, Literal
from urllib.parse import urlsplit

import cloudflare
import httpx
import pytest
from cloudflare import AsyncCloudflare, Cloudflare
from cloudflare.types.accounts.logs import AuditListResponse
from cloudflare.types.shared import AuditLog

from auditap.database.connection import administrator
from auditap.database.tokens import create_token, revoke_token
from auditap.runtime.http_server import HttpServer, bind_tcp_socket
from log_api.app import log_api_app
from log_api.config import LogApiConfig, LogApiLimits, ProductCategory
from log_api.database import PostgresLogDatabase
from log_api.ports import Permission
from schemas.metric_defs import Metrics
from schemas.record import Record
from tests.audit_database import drop_database, migrated
from tests.ports import free_port
from tests.records import POLICY_UPDATE, record
from tests.unit.log_api.stored_log import StoredLog, unhurried

DAY_MS = 86_400_000
TODAY_MS = time.time_ns() // 1_000_000 // DAY_MS * DAY_MS
SINCE_MS, BEFORE_MS = TODAY_MS - 3 * DAY_MS, TODAY_MS
SINCE, BEFORE = (f"{datetime.fromtimestamp(at / 1000, UTC):%Y-%m-%d}" for at in (SINCE_MS, BEFORE_MS))
A, B = "a" * 32, "b" * 32
SETTINGS = LogApiConfig(
    cursor_key=b"k" * 32,
    requests_burst=100_000,
    limits=unhurried(LogApiLimits(token_cache_ms=1, export_records=200)),
    statement_timeout_ms=60_000,
    organizations={"acme": (A, B)},
    product_categories={
        "messaging": ProductCategory("Messaging", {"alerting": "Alerts", "queues": "Queues"})
    },
)
DirectionName = Literal["asc", "desc"]
# The SDK allows 5 s for connecting, in which a machine may stand still.
_ANSWERS_WITHIN_S = 120


@dataclass(frozen=True)
class Served:
    """A running log API, its log, and a token for account A."""

    base_url: str
    log: StoredLog
    token: str

    def client(self, token: str | None = None) -> AsyncCloudflare:
        return AsyncCloudflare(
            api_token=token or self.token,
            base_url=self.base_url,
            timeout=_ANSWERS_WITHIN_S,
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
    database = PostgresLogDatabase(reader_dsn, SETTINGS, Metrics())
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
        await drop_database(connection, name)


@pytest.fixture
async def api(served: Served) -> Served:
    """The server with an empty log."""
    await served.log.connection.execute("TRUNCATE auditap.audit_records, auditap.audit_enrichments")
    return served


def some_records(count: int, account_id: str, seed: int) -> list[Record]:
    """Records spread over the range, many in the same millisecond, every ninth without its account."""
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
    """Store records, and the backfilled account of those that lack theirs."""
    await log.add(records)
    for one in records:
        if one.account_id is None:
            await log.complete(one.id, account_id=account_id, account_name="Later")


def every_id(records: Sequence[AuditListResponse]) -> list[str]:
    return [one.id or "" for one in records]


@pytest.mark.parametrize("direction", ["desc", "asc"])
async def test_every_record_appears_once_while_others_arrive(api: Served, direction: DirectionName) -> None:
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
    # Some of the new records were ahead of the reader's position, some behind it.
    assert len(present) < len(counts) < len(present) + len(later)
    assert pages > 25
    assert found == sorted(found, reverse=direction == "desc")


async def test_every_record_appears_once_by_the_other_cursor(api: Served) -> None:
    records = some_records(520, A, 4)
    await store(api.log, records, A)
    found: list[str] = []
    query = {"since": SINCE, "before": BEFORE, "limit": "25.0"}
    headers = {"Authorization": f"Bearer {api.token}"}
    async with httpx.AsyncClient(base_url=api.base_url, headers=headers, timeout=120) as client:
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


# A call of the SDK, and the records that it must return.
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
async def test_filters_in_the_sdks_spelling_while_others_arrive(
    api: Served, direction: DirectionName, negative: dict[str, Any], positive: dict[str, Any], expected: Any
) -> None:
    present, later = some_records(2500, A, 5), some_records(1000, A, 20)
    await store(api.log, present, A)
    await store(api.log, some_records(50, B, 6), B)
    found: list[str] = []
    arriving = iter(later)
    async with api.client() as client:
        page = await client.accounts.logs.audit.list(
            account_id=A,
            since=SINCE,
            before=BEFORE,
            limit=100,
            direction=direction,
            extra_query=positive,
            **negative,
        )
        while True:
            found += every_id(page.result)
            await store(api.log, list(islice(arriving, 100)), A)
            if not page.has_next_page():
                break
            page = await page.get_next_page()
    late = {"account_name": "Later"}

    def meeting(records: Sequence[Record]) -> set[str]:
        return {one.id.hex for one in records if expected(lambda name, one=one: _value(one, name, late))}

    assert len(found) == len(set(found))
    assert meeting(present) <= set(found) <= meeting([*present, *later])
    assert found == sorted(found, reverse=direction == "desc")


async def test_the_sdk_parses_a_record(api: Served) -> None:
    at_ms = SINCE_MS + 66_314_749
    await api.log.add([record(at_ms, account_id=A, **POLICY_UPDATE)])
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
            api_token=api.token,
            base_url=api.base_url,
            timeout=_ANSWERS_WITHIN_S,
            max_retries=0,
            _strict_response_validation=True,
        ) as client:
            listed = client.accounts.logs.audit.list(
                account_id=A, since=datetime.fromtimestamp(SINCE_MS / 1000, UTC), before=BEFORE
            )
            verified = client.user.tokens.verify()
            return len(list(listed)), verified.status if verified else None

    assert await asyncio.to_thread(read) == (150, "active")


async def test_a_token_sees_only_its_accounts(api: Served) -> None:
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
        await asyncio.sleep(2 * SETTINGS.limits.token_cache_ms / 1000)
        with pytest.raises(cloudflare.AuthenticationError) as refused:
            await client.user.tokens.verify()
    assert refused.value.errors[0].code == 10000


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"account_id": "x" * 257}, cloudflare.NotFoundError),
        ({"since": "yesterday"}, cloudflare.BadRequestError),
        ({"limit": 5000}, cloudflare.BadRequestError),
        ({"cursor": "tampered"}, cloudflare.BadRequestError),
    ],
)
async def test_the_sdk_parses_errors(api: Served, change: dict[str, Any], error: type[Exception]) -> None:
    async with api.client() as client:
        with pytest.raises(error):
            await client.accounts.logs.audit.list(
                **{"account_id": A, "since": SINCE, "before": BEFORE, **change}
            )


async def test_an_unavailable_database() -> None:
    async with (
        serving(f"postgresql://auditap_reader:x@127.0.0.1:{free_port()}/none") as base_url,
        httpx.AsyncClient(base_url=base_url, headers={"Authorization": "Bearer x"}, timeout=120) as client,
    ):
        response = await client.get(f"/accounts/{A}/logs/audit", params={"since": SINCE, "before": BEFORE})
    assert response.status_code == 503
    assert int(response.headers["retry-after"]) >= 1
    assert response.json()["success"] is False


async def read_v1(api: Served, **query: Any) -> list[AuditLog]:
    async with api.client() as client:
        return [one async for one in client.audit_logs.list(account_id=A, **query)]


@pytest.mark.parametrize("direction", ["desc", "asc"])
async def test_v1_by_page_numbers(api: Served, direction: DirectionName) -> None:
    records = some_records(2500, A, 10)
    await store(api.log, records, A)
    await store(api.log, some_records(100, B, 11), B)
    found = await read_v1(api, direction=direction, per_page=100)
    expected = sorted((one.id.hex for one in records), reverse=direction == "desc")
    assert [one.id for one in found] == expected


async def test_v1_filters_of_the_sdk(api: Served) -> None:
    records = some_records(300, A, 12)
    await store(api.log, records, A)
    found = await read_v1(
        api,
        action={"type": "delete"},
        actor={"email": "one@example.com", "ip": "203.0.113.0/24"},
        zone={"name": "example.com"},
        since=SINCE,
        before=BEFORE,
        hide_user_logs=True,
    )
    wanted = {
        one.id.hex
        for one in records
        if one.action_type == "delete"
        and one.actor_email == "one@example.com"
        and one.actor_ip_address == "203.0.113.9"
        and one.zone_name == "example.com"
    }
    assert {one.id for one in found} == wanted
    assert all(
        one.action and one.action.type == "delete" and one.owner and one.owner.id == A for one in found
    )


async def test_the_log_of_a_user_and_x_auth_key(api: Served) -> None:
    records = some_records(200, A, 13)
    await store(api.log, records, A)
    _, key = await create_token(
        api.log.connection,
        "one",
        [A],
        [Permission.AUDIT_LOGS],
        datetime.now(UTC) + timedelta(hours=1),
        email="one@example.com",
    )
    async with AsyncCloudflare(
        api_key=key,
        api_email="one@example.com",
        base_url=api.base_url,
        timeout=_ANSWERS_WITHIN_S,
        max_retries=0,
        _strict_response_validation=True,
    ) as client:
        found = [one.id async for one in client.user.audit_logs.list(per_page=50)]
    wanted = [one.id.hex for one in records if one.actor_email == "one@example.com"]
    assert found == sorted(wanted, reverse=True)
    async with AsyncCloudflare(
        api_key=key,
        api_email="two@example.com",
        base_url=api.base_url,
        timeout=_ANSWERS_WITHIN_S,
        max_retries=0,
    ) as client:
        with pytest.raises(cloudflare.AuthenticationError):
            await client.user.audit_logs.list()


async def test_history_by_the_sdk(api: Served) -> None:
    resource = {"resource_id": "p1", "resource_product": "alerting", "resource_type": "policies"}
    records = [record(SINCE_MS + at * DAY_MS // 10, account_id=A, **resource) for at in range(20)]
    await api.log.add([*records, *some_records(200, A, 14)])
    source = records[7]
    at = datetime.fromtimestamp((source.id.int >> 80) / 1000, UTC)
    async with api.client() as client:
        found = await client.accounts.logs.audit.history(
            source.id.hex, account_id=A, action_time=at, since=SINCE, before=BEFORE
        )
        some = await client.accounts.logs.audit.history(
            source.id.hex, account_id=A, action_time=at, since=SINCE, before=BEFORE, limit=3, direction="asc"
        )
    assert [one.id for one in found] == [one.id.hex for one in records[::-1]]
    assert [one.id for one in some] == [one.id.hex for one in records[:3]]


async def test_product_categories_by_the_sdk(api: Served) -> None:
    async with api.client() as client:
        categories = [one async for one in client.accounts.logs.audit.product_categories(account_id=A)]
    assert [(one.value, one.label, len(one.products or [])) for one in categories] == [
        ("messaging", "Messaging", 2)
    ]


async def test_an_organization_by_the_sdk(api: Served) -> None:
    mine, theirs = some_records(150, A, 15), some_records(150, B, 16)
    await store(api.log, mine, A)
    await store(api.log, theirs, B)
    _, token = await api.token_for([A, B])
    async with api.client(token) as client:
        pages = client.organizations.logs.audit.list(
            organization_id="acme", since=SINCE, before=BEFORE, limit=40, actor_type={"not": ["system"]}
        )
        found = [one.id async for one in pages]
    wanted = [one.id.hex for one in [*mine, *theirs] if one.actor_type != "system"]
    assert found == sorted(wanted, reverse=True)


async def test_authentication_logs_by_the_sdk(api: Served) -> None:
    logins = [
        record(
            SINCE_MS + number,
            account_id=A,
            action_result="success" if number % 3 else "failure",
            actor_email=f"user{number % 4}@example.com",
            actor_ip_address="203.0.113.9",
            raw_cf_ray_id=f"ray{number}",
            resource_product="access",
            resource_type="login",
            resource_id="app1",
            resource_request='{"app_domain":"wiki.example.com","connection":"okta"}',
        )
        for number in range(60)
    ]
    await api.log.add([*logins, *some_records(100, A, 17)])
    _, token = await api.token_for([A], Permission.ACCESS_LOGS)
    async with api.client(token) as client:
        logs = client.zero_trust.access.logs.access_requests
        first = await logs.list(account_id=A) or []
        pages = [
            await logs.list(account_id=A, per_page=25, page=page, direction="asc") or []
            for page in range(1, 5)
        ]
        named = await logs.list(account_id=A, email="user1@example.com", email_exact=True, limit=100) or []
        since = await logs.list(
            account_id=A, since=datetime.fromtimestamp((SINCE_MS + 50) / 1000, UTC), limit=100
        )
    assert len(first) == 25
    assert [one.rayid for page in pages for one in page] == [f"ray{number}" for number in range(60)]
    assert {one.user_email for one in named} == {"user1@example.com"}
    assert len(named) == 15
    assert len(since or []) == 10
    assert (first[0].allowed, first[0].app_domain, first[0].connection, first[0].action) == (
        True,
        "wiki.example.com",
        "okta",
        "login",
    )


async def test_an_export_while_records_arrive_and_its_resumption(api: Served) -> None:
    present = some_records(2500, A, 18)
    await store(api.log, present, A)
    headers = {"Authorization": f"Bearer {api.token}"}
    found: list[str] = []
    query = {"since": SINCE, "before": BEFORE}
    async with httpx.AsyncClient(base_url=api.base_url, headers=headers, timeout=120) as client:
        async with client.stream("GET", f"/accounts/{A}/logs/audit/export", params=query) as answer:
            async for line in answer.aiter_lines():
                found.append(json.loads(line)["id"])
                if len(found) == 700:
                    break
        await store(api.log, some_records(500, A, 19), A)
        query["after"] = found[-1]
        rest = await client.get(f"/accounts/{A}/logs/audit/export", params=query)
        found += [json.loads(line)["id"] for line in rest.text.splitlines()]
    assert len(found) == len(set(found))
    assert {one.id.hex for one in present} <= set(found)
    assert found == sorted(found)
