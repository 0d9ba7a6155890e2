"""A steady load of captures, each known by its number, and what its sender knows of them."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections import Counter, deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from schemas.heartbeat import contiguous_ranges
from schemas.identity import new_id, rfc3339_ms

_RETRY_WAIT_S = 0.1
_HEARTBEAT_S = 1.0
# Longer than any test: a load that goes away without a last heartbeat is not called cut off while it is counted.
_LEASE_MS = 600_000
_BACKLOG_BATCHES_MAX = 20_000
_CAPTURES_PER_ACCOUNT = 2_000
_CAPTURES_PER_USER = 100

_CAPTURE = (
    '{{{id}"tap":{{"id":"{tap}","epoch":{epoch},"seq":{number}}},"captured_at":"{at}","duration_ms":12.4,'
    '"client_ip":"203.0.113.9","request":{{"method":"PUT","url":"https://api.example.com/client/v4/accounts/{account}'
    '/alerting/v3/policies/{resource}?dry=1","headers":{{"user-agent":"Mozilla/5.0 (X11; Linux x86_64)",'
    '"cf-ray":"8e9f1a2b3c4d5e6f","content-type":"application/json"}},"body":"{{\\"alert_type\\":\\"health\\",'
    '\\"description\\":\\"not kept\\",\\"enabled\\":true,\\"filters\\":{{\\"services\\":[\\"a\\",\\"b\\"]}},'
    '\\"name\\":\\"Origin {number}\\"}}"}},"response":{{"status":200,"headers":{{"content-type":"application/json",'
    '"x-actor-id":"{user}","x-actor-type":"user","x-actor-context":"dash"}},"body":"{{\\"result\\":'
    '{{\\"id\\":\\"{resource}\\"}},\\"success\\":true,\\"errors\\":[],\\"messages\\":[]}}"}}}}'
)


def account_of(tap: str, group: int) -> str:
    """Return the id of the account that a group of a tap's captures belongs to."""
    return f"{_digest(tap)}{group:020x}"


def _digest(tap: str) -> str:
    return hashlib.sha256(tap.encode()).hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class _Batch:
    first: int
    count: int
    body: bytes
    offered_s: float


@dataclass(frozen=True, slots=True)
class Offered:
    """A batch of captures from `first` on, and when it was offered (Unix ms, by the right clock)."""

    first: int
    count: int
    at_ms: int


class Load:
    """Offers captures at a steady rate over the collector's socket; each batch is sent again until it is accepted.

    A capture's number is its tap sequence number and in its resource's id. Every second one has an id of its own;
    the others leave that to the collector. Heartbeats say how far it counts and what was accepted. `clock_ahead_ms`: how
    wrong the tap's clock is. `accounts`: how many accounts the captures belong to, in turn; by default each has some
    thousands that follow one another.
    """

    def __init__(
        self,
        socket: Path,
        *,
        tap: str,
        rate_per_s: int,
        batch: int = 50,
        senders: int = 4,
        clock_ahead_ms: int = 0,
        accounts: int | None = None,
    ) -> None:
        self.tap = tap
        self.rate_per_s = rate_per_s
        self.clock_ahead_ms = clock_ahead_ms
        self.began_ms = self.epoch = time.time_ns() // 1_000_000
        self.offered = 0
        self.accepted: set[int] = set()
        self.refused = 0
        self.answers: Counter[str] = Counter()
        self.accept_ms: list[float] = []
        """Of each batch: from being offered until it was accepted, however often it was sent."""
        self.batches: list[Offered] = []
        self._accounts = accounts
        self._digest = _digest(tap)
        self._socket = socket
        self._batch = batch
        self._queue: asyncio.Queue[_Batch] = asyncio.Queue(_BACKLOG_BATCHES_MAX)
        self._tasks: list[asyncio.Task[None]] = []
        self._pending: deque[tuple[int, int]] = deque()
        """First number and time of each batch that is not accepted yet, and of some that are."""
        self._done_below = 1
        self._beats = 0
        self._given_up = False
        self._senders = senders
        self._sending = 0
        self._may_send = asyncio.Event()
        self._may_send.set()
        self._offering: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._offering = asyncio.create_task(self._offer(), name="load-offer")
        self._tasks = [asyncio.create_task(self._send(), name="load-send") for _ in range(self._senders)]
        self._tasks.append(asyncio.create_task(self._keep_beating(), name="load-beat"))

    async def finish(self, within_s: float = 120) -> None:
        """Offer no more, and wait until everything offered was accepted."""
        try:
            async with asyncio.timeout(within_s):
                await _end(self._offering)
                await self._queue.join()
                await self._say_goodbye()
        except TimeoutError:
            raise AssertionError(f"not accepted within {within_s} s: {self.describe()}") from None
        finally:
            await self.abandon()

    async def abandon(self) -> None:
        """Go away, whatever was accepted by now."""
        await _end(self._offering)
        for task in self._tasks:
            await _end(task)

    async def give_up(self, within_s: float = 120) -> None:
        """Go away, and report to a collector that what was not accepted is dropped."""
        await self.abandon()
        self._given_up = True
        try:
            async with asyncio.timeout(within_s):
                await self._say_goodbye()
        except TimeoutError:
            raise AssertionError(f"no heartbeat accepted within {within_s} s: {self.describe()}") from None

    async def accepts(self, captures: int, within_s: float = 120) -> None:
        """Wait until so many more were accepted."""
        wanted = len(self.accepted) + captures
        try:
            async with asyncio.timeout(within_s):
                while len(self.accepted) < wanted:
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(f"not {captures} more within {within_s} s: {self.describe()}") from None

    async def pause(self) -> None:
        """Send no more until `resume`, and return once what was being sent is answered. Offering and heartbeats go on."""
        self._may_send.clear()
        while self._sending:
            await asyncio.sleep(0.02)

    def resume(self) -> None:
        self._may_send.set()

    def account(self, number: int) -> str:
        if self._accounts is not None:
            return account_of(self.tap, number % self._accounts)
        return account_of(self.tap, number // _CAPTURES_PER_ACCOUNT)

    def accounts(self) -> list[str]:
        return sorted({self.account(number) for number in range(1, self.offered + 1)})

    def describe(self) -> str:
        return f"offered {self.offered}, accepted {len(self.accepted)}, answers {dict(self.answers)}"

    async def _offer(self) -> None:
        began, batches = time.monotonic(), 0
        while True:
            await self._queue.put(self._next_batch())
            batches += 1
            due_s = began + batches * self._batch / self.rate_per_s
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))

    def _next_batch(self) -> _Batch:
        # Taps count from 1.
        first, self.offered = self.offered + 1, self.offered + self._batch
        now_ms = self._clock_ms()
        self._pending.append((first, now_ms))
        self.batches.append(Offered(first, self._batch, now_ms - self.clock_ahead_ms))
        lines = [self.capture(number, now_ms) for number in range(first, self.offered + 1)]
        return _Batch(first, self._batch, "\n".join(lines).encode(), time.monotonic())

    def capture(self, number: int, at_ms: int) -> str:
        """Return one capture as a tap sends it."""
        return _CAPTURE.format(
            id="" if number % 2 else f'"id":"{new_id(at_ms)}",',
            tap=self.tap,
            epoch=self.epoch,
            number=number,
            at=rfc3339_ms(at_ms),
            account=self.account(number),
            user=f"{self._digest}{number // _CAPTURES_PER_USER:020x}",
            resource=f"{number:032x}",
        )

    async def _keep_beating(self) -> None:
        async with self._client() as client:
            while True:
                with contextlib.suppress(httpx.TransportError):
                    await client.post("/v1/heartbeats", json=self._heartbeat("alive"))
                await asyncio.sleep(_HEARTBEAT_S)

    async def _say_goodbye(self) -> None:
        """Report the last sequence number until a collector has accepted it."""
        async with self._client() as client:
            while True:
                with contextlib.suppress(httpx.TransportError):
                    if (
                        await client.post("/v1/heartbeats", json=self._heartbeat("ended"))
                    ).status_code == 200:
                        return
                await asyncio.sleep(_RETRY_WAIT_S)

    def _heartbeat(self, state: str) -> dict[str, Any]:
        now_ms = self._clock_ms()
        while self._done_below in self.accepted:
            self._done_below += 1
        while self._pending and self._pending[0][0] + self._batch <= self._done_below:
            self._pending.popleft()
        self._beats += 1
        done_below = self.offered + 1 if self._given_up else self._done_below
        return {
            "tap": {"id": self.tap, "epoch": self.epoch},
            "beat": self._beats,
            "at_ms": now_ms,
            "started_ms": self.began_ms + self.clock_ahead_ms,
            "highest": self.offered,
            "pending_from": done_below,
            "pending_since_ms": now_ms
            if done_below > self.offered or not self._pending
            else self._pending[0][1],
            "lease_ms": _LEASE_MS,
            "state": state,
            "dropped": self._dropped(now_ms) if self._given_up else [],
        }

    def _dropped(self, until_ms: int) -> list[dict[str, Any]]:
        """Return what was offered and not accepted, as a tap says that it tried for too long."""
        since_ms = self._pending[0][1] if self._pending else until_ms
        missing = (number for number in range(1, self.offered + 1) if number not in self.accepted)
        return [
            {
                "first": first,
                "last": last,
                "cause": "collector_away",
                "from_ms": since_ms,
                "to_ms": until_ms,
            }
            for first, last in contiguous_ranges(missing)
        ]

    def _clock_ms(self) -> int:
        return time.time_ns() // 1_000_000 + self.clock_ahead_ms

    def _client(self) -> httpx.AsyncClient:
        transport = httpx.AsyncHTTPTransport(uds=str(self._socket))
        return httpx.AsyncClient(transport=transport, base_url="http://collector", timeout=120)

    async def _send(self) -> None:
        async with self._client() as client:
            while True:
                batch = await self._queue.get()
                while not await self._accepted(client, batch):
                    await asyncio.sleep(_RETRY_WAIT_S)
                self._queue.task_done()

    async def _accepted(self, client: httpx.AsyncClient, batch: _Batch) -> bool:
        await self._may_send.wait()
        self._sending += 1
        try:
            answer = await client.post(
                "/v1/captures", content=batch.body, headers={"content-type": "application/x-ndjson"}
            )
        except httpx.TransportError as away:
            self.answers[type(away).__name__] += 1
            return False
        finally:
            self._sending -= 1
        self.answers[str(answer.status_code)] += 1
        if answer.status_code != 200:
            return False
        refused = {each["index"] for each in answer.json()["refused"]}
        self.refused += len(refused)
        self.accepted.update(batch.first + index for index in range(batch.count) if index not in refused)
        self.accept_ms.append((time.monotonic() - batch.offered_s) * 1000)
        return True


async def _end(task: asyncio.Task[None] | None) -> None:
    if task is not None:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
