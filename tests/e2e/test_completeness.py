"""What is not there is shown: by the API and the command line, of taps as they run in services."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import cloudflare
import httpx

from auditap.database.connection import administrator
from auditap.database.tokens import create_token
from auditap_tap import AuditTapMiddleware
from log_api.ports import Permission
from schemas.identity import new_id, parse_rfc3339_ms, rfc3339_ms
from tests.e2e.conftest import StartPipeline
from tests.e2e.golden import ACCOUNT, DOCUMENT, POLICY
from tests.e2e.pipeline import Pipeline, all_pages, answered, until
from tests.freezing import freeze, unfreeze

CONSTANTS = {"collector": {"report_interval_ms": 200}, "ingest": {"gauge_interval_ms": 200}}
SETTINGS = """
[ingest.gap_ledger]
watermark_lag_ms = 2000
gap_wait_ms = 4000
watermark_hold_ms = 120000
"""
PATH = f"/client/v4/accounts/{ACCOUNT}/alerting/v3/policies/{POLICY}"
SCOPE: dict[str, Any] = {
    "type": "http",
    "http_version": "1.1",
    "method": "PUT",
    "path": PATH,
    "headers": [(b"host", b"api.example.com"), (b"content-length", b"1")],
}
_WITHIN_S = 120


def now_ms() -> int:
    return time.time_ns() // 1_000_000


async def answers(_scope: Any, _receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"{}"})


async def call(tap: AuditTapMiddleware, times: int = 1) -> None:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"x", "more_body": False}

    async def send(_message: Any) -> None:
        pass

    for _ in range(times):
        await tap(dict(SCOPE), receive, send)


class Api:
    """The pipeline's log API, asked with a token of the account."""

    def __init__(self, pipeline: Pipeline, token: str) -> None:
        self._url = f"http://127.0.0.1:{pipeline.api_port}/client/v4"
        self._list_url = f"{self._url}/accounts/{ACCOUNT}/logs/audit"
        self._token = token
        self._http = httpx.AsyncClient(headers={"authorization": f"Bearer {token}"}, timeout=120)

    async def gaps(self) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        query = {"since": "2020-01-01", "before": rfc3339_ms(now_ms() + 60_000)}
        answer = await answered(self._http, f"{self._list_url}/completeness", query)
        assert answer.status_code == 200, answer.text
        body: dict[str, Any] = answer.json()
        return body["result"], body["result_info"]

    async def pages(self, since_ms: int) -> tuple[list[str], str | None]:
        """Return the ids of all pages since a time, and what they say was complete."""
        query = {"since": rfc3339_ms(since_ms), "before": rfc3339_ms(now_ms() + 60_000), "limit": "50"}
        bodies = [page.json() async for page in all_pages(self._http, self._list_url, query)]
        [complete_before] = {body["result_info"]["complete_before"] for body in bodies}
        return [record["id"] for body in bodies for record in body["result"]], complete_before

    async def by_sdk(self) -> tuple[str, int]:
        """Return up to when the log is complete, and the number of its records."""
        # Like `answered`, the SDK asks again where the database has no time.
        async with cloudflare.AsyncCloudflare(
            api_token=self._token, base_url=self._url, max_retries=20, _strict_response_validation=True
        ) as client:
            page: Any = await client.accounts.logs.audit.list(
                account_id=ACCOUNT, since="2020-01-01", before=rfc3339_ms(now_ms() + 60_000)
            )
            return page.result_info.complete_before, len([one async for one in page])

    async def close(self) -> None:
        await self._http.aclose()


@asynccontextmanager
async def reading(pipeline: Pipeline) -> AsyncIterator[Api]:
    async with administrator(pipeline.database.admin_dsn) as connection:
        expires = datetime.now(UTC) + timedelta(hours=1)
        _, token = await create_token(connection, "test", [ACCOUNT], [Permission.AUDIT_LOGS], expires)
    (pipeline.folder / "api.token").write_text(token)
    api = Api(pipeline, token)
    try:
        yield api
    finally:
        await api.close()


def tapping(pipeline: Pipeline, app: Callable[..., Any] = answers, **options: Any) -> AuditTapMiddleware:
    defaults = {"collector": f"unix:{pipeline.socket}", "tap_id": "orders-1", "heartbeat_ms": 100}
    # It sends and reports all that it has before it ends, however long that takes.
    defaults |= {"lease_ms": 3_000, "state_dir": pipeline.folder / "taps", "close_ms_max": 120_000}
    return AuditTapMiddleware(app, **{**defaults, **options})


async def test_137_captures_dropped_on_purpose_are_137_and_it_says_where(
    start_pipeline: StartPipeline,
) -> None:
    pipeline = await start_pipeline(DOCUMENT, extra=SETTINGS, other_constants=CONSTANTS)
    assert pipeline.collector is not None
    tap = tapping(pipeline, queue_bytes_max=60_000, timeout_ms=60_000, heartbeat_ms=60_000, lease_ms=120_000)
    # Nothing is acknowledged for a while, so that what comes first fills the buffer.
    freeze(pipeline.collector.pid)
    try:
        await call(tap)
        kept = 1
        while tap.stats.dropped == 0:
            began_ms = now_ms()
            await call(tap)
            kept += not tap.stats.dropped
        await call(tap, 136)
        ended_ms = now_ms()
        assert tap.stats.dropped == 137
    finally:
        unfreeze(pipeline.collector.pid)
    async with asyncio.timeout(_WITHIN_S):
        while tap.stats.accepted < kept:
            await asyncio.sleep(0.05)
    await call(tap, 5)
    await asyncio.to_thread(tap.close)
    assert await pipeline.until_processed(kept + 5) == (kept + 5, 0)
    async with reading(pipeline) as api:

        async def shown() -> bool:
            gaps, info = await api.gaps()
            return len(gaps) == 1 and (info["complete_before"] or "") >= rfc3339_ms(ended_ms)

        await until(shown, _WITHIN_S, "one gap")
        [gap], info = await api.gaps()
        assert (info["gaps"], info["missing"]) == (1, 137)
        assert gap["cause"] == "dropped:buffer_full"
        assert (gap["tap"]["id"], gap["first"], gap["last"], gap["count"]) == (
            "orders-1",
            kept + 1,
            kept + 137,
            137,
        )
        assert (
            began_ms <= (parse_rfc3339_ms(gap["from"]) or 0) <= (parse_rfc3339_ms(gap["to"]) or 0) <= ended_ms
        )
        complete_before, records = await api.by_sdk()
        assert records == kept + 5
        assert complete_before >= rfc3339_ms(ended_ms)
    listed = json.loads(
        await pipeline.run_command(
            "completeness", "--account", ACCOUNT, AUDITAP_API__ADDRESS__PORT=str(pipeline.api_port)
        )
    )
    assert listed["result_info"]["missing"] == listed["result"][0]["count"] == 137
    metrics = pipeline.ingestors[0]
    await until(lambda: _is(metrics.metric("auditap_captures_missing"), 137), _WITHIN_S, "the gauge")


async def _is(found: Any, expected: float) -> bool:
    return bool(await found == expected)


CUT_OFF = """
import asyncio, sys
from pathlib import Path
from auditap_tap import AuditTapMiddleware
from tests.e2e.test_completeness import answers, call

async def never(scope, receive, send):
    await asyncio.sleep(600)

async def main():
    tap = AuditTapMiddleware(answers, collector=sys.argv[1], tap_id="orders-1", heartbeat_ms=100, lease_ms=3_000,
                             state_dir=sys.argv[2])
    await call(tap, 5)
    while tap.stats.accepted < 5:
        await asyncio.sleep(0.01)
    tap._app = never
    calls = [asyncio.create_task(call(tap)) for _ in range(3)]
    await asyncio.sleep(600)

asyncio.run(main())
"""


async def test_a_killed_tap_s_open_range_is_reported_and_exact_once_it_is_back(
    start_pipeline: StartPipeline,
) -> None:
    pipeline = await start_pipeline(DOCUMENT, extra=SETTINGS, other_constants=CONSTANTS)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CUT_OFF, f"unix:{pipeline.socket}", str(pipeline.folder / "taps")
    )

    async def pending() -> bool:
        return bool(
            await pipeline.fetch(
                "SELECT FROM auditap.tap_epochs WHERE highest = 8 AND pending_from = 6 AND seen = '{[1,6)}'"
            )
        )

    await until(pending, _WITHIN_S, "three open requests", pipeline.ingestors[0].log)
    process.send_signal(signal.SIGKILL)
    await process.wait()
    async with reading(pipeline) as api:

        async def cut_off() -> bool:
            gaps, _ = await api.gaps()
            return [(gap["first"], gap["last"], gap["cause"]) for gap in gaps] == [
                (6, 8, "unknown"),
                (9, None, "unknown"),
            ]

        await until(cut_off, _WITHIN_S, "an open range")
        # By the log's own time the gap was opened when the lease ran out, and not before.
        [row] = await pipeline.fetch(
            "SELECT e.lease_until_ms - e.heard_ms AS lease, e.lease_until_ms < c.received_ms AS ran_out"
            " FROM auditap.tap_epochs AS e, auditap.completeness_clock AS c"
        )
        assert (row["lease"], row["ran_out"]) == (3_000, True)
        tap = tapping(pipeline)
        await call(tap)

        async def exact() -> bool:
            gaps, _ = await api.gaps()
            return [(gap["first"], gap["last"], gap["count"]) for gap in gaps] == [(6, 8, 3)]

        await until(exact, _WITHIN_S, "the exact range")
        await asyncio.to_thread(tap.close)


class LateTap:
    """A tap whose captures arrive late and in any order, and some after their time has been given up."""

    def __init__(self, pipeline: Pipeline, name: str, seed: int) -> None:
        transport = httpx.AsyncHTTPTransport(uds=str(pipeline.socket))
        self._http = httpx.AsyncClient(transport=transport, base_url="http://collector", timeout=120)
        self._name = name
        self._random = random.Random(seed)
        self._epoch = seed + 1
        self._started_ms = now_ms()
        self._at_ms: list[int] = []
        self._pending: set[int] = set()
        self._beat = 0
        self.sent: set[str] = set()

    async def run(self, requests: int) -> None:
        beats = asyncio.create_task(self._beats())
        deliveries = []
        for number in range(1, requests + 1):
            self._at_ms.append(max([now_ms(), *self._at_ms[-1:]]))
            self._pending.add(number)
            deliveries.append(asyncio.create_task(self._deliver(number)))
            await asyncio.sleep(self._random.expovariate(30))
        await asyncio.gather(*deliveries)
        beats.cancel()
        await asyncio.gather(beats, return_exceptions=True)
        await self._http.aclose()

    async def _deliver(self, number: int) -> None:
        # Some are called done long before they arrive.
        late = self._random.random() < 0.1
        await asyncio.sleep(self._random.choice([0, 0.1, 0.5, 2.0]))
        if late:
            self._pending.discard(number)
            await asyncio.sleep(7)
        at_ms = self._at_ms[number - 1]
        event_id = new_id(at_ms)
        capture = {
            "id": event_id,
            "tap": {"id": self._name, "epoch": self._epoch, "seq": number},
            "captured_at": rfc3339_ms(at_ms),
            "request": {"method": "PUT", "url": f"https://api.example.com{PATH}"},
            "response": {"status": 200},
        }
        # A collector that is asked by too many at once says so, and is asked again, as taps do.
        while await self._posted("captures", capture) == 503:
            await asyncio.sleep(0.1)
        self.sent.add(event_id)
        self._pending.discard(number)

    async def _posted(self, what: str, body: dict[str, Any]) -> int:
        """Return the status of the answer: 503, or 200 where it was accepted."""
        answer = await self._http.post(f"/v1/{what}", json=body)
        if answer.status_code != 503:
            assert (answer.status_code, answer.json()["accepted"]) == (200, 1)
        return answer.status_code

    async def _beats(self) -> None:
        if self._random.random() < 0.3:
            await asyncio.sleep(4)  # no collector has a heartbeat of it, and its captures arrive already
        while True:
            self._beat += 1
            first = min(self._pending, default=len(self._at_ms) + 1)
            at_ms = now_ms()
            heartbeat = {
                "tap": {"id": self._name, "epoch": self._epoch},
                "beat": self._beat,
                "at_ms": at_ms,
                "started_ms": self._started_ms,
                "highest": len(self._at_ms),
                "pending_from": first,
                "pending_since_ms": self._at_ms[first - 1] if first <= len(self._at_ms) else at_ms,
                "lease_ms": 3_000,
            }
            await self._posted("heartbeats", heartbeat)
            await asyncio.sleep(0.3)


async def test_polling_since_complete_before_misses_no_late_record(start_pipeline: StartPipeline) -> None:
    pipeline = await start_pipeline(DOCUMENT, extra=SETTINGS, other_constants=CONSTANTS, ingestors=1)
    began_ms = now_ms() - 1_000
    taps = [LateTap(pipeline, f"late-{seed}", seed) for seed in range(4)]
    read: set[str] = set()
    since_ms, advanced = began_ms, 0
    running = asyncio.gather(*(tap.run(150) for tap in taps))
    async with reading(pipeline) as api:

        async def poll() -> None:
            nonlocal since_ms, advanced
            ids, complete_before = await api.pages(since_ms)
            read.update(ids)
            if complete_before is not None:
                at_ms = parse_rfc3339_ms(complete_before) or 0
                advanced += at_ms > since_ms
                since_ms = at_ms

        while not running.done():
            await poll()
            await asyncio.sleep(0.2)
        await running
        sent = {each for tap in taps for each in tap.sent}

        async def all_read() -> bool:
            await poll()
            return sent <= read and advanced > 0

        await pipeline.until_processed(len(sent))
        await until(all_read, _WITHIN_S, "every record read", lambda: f"{len(sent - read)} missing")
    assert len(sent) == 600
