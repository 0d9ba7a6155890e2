"""What the log API claims to be complete, read all the time as clients do, and held against what was stored when."""

from __future__ import annotations

import asyncio
import bisect
import heapq
import math
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from typing import Any

import asyncpg
import httpx

from auditap.database.connection import Connection, administrator
from auditap.database.tokens import create_token
from schemas.errors import RetryableError
from schemas.identity import rfc3339_ms
from tests.faults.load import Load
from tests.faults.system import System

_HOUR_MS = 3_600_000
_INTERVAL_S = 1.0
_AGAIN_S = 0.5
_ANSWER_S_MAX = 60
_PAGE_RECORDS = 1_000
# What the log API answers may have been read so long before it was asked.
_CACHED_MS = 1_000
_MISDATED_MS = 60_000
_TOLD_MAX = 20
_STORED = """
SELECT id, account_id, tap_id, tap_epoch, tap_seq, xmin::text::bigint AS transaction,
    extract(epoch FROM pg_xact_commit_timestamp(xmin)) * 1000 AS stored_ms
FROM auditap.audit_records
"""
_SNAPSHOT = """
SELECT pg_snapshot_xmax(now)::text::bigint AS next,
    ARRAY(SELECT running::text::bigint FROM pg_snapshot_xip(now) AS running) AS running
FROM pg_current_snapshot() AS now
"""


@dataclass(frozen=True, slots=True)
class GapRange:
    """Sequence numbers of a tap that the log said are missing; `last` is None where it did not know the end."""

    tap: str
    epoch: int
    first: int
    last: int | None

    def has(self, arrival: Arrival) -> bool:
        return (self.tap, self.epoch) == (arrival.tap, arrival.epoch) and self.first <= arrival.number <= (
            arrival.number if self.last is None else self.last
        )


@dataclass(frozen=True, slots=True)
class Claim:
    """All before `before_ms` is there but for the gaps. Asked and answered by the right clock (all Unix ms)."""

    asked_ms: float
    answered_ms: float
    before_ms: int
    gaps: tuple[GapRange, ...] = ()

    def denies(self, arrival: Arrival) -> bool:
        """Whether there could be no such record after it."""
        return arrival.at_ms < self.before_ms and not any(gap.has(arrival) for gap in self.gaps)


@dataclass(frozen=True, slots=True)
class Arrival:
    """A record: the time that it has, and the right times at which Postgres committed it and at which others saw it (Unix ms).

    Postgres takes the time of a commit before it writes it to the disk, and what froze meanwhile is visible only much later.
    """

    at_ms: int
    stored_ms: float
    seen_ms: float
    tap: str
    epoch: int
    number: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What everybody saw at a time (Unix ms): all transactions below `next` but those that were running."""

    at_ms: float
    next: int
    running: frozenset[int]


class Sightings:
    """Tells from the snapshots, given in their order, when the records of a transaction were seen."""

    def __init__(self, snapshots: Sequence[Snapshot]) -> None:
        self._snapshots = snapshots
        self._next = [snapshot.next for snapshot in snapshots]

    def seen_ms(self, transaction: int) -> float:
        """Return when they were first seen (Unix ms); infinity, if no snapshot saw them."""
        for snapshot in self._snapshots[bisect.bisect_right(self._next, transaction) :]:
            if transaction not in snapshot.running:
                return snapshot.at_ms
        return math.inf


@dataclass(frozen=True, slots=True)
class Late:
    """A record that made claims false. Times in seconds from the beginning of the first load, by the right clock."""

    tap: str
    number: int
    at_s: float
    stored_s: float
    seen_s: float
    claimed_s: tuple[float, float]
    """When the first and the last claim was made that it made false."""
    claims: int
    missed_by: tuple[float, float] | None
    """The claim by which a client could miss it: when it was asked for, and the time before which it claimed everything."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of the claims."""

    claims: int
    false_claims: int
    """After which a record became visible for a time before, which no gap had."""
    late: int
    """The records that made claims false."""
    misdated: int
    """Those of them whose time is not the one at which they were offered, because some clock was wrong."""
    uncorrected: int
    """Those of them all that a client could miss although it polls as often as documented."""
    wrong: tuple[Late, ...]
    """Those of them that are not misdated, and those that such a client could miss: a few, in the order of their arrival."""
    behind_ms: tuple[float, ...]
    """How far each claim was behind the best that could be claimed, in rising order."""
    calm_claims: int
    """Made while nothing had been wrong for long enough."""
    calm_behind_ms: float
    """How far the furthest of them was behind."""
    late_claims: int
    """Those of them that were further behind than documented."""

    def __str__(self) -> str:
        return (
            f"claims {self.claims}, false {self.false_claims} by {self.late} records, {self.misdated} of them misdated,"
            f" {self.uncorrected} of them not taken back for the hold; {self.calm_claims} while nothing was wrong, late {self.late_claims},"
            f" behind {self.calm_behind_ms / 1000:.1f} s at most"
        )


def judge(
    claims: Sequence[Claim],
    arrived: Sequence[Arrival],
    loads: Sequence[Load],
    calm_from_ms: float,
    *,
    hold_ms: float,
    behind_ms_max: float,
) -> Verdict:
    """Hold the claims against what arrived. The first load has the right clock and sent all the time."""
    false, late = false_claims(claims, arrived)
    not_corrected = dict(uncorrected(claims, late, hold_ms))
    misdated = {arrival for arrival in late if _is_misdated(arrival, loads)}
    wrong = {*(arrival for arrival in late if arrival not in misdated), *not_corrected}
    behind = how_far_behind(claims, begun(loads[0], arrived))
    calm = [each_ms for claim, each_ms in behind if claim.asked_ms >= calm_from_ms]
    return Verdict(
        claims=len(claims),
        false_claims=len(false),
        late=len(late),
        misdated=len(misdated),
        uncorrected=len(not_corrected),
        wrong=tuple(
            _told(arrival, claims, not_corrected.get(arrival), loads[0].began_ms)
            for arrival in sorted(wrong, key=lambda arrival: arrival.stored_ms)[:_TOLD_MAX]
        ),
        behind_ms=tuple(sorted(each_ms for _, each_ms in behind)),
        calm_claims=len(calm),
        calm_behind_ms=max(calm, default=0.0),
        late_claims=sum(each_ms > behind_ms_max for each_ms in calm),
    )


def _is_misdated(arrival: Arrival, loads: Sequence[Load]) -> bool:
    load = next(load for load in loads if load.tap == arrival.tap)
    batch = load.batches[(arrival.number - 1) // load.batches[0].count]
    return abs(arrival.at_ms - batch.at_ms) > _MISDATED_MS


def _told(arrival: Arrival, claims: Sequence[Claim], missing: Claim | None, began_ms: float) -> Late:
    denied = [
        claim.asked_ms for claim in claims if claim.answered_ms < arrival.stored_ms and claim.denies(arrival)
    ]

    def seconds(at_ms: float) -> float:
        return round((at_ms - began_ms) / 1000, 2)

    return Late(
        tap=arrival.tap,
        number=arrival.number,
        at_s=seconds(arrival.at_ms),
        stored_s=seconds(arrival.stored_ms),
        seen_s=seconds(arrival.seen_ms),
        claimed_s=(seconds(min(denied)), seconds(max(denied))),
        claims=len(denied),
        missed_by=None if missing is None else (seconds(missing.asked_ms), seconds(missing.before_ms)),
    )


def false_claims(claims: Sequence[Claim], arrived: Iterable[Arrival]) -> tuple[list[Claim], list[Arrival]]:
    """Return the claims that records made false, and these records.

    A record counts that was committed after the answer: one that was committed between question and answer may have been seen.
    """
    highest_ms = max((claim.before_ms for claim in claims), default=0)
    in_order = sorted(claims, key=lambda claim: claim.answered_ms)
    answered = [claim.answered_ms for claim in in_order]
    # Of this claim and those before: what a record may not be earlier than.
    claimed = list(accumulate((claim.before_ms for claim in in_order), max))
    false: set[Claim] = set()
    late = []
    for arrival in arrived:
        if arrival.at_ms >= highest_ms:
            continue
        earlier = bisect.bisect_left(answered, arrival.stored_ms)
        if earlier == 0 or claimed[earlier - 1] <= arrival.at_ms:
            continue
        contradicted = [claim for claim in in_order[:earlier] if claim.denies(arrival)]
        if contradicted:
            false.update(contradicted)
            late.append(arrival)
    return [claim for claim in in_order if claim in false], late


def uncorrected(
    claims: Sequence[Claim], late: Iterable[Arrival], hold_ms: float
) -> list[tuple[Arrival, Claim]]:
    """Return the records that a client could miss although it polls every `hold_ms`, each with the claim by which it does.

    Such a client knows a claim that a record made false, and once the record is seen it polls again within the hold. Unless that
    claim, whichever it is, goes back to the record's time, the client never asks for that time again.
    """
    in_order = sorted(claims, key=lambda claim: claim.asked_ms)
    asked = [claim.asked_ms for claim in in_order]
    found = []
    for arrival in late:
        first = bisect.bisect_right(asked, arrival.seen_ms + _CACHED_MS)
        denied_ms = max(
            claim.asked_ms
            for claim in in_order
            if claim.answered_ms < arrival.stored_ms and claim.denies(arrival)
        )
        within_hold = in_order[first : bisect.bisect_right(asked, denied_ms + hold_ms)]
        if missing := next((claim for claim in within_hold if claim.denies(arrival)), None):
            found.append((arrival, missing))
    return found


def how_far_behind(
    claims: Sequence[Claim], begun: Sequence[tuple[float, float]]
) -> list[tuple[Claim, float]]:
    """Return how far each claim is behind the best that could be claimed: the oldest capture that was not to be seen yet.

    `begun`: of each capture when it was offered and when it could be seen, by the right clock, in order of the first.
    """
    waiting: list[tuple[float, float]] = []
    offered = iter(begun)
    following = next(offered, None)
    found = []
    for claim in sorted(claims, key=lambda claim: claim.asked_ms):
        while following is not None and following[0] <= claim.asked_ms:
            heapq.heappush(waiting, following)
            following = next(offered, None)
        while waiting and waiting[0][1] <= claim.asked_ms:
            heapq.heappop(waiting)
        best_ms = waiting[0][0] if waiting else claim.asked_ms
        found.append((claim, best_ms - claim.before_ms))
    return found


class PollingClient:
    """Reads one account as docs/completeness.md tells clients to."""

    def __init__(self, api: httpx.AsyncClient, account: str, since_ms: int) -> None:
        self.account = account
        self.read: set[str] = set()
        self.polls = 0
        self.pause_s_max = 0.0
        self._api = api
        self._since_ms = since_ms
        self._polled_s = time.monotonic()

    async def poll(self) -> bool:
        """Read what there is; False where the API did not answer to the end, and the same is due again."""
        query = {
            "since": rfc3339_ms(self._since_ms),
            "before": rfc3339_ms(int(time.time() * 1000) + 1),
            "limit": str(_PAGE_RECORDS),
        }
        while True:
            page = await _got(self._api, f"/accounts/{self.account}/logs/audit", query)
            if page is None:
                return False
            self.read.update(record["id"] for record in page["result"])
            info = page["result_info"]
            if cursor := info.get("cursor"):
                query["cursor"] = cursor
                continue
            break
        self.polls += 1
        now_s = time.monotonic()
        self.pause_s_max = max(self.pause_s_max, now_s - self._polled_s)
        self._polled_s = now_s
        if (before_ms := _ms(info["complete_before"])) is not None:
            self._since_ms = before_ms
        return True


class Watcher:
    """Asks for the watermark and the gaps, and lets clients poll, each by itself, from `start` to `stop`."""

    def __init__(self, system: System, accounts: Collection[str]) -> None:
        self._system = system
        self._accounts = accounts
        self._began_ms = int(time.time() * 1000)
        self._api: httpx.AsyncClient
        self._tasks: list[asyncio.Task[None]] = []
        self.claims: list[Claim] = []
        self.snapshots: list[Snapshot] = []
        self.clients: list[PollingClient] = []

    async def start(self) -> None:
        async with administrator(self._system.postgres.dsn()) as admin:
            expires = datetime.now(UTC) + timedelta(hours=12)
            _, token = await create_token(
                admin, "watcher", None, ["audit_logs:read"], expires, requests_per_s=10_000
            )
        self._api = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{self._system.pipeline.api_port}/client/v4",
            headers={"authorization": f"Bearer {token}"},
            timeout=_ANSWER_S_MAX,
        )
        since_ms = self._began_ms - 3 * _HOUR_MS
        self.clients = [PollingClient(self._api, account, since_ms) for account in self._accounts]
        polls: list[Callable[[], Awaitable[bool]]] = [
            self._ask,
            self._look,
            *(client.poll for client in self.clients),
        ]
        self._tasks = [asyncio.create_task(_keep(poll), name="watcher") for poll in polls]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
            await self._api.aclose()

    async def finish(self, within_s: float) -> None:
        """Let every client poll once more, to the end, and stop."""
        for task in self._tasks:
            task.cancel()
        ended = await asyncio.gather(*self._tasks, return_exceptions=True)
        assert all(isinstance(each, asyncio.CancelledError) for each in ended), ended
        async with asyncio.timeout(within_s):
            for client in self.clients:
                while not await client.poll():
                    await asyncio.sleep(_AGAIN_S)
        await self.stop()

    async def missed(self) -> int:
        """Return how many records the clients did not read, of what is stored in their accounts."""
        rows = await self._system.pipeline.fetch("SELECT id, account_id FROM auditap.audit_records")
        stored: dict[str, set[str]] = {account: set() for account in self._accounts}
        for row in rows:
            if row["account_id"] in stored:
                stored[row["account_id"]].add(row["id"].hex)
        return sum(len(stored[client.account] - client.read) for client in self.clients)

    async def _ask(self) -> bool:
        asked_ms = time.time() * 1000
        query = {
            "since": rfc3339_ms(self._began_ms - 3 * _HOUR_MS),
            "before": rfc3339_ms(int(asked_ms) + 3 * _HOUR_MS),
        }
        answer = await _got(
            self._api, f"/accounts/{next(iter(self._accounts))}/logs/audit/completeness", query
        )
        if answer is None:
            return False
        before_ms = _ms(answer["result_info"]["complete_before"])
        if before_ms is not None:
            gaps = tuple(_gap(gap) for gap in answer["result"] if gap["tap"] is not None)
            self.claims.append(Claim(asked_ms, time.time() * 1000, before_ms, gaps))
        return True

    async def _look(self) -> bool:
        try:
            async with asyncio.timeout(_ANSWER_S_MAX), administrator(self._system.postgres.dsn()) as admin:
                self.snapshots.append(await snapshot(admin))
        except (RetryableError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return False
        return True


async def snapshot(connection: Connection) -> Snapshot:
    """Return what everybody sees now."""
    row = await connection.fetchrow(_SNAPSHOT)
    assert row is not None
    return Snapshot(time.time() * 1000, row["next"], frozenset(row["running"]))


async def arrivals(system: System, snapshots: Sequence[Snapshot]) -> list[Arrival]:
    """Return every record with the times at which it was committed and seen."""
    sightings = Sightings(snapshots)
    return [
        Arrival(
            row["id"].int >> 80,
            float(row["stored_ms"]),
            sightings.seen_ms(row["transaction"]),
            row["tap_id"],
            row["tap_epoch"],
            row["tap_seq"],
        )
        for row in await system.pipeline.fetch(_STORED)
    ]


def begun(load: Load, arrived: Iterable[Arrival]) -> list[tuple[float, float]]:
    """Return of each capture of a load when it was offered and when its record could be seen, in order of the first."""
    stored = {arrival.number: arrival.stored_ms for arrival in arrived if arrival.tap == load.tap}
    return [
        (float(batch.at_ms), stored[number])
        for batch in load.batches
        for number in range(batch.first, batch.first + batch.count)
        if number in stored
    ]


async def _keep(poll: Callable[[], Awaitable[bool]]) -> None:
    while True:
        await asyncio.sleep(_INTERVAL_S if await poll() else _AGAIN_S)


async def _got(api: httpx.AsyncClient, path: str, query: dict[str, str]) -> dict[str, Any] | None:
    """Return the answer, None where the API is away, has no time, or asks to wait."""
    try:
        answer = await api.get(path, params=query)
    except httpx.TransportError:
        return None
    if answer.status_code in {429, 503}:
        return None
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def _gap(gap: dict[str, Any]) -> GapRange:
    return GapRange(gap["tap"]["id"], gap["tap"]["epoch"], gap["first"], gap["last"])


def _ms(timestamp: str | None) -> int | None:
    if timestamp is None:
        return None
    return round(datetime.fromisoformat(timestamp).timestamp() * 1000)
