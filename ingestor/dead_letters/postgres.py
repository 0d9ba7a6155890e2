"""Dead letters in Postgres: `DeadLetterStore` for the operator, and the ingestor's insert."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar
from uuid import UUID

import asyncpg

from eventlog.ports import Partition
from ingestor.dead_letters.ports import (
    DeadLetter,
    DeadLetterFilter,
    DeadLetterState,
    RetryOutcome,
    StoredDeadLetter,
)
from schemas.errors import RetryableError, StartupError
from schemas.event import event_id
from schemas.postgres_refusals import NOT_MIGRATED, OPERATOR, cause_of, is_not_migrated
from schemas.sql import query

_T = TypeVar("_T")


async def insert_dead_letters(
    connection: asyncpg.Connection | asyncpg.pool.PoolConnectionProxy, dead_letters: Sequence[DeadLetter]
) -> None:
    """Insert dead letters; one that is there already, by its position and event, stays as it is. Raises asyncpg's errors."""
    await connection.executemany(query("insert_dead_letters"), [_insert_row(each) for each in dead_letters])


def _insert_row(dead_letter: DeadLetter) -> tuple[object, ...]:
    found = event_id(dead_letter.value)
    return (
        dead_letter.partition.log,
        dead_letter.partition.number,
        dead_letter.offset,
        str(dead_letter.reason.reason),
        dead_letter.reason.path,
        None if found is None else UUID(found),
        dead_letter.value,
        dead_letter.received_ms,
    )


class PostgresDeadLetterStore:
    """`DeadLetterStore` on one connection, of the role `auditap_operator` or an administrator."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection
        # A connection runs one statement at a time.
        self._lock = asyncio.Lock()

    async def select(
        self, chosen: DeadLetterFilter, after: int, count_max: int, *, with_events: bool
    ) -> Sequence[StoredDeadLetter]:
        """See `DeadLetterStore.select`."""
        rows = await self._run(
            self._connection.fetch(
                _chosen("select_dead_letters"), *_arguments(chosen), after, count_max, with_events
            )
        )
        return [_dead_letter(row) for row in rows]

    async def count(self, chosen: DeadLetterFilter) -> tuple[int, int]:
        """See `DeadLetterStore.count`."""
        [row] = await self._run(self._connection.fetch(_chosen("count_dead_letters"), *_arguments(chosen)))
        return row["dead_letters"], row["last"] or 0

    async def record_retries(self, outcomes: Sequence[RetryOutcome]) -> None:
        """See `DeadLetterStore.record_retries`."""
        rows = [(number, why is None, why and str(why.reason), why and why.path) for number, why in outcomes]
        await self._run(self._connection.executemany(query("record_dead_letter_retry"), rows))

    async def discard(self, chosen: DeadLetterFilter) -> int:
        """See `DeadLetterStore.discard`."""
        status: str = await self._run(
            self._connection.execute(_chosen("discard_dead_letters"), *_arguments(chosen))
        )
        # The command tag, such as `UPDATE 5`.
        return int(status.rpartition(" ")[2])

    async def _run(self, statement: Coroutine[Any, Any, _T]) -> _T:
        try:
            async with self._lock:
                return await statement
        except asyncpg.InsufficientPrivilegeError:
            raise StartupError(
                "This login may not handle dead letters: set postgres.operator_dsn, or an administrator's."
            ) from None
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            if is_not_migrated(error):
                raise StartupError(NOT_MIGRATED) from None
            raise RetryableError(cause_of(error, OPERATOR)) from None


def _chosen(name: str) -> str:
    """Return a query for the dead letters that a filter chooses; its first arguments are those of `_arguments`."""
    return query(name).format(chosen=query("dead_letters_chosen"))


def _arguments(chosen: DeadLetterFilter) -> tuple[object, ...]:
    return (
        list(chosen.numbers) or None,
        list(chosen.reasons) or None,
        list(chosen.event_ids) or None,
        chosen.since,
        chosen.before,
        None if chosen.state is None else str(chosen.state),
        chosen.number_max,
    )


def _dead_letter(row: asyncpg.Record) -> StoredDeadLetter:
    return StoredDeadLetter(
        number=row["number"],
        partition=Partition(row["source_log"], row["source_partition"]),
        offset=row["source_offset"],
        reason=row["reason"],
        path=row["path"],
        event_id=row["event_id"],
        received_ms=row["received_ms"],
        dead_lettered_at=row["dead_lettered_at"],
        state=DeadLetterState(row["state"]),
        retries=row["retries"],
        retried_at=row["retried_at"],
        stored_at=row["stored_at"],
        discarded_at=row["discarded_at"],
        discarded_by=row["discarded_by"],
        value=row["event"],
    )
