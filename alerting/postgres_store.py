"""The state of rules, alerts and deliveries in Postgres: the only module of alerting that imports asyncpg."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Self, TypeVar

import asyncpg
import msgspec

from alerting.engine import Alert, Evaluation, RequiredState, RuleKey, State
from alerting.payload import record_summary
from alerting.ports import (
    HOUR_MS,
    TEN_MINUTES_MS,
    Advance,
    DueDelivery,
    PositionConflict,
    TrendBucket,
    UnitOfWork,
)
from eventlog.ports import Partition
from schemas.alert import alert_payload
from schemas.errors import RetryableError, StartupError
from schemas.postgres_refusals import ALERTING, cause_of, start_refusal
from schemas.postgres_session import SESSION_SETTINGS, has_privilege
from schemas.sql import query
from schemas.text_encoding import require_utf8

_AWAY = (
    OSError,
    TimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    # A connection that ends in the middle of a statement may leave this behind.
    asyncpg.InternalClientError,
)
# Few locks, because the server's lock table is bounded; keys that share one only wait for each other.
_LOCKS = 256
# An outcome is a status or a short reason, for a list that people read.
_OUTCOME_CHARS_MAX = 200
_CONNECT_S = 10
_CLOSE_S = 5
_Connection = asyncpg.Connection | asyncpg.pool.PoolConnectionProxy
_Result = TypeVar("_Result")
_encode = msgspec.json.Encoder().encode


class PostgresAlertStore:
    """`AlertStore` and `Outbox` on one connection pool of the role `auditap_alerting`.

    `group`: the consumer group under which positions are stored.
    """

    def __init__(self, pool: asyncpg.Pool, group: str) -> None:
        self._pool = pool
        self._group = group

    @classmethod
    async def connect(cls, dsn: str, group: str, *, connections_max: int, command_timeout_ms: int) -> Self:
        """Return a store whose connections are opened on demand; a server that is away shows on use.

        Raises StartupError where the DSN cannot be read, the login is refused or is another role's, or the database is not UTF-8.
        """
        try:
            pool = await asyncpg.create_pool(
                dsn,
                min_size=0,
                max_size=connections_max,
                command_timeout=command_timeout_ms / 1000,
                timeout=_CONNECT_S,
                init=_require_utf8,
                server_settings={
                    **SESSION_SETTINGS,
                    "application_name": "auditap-alerting",
                    # Every query names its keys. Without statistics, as after a bulk load, the planner would scan whole
                    # tables all the same.
                    "enable_seqscan": "off",
                    "jit": "off",
                    # A process that hangs in a transaction would hold up its successor, and vacuum.
                    "idle_in_transaction_session_timeout": str(command_timeout_ms),
                },
            )
        except ValueError as error:
            raise StartupError(start_refusal(error, ALERTING)) from None
        store = cls(pool, group)
        try:
            async with pool.acquire(timeout=5) as connection:
                await has_privilege(connection, ALERTING, "auditap.alert_positions", "INSERT")
        except (*_AWAY, ValueError) as error:
            if refusal := start_refusal(error, ALERTING):
                await store.close()
                raise StartupError(refusal) from None
        except StartupError:
            await store.close()
            raise
        return store

    async def close(self) -> None:
        """Close the pool; after a bounded time, break off what is still running."""
        try:
            async with asyncio.timeout(_CLOSE_S):
                await self._pool.close()
        except TimeoutError:
            self._pool.terminate()

    async def ready(self) -> bool:
        """Return whether the database answers and is migrated."""
        try:
            return bool(await self._fetchval("SELECT to_regclass('auditap.alert_positions') IS NOT NULL"))
        except RetryableError:
            return False

    async def commit(self, work: UnitOfWork) -> Sequence[Alert]:
        async def transact(connection: _Connection) -> Sequence[Alert]:
            async with connection.transaction():
                # First: of two processes that read one partition, the second waits here and then finds the position
                # moved.
                await self._advance(connection, work.advances)
                # Before loading, or two units of work would count without each other's entries.
                await _lock(connection, work.required)
                result = work.evaluate(await _load(connection, work.required))
                await _store_state(connection, work.required, result)
                fresh = await _store_alerts(connection, result.alerts)
                await _add_trends(connection, work.trends)
            return fresh

        return await self._run(transact)

    async def _advance(self, connection: _Connection, advances: Mapping[Partition, Advance]) -> None:
        if not advances:
            return
        rows = [(*partition, *step) for partition, step in sorted(advances.items())]
        moved = await connection.fetch(query("alerting_advance_positions"), *_columns(rows, 5), self._group)
        if len(moved) != len(advances):
            raise PositionConflict

    async def positions(self, partitions: Sequence[Partition]) -> Mapping[Partition, int]:
        arguments = (*_columns(partitions, 3), self._group)

        async def read(connection: _Connection) -> Sequence[asyncpg.Record]:
            return await connection.fetch(query("alerting_positions"), *arguments)

        return {Partition(*row[:3]): row["next_offset"] for row in await self._run(read)}

    async def adopt_positions(self, log_name: str, log_id: str) -> None:
        await self._execute("alerting_adopt_positions", self._group, log_name, log_id)

    async def set_accounts(self, alerts_max: int) -> None:
        """Give alerts without an account the one that enrichment found since. Raises RetryableError."""
        await self._execute("alerting_set_accounts", alerts_max)

    async def delete_old_state(self, entries_ms: int, seen_values_ms: int, rows_max: int) -> None:
        """Delete window entries and seen values above these ages, at most `rows_max` of each. Raises RetryableError."""
        await self._execute("alerting_delete_window_entries", timedelta(milliseconds=entries_ms), rows_max)
        await self._execute("alerting_delete_seen_values", timedelta(milliseconds=seen_values_ms), rows_max)

    async def delete_old_trends(
        self, hours_before_ms: int, ten_minutes_before_ms: int, rows_max: int
    ) -> None:
        """Delete trend buckets before these times (Unix ms), at most `rows_max` of each width. Raises RetryableError."""
        await self._execute("alerting_delete_trends", HOUR_MS, hours_before_ms, rows_max)
        await self._execute("alerting_delete_trends", TEN_MINUTES_MS, ten_minutes_before_ms, rows_max)

    async def lease(
        self, deliveries_max: int, lease_ms: int, waiting_channels: Sequence[str] = ()
    ) -> Sequence[DueDelivery]:
        async def lease(connection: _Connection) -> Sequence[asyncpg.Record]:
            return await connection.fetch(
                query("alerting_lease_deliveries"),
                deliveries_max,
                timedelta(milliseconds=lease_ms),
                list(waiting_channels),
            )

        return [
            DueDelivery(row["alert_id"], row["channel"], row["attempts"], alert_payload(dict(row)))
            for row in await self._run(lease)
        ]

    async def delivered(self, delivery: DueDelivery) -> None:
        await self._finish(delivery, "delivered", None, 0)

    async def failed(self, delivery: DueDelivery, outcome: str, retry_after_ms: int | None) -> None:
        state = "dead" if retry_after_ms is None else "due"
        await self._finish(delivery, state, outcome[:_OUTCOME_CHARS_MAX], retry_after_ms or 0)

    async def postponed(self, delivery: DueDelivery, outcome: str, wait_ms: int) -> None:
        due_in = timedelta(milliseconds=wait_ms)
        await self._execute(
            "alerting_postpone_delivery",
            delivery.alert_id,
            delivery.channel,
            outcome[:_OUTCOME_CHARS_MAX],
            due_in,
        )

    async def _finish(self, delivery: DueDelivery, state: str, outcome: str | None, due_in_ms: int) -> None:
        due_in = timedelta(milliseconds=due_in_ms)
        await self._execute(
            "alerting_finish_delivery", delivery.alert_id, delivery.channel, state, outcome, due_in
        )

    async def _execute(self, name: str, *arguments: object) -> None:
        async def execute(connection: _Connection) -> None:
            await connection.execute(query(name), *arguments)

        await self._run(execute)

    async def _fetchval(self, statement: str) -> Any:
        async def fetch(connection: _Connection) -> Any:
            return await connection.fetchval(statement)

        return await self._run(fetch)

    async def _run(self, step: Callable[[_Connection], Awaitable[_Result]]) -> _Result:
        try:
            async with self._pool.acquire(timeout=_CONNECT_S) as connection:
                return await step(connection)
        except _AWAY as away:
            raise RetryableError(cause_of(away, ALERTING)) from None


async def _lock(connection: _Connection, required: RequiredState) -> None:
    """Lock all keys of a unit of work until its transaction ends, so that no other one evaluates them meanwhile."""
    keys = {*required.buckets, *required.seen_values}
    if keys:
        await connection.execute(query("alerting_lock_keys"), sorted({_lock_number(key) for key in keys}))


def _lock_number(key: RuleKey) -> int:
    return hashlib.blake2b(key.rule.encode() + key.key_digest, digest_size=2).digest()[0] % _LOCKS


async def _load(connection: _Connection, required: RequiredState) -> State:
    """Return the stored part of the required state, in at most five queries however many keys there are."""
    state = State()
    if required.buckets:
        await _load_windows(connection, required, state)
    if required.seen_values:
        await _load_seen_values(connection, required.seen_values, state)
    return state


# Queries take keys with a number and return the number alone: keys are long, and a result may have many rows of each.
async def _load_windows(connection: _Connection, required: RequiredState, state: State) -> None:
    keys = list(required.buckets)
    ranges = [(number, *key, *required.buckets[key]) for number, key in enumerate(keys)]
    for row in await connection.fetch(query("alerting_bucket_counts"), *_columns(ranges, 6)):
        state.bucket_counts[keys[row["key_number"]]][row["bucket_ms"]] = row["records"]
    starts = [(number, *key, *required.raised_windows[key]) for number, key in enumerate(keys)]
    for row in await connection.fetch(query("alerting_raised_windows"), *_columns(starts, 5)):
        state.raised_windows[keys[row["key_number"]]].append(row["window_start_ms"])
    records = [(number, *key, one) for number, key in enumerate(keys) for one in required.records[key]]
    for row in await connection.fetch(query("alerting_counted_records"), *_columns(records, 4)):
        state.counted_records.add((keys[row["key_number"]], row["record_id"]))


async def _load_seen_values(
    connection: _Connection, required: Mapping[RuleKey, set[bytes]], state: State
) -> None:
    keys = list(required)
    values = [(number, *key, value) for number, key in enumerate(keys) for value in required[key]]
    for row in await connection.fetch(query("alerting_seen_values"), *_columns(values, 4)):
        state.seen_values.add((keys[row["key_number"]], bytes(row["value_digest"])))
    numbered = [(number, *key) for number, key in enumerate(keys)]
    for row in await connection.fetch(query("alerting_keys_with_seen_values"), *_columns(numbered, 3)):
        state.keys_with_seen_values.add(keys[row["key_number"]])


# Rows are stored in a fixed order everywhere, so that two transactions cannot wait for each other's row locks.
async def _store_state(connection: _Connection, required: RequiredState, result: Evaluation) -> None:
    if result.window_entries:
        entries = sorted((*entry.key, entry.record_id, entry.at_ms) for entry in result.window_entries)
        await connection.execute(query("alerting_insert_window_entries"), *_columns(entries, 4))
    if result.seen_values:
        seen = sorted((*seen.key, seen.value_digest) for seen in result.seen_values)
        await connection.execute(query("alerting_insert_seen_values"), *_columns(seen, 3))
    if required.seen_values:
        used = sorted((*key, value) for key, values in required.seen_values.items() for value in values)
        await connection.execute(query("alerting_refresh_seen_values"), *_columns(used, 3))


async def _store_alerts(connection: _Connection, alerts: Sequence[Alert]) -> Sequence[Alert]:
    """Store alerts with their deliveries; return those that are new."""
    if not alerts:
        return ()
    rows = [_alert_row(alert) for alert in sorted(alerts, key=lambda alert: alert.id)]
    stored = await connection.fetch(query("alerting_insert_alerts"), *_columns(rows, 12))
    new_ids = {row["id"] for row in stored}
    fresh = [alert for alert in alerts if alert.id in new_ids]
    deliveries = [(alert.id, channel) for alert in fresh for channel in alert.channels]
    if deliveries:
        await connection.execute(query("alerting_insert_deliveries"), *_columns(deliveries, 2))
    return fresh


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


async def _add_trends(connection: _Connection, trends: Mapping[TrendBucket, int]) -> None:
    if not trends:
        return
    rows = sorted(
        (bucket.start_ms, _trend_digest(bucket), *bucket[1:], events) for bucket, events in trends.items()
    )
    await connection.execute(query("alerting_add_trends"), *_columns(rows, 9))


def _trend_digest(bucket: TrendBucket) -> bytes:
    # Buckets of an hour are older than the column `width_ms`: their digest must stay what it was without it.
    identity = bucket[2:] if bucket.width_ms == HOUR_MS else bucket[1:]
    return hashlib.blake2b(_encode(identity), digest_size=16).digest()


def _columns(rows: Iterable[Sequence[object]], width: int) -> list[list[object]]:
    """Return rows as one array a column: the arguments of a query that unnests them."""
    columns: list[list[object]] = [[] for _ in range(width)]
    for row in rows:
        for column, value in zip(columns, row, strict=True):
            column.append(value)
    return columns


async def _require_utf8(connection: _Connection) -> None:
    require_utf8(connection.get_settings())
