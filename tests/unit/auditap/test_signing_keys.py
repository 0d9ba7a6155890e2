"""Fetching issuers' keys: from a real server, within bounds, and what stays in use while that fails."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from auditap.runtime import signing_keys
from auditap.runtime.http_server import HttpServer, bind_tcp_socket
from auditap.runtime.signing_keys import SigningKeyFetcher
from redactor.identity.signing_keys import JWKS_BYTES_MAX, SigningKeys
from redactor.identity.tokens import UnknownKey
from schemas.errors import StartupError
from schemas.metric_defs import Metrics
from tests.ports import free_port
from tests.signed_tokens import AT_MS, ISSUER, an_issuer, jwk, jwks


class Jwks:
    """An issuer's server: counts requests, and answers what a test sets."""

    def __init__(self) -> None:
        self.answer: Callable[[], Response] = lambda: Response(jwks(jwk("rsa-1")))
        self.asked = 0
        self.redirected = 0
        self.wait_s = 0.0
        self.port = free_port()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/jwks"

    async def _jwks(self, _: Request) -> Response:
        self.asked += 1
        await asyncio.sleep(self.wait_s)
        return self.answer()

    async def _elsewhere(self, _: Request) -> Response:
        self.redirected += 1
        return Response(jwks(jwk("forged")))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        routes = [Route("/jwks", self._jwks), Route("/elsewhere", self._elsewhere)]
        server = HttpServer(Starlette(routes=routes), [bind_tcp_socket("127.0.0.1", self.port)])
        await server.start()
        yield
        await server.stop()


class Fetching:
    """A fetcher with a clock of its own."""

    def __init__(self, **issuer: Any) -> None:
        self.now_ms = AT_MS
        self.metrics = Metrics()
        self.keys = SigningKeys([ISSUER])
        issuers = [an_issuer(**issuer)]
        self.fetcher = SigningKeyFetcher(issuers, self.keys, self.metrics, lambda: self.now_ms)

    def count(self, outcome: str) -> float:
        return float(self.metrics.signing_key_fetches.labels(outcome)._value.get())

    @property
    def stale_issuers(self) -> float:
        return float(self.metrics.signing_keys_stale._value.get())


@pytest.fixture
async def server() -> AsyncIterator[Jwks]:
    jwks_server = Jwks()
    async with jwks_server.running():
        yield jwks_server


@pytest.fixture
async def fetching(server: Jwks) -> AsyncIterator[Fetching]:
    made = Fetching(jwks_url=server.url)
    yield made
    await made.fetcher.stop()


async def test_keys_are_fetched_and_replaced(server: Jwks, fetching: Fetching) -> None:
    await fetching.fetcher.fetch()
    assert fetching.keys.find(ISSUER, "rsa-1")
    assert (fetching.count("fetched"), fetching.fetcher.stale, fetching.stale_issuers) == (1, False, 0)
    version = fetching.keys.version
    await fetching.fetcher.fetch()
    assert fetching.keys.version == version
    server.answer = lambda: Response(jwks(jwk("rsa-2")))
    await fetching.fetcher.fetch()
    assert fetching.keys.find(ISSUER, "rsa-2")
    assert fetching.keys.version > version


@pytest.mark.parametrize(
    "answer",
    [
        lambda: Response(status_code=503),
        lambda: Response(status_code=404),
        lambda: RedirectResponse("/elsewhere"),
        lambda: Response(jwks(jwk("forged")), headers={"content-encoding": "gzip"}),
        lambda: Response(jwks(jwk("forged"), {"more": "x" * JWKS_BYTES_MAX})),
        lambda: Response(b"<html>"),
        lambda: Response(jwks()),
    ],
)
async def test_what_is_no_jwks_leaves_the_keys_as_they_were(
    answer: Callable[[], Response], server: Jwks, fetching: Fetching
) -> None:
    await fetching.fetcher.fetch()
    server.answer = answer
    await fetching.fetcher.fetch()
    assert fetching.keys.find(ISSUER, "rsa-1")
    assert fetching.keys.find(ISSUER, "forged") is None
    assert server.redirected == 0
    assert (fetching.count("failed"), fetching.fetcher.stale, fetching.stale_issuers) == (1, True, 1)
    server.answer = lambda: Response(jwks(jwk("rsa-1")))
    await fetching.fetcher.fetch()
    assert (fetching.fetcher.stale, fetching.stale_issuers) == (False, 0)


async def test_a_server_that_hangs_or_is_away_is_given_up(
    server: Jwks, fetching: Fetching, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signing_keys, "_TIMEOUT_MS", 50)
    server.wait_s = 600
    async with asyncio.timeout(60):
        await fetching.fetcher.fetch()
    away = Fetching(jwks_url=f"http://127.0.0.1:{free_port()}/jwks")
    await away.fetcher.fetch()
    await away.fetcher.stop()
    assert (fetching.fetcher.stale, away.fetcher.stale) == (True, True)
    assert not away.keys.has_any(ISSUER)
    server.wait_s = 0


async def test_an_unknown_key_is_asked_for_at_most_every_half_minute(
    server: Jwks, fetching: Fetching
) -> None:
    await fetching.fetcher.fetch()
    unknown = [UnknownKey(ISSUER, "rsa-2")]
    # Captures that wait for the same fetch share it.
    await asyncio.gather(*(fetching.fetcher.fetch_unknown(unknown) for _ in range(9)))
    assert server.asked == 2
    fetching.now_ms += 29_999
    await fetching.fetcher.fetch_unknown(unknown)
    assert server.asked == 2
    fetching.now_ms += 1
    await fetching.fetcher.fetch_unknown(unknown)
    assert server.asked == 3


async def test_made_up_keys_neither_hold_up_the_next_one_nor_cause_load(
    server: Jwks, fetching: Fetching
) -> None:
    await fetching.fetcher.fetch()
    await fetching.fetcher.fetch_unknown([UnknownKey(ISSUER, "made up")])
    server.answer = lambda: Response(jwks(jwk("rsa-2")))
    await fetching.fetcher.fetch_unknown([UnknownKey(ISSUER, "rsa-2")])
    assert fetching.keys.find(ISSUER, "rsa-2")
    for number in range(9):
        await fetching.fetcher.fetch_unknown([UnknownKey(ISSUER, f"made up {number}")])
    assert server.asked == 4


async def test_a_step_of_the_clock_changes_nothing(server: Jwks, monkeypatch: pytest.MonkeyPatch) -> None:
    fetcher = SigningKeyFetcher([an_issuer(jwks_url=server.url)], SigningKeys([ISSUER]), Metrics())
    unknown = [UnknownKey(ISSUER, "rsa-2")]
    await fetcher.fetch_unknown(unknown)
    present_ns = time.time_ns()
    for step_s in (-86_400, 86_400):
        monkeypatch.setattr(time, "time_ns", lambda step_s=step_s: present_ns + step_s * 10**9)
        await fetcher.fetch_unknown(unknown)
    assert server.asked == 1
    await fetcher.stop()


async def test_keys_are_fetched_when_they_are_due(
    server: Jwks, fetching: Fetching, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signing_keys, "_LOOK_MS", 0)
    task = asyncio.create_task(fetching.fetcher.run())

    async def asked(times: int) -> None:
        async with asyncio.timeout(60):
            while server.asked < times:
                await asyncio.sleep(0.001)
        await asyncio.sleep(0.05)
        assert server.asked == times

    await asked(1)
    fetching.now_ms += 299_999
    await asked(1)
    server.answer = lambda: Response(status_code=500)
    fetching.now_ms += 1
    await asked(2)
    fetching.now_ms += 15_000
    await asked(3)
    assert fetching.keys.find(ISSUER, "rsa-1")
    fetching.now_ms += 86_400_000
    await asked(4)
    assert not fetching.keys.has_any(ISSUER)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_a_file_that_cannot_be_read_again_is_refused(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "jwks.json")
    fetching = Fetching(jwks_url="", jwks_file=tmp_path / "jwks.json")
    with pytest.raises(StartupError, match=r"(no regular file|Is a directory).*jwks_file") as refused:
        fetching.fetcher.check_files()
    assert "\n" not in str(refused.value)


async def test_keys_may_be_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    fetching = Fetching(jwks_url="", jwks_file=path)
    with pytest.raises(StartupError, match=r"cannot be read .*jwks_file"):
        fetching.fetcher.check_files()
    path.write_bytes(b"{}")
    with pytest.raises(StartupError, match="no JWKS"):
        fetching.fetcher.check_files()
    path.write_bytes(jwks(jwk("rsa-1")))
    fetching.fetcher.check_files()
    assert fetching.keys.find(ISSUER, "rsa-1")
    path.write_bytes(jwks(jwk("rsa-2")) + b" " * JWKS_BYTES_MAX)
    await fetching.fetcher.fetch()
    assert fetching.fetcher.stale
    path.write_bytes(jwks(jwk("rsa-2")))
    await fetching.fetcher.fetch()
    assert fetching.keys.find(ISSUER, "rsa-2")
    await fetching.fetcher.stop()
