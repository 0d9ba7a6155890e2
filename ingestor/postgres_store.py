"""Postgres as the ingestor writes to it: records, enrichments, dead letters and the gap ledger.

A batch is one transaction. It is copied (COPY) into `audit_records` directly. If one of its ids is there already,
Postgres rolls that back, and the batch is copied into the session's staging table, from which one INSERT skips such ids.
So the role needs no right but INSERT. Events from clocks ahead are stored under the ids noted in the table `clamped_ids`
(docs/adr/0019-clocks-ahead-are-clamped.md).
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple
from functools import lru_cache
from itertools import groupby
from typing import Self
from uuid import UUID

import asyncpg
import msgspec

from ingestor.config import DAY_MS, GapLedgerWaits
from ingestor.dead_letters.ports import DeadLetter
from ingestor.dead_letters.postgres import insert_dead_letters
from ingestor.enrichment_backfill import BackfillStep, Resolve
from ingestor.gap_gauges import GapCounts
from ingestor.gap_statements import lock_order, note_reports, note_sequence_numbers
from ingestor.ports import LostOffsets, ReceivedReport, StoreOutcome
from ingestor.sequence_numbers import numbers_of_dead_letters, numbers_of_records
from schemas.errors import DeadLetterReason, RetryableError, StartupError, UnprocessableEvent
from schemas.identity import id_ms_of
from schemas.postgres_refusals import WRITER, cause_of, start_refusal
from schemas.postgres_session import SESSION_SETTINGS, has_privilege
from schemas.record import (
    COLUMNS,
    STORED_RESULT_FIELDS,
    EnrichmentResult,
    EnrichmentState,
    PartialRecord,
    Record,
    event_id_of,
    with_id,
)
from schemas.sql import query
from schemas.text_encoding import require_utf8

_Row = tuple[int, Record]
_Connection = asyncpg.Connection | asyncpg.pool.PoolConnectionProxy

# Errors that one row causes for its whole batch: a value that the database refuses or the driver cannot encode.
_ROW_ERRORS = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.ProgramLimitExceededError,
    ValueError,
    TypeError,
    OverflowError,
)
# asyncpg raises InternalClientError if the server ends in the middle of a COPY.
_CONNECTION_ERRORS = (
    OSError,
    TimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)
# The time that one backfill step may span: it locks the partitions between its first and its last record.
_SPAN_MS_MAX = 30 * DAY_MS
_STAGED_BATCHES = 16
_ADDRESSES_MAX = 8_192
_INET_FAMILIES = {4: 2, 6: 3}
_record_as_tuple = msgspec.structs.astuple


class _OtherIdsError(RetryableError):
    """Events are stored under other ids than the records have. `noted`: the stored id by event id."""

    def __init__(self, noted: Mapping[UUID, UUID]) -> None:
        super().__init__(f"{len(noted)} events are stored under other ids")
        self._noted = noted

    def applied_to(self, rows: Sequence[_Row]) -> Sequence[_Row]:
        """Return the rows under the noted ids, sorted by them."""
        changed = [
            (index, with_id(record, self._noted.get(event_id_of(record), record.id)))
            for index, record in rows
        ]
        return sorted(changed, key=_sort_key)


class PostgresStore:
    """`RecordStore`, `DeadLetterWriter`, `BackfillStore`, `GapLedger` and their gauges' ports, with the writer's role."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._days: set[int] = set()
        self._staged_batches = 0
        """How many of the next batches skip the direct COPY, because repeats are likely."""

    @classmethod
    async def connect(cls, dsn: str, *, connections_max: int, command_timeout_ms: int) -> Self:
        """Return a store on a pool of at most `connections_max` connections, which are opened on use.

        Raises StartupError if the DSN cannot be parsed. A server that is away shows on use.
        """
        try:
            pool = asyncpg.create_pool(
                dsn,
                # So that a server that is away delays no start; it shows on use, where it is retried.
                min_size=0,
                max_size=connections_max,
                command_timeout=command_timeout_ms / 1000,
                timeout=10,
                init=_prepare_session,
                server_settings={
                    **SESSION_SETTINGS,
                    "application_name": "auditap-ingest",
                    # A custom plan locks only the partitions of its ids, a generic plan all partitions.
                    "plan_cache_mode": "force_custom_plan",
                },
            )
            await pool
        except ValueError as error:
            raise StartupError(start_refusal(error, WRITER)) from None
        return cls(pool)

    async def check_login(self) -> bool:
        """Return whether the server answers and its database is migrated. If not, statements are retried until they succeed.

        Raises StartupError if Postgres refuses the login for good, its database is not UTF-8, or the login may not store records.
        """
        try:
            async with self._pool.acquire(timeout=5) as connection:
                return await has_privilege(connection, WRITER, "auditap.audit_records", "INSERT")
        except (*_CONNECTION_ERRORS, ValueError) as error:
            if refusal := start_refusal(error, WRITER):
                await self.close()
                raise StartupError(refusal) from None
            return False
        except StartupError:
            await self.close()
            raise

    async def close(self) -> None:
        """Close the pool; statements under way are cancelled after 5 s."""
        try:
            async with asyncio.timeout(5):
                await self._pool.close()
        except TimeoutError:
            self._pool.terminate()

    async def ready(self) -> bool:
        """Return whether the database answers and has been migrated."""
        try:
            async with self._pool.acquire(timeout=5) as connection:
                return bool(
                    await connection.fetchval("SELECT to_regclass('auditap.audit_records') IS NOT NULL")
                )
        except _CONNECTION_ERRORS:
            return False

    async def store(self, records: Sequence[Record]) -> StoreOutcome:
        """See `RecordStore.store`."""
        if not records:
            return StoreOutcome(0, 0, ())
        # Two sessions with overlapping batches in opposite order deadlocked 5 times in 5.
        rows: list[_Row] = sorted(enumerate(records), key=_sort_key)
        try:
            # A transaction of its own: storing holds in shared mode the lock that noting takes exclusively, and two
            # sessions that want more of it would wait for each other.
            await self._note_clamped(records)
            await self._ensure_days(_days(rows))
            return await self._store_or_halve(rows)
        except _CONNECTION_ERRORS as away:
            raise RetryableError(cause_of(away, WRITER)) from None

    async def clock_ms(self) -> int:
        """See `RecordStore.clock_ms`."""
        try:
            async with self._pool.acquire() as connection:
                now_ms: int = await connection.fetchval("SELECT auditap.now_ms()")
        except _CONNECTION_ERRORS as away:
            raise RetryableError(cause_of(away, WRITER)) from None
        return now_ms

    async def _note_clamped(self, records: Sequence[Record]) -> None:
        """Note the ids under which events from clocks ahead are stored, unless they are noted or stored already."""
        clamped = {event_id_of(record): record.id for record in records if record.clamped_from_ms is not None}
        if clamped:
            async with self._pool.acquire() as connection:
                await connection.execute(
                    "SELECT auditap.note_clamped_ids($1, $2)", list(clamped), list(clamped.values())
                )

    async def ensure_partitions(self, from_ms: int, to_ms: int) -> None:
        """Create the partitions of a time range (Unix ms) that this store does not know yet. Raises RetryableError."""
        await self._ensure_days(range(from_ms // DAY_MS, to_ms // DAY_MS + 1))

    async def _ensure_days(self, days: Iterable[int]) -> None:
        """Create the partitions of days (since 1970), one transaction each, because it locks what it creates."""
        missing = sorted(set(days) - self._days)
        if not missing:
            return
        try:
            async with self._pool.acquire() as connection:
                for day in missing:
                    start_ms, end_ms = day * DAY_MS, (day + 1) * DAY_MS - 1
                    await connection.execute("SELECT auditap.ensure_partitions($1, $2)", start_ms, end_ms)
                    # Each day is known once its own transaction has committed.
                    self._days.add(day)
        except _CONNECTION_ERRORS as away:
            raise RetryableError(cause_of(away, WRITER)) from None

    async def _store_or_halve(self, rows: Sequence[_Row]) -> StoreOutcome:
        """Store rows. If one breaks the batch, find it by halving the batch, and refuse it alone."""
        try:
            return await self._store_at_once(rows)
        except _ROW_ERRORS as fault:
            # A certificate that cannot be verified is a ValueError as well, and no fault of a row.
            if isinstance(fault, OSError):
                raise
            if _is_missing_partition(fault):
                # The error is retried as a whole, and the next attempt creates the partitions again.
                self._days.clear()
                raise
            if len(rows) == 1:
                return StoreOutcome(0, 0, [(rows[0][0], UnprocessableEvent(DeadLetterReason.UNSTORABLE))])
        # One bad row among n is found in about 2 log2(n) transactions; storing row by row would take n.
        middle = len(rows) // 2
        first = await self._store_or_halve(rows[:middle])
        second = await self._store_or_halve(rows[middle:])
        return StoreOutcome(
            first.stored + second.stored, first.repeated + second.repeated, [*first.refused, *second.refused]
        )

    async def _store_at_once(self, rows: Sequence[_Row]) -> StoreOutcome:
        """Store rows, on a conflict under their noted ids. Raises RetryableError if other ids are noted meanwhile, twice."""
        try:
            return await self._store_under_ids(rows)
        except _OtherIdsError as noted:
            # The rows are sorted again, and may now belong to other days.
            rows = noted.applied_to(rows)
        await self._ensure_days(_days(rows))
        return await self._store_under_ids(rows)

    async def _store_under_ids(self, rows: Sequence[_Row]) -> StoreOutcome:
        if self._staged_batches == 0:
            try:
                return await self._copy(rows)
            except asyncpg.UniqueViolationError:
                # Repeats come in series: after a restart, or from a tap that resends.
                self._staged_batches = _STAGED_BATCHES
        self._staged_batches -= 1
        return await self._stage(rows)

    async def _copy(self, rows: Sequence[_Row]) -> StoreOutcome:
        """Copy rows into the log. Raises UniqueViolationError, with nothing stored, if one of the ids is there."""
        partial = [row for row in rows if row[1].enrichment == EnrichmentState.PARTIAL]
        async with self._pool.acquire() as connection, connection.transaction():
            await _hold_ids(connection, rows)
            await connection.copy_records_to_table(
                "audit_records", schema_name="auditap", records=_tuples(rows), columns=COLUMNS
            )
            if partial:
                await connection.copy_records_to_table("staging", records=_tuples(partial), columns=COLUMNS)
                await connection.execute(query("note_partial"))
            await note_sequence_numbers(connection, numbers_of_records([record for _, record in rows]))
        return StoreOutcome(len(rows), 0, ())

    async def _stage(self, rows: Sequence[_Row]) -> StoreOutcome:
        """Store the rows whose ids are not there yet."""
        async with self._pool.acquire() as connection, connection.transaction():
            await _hold_ids(connection, rows)
            await connection.copy_records_to_table("staging", records=_tuples(rows), columns=COLUMNS)
            insert = query("store_records").format(columns=", ".join(COLUMNS))
            status: str = await connection.execute(insert)
            stored = int(status.rpartition(" ")[2])
            if any(record.enrichment == EnrichmentState.PARTIAL for _, record in rows):
                await connection.execute(query("note_partial"))
            # The INSERT has waited for others that were inserting the same ids, so every id that it skipped can be read
            # now.
            conflicts = await _conflicts(connection, rows) if stored < len(rows) else []
            # The last step, because it locks rows that other batches wait for.
            await note_sequence_numbers(connection, numbers_of_records([record for _, record in rows]))
        refused = [(index, UnprocessableEvent(DeadLetterReason.ID_CONFLICT)) for index in conflicts]
        return StoreOutcome(stored, len(rows) - stored - len(refused), refused)

    async def write_dead_letters(self, dead_letters: Sequence[DeadLetter]) -> None:
        """See `DeadLetterWriter.write_dead_letters`."""
        try:
            async with self._pool.acquire() as connection, connection.transaction():
                # In one transaction, because a number whose event is dead-lettered is no gap.
                await insert_dead_letters(connection, dead_letters)
                await note_sequence_numbers(connection, numbers_of_dead_letters(dead_letters))
        except _CONNECTION_ERRORS as away:
            raise RetryableError(cause_of(away, WRITER)) from None

    async def note(self, reports: Sequence[ReceivedReport], lost: Sequence[LostOffsets]) -> Sequence[int]:
        """See `GapLedger.note`."""
        try:
            async with self._pool.acquire() as connection:
                return await _note(connection, sorted(enumerate(reports), key=lock_order), lost)
        except _CONNECTION_ERRORS as away:
            raise RetryableError(cause_of(away, WRITER)) from None

    async def refresh_gap_ledger(self, waits: GapLedgerWaits) -> GapCounts:
        """See `GapLedgerUpkeep.refresh_gap_ledger`."""
        try:
            async with self._pool.acquire() as connection:
                await connection.execute(
                    "SELECT auditap.tidy_completeness($1, $2, $3, $4, $5)", *astuple(waits)
                )
                [row] = await connection.fetch("SELECT * FROM auditap.completeness_counts")
        except _CONNECTION_ERRORS as away:
            raise RetryableError(cause_of(away, WRITER)) from None
        return GapCounts(**dict(row))

    async def count_unresolved_dead_letters(self, count_max: int) -> Mapping[str, int]:
        """See `UnresolvedDeadLetterCounter.count_unresolved_dead_letters`."""
        try:
            async with self._pool.acquire() as connection:
                rows = await connection.fetch(
                    "SELECT * FROM auditap.count_unresolved_dead_letters($1, $2)",
                    list(DeadLetterReason),
                    count_max,
                )
        except _CONNECTION_ERRORS as away:
            raise RetryableError(cause_of(away, WRITER)) from None
        return {row["reason"]: row["dead_letters"] for row in rows}

    async def backfill_next(self, records_max: int, resolve: Resolve) -> BackfillStep | None:
        """See `BackfillStore.backfill_next`."""
        try:
            async with self._pool.acquire() as connection, connection.transaction():
                return await _backfill_next(connection, records_max, resolve)
        except _CONNECTION_ERRORS as away:
            raise RetryableError(cause_of(away, WRITER)) from None


async def _prepare_session(connection: asyncpg.Connection) -> None:
    require_utf8(connection.get_settings())
    # Once for each connection: the temporary table lives as long as the session, and every commit empties it.
    await connection.execute(query("create_staging"))
    # asyncpg would parse each address again; most addresses recur.
    await connection.set_type_codec(
        "inet", schema="pg_catalog", encoder=_encoded_address, decoder=ipaddress.ip_address, format="binary"
    )


@lru_cache(_ADDRESSES_MAX)
def _encoded_address(text: str) -> bytes:
    """Return an address in Postgres' binary format: family, prefix bits, 0 (no network), length, bytes."""
    address = ipaddress.ip_address(text)
    family = _INET_FAMILIES[address.version]
    return bytes((family, address.max_prefixlen, 0, len(address.packed))) + address.packed


def _sort_key(row: _Row) -> int:
    """Return the id as a number: integers compare in C, UUIDs in Python."""
    return row[1].id.int


def _days(rows: Sequence[_Row]) -> set[int]:
    return {id_ms_of(record.id) // DAY_MS for _, record in rows}


async def _hold_ids(connection: _Connection, rows: Sequence[_Row]) -> None:
    """Lock the noted ids of these events for this transaction.

    Raises _OtherIdsError if a record has another id than the noted one. Without noted ids it costs one query.
    """
    clamped = {event_id_of(record): record.id for _, record in rows if record.clamped_from_ms is not None}
    # Notes are kept under the events' own ids, which a clamped record does not have.
    low, high = min([rows[0][1].id, *clamped]), max([rows[-1][1].id, *clamped])
    some_noted = await connection.fetchval("SELECT auditap.hold_clamped_ids($1, $2)", low, high)
    if not some_noted and not clamped:
        return
    given = {event_id_of(record): record.id for _, record in rows}
    noted = {each: each for each in clamped}
    for row in await connection.fetch(query("clamped_ids"), list(given)):
        noted[row["event_id"]] = row["clamped_id"]
    # Two records of the same event in a batch may have two ids.
    if any(noted.get(event_id_of(record), record.id) != record.id for _, record in rows):
        raise _OtherIdsError(noted)


def _tuples(rows: Sequence[_Row]) -> list[tuple[object, ...]]:
    return [_record_as_tuple(record) for _, record in rows]


def _is_missing_partition(fault: Exception) -> bool:
    """Whether a row has no partition, because it has been dropped, rather than violating a constraint."""
    return isinstance(fault, asyncpg.CheckViolationError) and fault.constraint_name is None


async def _backfill_next(connection: _Connection, records_max: int, resolve: Resolve) -> BackfillStep | None:
    rows = await connection.fetch(query("claim_partial"), records_max)
    if not rows:
        return None
    ids = _within_span([row["id"] for row in rows])
    partial: list[PartialRecord] = []
    for day in _by_day(ids):
        found = await connection.fetch(query("partial_records"), day, day[0], day[-1])
        partial += [PartialRecord(**dict(row)) for row in found]
    results = await resolve(partial)
    enriched = [record for record in results if record.state != EnrichmentState.PARTIAL]
    # A repeated record may leave a note although it is complete. Such notes are deleted as well.
    done = set(ids) - {record.id for record in partial} | {record.id for record in enriched}
    if done:
        await connection.execute(query("store_enrichments"), *_columns(enriched), sorted(done))
    # All of them: a note that stayed for any reason must not be due again at once, or the pass would never end.
    await connection.execute(query("postpone_partial"), ids)
    return BackfillStep(len(partial), enriched, any(record.lookup_failed for record in results))


def _columns(enriched: Sequence[EnrichmentResult]) -> list[list[object]]:
    return [[getattr(record, name) for record in enriched] for name in STORED_RESULT_FIELDS]


def _within_span(ids: Sequence[UUID]) -> Sequence[UUID]:
    """Return the leading ids of a sorted list that lie within one span of time, and so in few partitions."""
    end_ms = id_ms_of(ids[0]) + _SPAN_MS_MAX
    return [each for each in ids if id_ms_of(each) < end_ms]


def _by_day(ids: Sequence[UUID]) -> Iterator[Sequence[UUID]]:
    """Yield sorted ids day by day: a statement per day touches the partitions of that day only."""
    for _, day in groupby(ids, key=lambda each: id_ms_of(each) // DAY_MS):
        yield list(day)


async def _note(
    connection: _Connection, reports: Sequence[tuple[int, ReceivedReport]], lost: Sequence[LostOffsets]
) -> Sequence[int]:
    """Note reports in one transaction; if one breaks it, one by one. Returns the indexes of those that cannot be noted."""
    try:
        async with connection.transaction():
            await note_reports(connection, reports, lost)
    except _ROW_ERRORS:
        # Nothing is left to divide: this report is the fault.
        if len(reports) == 1 and not lost:
            return [reports[0][0]]
        # Lost offsets come from the log and cannot be refused: raised, and retried.
        if not reports:
            raise
    else:
        return []
    refused: list[int] = []
    for report in reports:
        refused += await _note(connection, [report], ())
    if lost:
        await _note(connection, (), lost)
    return refused


async def _conflicts(connection: _Connection, rows: Sequence[_Row]) -> list[int]:
    """Return the indexes of rows whose id is stored with another event's digest."""
    ids = [record.id for _, record in rows]
    digests: dict[UUID, bytes] = {}
    for day in _by_day(ids):
        found = await connection.fetch(query("stored_digests"), day, day[0], day[-1])
        digests |= {row["id"]: row["event_digest"] for row in found}
    return [index for index, record in rows if digests[record.id] != record.event_digest]
