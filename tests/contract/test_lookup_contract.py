"""The contract of `LookUp`, held by the fake, by HTTP against a real server, by a query in a real database, and by the
cache in front of each.
"""

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

from enricher.breaker import Breaker
from enricher.cache import LookUpCache
from enricher.config import CacheConfig, LookUpConfig, QueryConfig
from enricher.http_lookup import HttpLookUp
from enricher.ports import FIELDS, KEY_CHARS_MAX, Absent, Found, Kind, LookUp
from enricher.postgres_lookup import PostgresLookUp
from schemas.errors import RetryableError
from schemas.metric_defs import Metrics
from tests.fakes.lookup import FakeLookUp, NameService, running

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
    """One side of the port: the look-up, and its service to be broken and mended."""

    look_up: LookUp

    async def break_service(self) -> None: ...
    async def mend_service(self) -> None: ...
    def asked(self) -> int: ...


class FakeSide:
    def __init__(self) -> None:
        self.fake = FakeLookUp()
        self.fake.answers.update(KNOWN)
        self.look_up: LookUp = self.fake

    async def break_service(self) -> None:
        self.fake.failing.update(Kind)

    async def mend_service(self) -> None:
        self.fake.failing.clear()

    def asked(self) -> int:
        return self.fake.asked.total()


class HttpSide:
    def __init__(self, service: NameService) -> None:
        self.service = service
        service.answers.update(KNOWN)
        self.http = HttpLookUp(
            LookUpConfig(kind=kind, url=f"{service.address}/{kind}/{{key}}", pointers=POINTERS[kind])
            for kind in Kind
        )
        self.look_up: LookUp = self.http

    async def break_service(self) -> None:
        async def fail(_request: Request) -> Response:
            return Response("down for maintenance", 503)

        self.service.behaviour = fail

    async def mend_service(self) -> None:
        self.service.behaviour = None

    def asked(self) -> int:
        return len(self.service.requests)


class CountingBreaker(Breaker):
    calls = 0

    async def call(self, work: Callable[[], Awaitable[T]]) -> T:
        CountingBreaker.calls += 1
        return await super().call(work)


class QuerySide:
    """A table of names in a real database."""

    def __init__(self, connection: asyncpg.Connection, dsn: str) -> None:
        CountingBreaker.calls = 0
        self.connection = connection
        self.query = PostgresLookUp(
            [
                QueryConfig(
                    kind=kind,
                    dsn=dsn,
                    query=f"SELECT id AS key, * FROM names WHERE kind = '{kind}' AND id = ANY($1)",
                    columns={field: field for field in FIELDS[kind]},
                )
                for kind in Kind
            ],
            lambda who, config: CountingBreaker(who, config.breaker),
        )
        self.look_up: LookUp = self.query

    async def break_service(self) -> None:
        await self.connection.execute("ALTER TABLE names RENAME TO away")

    async def mend_service(self) -> None:
        await self.connection.execute("ALTER TABLE away RENAME TO names")

    def asked(self) -> int:
        return CountingBreaker.calls


class CachedSide:
    """The cache before another side; what it remembers of failures is let go at once by its own clock."""

    def __init__(self, inner: FakeSide | HttpSide | QuerySide) -> None:
        self.inner = inner
        self.now_s = 0.0
        configs = dict.fromkeys(Kind, CacheConfig())
        self.cache = LookUpCache(inner.look_up, configs, Metrics(), clock=lambda: self.now_s)
        self.look_up: LookUp = self.cache

    async def break_service(self) -> None:
        await self.inner.break_service()

    async def mend_service(self) -> None:
        await self.inner.mend_service()
        self.now_s += CacheConfig().failure_ttl_ms / 1000

    def asked(self) -> int:
        return self.inner.asked()


@pytest.fixture(scope="module")
async def service() -> AsyncIterator[NameService]:
    async with running(NameService()) as service:
        yield service


@pytest.fixture(scope="module")
async def directory(postgres: str) -> AsyncIterator[asyncpg.Connection]:
    """A database of names, which is everybody's in this module."""
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
    await server.execute(f"DROP DATABASE {name} WITH (FORCE)")
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
    assert side.asked() == 1


@pytest.mark.parametrize("key", NO_IDS, ids=["empty", "long", "lone surrogate", "very long"])
async def test_what_can_be_no_id_is_absent_and_never_sent(side: Side, key: str) -> None:
    assert await side.look_up.look_up(Kind.ACCOUNT, key) == Absent()
    assert side.asked() == 0


async def test_a_service_that_is_down_is_retryable_and_tells_nothing_of_the_key(side: Side) -> None:
    await side.break_service()
    with pytest.raises(RetryableError) as caught:
        await side.look_up.look_up(Kind.ZONE, "zone:1")
    assert "zone:1" not in _everything_told_by(caught.value)
    await side.mend_service()
    assert await side.look_up.look_up(Kind.ZONE, "zone:1") == ZONE


async def test_concurrent_calls_get_each_their_own_answer(side: Side) -> None:
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


async def _forget(look_up: LookUp, kind: Kind, key: str) -> None:
    await look_up.look_up(kind, key)


def _everything_told_by(error: BaseException | None) -> str:
    told: list[Any] = []
    while error is not None:
        told += [error.args, vars(error)]
        error = error.__cause__ or error.__context__
    return repr(told)


def test_answers_have_no_repr_of_their_contents() -> None:
    assert "alice" not in repr(USER)
    assert "alice" not in f"{[USER]}"
