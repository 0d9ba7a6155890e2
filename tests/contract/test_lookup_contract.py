"""The contract of `Lookup`, for the fake, HTTP with a real server, SQL with a real database, and the cache in front of each."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

import asyncpg
import msgspec
import pytest
from starlette.requests import Request
from starlette.responses import Response

from enricher.cache import CacheLimits, LookupCache
from enricher.circuit_breaker import CircuitBreaker
from enricher.config import CacheConfig, HttpLookupConfig, PostgresLookupConfig
from enricher.http_lookup import HttpLookup
from enricher.ports import FIELDS, KEY_CHARS_MAX, NEVER_AN_ID, Absent, Found, Kind, Lookup
from enricher.postgres_lookup import PostgresLookup
from schemas.errors import RetryableError
from schemas.metric_defs import Metrics
from tests.audit_database import drop_database
from tests.fakes.lookup import FakeLookup, NameService, running

T = TypeVar("T")
ACCOUNT = Found(name="Example, Inc. 例")
ZONE = Found(name="example.com", account_id="4bb334f7c94c4a29a045f03944f072e5", account_name="Example, Inc.")
USER = Found(email="alice@example.com")
TOKEN = Found(name="Deploy token")
KNOWN = {
    (Kind.ACCOUNT, "4bb334f7c94c4a29a045f03944f072e5"): ACCOUNT,
    (Kind.ZONE, "zone:1"): ZONE,
    (Kind.USER, "f6b5de0326bb5182b8a4840ee01ec774"): USER,
    (Kind.TOKEN, "token.1"): TOKEN,
}
POINTERS = {
    Kind.ACCOUNT: {"name": "/result/name"},
    Kind.ZONE: {
        "name": "/result/name",
        "account_id": "/result/account/id",
        "account_name": "/result/account/name",
    },
    Kind.USER: {"email": "/result/email"},
    Kind.TOKEN: {"name": "/result/name"},
}
NO_IDS = ["", "x" * (KEY_CHARS_MAX + 1), "\ud800", "x" * 1_000_000]


class Side(Protocol):
    """An implementation of the port, and the means to break and repair its service."""

    look_up: Lookup

    async def break_service(self) -> None: ...
    async def repair_service(self) -> None: ...
    def lookups(self) -> int: ...


class FakeSide:
    def __init__(self) -> None:
        self.fake = FakeLookup()
        self.fake.answers.update(KNOWN)
        self.look_up: Lookup = self.fake

    async def break_service(self) -> None:
        self.fake.failing.update(Kind)

    async def repair_service(self) -> None:
        self.fake.failing.clear()

    def lookups(self) -> int:
        return self.fake.lookups.total()


class HttpSide:
    def __init__(self, service: NameService) -> None:
        self.service = service
        service.answers.update(KNOWN)
        self.http = HttpLookup(
            HttpLookupConfig(
                kind=kind,
                url=f"{service.address}/{kind}/{{key}}",
                pointers=POINTERS[kind],
                timeout_ms=60_000,
            )
            for kind in Kind
        )
        self.look_up: Lookup = self.http

    async def break_service(self) -> None:
        async def fail(_request: Request) -> Response:
            return Response("down for maintenance", 503)

        self.service.behaviour = fail

    async def repair_service(self) -> None:
        self.service.behaviour = None

    def lookups(self) -> int:
        return len(self.service.requests)


class CountingBreaker(CircuitBreaker):
    calls = 0

    async def call(self, work: Callable[[], Awaitable[T]]) -> T:
        CountingBreaker.calls += 1
        return await super().call(work)


class QuerySide:
    """A table of names in a real database."""

    def __init__(self, connection: asyncpg.Connection, dsn: str) -> None:
        CountingBreaker.calls = 0
        self.connection = connection
        self.query = PostgresLookup(
            [
                PostgresLookupConfig(
                    kind=kind,
                    dsn=dsn,
                    query=f"SELECT id AS key, * FROM names WHERE kind = '{kind}' AND id = ANY($1)",
                    columns={field: field for field in FIELDS[kind]},
                    timeout_ms=60_000,
                )
                for kind in Kind
            ],
            lambda query, _kind: CountingBreaker(query),
        )
        self.look_up: Lookup = self.query

    async def break_service(self) -> None:
        await self.connection.execute("ALTER TABLE names RENAME TO away")

    async def repair_service(self) -> None:
        await self.connection.execute("ALTER TABLE away RENAME TO names")

    def lookups(self) -> int:
        return CountingBreaker.calls


class CachedSide:
    """The cache in front of another lookup. Its own clock lets cached failures expire at once."""

    def __init__(self, inner: FakeSide | HttpSide | QuerySide) -> None:
        self.inner = inner
        self.now_s = 0.0
        configs = dict.fromkeys(Kind, CacheConfig())
        self.cache = LookupCache(
            inner.look_up,
            configs,
            Metrics(),
            clock=lambda: self.now_s,
            limits=CacheLimits(lookup_ms_max=600_000),
        )
        self.look_up: Lookup = self.cache

    async def break_service(self) -> None:
        await self.inner.break_service()

    async def repair_service(self) -> None:
        await self.inner.repair_service()
        self.now_s += CacheLimits().failure_ttl_ms / 1000

    def lookups(self) -> int:
        return self.inner.lookups()


@pytest.fixture(scope="module")
async def service() -> AsyncIterator[NameService]:
    async with running(NameService()) as service:
        yield service


@pytest.fixture(scope="module")
async def directory(postgres: str) -> AsyncIterator[asyncpg.Connection]:
    """A database of names, shared by this module."""
    server = await asyncpg.connect(postgres)
    name = f"names_{uuid.uuid4().hex}"
    await server.execute(f"CREATE DATABASE {name}")
    connection = await asyncpg.connect(urlsplit(postgres)._replace(path=f"/{name}").geturl())
    await connection.execute(
        "CREATE TABLE names (kind text, id text, name text, account_id text, account_name text, email text)"
    )
    await connection.executemany(
        "INSERT INTO names VALUES ($1, $2, $3, $4, $5, $6)",
        [(str(kind), key, *msgspec.structs.astuple(found)) for (kind, key), found in KNOWN.items()],
    )
    yield connection
    await connection.close()
    await drop_database(server, name)
    await server.close()


@pytest.fixture(params=["fake", "http", "query", "cached fake", "cached http", "cached query"])
async def side(
    request: pytest.FixtureRequest, service: NameService, postgres: str, directory: asyncpg.Connection
) -> AsyncIterator[Side]:
    service.requests.clear()
    service.behaviour = None
    name = str(request.param)
    inner: FakeSide | HttpSide | QuerySide = FakeSide()
    if name.endswith("http"):
        inner = HttpSide(service)
    elif name.endswith("query"):
        database = await directory.fetchval("SELECT current_database()")
        inner = QuerySide(directory, urlsplit(postgres)._replace(path=f"/{database}").geturl())
    cached = CachedSide(inner) if name.startswith("cached") else None
    yield cached or inner
    if cached:
        await cached.cache.stop()
    if isinstance(inner, HttpSide):
        await inner.http.stop()
    if isinstance(inner, QuerySide):
        await inner.query.stop()


@pytest.mark.parametrize(("kind", "key"), KNOWN)
async def test_a_known_id_is_found_with_the_fields_of_its_kind(side: Side, kind: Kind, key: str) -> None:
    assert await side.look_up.look_up(kind, key) == KNOWN[kind, key]


@pytest.mark.parametrize("kind", list(Kind))
async def test_an_unknown_id_is_absent(side: Side, kind: Kind) -> None:
    assert await side.look_up.look_up(kind, "nobody") == Absent()
    assert side.lookups() == 1


@pytest.mark.parametrize("key", NO_IDS, ids=["empty", "long", "lone surrogate", "very long"])
async def test_text_that_is_no_id_is_absent_and_never_sent(side: Side, key: str) -> None:
    assert await side.look_up.look_up(Kind.ACCOUNT, key) == NEVER_AN_ID
    assert side.lookups() == 0


async def test_an_outage_is_retryable_and_its_error_holds_no_key(side: Side) -> None:
    await side.break_service()
    with pytest.raises(RetryableError) as caught:
        await side.look_up.look_up(Kind.ZONE, "zone:1")
    assert "zone:1" not in _everything_in(caught.value)
    await side.repair_service()
    assert await side.look_up.look_up(Kind.ZONE, "zone:1") == ZONE


async def test_concurrent_calls_get_their_own_results(side: Side) -> None:
    calls = [*KNOWN, (Kind.ACCOUNT, "nobody")] * 20
    answers = await asyncio.gather(*(side.look_up.look_up(kind, key) for kind, key in calls))
    assert answers == [KNOWN.get(call, Absent()) for call in calls]


async def test_a_cancelled_call_leaves_nothing_behind(side: Side) -> None:
    for _ in range(20):
        call = asyncio.create_task(_forget(side.look_up, Kind.USER, "f6b5de0326bb5182b8a4840ee01ec774"))
        await asyncio.sleep(0)
        call.cancel()
        await asyncio.wait((call,))
    assert await side.look_up.look_up(Kind.USER, "f6b5de0326bb5182b8a4840ee01ec774") == USER


async def _forget(look_up: Lookup, kind: Kind, key: str) -> None:
    await look_up.look_up(kind, key)


def _everything_in(error: BaseException | None) -> str:
    parts: list[Any] = []
    while error is not None:
        parts += [error.args, vars(error)]
        error = error.__cause__ or error.__context__
    return repr(parts)


def test_answers_have_no_repr_of_their_contents() -> None:
    assert "alice" not in repr(USER)
    assert "alice" not in f"{[USER]}"
