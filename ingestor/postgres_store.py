"""Records, enrichments and dead letters in Postgres: the ingestor's only module on asyncpg.

A batch is one transaction. It is copied into the log directly; where an id of it is there already, Postgres undoes all
of that, and the batch goes into the session's staging table, from which one insert passes over such ids. A role that
may only insert is enough. Events of clocks ahead have other ids in the log than their own: those noted in the table
`clamped_ids` (docs/adr/0019-clocks-ahead-are-clamped.md).
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

from ingestor.completeness import CompletenessCounts
from ingestor.completion import Completed, Incomplete, Resolve, Step
from ingestor.config import DAY_MS, CompletenessWaits
from ingestor.ledger import lock_order, note_at_once, note_seen
from ingestor.numbers import seen_in_letters, seen_in_records
from ingestor.ports import DeadLetter, LostOffsets, ReceivedReport, StoreOutcome
from schemas.errors import BuriedEvent, DeadLetterReason, RetryableError, StartupError
from schemas.event import event_id
from schemas.identity import id_ms_of
from schemas.record import COLUMNS, EnrichmentState, Record, event_id_of, under_id
from schemas.sql import query

_Row = tuple[int, Record]
_Connection = asyncpg.Connection | asyncpg.pool.PoolConnectionProxy

# What one row can do to a whole batch: a value the database refuses, or one the driver cannot encode.
_ROW_ERRORS = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.ProgramLimitExceededError,
    ValueError,
    TypeError,
    OverflowError,
)
# The driver's own InternalClientError is what a server that ends in the middle of a COPY leaves behind.
_CONNECTION_ERRORS = (
    OSError,
    TimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)
# What one step of completion may span, however far apart what waits lies.
_SPAN_MS_MAX = 30 * DAY_MS
_STAGED_BATCHES = 16
_ADDRESSES_MAX = 8_192
_INET_FAMILIES = {4: 2, 6: 3}
_record_as_tuple = msgspec.structs.astuple


class _OtherIdsError(RetryableError):
    """Events are stored under other ids than they were given: by the id of the event."""

    def __init__(self, noted: Mapping[UUID, UUID]) -> None:
        super().__init__(f"{len(noted)} events are stored under other ids")
        self._noted = noted

    def given_to(self, rows: Sequence[_Row]) -> Sequence[_Row]:
        """Return the rows with these ids, in the order of them."""
        changed = [
            (index, under_id(record, self._noted.get(event_id_of(record), record.id)))
            for index, record in rows
        ]
        return sorted(changed, key=_place)


class PostgresStore:
    """`RecordStore`, `DeadLetters`, `CompletionStore` and `CompletenessStore` on one pool of the writer's role."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._days: set[int] = set()
        self._staged_batches = 0
        """How many of the next batches are staged at once, because repeats are likely in them."""

    @classmethod
    async def connect(cls, dsn: str, *, connections_max: int, command_timeout_ms: int) -> Self:
        """Return a store on a pool of at most `connections_max` connections, opened when they are needed.

        Raises StartupError where the DSN cannot be read. A server that is away shows on use.
        """
        try:
            pool = asyncpg.create_pool(
                dsn,
                min_size=0,
                max_size=connections_max,
                command_timeout=command_timeout_ms / 1000,
                timeout=10,
                init=_prepare_session,
                server_settings={
                    "application_name": "auditap-ingest",
                    # A plan for the given ids locks the partitions they lie in, a generic one all that there are.
                    "plan_cache_mode": "force_custom_plan",
                },
            )
            await pool
        except ValueError:
            raise StartupError("The writer's Postgres DSN cannot be read: correct it.") from None
        return cls(pool)

    async def check_login(self) -> None:
        """Raise StartupError where Postgres refuses the login; one that does not answer may be there later."""
        try:
            async with self._pool.acquire(timeout=5):
                return
        except (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError):
            pass
        except _CONNECTION_ERRORS:
            return
        await self.close()
        raise StartupError(
            "Postgres refuses the writer's login: check user, password and database of its DSN."
        )

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
        rows: list[_Row] = sorted(enumerate(records), key=_place)
        try:
            await self._note_clamped(records)
            await self._ensure_days(_days(rows))
            return await self._store_or_halve(rows)
        except _CONNECTION_ERRORS as away:
            raise RetryableError(f"Postgres: {type(away).__name__}") from None

    async def _note_clamped(self, records: Sequence[Record]) -> None:
        """Note under which ids events of clocks ahead are stored, where nobody has, nor stored them under their own."""
        clamped = {event_id_of(record): record.id for record in records if record.clamped_from_ms is not None}
        if clamped:
            async with self._pool.acquire() as connection:
                await connection.execute(
                    "SELECT auditap.note_clamped_ids($1, $2)", list(clamped), list(clamped.values())
                )

    async def ensure_partitions(self, from_ms: int, to_ms: int) -> None:
        """Make the partitions of a span of time where this store has not seen them yet. Raises RetryableError."""
        await self._ensure_days(range(from_ms // DAY_MS, to_ms // DAY_MS + 1))

    async def _ensure_days(self, days: Iterable[int]) -> None:
        """Make the partitions of whole days (since 1970), a transaction each: it locks all that it makes."""
        missing = sorted(set(days) - self._days)
        if not missing:
            return
        try:
            async with self._pool.acquire() as connection:
                for day in missing:
                    start_ms, end_ms = day * DAY_MS, (day + 1) * DAY_MS - 1
                    await connection.execute("SELECT auditap.ensure_partitions($1, $2)", start_ms, end_ms)
                    self._days.add(day)
        except _CONNECTION_ERRORS as away:
            raise RetryableError(f"Postgres: {type(away).__name__}") from None

    async def _store_or_halve(self, rows: Sequence[_Row]) -> StoreOutcome:
        """Store rows; where one of them breaks the batch, find it by halving and refuse it alone."""
        try:
            return await self._store_at_once(rows)
        except _ROW_ERRORS as fault:
            if _is_missing_partition(fault):
                self._days.clear()
                raise
            if len(rows) == 1:
                return StoreOutcome(0, 0, [(rows[0][0], BuriedEvent(DeadLetterReason.UNSTORABLE))])
        middle = len(rows) // 2
        first = await self._store_or_halve(rows[:middle])
        second = await self._store_or_halve(rows[middle:])
        return StoreOutcome(
            first.stored + second.stored, first.repeated + second.repeated, [*first.refused, *second.refused]
        )

    async def _store_at_once(self, rows: Sequence[_Row]) -> StoreOutcome:
        """Store rows under the ids that are noted. Raises RetryableError where they are noted meanwhile, twice."""
        try:
            return await self._store_as_given(rows)
        except _OtherIdsError as noted:
            rows = noted.given_to(rows)
        await self._ensure_days(_days(rows))
        return await self._store_as_given(rows)

    async def _store_as_given(self, rows: Sequence[_Row]) -> StoreOutcome:
        if self._staged_batches == 0:
            try:
                return await self._copy(rows)
            except asyncpg.UniqueViolationError:
                # Repeats come in runs: after a restart, or from a tap that sends again.
                self._staged_batches = _STAGED_BATCHES
        self._staged_batches -= 1
        return await self._stage(rows)

    async def _copy(self, rows: Sequence[_Row]) -> StoreOutcome:
        """Copy rows into the log. Raises UniqueViolationError, with nothing stored, where one of the ids is there."""
        partial = [row for row in rows if row[1].enrichment == EnrichmentState.PARTIAL]
        async with self._pool.acquire() as connection, connection.transaction():
            await _hold_ids(connection, rows)
            await connection.copy_records_to_table(
                "audit_records", schema_name="auditap", records=_tuples(rows), columns=COLUMNS
            )
            if partial:
                await connection.copy_records_to_table("staging", records=_tuples(partial), columns=COLUMNS)
                await connection.execute(query("note_partial"))
            await note_seen(connection, seen_in_records([record for _, record in rows]))
        return StoreOutcome(len(rows), 0, ())

    async def _stage(self, rows: Sequence[_Row]) -> StoreOutcome:
        """Store those of the rows whose ids are not there yet."""
        async with self._pool.acquire() as connection, connection.transaction():
            await _hold_ids(connection, rows)
            await connection.copy_records_to_table("staging", records=_tuples(rows), columns=COLUMNS)
            status: str = await connection.execute(query("store_records"))
            stored = int(status.rpartition(" ")[2])
            if any(record.enrichment == EnrichmentState.PARTIAL for _, record in rows):
                await connection.execute(query("note_partial"))
            conflicts = await _conflicts(connection, rows) if stored < len(rows) else []
            # The last step, because it locks rows that other batches wait for.
            await note_seen(connection, seen_in_records([record for _, record in rows]))
        refused = [(index, BuriedEvent(DeadLetterReason.ID_CONFLICT)) for index in conflicts]
        return StoreOutcome(stored, len(rows) - stored - len(refused), refused)

    async def bury(self, letters: Sequence[DeadLetter]) -> None:
        """See `DeadLetters.bury`."""
        try:
            async with self._pool.acquire() as connection, connection.transaction():
                await connection.executemany(
                    query("bury_dead_letters"), [_letter_row(letter) for letter in letters]
                )
                await note_seen(connection, seen_in_letters(letters))
        except _CONNECTION_ERRORS as away:
            raise RetryableError(f"Postgres: {type(away).__name__}") from None

    async def note(self, reports: Sequence[ReceivedReport], lost: Sequence[LostOffsets]) -> Sequence[int]:
        """See `CompletenessStore.note`."""
        try:
            async with self._pool.acquire() as connection:
                return await _note(connection, sorted(enumerate(reports), key=lock_order), lost)
        except _CONNECTION_ERRORS as away:
            raise RetryableError(f"Postgres: {type(away).__name__}") from None

    async def tidy_completeness(self, waits: CompletenessWaits) -> CompletenessCounts:
        """Say how long is waited, forget what is old, and return what is open now. Raises RetryableError."""
        try:
            async with self._pool.acquire() as connection:
                await connection.execute(
                    "SELECT auditap.tidy_completeness($1, $2, $3, $4, $5)", *astuple(waits)
                )
                [row] = await connection.fetch("SELECT * FROM auditap.completeness_counts")
        except _CONNECTION_ERRORS as away:
            raise RetryableError(f"Postgres: {type(away).__name__}") from None
        return CompletenessCounts(**dict(row))

    async def open_letters(self, letters_max: int) -> Mapping[str, int]:
        """See `OpenLetters.open_letters`."""
        try:
            async with self._pool.acquire() as connection:
                rows = await connection.fetch(
                    "SELECT * FROM auditap.open_letters($1, $2)", list(DeadLetterReason), letters_max
                )
        except _CONNECTION_ERRORS as away:
            raise RetryableError(f"Postgres: {type(away).__name__}") from None
        return {row["reason"]: row["letters"] for row in rows}

    async def complete_next(self, after: UUID, records_max: int, resolve: Resolve) -> Step | None:
        """See `CompletionStore.complete_next`."""
        try:
            async with self._pool.acquire() as connection, connection.transaction():
                return await _complete_next(connection, after, records_max, resolve)
        except _CONNECTION_ERRORS as away:
            raise RetryableError(f"Postgres: {type(away).__name__}") from None


async def _prepare_session(connection: asyncpg.Connection) -> None:
    await connection.execute(query("create_staging"))
    # The driver parses each address anew; most of them come again and again.
    await connection.set_type_codec(
        "inet", schema="pg_catalog", encoder=_encoded_address, decoder=ipaddress.ip_address, format="binary"
    )


@lru_cache(_ADDRESSES_MAX)
def _encoded_address(text: str) -> bytes:
    """Return an address as Postgres reads it: family, bits, that it is no network, length, bytes."""
    address = ipaddress.ip_address(text)
    family = _INET_FAMILIES[address.version]
    return bytes((family, address.max_prefixlen, 0, len(address.packed))) + address.packed


def _place(row: _Row) -> int:
    """Return by what rows are sorted: ids as numbers, which compare in C."""
    return row[1].id.int


def _days(rows: Sequence[_Row]) -> set[int]:
    return {id_ms_of(record.id) // DAY_MS for _, record in rows}


async def _hold_ids(connection: _Connection, rows: Sequence[_Row]) -> None:
    """Keep it for this transaction as it is noted under which ids these events are stored.

    Raises _OtherIdsError where they were given others. For events that nobody noted it is one look-up.
    """
    clamped = {event_id_of(record): record.id for _, record in rows if record.clamped_from_ms is not None}
    low, high = min([rows[0][1].id, *clamped]), max([rows[-1][1].id, *clamped])
    some_noted = await connection.fetchval("SELECT auditap.hold_clamped_ids($1, $2)", low, high)
    if not some_noted and not clamped:
        return
    given = {event_id_of(record): record.id for _, record in rows}
    noted = {each: each for each in clamped}
    for row in await connection.fetch(query("clamped_ids"), list(given)):
        noted[row["event_id"]] = row["clamped_id"]
    # The same event twice in a batch may have been given two ids.
    if any(noted.get(event_id_of(record), record.id) != record.id for _, record in rows):
        raise _OtherIdsError(noted)


def _tuples(rows: Sequence[_Row]) -> list[tuple[object, ...]]:
    return [_record_as_tuple(record) for _, record in rows]


def _is_missing_partition(fault: Exception) -> bool:
    """Tell a row without a partition, which was there and has been dropped, from one that breaks a constraint."""
    return isinstance(fault, asyncpg.CheckViolationError) and fault.constraint_name is None


async def _complete_next(
    connection: _Connection, after: UUID, records_max: int, resolve: Resolve
) -> Step | None:
    rows = await connection.fetch(query("claim_partial"), after, records_max)
    if not rows:
        return None
    ids = _within_span([row["id"] for row in rows])
    incomplete: list[Incomplete] = []
    for day in _by_day(ids):
        found = await connection.fetch(query("incomplete_records"), day, day[0], day[-1])
        incomplete += [Incomplete(**dict(row)) for row in found]
    completed = [each for each in await resolve(incomplete) if each.state != EnrichmentState.PARTIAL]
    # Notes of records that need nothing are there after a repeat, and go as well.
    done = set(ids) - {each.id for each in incomplete} | {each.id for each in completed}
    if done:
        columns = [[getattr(each, name) for each in completed] for name in Completed.__struct_fields__]
        await connection.execute(query("store_enrichments"), *columns, sorted(done))
    return Step(ids[-1], len(incomplete), completed)


def _within_span(ids: Sequence[UUID]) -> Sequence[UUID]:
    """Return the first of sorted ids, as far as they lie so close that they touch few partitions."""
    end_ms = id_ms_of(ids[0]) + _SPAN_MS_MAX
    return [each for each in ids if id_ms_of(each) < end_ms]


def _by_day(ids: Sequence[UUID]) -> Iterator[Sequence[UUID]]:
    """Return sorted ids day by day: a statement for each touches that day's partitions alone."""
    for _, day in groupby(ids, key=lambda each: id_ms_of(each) // DAY_MS):
        yield list(day)


async def _note(
    connection: _Connection, reports: Sequence[tuple[int, ReceivedReport]], lost: Sequence[LostOffsets]
) -> Sequence[int]:
    """Note all at once; where one of the reports breaks that, one by one, and return the indexes of those that do."""
    try:
        async with connection.transaction():
            await note_at_once(connection, reports, lost)
    except _ROW_ERRORS:
        if len(reports) == 1 and not lost:
            return [reports[0][0]]
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
    """Return the indexes of rows whose id belongs to another event."""
    ids = [record.id for _, record in rows]
    digests: dict[UUID, bytes] = {}
    for day in _by_day(ids):
        found = await connection.fetch(query("stored_digests"), day, day[0], day[-1])
        digests |= {row["id"]: row["event_digest"] for row in found}
    return [index for index, record in rows if digests[record.id] != record.event_digest]


def _letter_row(letter: DeadLetter) -> tuple[object, ...]:
    return (
        letter.partition.log,
        letter.partition.number,
        letter.offset,
        str(letter.reason.reason),
        letter.reason.path,
        UUID(found) if (found := event_id(letter.value)) else None,
        letter.value,
        letter.received_ms,
    )
