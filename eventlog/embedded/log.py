"""A durable log of redacted events in one SQLite file: instead of Kafka, or as a spool while Kafka is away.

Any number of processes may append and read at once. What `append` has acknowledged survives `kill -9` and power cuts
(write-ahead log, fsynced before it returns).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import re
import sqlite3
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import structlog

from eventlog.ports import LoggedEvent
from schemas.errors import NotDurable, PermanentError, RetryableError, StartupError
from schemas.event import EncodedEvent
from schemas.private_files import make_folder

log = structlog.get_logger("event_log")
_T = TypeVar("_T")
_Identity = tuple[tuple[int, int] | None, ...]

FORMAT = 1
_PAGE_BYTES = 8192
# A larger write-ahead log is truncated at the next checkpoint, so that one burst does not occupy the disk for ever.
_WAL_BYTES_KEPT = 64 * 1024**2
_PASSING_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE})
"""Disk or descriptors are used up, or the disk fails. Any other error is one of the path."""
_GROUP = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
# The end offset has a table of its own, so that no offset is used twice after all events have been deleted.
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
    CREATE TABLE log_id (id TEXT NOT NULL);
"""
# SQLite takes a value of any type in any column, and a flipped bit makes text of a blob. The casts give what was there.
_RECEIVED = "ifnull(CAST(received_ms AS INTEGER), 0)"
_VALUE = "ifnull(CAST(value AS BLOB), x'')"
_PARTS = ("", "-wal", "-shm")
"""SQLite's files: the database, its write-ahead log, and the index of that. Locks are in the third."""


@dataclass(frozen=True, slots=True)
class EmbeddedLogSettings:
    """The file and its bounds."""

    path: Path
    """The SQLite file. A missing folder is created with mode 0700."""
    bytes_max: int = 4 * 1024**3
    """Size of the file, without the write-ahead log beside it. A full log refuses to append."""
    queue_bytes_max: int = 64 * 1024**2
    """Events in this process that wait to be written; beyond it appending is refused."""
    transaction_bytes_max: int = 8 * 1024**2
    """Waiting appends share a transaction up to this size."""
    read_bytes_max: int = 8 * 1024**2
    """One read returns at most this size, but always one event."""
    trim_records_max: int = 5_000
    """Events deleted in one transaction. Nothing is deleted before every group has passed so many, or the log is full."""
    best_effort_groups: frozenset[str] = frozenset()
    """Groups that may hold at most half of `bytes_max`: one that does not read must not fill the log."""
    append_deadline_ms: int = 10_000
    lock_wait_ms: int = 5_000
    """Milliseconds that a write waits for another process's write."""


class DamagedLog(StartupError):
    """The file exists and cannot be read as an event log."""


class _DisplacedError(Exception):
    """The file, or one beside it, is not the one that was opened: whoever opens the log next would not find what is written."""


class Backlog(NamedTuple):
    """The events from a position on: their number, their size, and the time of receipt of the first (Unix ms)."""

    events: int
    size_bytes: int
    oldest_ms: int | None


class EmbeddedLog:
    """The log, with one partition. `open` it before use and `close` it once.

    Offsets count from 1 without holes and are never used twice. A consumer group has a committed position (the next
    offset to read); events that every group has passed are deleted. SQLite runs in two threads: one writes, one reads.
    """

    def __init__(self, settings: EmbeddedLogSettings) -> None:
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
        """Whether SQLite has found the file to be corrupt since it was opened."""
        return self._damaged

    @property
    def name(self) -> str:
        """The log's name in `Partition.log`."""
        return self._settings.path.stem

    @property
    def log_id(self) -> str:
        """The id of the open file, for `Partition.log_id`; empty for a file that an older release made."""
        return "" if self._reader is None else self._reader.log_id

    @property
    def displaced(self) -> bool:
        """Whether the file was moved, deleted or replaced since it was opened. What was in it can still be read here."""
        return self._reader is not None and not self._reader.in_place()

    async def open(self) -> None:
        """Open the file and create it if missing; no-op when open. Raises StartupError (DamagedLog), RetryableError."""
        async with self._opening:
            if self._writer is None:
                await self._open()

    async def _open(self) -> None:
        path = self._settings.path
        try:
            await asyncio.to_thread(_prepare, path)
            self._writer = await _Store.opened(self._settings)
            self._reader = await _Store.opened(self._settings)
            _require_same(path, self._reader.identity, self._writer.identity)
        except sqlite3.OperationalError as error:
            await self.close()
            raise RetryableError(f"{path} cannot be opened as event log ({_cause(error)})") from None
        except sqlite3.DatabaseError as error:
            await self.close()
            raise DamagedLog(f"{path} cannot be used as event log ({type(error).__name__})") from None
        except OSError as error:
            await self.close()
            raise _unusable(path, error) from None
        except (StartupError, RetryableError):
            await self.close()
            raise

    async def close(self) -> None:
        """Flush, detach all groups and close the file."""
        # First, so that nothing more is admitted while the rest is flushed.
        writer, reader, self._writer, self._reader = self._writer, self._reader, None, None
        await self.flush()
        for group in list(self._attached):
            self.detach(group)
        for store in (reader, writer):
            if store is not None:
                await store.close()

    async def flush(self) -> None:
        """Return when no write is under way."""
        tasks = {task for task in (self._writing, self._trimming) if task is not None}
        if tasks:
            await asyncio.wait(tasks)

    async def append(self, events: Sequence[EncodedEvent]) -> None:
        """Return once every event is on disk. Concurrent calls share transactions.

        Raises NotDurable within `append_deadline_ms`; PermanentError, with nothing written, if the batch can never fit.
        """
        if not events:
            return
        append = self._admit(events)
        try:
            async with asyncio.timeout(self._settings.append_deadline_ms / 1000):
                await append.durable
        except TimeoutError:
            # It may still be written: to the caller the outcome is unknown, and sending it again is safe.
            raise NotDurable("the event log did not write the batch in time") from None
        finally:
            self._bytes -= append.size

    async def attach(self, group: str) -> int:
        """Reserve the consumer group for this process and return its committed position; a new group starts at the
        oldest event.

        From now on, events that the group has not passed are kept. Raises RetryableError while another process has the
        group, StartupError for an invalid name.
        """
        self._opened(self._writer)
        if not _GROUP.fullmatch(group):
            raise StartupError("a group's name is made of letters, digits, dots, underscores and hyphens")
        # A lock of the operating system, because it ends with its process, however that ends.
        held = take_lock(self._settings.path.with_name(f"{self._settings.path.name}.{group}.lock"))
        if held is None:
            raise RetryableError(f"the event log is being read as {group} by another process")
        try:
            position = await self.committed(group)
        except BaseException:
            os.close(held)
            raise
        self._attached[group] = held
        return position

    def detach(self, group: str) -> None:
        """Release the group to other processes; no-op if this process does not have it."""
        held = self._attached.pop(group, None)
        if held is not None:
            os.close(held)

    async def committed(self, group: str) -> int:
        """Return a group's committed position, as `attach` does, but without reserving the group. Raises RetryableError."""
        store = self._opened(self._writer)
        return await self._run(store, lambda: store.committed(group))

    async def drop_group(self, group: str) -> None:
        """Delete a group that will not read again, so that nothing is kept for it. Raises RetryableError."""
        store = self._opened(self._writer)
        await self._run(store, lambda: store.drop_group(group))

    async def backlog(self, position: int) -> Backlog:
        """Return what there is from a position on. Raises RetryableError."""
        store = self._opened(self._reader)
        return await self._run(store, lambda: store.backlog(position))

    async def end_offset(self) -> int:
        """Return the offset that the next event gets. Raises RetryableError."""
        store = self._opened(self._reader)
        return await self._run(store, store.end_offset)

    async def read(self, position: int, events_max: int) -> Sequence[LoggedEvent]:
        """Return the events from `position` on, in order, within `events_max` and `read_bytes_max`.

        Raises RetryableError.
        """
        store = self._opened(self._reader)
        return await self._run(store, lambda: store.read(position, events_max))

    async def read_encoded(self, position: int, events_max: int) -> tuple[Sequence[EncodedEvent], int]:
        """Return the same events as they were appended, to be published again, and the position after them.

        Raises RetryableError.
        """
        store = self._opened(self._reader)
        return await self._run(store, lambda: store.read_encoded(position, events_max))

    def next_append(self) -> asyncio.Event:
        """Return the event that is set when this process next appends. Appends of other processes are not noticed.

        Take it before reading: an append while the reading is under way would otherwise wake nobody.
        """
        return self._appended

    async def commit(self, group: str, position: int) -> None:
        """Make a group's position durable. Events that every group has passed are deleted later. Raises RetryableError."""
        store = self._opened(self._writer)
        worth_trimming = await self._run(store, lambda: store.commit(group, position))
        if worth_trimming and self._trimming is None:
            self._trimming = asyncio.create_task(self._trim(store), name="event-log-trim")

    def ready(self) -> bool:
        """Return whether appending is likely to succeed now: open, in its place, not full, and room in the queue."""
        if self._writer is None or self._full:
            return False
        return self._bytes < self._settings.queue_bytes_max and self._writer.in_place()

    def _admit(self, events: Sequence[EncodedEvent]) -> _Append:
        append = _Append(events, asyncio.get_running_loop().create_future())
        if append.size > self._settings.bytes_max // 2:
            raise PermanentError("a batch is larger than half the event log")
        if self._writer is None:
            raise NotDurable("the event log is not open")
        # An empty queue takes a batch of any size, or one above the bound could never be written.
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
                    # Whatever failed, the callers are answered, and the next group is tried.
                    self._full = _is_full(error)
                    self._damaged |= _is_damage(error)
                    log.warning("append_failed", cause=_cause(error))
                    message = _refusal(error)
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
            # An append above the bound goes alone.
            if count and size > self._settings.transaction_bytes_max:
                break
            count += 1
        group, self._waiting = self._waiting[:count], self._waiting[count:]
        return group

    def _notify(self) -> None:
        # Whoever has this event wakes up; whoever takes one from now on waits for the next append.
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
            raise RetryableError(f"the event log cannot be used ({_cause(error)})") from None


class _Append:
    """One call of `append`; `durable` is resolved when its events are on disk."""

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
            # Its caller may have been cancelled meanwhile; asyncio must not report the exception as never retrieved.
            self.durable.exception()


class _Store:
    """One connection and the one thread that may use it. `run` calls the other methods in that thread."""

    def __init__(self, settings: EmbeddedLogSettings) -> None:
        self._settings = settings
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="event-log")
        # A placeholder, so that `close` has something to close if connecting fails.
        self._db = sqlite3.connect(":memory:", check_same_thread=False)
        self._trimmed = 1
        self.log_id = ""
        self.identity: _Identity = ()

    @classmethod
    async def opened(cls, settings: EmbeddedLogSettings) -> _Store:
        """Return a connected store. Raises StartupError and sqlite3's errors."""
        store = cls(settings)
        try:
            await store.run(store.connect)
        except BaseException:
            await store.close()
            raise
        return store

    async def run(self, step: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, step)

    async def close(self) -> None:
        await self.run(self._db.close)
        self._thread.shutdown(wait=False)

    def in_place(self) -> bool:
        """Whether path and files are those of this connection. May be called in any thread."""
        return self.identity == _identity(self._settings.path)

    def connect(self) -> None:
        self._db.close()
        opening = _identity(self._settings.path)[:1]
        self._db = db = sqlite3.connect(
            self._settings.path,
            timeout=self._settings.lock_wait_ms / 1000,
            isolation_level=None,
            check_same_thread=False,
        )
        db.text_factory = _text
        for pragma in (
            f"page_size = {_PAGE_BYTES}",
            # Readers do not block the writer, nor the writer them.
            "journal_mode = WAL",
            # An fsync at each commit. With NORMAL a power cut would lose acknowledged events.
            "synchronous = FULL",
            f"journal_size_limit = {_WAL_BYTES_KEPT}",
            # SQLite refuses to grow the file beyond it (SQLITE_FULL). Pages of deleted events are used again.
            f"max_page_count = {max(self._settings.bytes_max // _PAGE_BYTES, 16)}",
        ):
            db.execute(f"PRAGMA {pragma}").fetchall()
        with self._transaction():
            # Within the transaction, because two processes may open a new file at once.
            found = db.execute("PRAGMA user_version").fetchone()[0]
            if found == 0:
                for statement in _SCHEMA.split(";"):
                    db.execute(statement)
                db.execute("INSERT INTO log_id VALUES (?)", (uuid.uuid4().hex,))
                db.execute(f"PRAGMA user_version = {FORMAT}")
            elif found != FORMAT:
                raise StartupError(f"{self._settings.path} is an event log of another version ({found})")
        self.log_id = _log_id(db)
        # Files beside it exist from the first transaction on, until the last process closes them.
        self.identity = _identity(self._settings.path)
        _require_same(self._settings.path, self.identity[:1], opening)

    def append(self, events: Sequence[EncodedEvent]) -> None:
        self._require_place()
        self._insert_or_trim(events)
        # SQLite goes on writing to files that were deleted. So whether the events are durable shows only now.
        self._require_place()

    def _require_place(self) -> None:
        if not self.in_place():
            raise _DisplacedError

    def _insert_or_trim(self, events: Sequence[EncodedEvent]) -> None:
        try:
            self._insert(events)
        except sqlite3.OperationalError as error:
            if not _is_full(error):
                raise
            # Full: delete what every group has passed, and try once more.
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

    def read(self, position: int, events_max: int) -> list[LoggedEvent]:
        rows = self._select(f"offset, {_RECEIVED}, {_VALUE}", position, events_max)
        return list(map(LoggedEvent._make, rows))

    def read_encoded(self, position: int, events_max: int) -> tuple[list[EncodedEvent], int]:
        rows = self._select(
            f"offset, {_RECEIVED}, {_VALUE}, ifnull(CAST(id AS TEXT), '')", position, events_max
        )
        events = [EncodedEvent(event_id, value, received_ms) for _, received_ms, value, event_id in rows]
        return events, rows[-1][0] + 1 if rows else position

    def _select(self, columns: str, position: int, events_max: int) -> list[tuple[Any, ...]]:
        """Return rows within `read_bytes_max`; the value must be the third column."""
        rows = self._db.execute(
            f"SELECT {columns} FROM events WHERE offset >= ? ORDER BY offset LIMIT ?",  # noqa: S608  # two constants
            (position, events_max),
        )
        found: list[tuple[Any, ...]] = []
        size = 0
        for row in rows:
            size += len(row[2])
            if found and size > self._settings.read_bytes_max:
                break
            found.append(row)
        # An open cursor would keep the write-ahead log from being reset.
        rows.close()
        return found

    def backlog(self, position: int) -> Backlog:
        found = self._db.execute(
            "SELECT count(*), coalesce(sum(length(value)), 0), min(received_ms) FROM events WHERE offset >= ?",
            (position,),
        ).fetchone()
        return Backlog(*found)

    def end_offset(self) -> int:
        return int(self._db.execute("SELECT next_offset FROM log_end").fetchone()[0])

    def committed(self, group: str) -> int:
        with self._transaction() as db:
            oldest = db.execute("SELECT min(offset) FROM events").fetchone()[0]
            end = db.execute("SELECT next_offset FROM log_end").fetchone()[0]
            # If every event has been deleted, the oldest one is the next to come.
            start = end if oldest is None else oldest
            # Stored now and not at the first commit: a group that is not known holds back no deletion.
            db.execute("INSERT INTO positions VALUES (?, ?) ON CONFLICT DO NOTHING", (group, start))
            found = db.execute("SELECT next_offset FROM positions WHERE consumer = ?", (group,)).fetchone()
        return int(found[0])

    def drop_group(self, group: str) -> None:
        with self._transaction() as db:
            db.execute("DELETE FROM positions WHERE consumer = ?", (group,))

    def commit(self, group: str, position: int) -> bool:
        """Store the position; return whether enough events may have been passed for a trim."""
        with self._transaction() as db:
            db.execute(
                "INSERT INTO positions VALUES (?, ?) "
                "ON CONFLICT (consumer) DO UPDATE SET next_offset = excluded.next_offset",
                (group, position),
            )
        return position - self._trimmed >= self._settings.trim_records_max

    def trim(self) -> bool:
        """Delete at most `trim_records_max` events that no group needs any more; return whether there were any."""
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
        """Return the offset before which no group needs an event; None while no group that must not miss any is known."""
        rows = db.execute("SELECT consumer, next_offset FROM positions").fetchall()
        positions: dict[str, int] = dict(rows)
        required = [at for group, at in positions.items() if group not in self._settings.best_effort_groups]
        # An ingestor that has never started must find what was accepted before it.
        if not required:
            return None
        return min(required if self._is_half_full(db) else positions.values())

    def _is_half_full(self, db: sqlite3.Connection) -> bool:
        pages, free = (
            db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count")
        )
        return bool(2 * (pages - free) * _PAGE_BYTES >= self._settings.bytes_max)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Take the write lock at once: SQLite does not wait for a lock that a transaction asks for after a read."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield self._db
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise


def _prepare(path: Path) -> None:
    """Create the file with mode 0600 and its folder with 0700, and fsync the folder, so that the name is durable."""
    make_folder(path.parent, 0o700)
    # Before SQLite does it, with the umask's mode. SQLite gives the files beside it (`-wal`, `-shm`) the mode of this
    # one.
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


def _require_same(path: Path, one: _Identity, other: _Identity) -> None:
    if one != other:
        raise RetryableError(f"{path} was replaced while it was opened")


def _identity(path: Path) -> _Identity:
    """Return device and inode of each of SQLite's files; None for one that is not there."""
    return tuple(_inode(f"{path}{part}") for part in _PARTS)


def _inode(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)  # noqa: PTH116  at every write
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _text(value: bytes) -> str:
    return value.decode(errors="replace")


def _log_id(db: sqlite3.Connection) -> str:
    if not db.execute("SELECT 1 FROM sqlite_schema WHERE name = 'log_id'").fetchone():
        return ""
    return str(db.execute("SELECT id FROM log_id").fetchone()[0])


def take_lock(path: Path) -> int | None:
    """Return a descriptor that holds the lock until it is closed or the process ends; None if another has the lock.

    Raises RetryableError, StartupError.
    """
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _unusable(path, error) from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    except OSError as error:
        os.close(file)
        raise _unusable(path, error) from None
    return file


def _unusable(path: Path, error: OSError) -> RetryableError | StartupError:
    reason = f"{path} cannot be used by the event log ({error.strerror or type(error).__name__})"
    return RetryableError(reason) if error.errno in _PASSING_ERRORS else StartupError(reason)


def _refusal(error: Exception) -> str:
    if isinstance(error, _DisplacedError):
        return "the event log's file was moved, deleted or replaced: put it back or restart auditap"
    return "the event log is full" if _is_full(error) else "the event log cannot be written"


def _is_full(error: Exception) -> bool:
    return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL


def _is_damage(error: Exception) -> bool:
    code = getattr(error, "sqlite_errorcode", None)
    # The low byte is the kind of error, the others are its variety.
    # The statements are fixed, so one that is wrong (SQLITE_ERROR) finds no table or column of its name.
    return code is not None and code & 0xFF in {
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_ERROR,
    }


def _cause(error: Exception) -> str:
    return getattr(error, "sqlite_errorname", type(error).__name__)
