from __future__ import annotations

import asyncio
import gzip
import json
import math
import ssl
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from auditap_tap import AuditTapMiddleware
from auditap_tap.client import (
    TOKEN_CHARS_MIN,
    CollectorAddress,
    CollectorClient,
    _UnixConnection,
    request_headers,
)
from schemas.private_files import SECRET_CHARS_MIN
from tests.unit.auditap_tap.apps import call, echo, one_route, sends
from tests.unit.auditap_tap.tapped import Collector, Wrap, eventually
from tests.unit.gateway_tap.servers import loopback, serving


async def test_over_tcp_with_token_and_gzip(socket_dir: Path, wrap: Wrap) -> None:
    seen: list[tuple[str, str, bytes]] = []

    async def takes(request: Request) -> Response:
        headers = request.headers
        seen.append(
            (headers["authorization"], headers["content-type"], gzip.decompress(await request.body()))
        )
        return JSONResponse({"accepted": 1, "refused": []})

    listener, url = loopback()
    async with serving(one_route(takes), listener):
        tap = wrap(one_route(echo), collector=url, token="s3cret-of-the-tap", compress=True)
        await call(tap)
        await eventually(lambda: tap.stats.accepted == 1)
    assert {(authorization, content_type) for authorization, content_type, _ in seen} == {
        ("Bearer s3cret-of-the-tap", "application/x-ndjson")
    }
    [body] = [body for *_, body in seen if b'"request"' in body]
    assert json.loads(body)["tap"]["id"] == "t-1"


@pytest.mark.parametrize("token", ["", " " * 20, "fifteen-letters"])
def test_a_token_that_collectors_refuse_is_refused_at_once(wrap: Wrap, token: str) -> None:
    with pytest.raises(ValueError, match="token must have at least 16 characters") as caught:
        wrap(token=token)
    assert token.strip() == "" or token not in str(caught.value)
    assert TOKEN_CHARS_MIN == SECRET_CHARS_MIN
    wrap(token="sixteen-letters-")


async def test_the_connection_is_kept_open(collector: Collector, wrap: Wrap) -> None:
    made = 0
    connect = _UnixConnection.connect

    def counting(self: Any) -> None:
        nonlocal made
        made += 1
        connect(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_UnixConnection, "connect", counting)
        tap = wrap(one_route(echo))
        for number in range(1, 6):
            await call(tap)
            await eventually(lambda number=number: tap.stats.accepted == number)  # type: ignore[misc]
    assert made == 1


@pytest.mark.parametrize(
    "url", ["http://localhost", "http://[::1]:8400", "http://127.0.0.9:1/", "https://c.example", "unix:/c"]
)
def test_valid_addresses(url: str) -> None:
    context = ssl.create_default_context()
    AuditTapMiddleware(sends(), collector=url, tap_id="t-1", token="s3cret-of-the-tap", ssl_context=context)


async def test_a_collector_that_is_not_ready_yet_is_no_warning_unless_it_lasts(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def not_ready(_: Request) -> Response:
        return Response(status_code=503)

    listener, url = loopback()
    async with serving(one_route(not_ready), listener):
        address = CollectorAddress.parse(url, None, timeout_s=60)
        client = CollectorClient(
            address, request_headers("s3cret-of-the-tap", compress=False), compress=False
        )
        for longest_s, warnings in ((math.inf, 0), (0.0, 1)):
            monkeypatch.setattr("auditap_tap.client._NOT_READY_S_MAX", longest_s)
            for _ in range(3):
                assert (await asyncio.to_thread(client.post, "/v1/captures", b"")).status == 503
            assert len([each for each in caplog.records if each.name == "auditap.tap"]) == warnings
        await asyncio.to_thread(client.close)
