"""A durable log of redacted events in one SQLite file: in place of Kafka, or beside it while it is away.

Any number of processes may append and read at once. What is acknowledged survives `kill -9` and power cuts
(write-ahead log, fsynced before the answer).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import re
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

import structlog

from schemas.errors import NotDurable, PermanentError, RetryableError, StartupError
from schemas.event import EncodedEvent

log = structlog.get_logger("event_log")
_T = TypeVar("_T")

FORMAT = 1
_PAGE_BYTES = 8192
_WAL_BYTES_KEPT = 64 * 1024**2
_DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO})
_CONSUMER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
# The end is kept apart from the events, so that no offset is used twice when all of them have been removed.
_SCHEMA = """
    CREATE TABLE events (
        offset INTEGER PRIMARY KEY,
        id TEXT NOT NULL,
        received_ms INTEGER NOT NULL,
        value BLOB NOT NULL
    );
    CREATE TABLE log_end (
        only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
        next_offset INTEGER NOT NULL
    );
    INSERT INTO log_end VALUES (1, 1);
    CREATE TABLE positions (
        consumer TEXT PRIMARY KEY,
        next_offset INTEGER NOT NULL
    ) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class EventLogSettings:
    """Where the log is and its bounds."""

    path: Path
    """The file; a missing folder is made for its owner alone."""
    bytes_max: int = 4 * 1024**3
    """Size of the file, the write-ahead log beside it not counted. A full log refuses to append."""
    queue_bytes_max: int = 64 * 1024**2
    """Events that wait to be written in this process."""
    transaction_bytes_max: int = 8 * 1024**2
    """Waiting appends are written together up to this size."""
    read_bytes_max: int = 8 * 1024**2
    """`read` returns no more than this, but always one event."""
    trim_records_max: int = 5_000
    """Events removed in one go; removing is left until so many have been done with, or the log is full."""
    dispensable: frozenset[str] = frozenset()
    """Consumers for whom no more than half of `bytes_max` is kept: one that stands still must not fill the log."""
    append_deadline_ms: int = 10_000
    lock_wait_ms: int = 5_000
    """How long a write waits for another process's write."""


class DamagedLog(StartupError):
    """The file is there and is no event log that can be read."""


class Backlog(NamedTuple):
    """What lies beyond a position: how many events, their size, and when the first of them was taken (Unix ms)."""

    events: int
    size_bytes: int
    oldest_ms: int | None


class LoggedEvent(NamedTuple):
    """One event as it was read."""

    offset: int
    id: str
    received_ms: int
    value: bytes


class EventLog:
    """The log. `open` it before use and `close` it once; SQLite runs in two threads, one to write, one to read.

    Offsets grow by one from 1 and are never used twice. A consumer is a name under which a position (the next
    offset to read) is kept; what every consumer has passed is removed.
    """

    def __init__(self, settings: EventLogSettings) -> None:
        self._settings = settings
        self._writer: _Store | None = None
        self._reader: _Store | None = None
        self._waiting: list[_Append] = []
        self._bytes = 0
        self._full = False
        self._opening = asyncio.Lock()
        self._writing: asyncio.Task[None] | None = None
        self._trimming: asyncio.Task[None] | None = None
        self._appended = asyncio.Event()
        self._attached: dict[str, int] = {}
        self._damaged = False

    @property
    def damaged(self) -> bool:
        """Whether SQLite has found the file to be broken since it was opened."""
        return self._damaged

    @property
    def name(self) -> str:
        """What the log is called where its offsets are named."""
        return self._settings.path.stem

    async def open(self) -> None:
        """Open the file, making it if need be; no-op when open. Raises StartupError (DamagedLog), RetryableError."""
        # Whoever comes while it is being opened waits until all of it is.
        async with self._opening:
            if self._writer is None:
                await self._open()

    async def _open(self) -> None:
        path = self._settings.path
        try:
            await asyncio.to_thread(_prepare, path)
            self._writer = await _Store.opened(self._settings)
            self._reader = await _Store.opened(self._settings)
        except sqlite3.OperationalError as error:
            await self.close()
            raise RetryableError(f"the event log {path} cannot be opened ({_cause(error)})") from None
        except sqlite3.DatabaseError as error:
            await self.close()
            raise DamagedLog(f"{path} cannot be used as event log ({type(error).__name__})") from None
        except OSError as error:
            await self.close()
            if error.errno in _DISK_ERRORS:
                raise RetryableError(f"the event log {path} cannot be opened ({error.strerror})") from None
            raise StartupError(f"{path} cannot be used as event log ({type(error).__name__})") from None
        except StartupError:
            await self.close()
            raise

    async def close(self) -> None:
        """Finish what is being written, let consumers go and close the file."""
        writer, reader, self._writer, self._reader = self._writer, self._reader, None, None
        await self.settle()
        for consumer in list(self._attached):
            self.detach(consumer)
        for store in (reader, writer):
            if store is not None:
                await store.close()

    async def settle(self) -> None:
        """Return when nothing is being written any more."""
        tasks = {task for task in (self._writing, self._trimming) if task is not None}
        if tasks:
            await asyncio.wait(tasks)

    async def append(self, events: Sequence[EncodedEvent]) -> None:
        """Return once every event is on disk; concurrent calls share transactions.

        Raises NotDurable within `append_deadline_ms`; PermanentError, with nothing written, where the batch could
        never fit.
        """
        if not events:
            return
        append = self._admit(events)
        try:
            async with asyncio.timeout(self._settings.append_deadline_ms / 1000):
                await append.durable
        except TimeoutError:
            raise NotDurable("the event log did not take the batch in time") from None
        finally:
            self._bytes -= append.size

    async def attach(self, consumer: str) -> int:
        """Take the consumer's name for this process and return its position; a new one starts at the oldest event.

        Events it has not passed are kept from now on. Raises RetryableError while another process has the name.
        """
        self._opened(self._writer)
        if not _CONSUMER.fullmatch(consumer):
            raise StartupError("a consumer's name is made of letters, digits, dots, underscores and hyphens")
        held = take_lock(self._settings.path.with_name(f"{self._settings.path.name}.{consumer}.lock"))
        if held is None:
            raise RetryableError(f"the event log is being read as {consumer} by another process")
        try:
            position = await self.position(consumer)
        except BaseException:
            os.close(held)
            raise
        self._attached[consumer] = held
        return position

    async def position(self, consumer: str) -> int:
        """Do as `attach` does, for a caller that sees by itself to it that nobody else uses the name."""
        store = self._opened(self._writer)
        return await self._run(store, lambda: store.position(consumer))

    async def forget(self, consumer: str) -> None:
        """Drop a consumer that will not come back: nothing is kept for it any more. Raises RetryableError."""
        store = self._opened(self._writer)
        await self._run(store, lambda: store.forget(consumer))

    async def backlog(self, offset: int) -> Backlog:
        """Return what is there from `offset` on. Raises RetryableError."""
        store = self._opened(self._reader)
        return await self._run(store, lambda: store.backlog(offset))

    async def end(self) -> int:
        """Return the offset that the next event gets. Raises RetryableError."""
        store = self._opened(self._reader)
        return await self._run(store, store.end)

    def detach(self, consumer: str) -> None:
        """Leave the name to others; no-op where it is not held."""
        held = self._attached.pop(consumer, None)
        if held is not None:
            os.close(held)

    async def read(self, offset: int, events_max: int) -> Sequence[LoggedEvent]:
        """Return what is there from `offset` on, in order, bounded by `events_max` and `read_bytes_max`.

        Raises RetryableError.
        """
        store = self._opened(self._reader)
        return await self._run(store, lambda: store.read(offset, events_max))

    async def wait(self, timeout_s: float) -> None:
        """Return when this process appends, or after `timeout_s`; other processes' appends are not noticed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._appended.wait()

    async def commit(self, consumer: str, position: int) -> None:
        """Make the position durable; what every consumer has passed is removed by and by. Raises RetryableError."""
        store = self._opened(self._writer)
        worth_trimming = await self._run(store, lambda: store.commit(consumer, position))
        if worth_trimming and self._trimming is None:
            self._trimming = asyncio.create_task(self._trim(store), name="event-log-trim")

    def ready(self) -> bool:
        """Return whether appending is likely to succeed now."""
        return self._writer is not None and not self._full and self._bytes < self._settings.queue_bytes_max

    def _admit(self, events: Sequence[EncodedEvent]) -> _Append:
        append = _Append(events, asyncio.get_running_loop().create_future())
        if append.size > self._settings.bytes_max // 2:
            raise PermanentError("a batch is larger than half the event log")
        if self._writer is None:
            raise NotDurable("the event log is not open")
        if self._bytes and self._bytes + append.size > self._settings.queue_bytes_max:
            raise NotDurable("too much is waiting for the event log")
        self._bytes += append.size
        self._waiting.append(append)
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_waiting(self._writer), name="event-log-write")
        return append

    async def _write_waiting(self, store: _Store) -> None:
        """Write until nothing waits. What arrives while a transaction is written shares the next one."""
        try:
            while self._waiting:
                group = self._next_group()
                rows = [row for append in group for row in append.events]
                try:
                    await store.run(lambda rows=rows: store.append(rows))  # type: ignore[misc]
                except Exception as error:  # noqa: BLE001
                    # Whatever it was, those who wait are answered and the next ones are tried.
                    self._full = _is_full(error)
                    self._damaged |= _is_damage(error)
                    log.warning("append_failed", cause=_cause(error))
                    message = "the event log is full" if self._full else "the event log cannot be written"
                    for append in group:
                        append.refuse(message)
                else:
                    self._full = False
                    for append in group:
                        append.acknowledge()
                    self._notify()
        finally:
            self._writing = None

    def _next_group(self) -> list[_Append]:
        size, count = 0, 0
        for append in self._waiting:
            size += append.size
            if count and size > self._settings.transaction_bytes_max:
                break
            count += 1
        group, self._waiting = self._waiting[:count], self._waiting[count:]
        return group

    def _notify(self) -> None:
        self._appended.set()
        self._appended = asyncio.Event()

    async def _trim(self, store: _Store) -> None:
        # In small steps, so that appends come in between.
        try:
            while await store.run(store.trim):
                pass
        except sqlite3.Error as error:
            log.warning("trim_failed", cause=_cause(error))
        finally:
            self._trimming = None

    def _opened(self, store: _Store | None) -> _Store:
        if store is None:
            raise RetryableError("the event log is not open")
        return store

    async def _run(self, store: _Store, step: Callable[[], _T]) -> _T:
        try:
            return await store.run(step)
        except sqlite3.Error as error:
            self._damaged |= _is_damage(error)
            raise RetryableError(f"the event log does not answer ({_cause(error)})") from None


class _Append:
    """One call of `append`."""

    __slots__ = ("durable", "events", "size")

    def __init__(self, events: Sequence[EncodedEvent], durable: asyncio.Future[None]) -> None:
        self.events = events
        self.durable = durable
        self.size = sum(len(event.value) for event in events)

    def acknowledge(self) -> None:
        if not self.durable.done():
            self.durable.set_result(None)

    def refuse(self, message: str) -> None:
        if not self.durable.done():
            self.durable.set_exception(NotDurable(message))
            # Its caller may have been cancelled in this very moment and not look.
            self.durable.exception()


class _Store:
    """One connection and the one thread that uses it; all methods but `opened`, `run` and `close` run there."""

    def __init__(self, settings: EventLogSettings) -> None:
        self._settings = settings
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="event-log")
        self._db = sqlite3.connect(":memory:", check_same_thread=False)
        self._trimmed = 1

    @classmethod
    async def opened(cls, settings: EventLogSettings) -> _Store:
        """Return a store that is connected. Raises StartupError and what sqlite3 raises."""
        store = cls(settings)
        try:
            await store.run(store.connect)
        except BaseException:
            await store.close()
            raise
        return store

    async def run(self, step: Callable[[], _T]) -> _T:
        """Run `step` in the store's thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, step)

    async def close(self) -> None:
        """Close the connection and let the thread go."""
        await self.run(self._db.close)
        self._thread.shutdown(wait=False)

    def connect(self) -> None:
        self._db.close()
        self._db = db = sqlite3.connect(
            self._settings.path,
            timeout=self._settings.lock_wait_ms / 1000,
            isolation_level=None,
            check_same_thread=False,
        )
        for pragma in (
            f"page_size = {_PAGE_BYTES}",
            "journal_mode = WAL",
            "synchronous = FULL",
            f"journal_size_limit = {_WAL_BYTES_KEPT}",
            f"max_page_count = {max(self._settings.bytes_max // _PAGE_BYTES, 16)}",
        ):
            db.execute(f"PRAGMA {pragma}").fetchall()
        with self._transaction():
            found = db.execute("PRAGMA user_version").fetchone()[0]
            if found == 0:
                for statement in _SCHEMA.split(";"):
                    db.execute(statement)
                db.execute(f"PRAGMA user_version = {FORMAT}")
            elif found != FORMAT:
                raise StartupError(f"{self._settings.path} is an event log of another version ({found})")

    def append(self, events: Sequence[EncodedEvent]) -> None:
        try:
            self._insert(events)
        except sqlite3.OperationalError as error:
            if not _is_full(error):
                raise
            while self.trim():
                pass
            self._insert(events)

    def _insert(self, events: Sequence[EncodedEvent]) -> None:
        with self._transaction() as db:
            first = db.execute("SELECT next_offset FROM log_end").fetchone()[0]
            db.executemany(
                "INSERT INTO events (offset, id, received_ms, value) VALUES (?, ?, ?, ?)",
                (
                    (offset, event.id, event.received_ms, event.value)
                    for offset, event in enumerate(events, first)
                ),
            )
            db.execute("UPDATE log_end SET next_offset = ?", (first + len(events),))

    def read(self, offset: int, events_max: int) -> list[LoggedEvent]:
        rows = self._db.execute(
            "SELECT offset, id, received_ms, value FROM events WHERE offset >= ? ORDER BY offset LIMIT ?",
            (offset, events_max),
        )
        events: list[LoggedEvent] = []
        size = 0
        for event in map(LoggedEvent._make, rows):
            size += len(event.value)
            if events and size > self._settings.read_bytes_max:
                break
            events.append(event)
        rows.close()
        return events

    def backlog(self, offset: int) -> Backlog:
        found = self._db.execute(
            "SELECT count(*), coalesce(sum(length(value)), 0), min(received_ms) FROM events WHERE offset >= ?",
            (offset,),
        ).fetchone()
        return Backlog(*found)

    def end(self) -> int:
        return int(self._db.execute("SELECT next_offset FROM log_end").fetchone()[0])

    def position(self, consumer: str) -> int:
        with self._transaction() as db:
            oldest = db.execute("SELECT min(offset) FROM events").fetchone()[0]
            end = db.execute("SELECT next_offset FROM log_end").fetchone()[0]
            start = end if oldest is None else oldest
            db.execute("INSERT INTO positions VALUES (?, ?) ON CONFLICT DO NOTHING", (consumer, start))
            found = db.execute("SELECT next_offset FROM positions WHERE consumer = ?", (consumer,)).fetchone()
        return int(found[0])

    def forget(self, consumer: str) -> None:
        with self._transaction() as db:
            db.execute("DELETE FROM positions WHERE consumer = ?", (consumer,))

    def commit(self, consumer: str, position: int) -> bool:
        """Store the position; return whether enough may have been passed for a trim to be worth it."""
        with self._transaction() as db:
            db.execute(
                "INSERT INTO positions VALUES (?, ?) "
                "ON CONFLICT (consumer) DO UPDATE SET next_offset = excluded.next_offset",
                (consumer, position),
            )
        return position - self._trimmed >= self._settings.trim_records_max

    def trim(self) -> bool:
        """Remove at most `trim_records_max` events that those who count have passed; return whether there were any."""
        with self._transaction() as db:
            passed = self._passed(db)
            oldest = db.execute("SELECT min(offset) FROM events").fetchone()[0]
            if passed is None or oldest is None or oldest >= passed:
                return False
            until = min(passed, oldest + self._settings.trim_records_max)
            db.execute("DELETE FROM events WHERE offset < ?", (until,))
        self._trimmed = until
        return True

    def _passed(self, db: sqlite3.Connection) -> int | None:
        """Return what nobody needs any more: everything before it; None where those who count are not known yet."""
        rows = db.execute("SELECT consumer, next_offset FROM positions").fetchall()
        positions: dict[str, int] = dict(rows)
        counting = [at for consumer, at in positions.items() if consumer not in self._settings.dispensable]
        if not counting:
            return None
        return min(counting if self._is_half_full(db) else positions.values())

    def _is_half_full(self, db: sqlite3.Connection) -> bool:
        pages, free = (
            db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count")
        )
        return bool(2 * (pages - free) * _PAGE_BYTES >= self._settings.bytes_max)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Take the write lock first: a lock asked for later, after a read, could not be waited for."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield self._db
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise


def _prepare(path: Path) -> None:
    """Make the file for its owner alone, and the folder if it is missing, and make the names durable."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(file, 0o600)
    finally:
        os.close(file)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def take_lock(path: Path) -> int | None:
    """Return a descriptor that holds the lock until it is closed or the process ends; None where it is taken."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    return file


def _is_full(error: Exception) -> bool:
    return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL


def _is_damage(error: Exception) -> bool:
    code = getattr(error, "sqlite_errorcode", None)
    # The low byte is the kind of error, the others are its variety.
    return code is not None and code & 0xFF in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def _cause(error: Exception) -> str:
    return getattr(error, "sqlite_errorname", type(error).__name__)
