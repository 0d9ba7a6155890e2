"""One file of the spool: an embedded log that one process owns by a lock, drains from the front, then deletes."""

from __future__ import annotations

import contextlib
import os
import stat
import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

import structlog

from eventlog.embedded.log import DamagedLog, EmbeddedLog, EmbeddedLogSettings, take_lock
from schemas.errors import RetryableError, StartupError
from schemas.event import EncodedEvent

log = structlog.get_logger("spool")

SUFFIX = ".spool"
_DRAINED_GROUP = "drained"


class SpoolFile:
    """A spool file that this process owns until it is released, removed or set aside. Made by `created` or `claimed`.

    `events`, `size_bytes` and `oldest_ms` describe what is left to drain. They are for metrics only: an append whose
    caller was cancelled is in none of them.
    """

    def __init__(self, path: Path, lock: int, event_log: EmbeddedLog) -> None:
        self.path = path
        self.events = 0
        self.size_bytes = 0
        self.oldest_ms: int | None = None
        self._lock = lock
        self._log = event_log
        self._position = self._end_of_next = 1

    @classmethod
    async def created(cls, folder: Path, settings: EmbeddedLogSettings) -> Self:
        """Return a new, empty file. `settings`: its bounds; the path in it is replaced.

        Raises RetryableError where the disk is full or fails, StartupError where the folder cannot be used.
        """
        while True:
            path = folder / f"{uuid.uuid4().hex}{SUFFIX}"
            try:
                # The lock exists before the file, so that no other process takes the file for an abandoned one.
                lock = _hold(path)
                if lock is not None:
                    return await cls._opened(path, lock, settings, is_new=True)
            except (RetryableError, StartupError) as failed:
                # Without the name of a file that is gone: it would make every one of these messages another.
                reason = str(failed).replace(str(path.with_suffix("")), f"a new file in {folder}")
                raise type(failed)(reason) from None

    @classmethod
    async def claimed(cls, path: Path, settings: EmbeddedLogSettings) -> Self | None:
        """Take over the file of a process that has ended. None if another process has it or has drained it.

        Raises DamagedLog, with the file set aside; RetryableError; StartupError also for a file that this user did not write.
        """
        _require_own(path)
        lock = _hold(path)
        if lock is None:
            return None
        if _is_gone(path, lock):
            return None
        return await cls._opened(path, lock, settings, is_new=False)

    @classmethod
    async def _opened(cls, path: Path, lock: int, settings: EmbeddedLogSettings, *, is_new: bool) -> Self:
        event_log = EmbeddedLog(replace(settings, path=path))
        file = cls(path, lock, event_log)
        try:
            await event_log.open()
            file._position = await event_log.committed(_DRAINED_GROUP)
            with contextlib.suppress(RetryableError):
                # A corrupt page further back does not prevent the front from being drained.
                file.events, file.size_bytes, file.oldest_ms = await event_log.backlog(file._position)
        except BaseException as failed:
            if is_new:
                # Nothing is in it, and on a full disk there would be another one for every batch.
                await file.remove()
                raise
            if not (isinstance(failed, DamagedLog) or event_log.damaged):
                await file.release()
                raise
            await file.set_aside()
            raise DamagedLog("a spool file cannot be read") from None
        return file

    @property
    def damaged(self) -> bool:
        """Whether SQLite has found the file to be corrupt."""
        return self._log.damaged

    @property
    def has_room(self) -> bool:
        """Whether an append is likely to succeed."""
        return self._log.ready()

    async def append(self, events: Sequence[EncodedEvent]) -> None:
        """Return once every event is on disk. Raises NotDurable, PermanentError."""
        await self._log.append(events)
        if self.oldest_ms is None:
            self.oldest_ms = events[0].received_ms
        self.events += len(events)
        self.size_bytes += sum(len(event.value) for event in events)

    async def next(self, events_max: int) -> Sequence[EncodedEvent]:
        """Return the events at the front, in order; the same ones until `drained` is called. Raises RetryableError."""
        events, self._end_of_next = await self._log.read_encoded(self._position, events_max)
        if events:
            self.oldest_ms = events[0].received_ms
        else:
            self.events, self.size_bytes, self.oldest_ms = 0, 0, None
        return events

    async def drained(self, events: Sequence[EncodedEvent]) -> None:
        """Move past the events that `next` returned. If that cannot be written, a restart drains them again, which is harmless."""
        # Moved even if the commit fails, or this process would drain the same events for as long as the disk does.
        self._position = self._end_of_next
        self.events = max(0, self.events - len(events))
        self.size_bytes = max(0, self.size_bytes - sum(len(event.value) for event in events))
        try:
            await self._log.commit(_DRAINED_GROUP, self._position)
        except RetryableError as failed:
            log.warning("spool_position_not_committed", cause=str(failed))

    async def release(self) -> None:
        """Close the file and leave it to the next process that claims it."""
        await self._log.close()
        os.close(self._lock)

    async def remove(self) -> None:
        """Delete the file, after all its events have been published."""
        await self._log.close()
        # The lock goes last, so that no process claims a file that is half deleted.
        for path in (*_parts(self.path), _lock_path(self.path)):
            path.unlink(missing_ok=True)
        os.close(self._lock)

    async def set_aside(self) -> None:
        """Rename a file that cannot be read, so that no process claims it and an operator can examine it."""
        await self._log.close()
        for part, aside in zip(_parts(self.path), _parts(self.path.with_suffix(".damaged")), strict=True):
            if part.exists():
                part.rename(aside)
        _lock_path(self.path).unlink(missing_ok=True)
        os.close(self._lock)


def has_files(folder: Path) -> bool:
    """Return whether the folder exists and has spool files."""
    return folder.is_dir() and any(path.suffix == SUFFIX for path in folder.iterdir())


def _parts(path: Path) -> tuple[Path, Path, Path]:
    """Return the paths of the file, its write-ahead log, and the index of that."""
    return path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")


def _require_own(path: Path) -> None:
    """Raise StartupError for what another user may have put there: its events would become records."""
    for part in (*_parts(path), _lock_path(path)):
        try:
            status = part.lstat()
        except FileNotFoundError:
            continue
        if not stat.S_ISREG(status.st_mode):
            raise StartupError(f"{part.name} is not a regular file")
        if status.st_uid != os.geteuid():
            raise StartupError(f"{part.name} belongs to another user ({status.st_uid})")


def _lock_path(path: Path) -> Path:
    return path.with_suffix(".lock")


def _is_gone(path: Path, lock: int) -> bool:
    """Return whether the lock has no file, as another process's claim may leave one; if so, delete the lock.

    It does not await anything, so that a caller that is cancelled leaves no lock behind.
    """
    if path.exists():
        return False
    _lock_path(path).unlink(missing_ok=True)
    os.close(lock)
    return True


def _hold(path: Path) -> int | None:
    """Return a descriptor that holds the file's lock; None if another process has it."""
    lock = take_lock(_lock_path(path))
    if lock is not None and os.fstat(lock).st_nlink == 0:
        # Its owner deleted it meanwhile.
        os.close(lock)
        return None
    return lock
