"""Who acted by a signed token: from an issuer's server to the record, through the processes as a user starts them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from auditap.runtime.http_server import HttpServer, bind_tcp_socket
from schemas.identity import rfc3339_ms
from tests.e2e.conftest import StartPipeline
from tests.e2e.golden import ACCOUNT, DOCUMENT, golden_capture
from tests.e2e.pipeline import Pipeline
from tests.ports import free_port
from tests.signed_tokens import AUDIENCE, ISSUER, jwk, jwks, token


class IssuersServer:
    """Publishes keys, as an identity provider does."""

    def __init__(self) -> None:
        self.keys = jwks(jwk("rsa-1"), jwk("ec-1", "ES256"))
        self.asked = 0
        self.port = free_port()
        self._server = HttpServer(
            Starlette(routes=[Route("/jwks", self._jwks)]), [bind_tcp_socket("127.0.0.1", self.port)]
        )

    async def _jwks(self, _: Request) -> Response:
        self.asked += 1
        return Response(self.keys)

    async def start(self) -> None:
        await self._server.start()

    async def stop(self) -> None:
        await self._server.stop()


@pytest.fixture
def bootstrap() -> None:
    """Nothing here depends on which log it is: the embedded one."""


@pytest.fixture
async def issuer() -> AsyncIterator[IssuersServer]:
    server = IssuersServer()
    await server.start()
    yield server
    await server.stop()


def settings_of(issuer: IssuersServer) -> str:
    return f"""
        [[redaction.issuers]]
        issuer = "{ISSUER}"
        audiences = ["{AUDIENCE}"]
        headers = ["authorization"]
        jwks_url = "http://127.0.0.1:{issuer.port}/jwks"
    """


def capture(at_ms: int, bearer: str | None) -> dict[str, Any]:
    made = golden_capture(at_ms)
    headers = made["request"]["headers"]
    del headers["Authorization"]
    if bearer is not None:
        headers["authorization"] = f"Bearer {bearer}"
    return made


async def recorded(pipeline: Pipeline, at_ms: int, count: int) -> list[dict[str, Any]]:
    """Return the records of the captures that were sent, the oldest first."""
    assert await pipeline.until_processed(count) == (count, 0)
    records = await pipeline.list_records(ACCOUNT, rfc3339_ms(at_ms), rfc3339_ms(at_ms + 60_000))
    return sorted(records, key=lambda each: str(each["id"]))


async def test_a_verified_token_says_who_acted(start_pipeline: StartPipeline, issuer: IssuersServer) -> None:
    pipeline = await start_pipeline(DOCUMENT, extra=settings_of(issuer))
    assert issuer.asked == 1
    at_ms = time.time_ns() // 1_000_000
    times: dict[str, Any] = {"iat": at_ms // 1000 - 60, "nbf": None, "exp": at_ms // 1000 + 600}
    acting = {"sub": "admin", "email": "admin@example.com"}
    tokens = [
        token(**times),
        token("ec-1", "ES256", **times, sub="ci", client_id="ci", email=None),
        token(**times, act=acting),
        token(**{**times, "exp": at_ms // 1000 - 600}),
        token("rsa-1", headers={"kid": "ec-1"}, **times),
        None,
    ]
    sent = [capture(at_ms + number, bearer) for number, bearer in enumerate(tokens)]
    assert await pipeline.send(sent) == (len(sent), [])
    records = await recorded(pipeline, at_ms, len(sent))
    by_headers = records[-1]["actor"]
    assert [each["actor"].get("id") for each in records[:3]] == ["u-1", "ci", "admin"]
    assert [each["actor"] for each in records[3:]] == [by_headers] * 3
    identities = [each["auditap"]["receipt"]["identity"] for each in records]
    assert identities == [
        {"source": "token", "issuer": ISSUER, "kind": "user"},
        {"source": "token", "issuer": ISSUER, "kind": "machine", "client": "ci"},
        {
            "source": "token",
            "issuer": ISSUER,
            "kind": "user",
            "on_behalf_of": {"id": "u-1", "email": "who@example.com"},
        },
        {"source": "headers", "reason": "expired"},
        {"source": "headers", "reason": "algorithm"},
        {"source": "headers"},
    ]

    # The issuer rotates its keys: the first capture with the new one is attributed, and one with the old one still is.
    issuer.keys = jwks(jwk("rsa-2"))
    rotated = [token("rsa-2", **times), token(**times), token("unknown", **times), token("unknown", **times)]
    sent = [capture(at_ms + 100 + number, bearer) for number, bearer in enumerate(rotated)]
    assert await pipeline.send(sent) == (len(sent), [])
    records = (await recorded(pipeline, at_ms, 10))[6:]
    assert [each["actor"].get("id") for each in records[:2]] == ["u-1", "u-1"]
    assert [each["auditap"]["receipt"]["identity"].get("reason") for each in records] == [
        *(None, None),
        *("unknown_key", "unknown_key"),
    ]
    # Once for each unknown key, and not for each token.
    assert issuer.asked == 3
    # The same pair sent again gives the same event.
    assert await pipeline.send(sent) == (len(sent), [])

    await no_token_is_anywhere(pipeline, [each for each in (*tokens, *rotated) if each])
    async with httpx.AsyncClient() as client:
        at = f"http://127.0.0.1:{pipeline.collector_port}"
        exposition = (await client.get(f"{at}/metrics")).text
    assert 'auditap_identity_tokens_total{outcome="verified"}' in exposition
    assert 'auditap_identity_tokens_total{outcome="expired"} 1.0' in exposition
    assert await pipeline.count("dead_letters") == 0


async def test_without_keys_there_are_records_and_the_collector_is_degraded(
    start_pipeline: StartPipeline, issuer: IssuersServer
) -> None:
    pipeline = await start_pipeline(DOCUMENT, extra=settings_of(issuer))
    assert await degraded(pipeline) == []
    assert pipeline.collector is not None
    await pipeline.collector.stop()
    issuer.keys = b"<html>"
    await pipeline.start_collector()
    assert await degraded(pipeline) == ["stale_signing_keys"]
    at_ms = time.time_ns() // 1_000_000
    assert await pipeline.send([capture(at_ms, token(exp=at_ms // 1000 + 600))]) == (1, [])
    [record] = await recorded(pipeline, at_ms, 1)
    assert record["auditap"]["receipt"]["identity"] == {"source": "headers", "reason": "no_keys"}


async def degraded(pipeline: Pipeline) -> list[str]:
    async with httpx.AsyncClient() as client:
        answer = await client.get(f"http://127.0.0.1:{pipeline.collector_port}/readyz")
    assert answer.status_code == 200
    found: list[str] = answer.json().get("degraded", [])
    return found


async def no_token_is_anywhere(pipeline: Pipeline, tokens: list[str]) -> None:
    """Fail if a payload or signature of a token is in a file of the pipeline (its log, its output) or in the database."""
    secrets = {part.encode() for each in tokens for part in each.split(".")[1:]}
    files = [each for each in pipeline.folder.rglob("*") if each.is_file()]
    assert any("events" in each.name or each.suffix == ".db" for each in files), files
    for file in files:
        content = file.read_bytes()
        assert not any(secret in content for secret in secrets), file
    rows = await pipeline.fetch("SELECT row_to_json(r)::text AS row FROM auditap.audit_records AS r")
    stored = "".join(each["row"] for each in rows).encode()
    assert not any(secret in stored for secret in secrets)
