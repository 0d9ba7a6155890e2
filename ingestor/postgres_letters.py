"""Dead letters in Postgres, as their operator sees them."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

import asyncpg

from ingestor.dead_letters import BuriedLetter, LetterState, Retried, Wanted
from ingestor.ports import Partition
from schemas.errors import RetryableError, StartupError
from schemas.sql import query

_T = TypeVar("_T")


class PostgresLetterBox:
    """`LetterBox` on one connection, of the operator's role or one that may do more."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection
        self._in_turn = asyncio.Lock()

    async def letters(
        self, wanted: Wanted, after: int, letters_max: int, *, with_events: bool
    ) -> Sequence[BuriedLetter]:
        """See `LetterBox.letters`."""
        rows = await self._answered(
            self._connection.fetch(
                query("select_letters"), *_arguments(wanted), after, letters_max, with_events
            )
        )
        return [_letter(row) for row in rows]

    async def count(self, wanted: Wanted) -> tuple[int, int]:
        """See `LetterBox.count`."""
        row = await self._answered(self._connection.fetchrow(query("count_letters"), *_arguments(wanted)))
        return (row["letters"], row["last"] or 0) if row is not None else (0, 0)

    async def mark(self, retried: Sequence[Retried]) -> None:
        """See `LetterBox.mark`."""
        rows = [(number, why is None, why and str(why.reason), why and why.path) for number, why in retried]
        await self._answered(self._connection.executemany(query("mark_letter"), rows))

    async def discard(self, wanted: Wanted) -> int:
        """See `LetterBox.discard`."""
        status: str = await self._answered(
            self._connection.execute(query("discard_letters"), *_arguments(wanted))
        )
        return int(status.rpartition(" ")[2])

    async def _answered(self, asked: Coroutine[Any, Any, _T]) -> _T:
        try:
            # A connection answers one caller at a time.
            async with self._in_turn:
                return await asked
        except asyncpg.InsufficientPrivilegeError:
            raise StartupError(
                "This login may not handle dead letters: set postgres.operator_dsn, or an administrator's."
            ) from None
        except (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError):
            raise StartupError(
                "The database has no tables of ours, or older ones: run `auditap migrate`."
            ) from None
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as away:
            raise RetryableError(f"Postgres: {type(away).__name__}") from None


def _arguments(wanted: Wanted) -> tuple[object, ...]:
    return (
        list(wanted.numbers) or None,
        list(wanted.reasons) or None,
        list(wanted.event_ids) or None,
        wanted.since,
        wanted.before,
        None if wanted.state is None else str(wanted.state),
        wanted.up_to,
    )


def _letter(row: asyncpg.Record) -> BuriedLetter:
    return BuriedLetter(
        number=row["number"],
        partition=Partition(row["source_log"], row["source_partition"]),
        offset=row["source_offset"],
        reason=row["reason"],
        path=row["path"],
        event_id=row["event_id"],
        received_ms=row["received_ms"],
        buried_at=row["buried_at"],
        state=LetterState(row["state"]),
        retries=row["retries"],
        retried_at=row["retried_at"],
        stored_at=row["stored_at"],
        discarded_at=row["discarded_at"],
        discarded_by=row["discarded_by"],
        value=row["event"],
    )
