"""What a requester is told when others use the log API as well, and what ends when it goes."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.types import Message

from log_api.app import log_api_app
from log_api.config import LogApiConfig
from log_api.cpu_turns import CpuTurns
from log_api.disconnects import ClientDisconnectedError, unless_disconnected
from log_api.fair_shares import NothingFreeError, ShareExceededError
from log_api.ports import Permission
from log_api.records import Page
from log_api.sql_builder import ListQuery
from schemas.metric_defs import Metrics
from tests.records import record
from tests.unit.log_api.api_client import NOW_MS, RANGE, TOKEN, A, ApiClient, B, add_token
from tests.unit.log_api.memory_log import MemoryLog

BEARER = {"Authorization": f"Bearer {TOKEN}"}
LIST = f"/accounts/{A}/logs/audit"
V1 = f"/accounts/{A}/audit_logs"


class Contested(MemoryLog):
    """A log whose pages fail with `error`, or never come if there is none."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.error = error
        self.asked = asyncio.Event()
        self.cancelled = False

    async def page(self, query: ListQuery) -> Page:
        self.asked.set()
        if self.error is not None:
            raise self.error
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        raise AssertionError


@pytest.fixture
def settings() -> LogApiConfig:
    return LogApiConfig(cursor_key=b"k" * 32, organizations={"acme": (A,)})


@pytest.mark.parametrize(
    ("error", "status", "code", "reason"),
    [
        (ShareExceededError("its share"), 429, 10429, "share"),
        (NothingFreeError("nothing"), 503, 10503, "full"),
    ],
)
async def test_a_refused_request_is_told_when_to_come_again(
    settings: LogApiConfig, error: Exception, status: int, code: int, reason: str
) -> None:
    log, metrics = Contested(error), Metrics()
    add_token(log, TOKEN, {A})
    client = ApiClient(log_api_app(log, settings, metrics, lambda: NOW_MS), settings)
    refused = await client.list({})
    assert (refused.status_code, refused.json()["errors"][0]["code"]) == (status, code)
    assert int(refused.headers["retry-after"]) >= 1
    assert metrics.registry.get_sample_value("auditap_log_api_refused_total", {"reason": reason}) == 1
    await client.close()


async def test_a_request_above_its_rate_is_counted(settings: LogApiConfig) -> None:
    log, metrics = MemoryLog(), Metrics()
    add_token(log, TOKEN, {A}, requests_per_s=0.001)
    hasty = replace(settings, requests_burst=1)
    client = ApiClient(log_api_app(log, hasty, metrics, lambda: NOW_MS), hasty)
    assert [(await client.list({})).status_code for _ in range(2)] == [200, 429]
    assert metrics.registry.get_sample_value("auditap_log_api_refused_total", {"reason": "rate"}) == 1
    await client.close()


@pytest.mark.parametrize(
    ("path", "query"),
    [
        (LIST, RANGE),
        (f"{LIST}/export", RANGE),
        (f"{LIST}/export", {**RANGE, "format": "csv"}),
        ("/organizations/acme/logs/audit", RANGE),
        (V1, {"per_page": "40"}),
        (V1, {"export": "true"}),
        (f"/accounts/{A}/access/logs/access_requests", {}),
    ],
)
async def test_records_are_written_in_turns(
    memory_log: MemoryLog,
    settings: LogApiConfig,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    query: dict[str, str],
) -> None:
    add_token(memory_log, TOKEN, {A}, *Permission)
    await memory_log.add(
        [
            record(NOW_MS + number, account_id=A, resource_product="access", resource_type="login")
            for number in range(40)
        ]
    )
    written: list[object] = []
    ordinary = CpuTurns.results

    def noted(
        self: CpuTurns, records: Sequence[Any], work: Callable[[Sequence[Any]], Any]
    ) -> AsyncIterator[list[Any]]:
        written.extend(records)
        return ordinary(self, records, work)

    monkeypatch.setattr(CpuTurns, "results", noted)
    client = ApiClient(log_api_app(memory_log, settings, Metrics(), lambda: NOW_MS), settings)
    response = await client.get(path, query, BEARER)
    await client.close()
    assert response.status_code == 200
    assert len(written) >= 25


async def _asked(log: Contested, settings: LogApiConfig, metrics: Metrics) -> list[Message]:
    """Send a request whose client goes away once the log is asked; return what the server would have sent."""
    sent: list[Message] = []
    received = iter([{"type": "http.request", "body": b"", "more_body": False}])

    async def receive() -> Message:
        for message in received:
            return message
        await log.asked.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "GET",
        "path": settings.prefix + LIST,
        "raw_path": (settings.prefix + LIST).encode(),
        "query_string": b"since=2026-01-23&before=2026-01-24",
        "headers": [(b"authorization", BEARER["Authorization"].encode())],
        "http_version": "1.1",
    }
    await log_api_app(log, settings, metrics, lambda: NOW_MS)(scope, receive, send)
    return sent


async def test_the_work_for_a_client_that_has_gone_is_cancelled(settings: LogApiConfig) -> None:
    log, metrics = Contested(), Metrics()
    add_token(log, TOKEN, {A})
    sent = await _asked(log, settings, metrics)
    assert log.cancelled
    assert sent[0]["status"] == 499
    labels = {"route": f"{settings.prefix}/accounts/{{account_id}}/logs/audit", "status": "499"}
    assert metrics.registry.get_sample_value("auditap_log_api_requests_total", labels) == 1


class _Reader:
    """Lists the log, and takes of the response what `may_take` lets through."""

    def __init__(self, app: Starlette, token: str, account: str) -> None:
        self.may_take = asyncio.Event()
        self.began = asyncio.Event()
        self.status = 0
        self.pieces: list[bytes] = []
        self.task = asyncio.create_task(self._list(app, token, account))

    async def _list(self, app: Starlette, token: str, account: str) -> None:
        path = f"/client/v4/accounts/{account}/logs/audit"
        scope = {
            "type": "http",
            "method": "GET",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"since=2026-01-23&before=2026-01-24&limit=1000",
            "headers": [(b"authorization", f"Bearer {token}".encode())],
            "http_version": "1.1",
        }
        await app(scope, self._receive, self._send)

    async def _receive(self) -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.began.set()
            return
        self.pieces.append(message["body"])
        await self.may_take.wait()


async def test_responses_that_nobody_reads_take_no_more_than_a_share(settings: LogApiConfig) -> None:
    memory_log = MemoryLog(page_bytes_max=16 << 20)
    add_token(memory_log, TOKEN, {A})
    add_token(memory_log, "atp_account-b", {B})
    body = f'{{"a":"{"x" * 10_000}"}}'
    await memory_log.add(
        [
            record(NOW_MS + number, account_id=account, resource_request=body)
            for account in (A, B)
            for number in range(100)
        ]
    )
    # Each response has a megabyte.
    small = replace(settings, limits=settings.limits._replace(responses_bytes_max=12 << 20))
    app = log_api_app(memory_log, small, Metrics(), lambda: NOW_MS)
    readers: list[_Reader] = []
    for token, account in ((TOKEN, A), ("atp_account-b", B)):
        some = [_Reader(app, token, account) for _ in range(8)]
        await asyncio.gather(*(reader.began.wait() for reader in some))
        readers += some
    statuses = [Counter(reader.status for reader in some) for some in (readers[:8], readers[8:])]
    for reader in readers:
        reader.may_take.set()
    await asyncio.gather(*(reader.task for reader in readers))
    # The second finds less, and some.
    assert statuses == [{200: 4, 429: 4}, {200: 2, 429: 6}]
    page = json.loads(b"".join(readers[0].pieces))
    assert len(page["result"]) == 100
    # No piece is longer than what a connection buffers anyway.
    assert max(map(len, readers[0].pieces)) <= 64 * 1024
    again = _Reader(app, TOKEN, A)
    again.may_take.set()
    await again.task
    assert again.status == 200


class _Connection:
    """A request whose client stays, or goes once `leaving` is set."""

    def __init__(self) -> None:
        self.leaving = asyncio.Event()

    async def receive(self) -> Message:
        await self.leaving.wait()
        return {"type": "http.disconnect"}


async def test_work_that_ends_first_has_its_result() -> None:
    connection: Any = _Connection()

    async def work(error: Exception | None = None) -> int:
        await asyncio.sleep(0)
        if error is not None:
            raise error
        return 7

    assert await unless_disconnected(connection, work()) == 7
    with pytest.raises(ValueError, match="its own"):
        await unless_disconnected(connection, work(ValueError("its own")))
    connection.leaving.set()
    with pytest.raises(ClientDisconnectedError):
        await unless_disconnected(connection, asyncio.Event().wait())


async def test_a_request_that_is_cancelled_takes_its_work_with_it() -> None:
    connection: Any = _Connection()
    working = asyncio.get_running_loop().create_future()
    request = asyncio.create_task(unless_disconnected(connection, working))
    await asyncio.sleep(0)
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    assert working.cancelled()
