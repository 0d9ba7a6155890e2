"""Request logs, from a tapped service to the lines of the log API."""

from __future__ import annotations

import asyncio
import gzip
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from auditap.runtime.http_server import HttpServer, bind_tcp_socket
from auditap_tap import AuditTapMiddleware
from schemas.identity import rfc3339_ms
from tests.e2e.conftest import StartPipeline
from tests.e2e.pipeline import Pipeline
from tests.ports import free_port

DOCUMENT = Path(__file__).with_name("request_log.yaml")
ACCOUNT, OTHER = "a" * 32, "b" * 32
CANARY = "CANARY7f3a"
USER = "ana@example.com"
CREATED = gzip.compress(b'{"id":"t-1","key":"' + CANARY.encode() + b'"}', mtime=0)
THING = f"/accounts/{ACCOUNT}/things/blue?q=kept&secret={CANARY}"


@pytest.fixture
def bootstrap() -> None:
    """Nothing here depends on which log it is: the embedded one."""


async def _get(request: Request) -> Response:
    if request.headers.get("if-none-match"):
        return Response(status_code=304, headers={"etag": '"1"'})
    return JSONResponse({"key": CANARY}, headers={"x-actor-email": USER, "x-actor-id": "u-1"})


async def _create(_: Request) -> Response:
    headers = {"content-encoding": "gzip", "x-actor-id": "u-2"}
    return Response(CREATED, 201, headers, "application/json")


async def _delete(_: Request) -> Response:
    return Response(status_code=204)


async def _stream(_: Request) -> Response:
    async def parts() -> AsyncIterator[bytes]:
        yield CANARY.encode()

    return StreamingResponse(parts(), media_type="text/plain")


@asynccontextmanager
async def tapped_service(collector: Path) -> AsyncIterator[httpx.AsyncClient]:
    """Run a service with the middleware in it, and return a client that calls it."""
    routes = [
        Route("/accounts/{account}/things/{name}", _get),
        Route("/accounts/{account}/things/{name}", _create, methods=["POST"]),
        Route("/accounts/{account}/things/{name}", _delete, methods=["DELETE"]),
        Route("/stream", _stream),
    ]
    tap = AuditTapMiddleware(
        Starlette(routes=routes), collector=f"unix:{collector}", tap_id="things", state_dir=None
    )
    port = free_port()
    server = HttpServer(tap, [bind_tcp_socket("127.0.0.1", port)])
    await server.start()
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
            yield client
    finally:
        await server.stop()
        tap.close()


class Sent(NamedTuple):
    """A request, and what its line says of it: method, status, host, bytes, user."""

    line: tuple[str, int, str | None, int | None, str | None]
    method: str
    target: str
    headers: dict[str, str]


OLDEST_FIRST = {"direction": "asc"}
HOST = {"host": "API.example.com:8443"}
SENT = (
    Sent(("GET", 200, "api.example.com", len(f'{{"key":"{CANARY}"}}'), USER), "GET", THING, HOST),
    Sent(("HEAD", 200, "api.example.com", 0, USER), "HEAD", THING, HOST),
    Sent(("POST", 201, "127.0.0.1", len(CREATED), "u-2"), "POST", THING, {}),
    Sent(("GET", 304, "127.0.0.1", 0, None), "GET", THING, {"if-none-match": '"1"'}),
    Sent(("DELETE", 204, "127.0.0.1", 0, None), "DELETE", THING, {}),
    # Of no operation, and of nobody's account. Nothing tells how long a stream was.
    Sent(("GET", 200, "127.0.0.1", None, None), "GET", f"/stream?token={CANARY}", {}),
    Sent(
        ("GET", 404, "other.example", len("Not Found"), None), "GET", f"/{CANARY}", {"host": "other.example"}
    ),
    Sent(
        ("GET", 404, None, len("Not Found"), None), "GET", f"/{CANARY}", {"host": f"{CANARY}@other.example"}
    ),
    Sent(("GET", 404, None, len("Not Found"), None), "GET", f"/{CANARY}", {"host": "x" * 64}),
)


async def call_service(pipeline: Pipeline) -> None:
    async with tapped_service(pipeline.socket) as client:
        for sent in SENT:
            body = {"color": "red", "key": CANARY} if sent.method == "POST" else None
            response = await client.request(sent.method, sent.target, headers=sent.headers, json=body)
            assert response.status_code == sent.line[1]
            # Pairs of one millisecond have no order.
            await asyncio.sleep(0.002)
        assert await pipeline.until_processed(len(SENT)) == (len(SENT), 0)


def summary(line: dict[str, Any]) -> tuple[Any, ...]:
    return (
        line["ClientRequestMethod"],
        line["EdgeResponseStatus"],
        line["ClientRequestHost"],
        line["EdgeResponseBytes"],
        line["RequestHeaders"].get("cf-access-user"),
    )


async def test_every_request_is_a_line(start_pipeline: StartPipeline) -> None:
    pipeline = await start_pipeline(DOCUMENT, redaction="exchange_facts_kept = true")
    began_ms = time.time_ns() // 1_000_000
    await call_service(pipeline)
    ended_ms = time.time_ns() // 1_000_000
    times = rfc3339_ms(began_ms), rfc3339_ms(ended_ms + 60_000)

    # Page by page, the records.
    lines = await pipeline.list_requests("-", *times, {**OLDEST_FIRST, "limit": "2"})
    records = await pipeline.list_records("-", *times, direction="asc")
    assert [summary(line) for line in lines] == [sent.line for sent in SENT]
    assert [line["auditap"]["id"] for line in lines] == [each["id"] for each in records]
    for line, each in zip(lines, records, strict=True):
        assert each["auditap"]["exchange"].get("host") == line["ClientRequestHost"]
        assert began_ms <= line["EdgeStartTimestamp"] // 1_000_000 <= line["EdgeEndTimestamp"] // 1_000_000
        assert line["ClientIP"] == "127.0.0.1"
        assert CANARY not in str(line) + str(each)
    assert lines[0]["ClientRequestURI"] == f"/accounts/{ACCOUNT}/things/{{name}}?q=kept"

    async def found(**filters: str) -> list[int]:
        """Return which of the account's requests match."""
        some = await pipeline.list_requests(ACCOUNT, *times, OLDEST_FIRST | filters)
        return [lines.index(line) for line in some]

    assert await found() == [0, 1, 2, 3, 4]
    assert await found(actor_email=USER) == [0, 1]
    assert await found(actor_id="u-2") == [2]
    assert await found(**{"actor_id.not": "u-1"}) == [2, 3, 4]
    assert await found(exchange_host="api.example.com") == [0, 1]
    assert await found(**{"exchange_host.not": "api.example.com", "raw_status_code.not": "201"}) == [3, 4]
    assert await found(raw_method="GET", raw_status_code="304") == [3]
    since = rfc3339_ms(lines[2]["EdgeStartTimestamp"] // 1_000_000)
    later = await pipeline.list_requests(ACCOUNT, since, times[1], OLDEST_FIRST)
    assert [lines.index(line) for line in later][-3:] == [2, 3, 4]
    # A token of another account sees none of them.
    assert await pipeline.list_requests("-", *times, {}, accounts=[OTHER]) == []
    assert len(await pipeline.list_requests("-", *times, {}, accounts=[ACCOUNT])) == 5


async def test_by_default_its_facts_do_not_leave_the_collector(start_pipeline: StartPipeline) -> None:
    pipeline = await start_pipeline(DOCUMENT)
    began_ms = time.time_ns() // 1_000_000
    await call_service(pipeline)
    times = rfc3339_ms(began_ms), rfc3339_ms(began_ms + 600_000)
    lines = await pipeline.list_requests("-", *times, OLDEST_FIRST)
    assert [summary(line) for line in lines] == [
        (method, status, None, None, user) for (method, status, _, _, user), *_ in SENT
    ]
    assert {line["EdgeEndTimestamp"] for line in lines} == {None}
    records = await pipeline.list_records("-", *times)
    assert [each for each in records if "exchange" in each["auditap"]] == []
    [row] = await pipeline.fetch(
        "SELECT count(exchange_host) + count(exchange_duration_ms) + count(exchange_response_bytes) AS known"
        " FROM auditap.audit_records"
    )
    assert row["known"] == 0
