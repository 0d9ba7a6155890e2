"""What the watcher keeps, in Postgres: its only module on asyncpg."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Self, TypeVar

import asyncpg
import msgspec

from schemas.alert import alert_document
from schemas.errors import RetryableError, StartupError
from schemas.sql import query
from watcher.documents import record_summary
from watcher.engine import Alert, Known, Needed, Place, Verdict
from watcher.ports import HOUR_MS, PANE_MS, Advance, DueDelivery, Lane, Overtaken, Trend, Work

_AWAY = (
    OSError,
    TimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    # What a connection that is ended in the middle of a statement may leave behind.
    asyncpg.InternalClientError,
)
_REFUSALS = (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError)
_LOCKS = 256
_OUTCOME_CHARS_MAX = 200
_Connection = asyncpg.Connection | asyncpg.pool.PoolConnectionProxy
_T = TypeVar("_T")
_encode = msgspec.json.Encoder().encode


class PostgresWatchStore:
    """`WatchStore` and `Outbox` on one pool of the watcher's role. `watcher`: the name positions are kept under."""

    def __init__(self, pool: asyncpg.Pool, watcher: str) -> None:
        self._pool = pool
        self._watcher = watcher

    @classmethod
    async def connect(cls, dsn: str, watcher: str, *, connections_max: int, command_timeout_ms: int) -> Self:
        """Return a store on a pool whose connections are opened when they are needed.

        Raises StartupError where the DSN cannot be read or the login is refused. A server that is away shows on use.
        """
        try:
            pool = await asyncpg.create_pool(
                dsn,
                min_size=0,
                max_size=connections_max,
                command_timeout=command_timeout_ms / 1000,
                timeout=10,
                server_settings={
                    "application_name": "auditap-watch",
                    "enable_seqscan": "off",
                    "jit": "off",
                    # A watcher that stands still in a transaction would hold up its successor, and vacuum.
                    "idle_in_transaction_session_timeout": str(command_timeout_ms),
                },
            )
        except ValueError:
            raise StartupError("The watcher's Postgres DSN cannot be read: correct it.") from None
        store = cls(pool, watcher)
        try:
            async with pool.acquire(timeout=5):
                pass
        except _REFUSALS:
            await store.close()
            raise StartupError(
                "Postgres refuses the watcher's login: check user, password and database of its DSN."
            ) from None
        except _AWAY:
            pass
        return store

    async def close(self) -> None:
        """Close the pool; what is under way is broken off after a bounded time."""
        try:
            async with asyncio.timeout(5):
                await self._pool.close()
        except TimeoutError:
            self._pool.terminate()

    async def ready(self) -> bool:
        """Return whether the database answers and holds our tables."""
        try:
            return bool(await self._fetchval("SELECT to_regclass('auditap.watch_positions') IS NOT NULL"))
        except RetryableError:
            return False

    async def settle(self, work: Work) -> Sequence[Alert]:
        """See `WatchStore.settle`."""

        async def keep(connection: _Connection) -> Sequence[Alert]:
            async with connection.transaction():
                await self._advance(connection, work.advances)
                await _lock(connection, work.needed)
                verdict = work.judge(await _known(connection, work.needed))
                fresh = await _keep(connection, work.needed, verdict)
                await _keep_trends(connection, work.trends)
            return fresh

        return await self._run(keep)

    async def _advance(self, connection: _Connection, advances: Mapping[Lane, Advance]) -> None:
        if not advances:
            return
        ordered = sorted(advances.items())
        rows = [(lane.log, lane.partition, step.from_offset, step.next_offset) for lane, step in ordered]
        moved = await connection.fetch(query("watch_advance"), *_columns(rows, 4), self._watcher)
        if len(moved) != len(advances):
            raise Overtaken

    async def positions(self, lanes: Sequence[Lane]) -> Mapping[Lane, int]:
        """See `WatchStore.positions`."""

        async def read(connection: _Connection) -> Sequence[asyncpg.Record]:
            return await connection.fetch(query("watch_positions"), *_columns(lanes, 2), self._watcher)

        return {Lane(row["log"], row["partition"]): row["next_offset"] for row in await self._run(read)}

    async def find_accounts(self, alerts_max: int) -> None:
        """Give alerts of records without an account the one that enrichment found since. Raises RetryableError."""
        await self._execute("watch_accounts", alerts_max)

    async def forget(self, marks_ms: int, memories_ms: int, rows_max: int) -> None:
        """Delete marks and memories beyond these ages, at most `rows_max` of each. Raises RetryableError."""
        await self._execute("watch_forget_marks", timedelta(milliseconds=marks_ms), rows_max)
        await self._execute("watch_forget_memories", timedelta(milliseconds=memories_ms), rows_max)

    async def forget_trends(self, hours_before_ms: int, panes_before_ms: int, rows_max: int) -> None:
        """Delete counts of times before these (Unix ms), at most `rows_max` of each width. Raises RetryableError."""
        await self._execute("watch_forget_trends", HOUR_MS, hours_before_ms, rows_max)
        await self._execute("watch_forget_trends", PANE_MS, panes_before_ms, rows_max)

    async def take(self, deliveries_max: int, lease_ms: int) -> Sequence[DueDelivery]:
        """See `Outbox.take`."""

        async def lease(connection: _Connection) -> Sequence[asyncpg.Record]:
            return await connection.fetch(
                query("take_deliveries"), deliveries_max, timedelta(milliseconds=lease_ms)
            )

        return [
            DueDelivery(row["alert_id"], row["channel"], row["attempts"], alert_document(dict(row)))
            for row in await self._run(lease)
        ]

    async def delivered(self, delivery: DueDelivery) -> None:
        """See `Outbox.delivered`."""
        await self._execute(
            "end_delivery", delivery.alert_id, delivery.channel, "delivered", None, timedelta()
        )

    async def failed(self, delivery: DueDelivery, outcome: str, retry_after_ms: int | None) -> None:
        """See `Outbox.failed`."""
        await self._execute(
            "end_delivery",
            delivery.alert_id,
            delivery.channel,
            "dead" if retry_after_ms is None else "due",
            outcome[:_OUTCOME_CHARS_MAX],
            timedelta(milliseconds=retry_after_ms or 0),
        )

    async def _execute(self, name: str, *arguments: object) -> None:
        async def execute(connection: _Connection) -> None:
            await connection.execute(query(name), *arguments)

        await self._run(execute)

    async def _fetchval(self, statement: str) -> Any:
        async def fetch(connection: _Connection) -> Any:
            return await connection.fetchval(statement)

        return await self._run(fetch)

    async def _run(self, step: Callable[[_Connection], Awaitable[_T]]) -> _T:
        try:
            async with self._pool.acquire(timeout=10) as connection:
                return await step(connection)
        except _AWAY as away:
            raise RetryableError(f"Postgres: {type(away).__name__}") from None


async def _lock(connection: _Connection, needed: Needed) -> None:
    places = {*needed.counted, *needed.values}
    if places:
        numbers = sorted({_lock_number(place) for place in places})
        await connection.execute(query("watch_lock"), numbers)


def _lock_number(place: Place) -> int:
    # Few locks, because the server's table of them is bounded; two places that share one only wait for each other.
    return hashlib.blake2b(place.rule.encode() + place.key_digest, digest_size=2).digest()[0] % _LOCKS


async def _known(connection: _Connection, needed: Needed) -> Known:
    known = Known()
    places = list(dict.fromkeys([*needed.counted, *needed.values]))
    numbers = {place: number for number, place in enumerate(places)}
    if needed.counted:
        spans = [(numbers[place], *place, *span) for place, span in needed.counted.items()]
        for row in await connection.fetch(query("watch_counts"), *_columns(spans, 6)):
            known.panes[places[row["place"]]][row["pane_ms"]] = row["records"]
        starts = [(numbers[place], *place, *span) for place, span in needed.told.items()]
        for row in await connection.fetch(query("watch_told"), *_columns(starts, 5)):
            known.told[places[row["place"]]].append(row["window_start_ms"])
        records = [(numbers[place], *place, one) for place, ids in needed.records.items() for one in ids]
        for row in await connection.fetch(query("watch_marked"), *_columns(records, 4)):
            known.marked.add((places[row["place"]], row["record_id"]))
    if needed.values:
        asked = [(numbers[place], *place, one) for place, values in needed.values.items() for one in values]
        for row in await connection.fetch(query("watch_seen"), *_columns(asked, 4)):
            known.seen.add((places[row["place"]], bytes(row["value_digest"])))
        memories = [(numbers[place], *place) for place in needed.values]
        for row in await connection.fetch(query("watch_remembering"), *_columns(memories, 3)):
            known.remembering.add(places[row["place"]])
    return known


async def _keep(connection: _Connection, needed: Needed, verdict: Verdict) -> Sequence[Alert]:
    """Keep a verdict; return the alerts that are new."""
    if verdict.marks:
        marks = sorted((*mark.place, mark.record_id, mark.at_ms) for mark in verdict.marks)
        await connection.execute(query("watch_keep_marks"), *_columns(marks, 4))
    if verdict.lessons:
        lessons = sorted((*lesson.place, lesson.value_digest) for lesson in verdict.lessons)
        await connection.execute(query("watch_keep_lessons"), *_columns(lessons, 3))
    if needed.values:
        asked = sorted((*place, value) for place, values in needed.values.items() for value in values)
        await connection.execute(query("watch_refresh"), *_columns(asked, 3))
    if not verdict.alerts:
        return ()
    rows = [_alert_row(alert) for alert in sorted(verdict.alerts, key=lambda each: each.id)]
    kept = await connection.fetch(query("watch_keep_alerts"), *_columns(rows, 12))
    ids = {row["id"] for row in kept}
    fresh = [alert for alert in verdict.alerts if alert.id in ids]
    deliveries = [(alert.id, channel) for alert in fresh for channel in alert.channels]
    if deliveries:
        await connection.execute(query("watch_keep_deliveries"), *_columns(deliveries, 2))
    return fresh


async def _keep_trends(connection: _Connection, trends: Mapping[Trend, int]) -> None:
    if not trends:
        return
    rows = sorted(
        (trend.start_ms, _trend_digest(trend), *trend[1:], events) for trend, events in trends.items()
    )
    await connection.execute(query("watch_keep_trends"), *_columns(rows, 9))


def _trend_digest(trend: Trend) -> bytes:
    # Hours, which were there before there was a width, have the digest that they had.
    told = trend[2:] if trend.width_ms == HOUR_MS else trend[1:]
    return hashlib.blake2b(_encode(told), digest_size=16).digest()


def _alert_row(alert: Alert) -> tuple[object, ...]:
    return (
        alert.id,
        alert.rule,
        alert.severity,
        alert.title,
        alert.account_id,
        alert.key,
        alert.key_digest,
        alert.window_start_ms,
        alert.window_ms,
        alert.records,
        alert.record.id,
        _encode(record_summary(alert.record)).decode(),
    )


def _columns(rows: Iterable[Sequence[object]], width: int) -> list[list[object]]:
    """Return rows as arrays, one for each column."""
    columns: list[list[object]] = [[] for _ in range(width)]
    for row in rows:
        for column, value in zip(columns, row, strict=True):
            column.append(value)
    return columns
