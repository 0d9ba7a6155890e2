"""One file of the spool: an event log that one process holds by a lock, drained from the front, then removed."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

import structlog

from redactor.event_log import DamagedLog, EventLog, EventLogSettings, take_lock
from schemas.errors import RetryableError
from schemas.event import EncodedEvent

log = structlog.get_logger("spool")

SUFFIX = ".spool"
_DRAINED = "drained"


class SpoolFile:
    """A file that this process holds until it lets go of it; `created` or `claimed`.

    `events`, `size_bytes` and `oldest_ms` tell what is left to drain; they are for people, not for decisions, because an
    append whose caller went away is in none of them.
    """

    def __init__(self, path: Path, lock: int, event_log: EventLog) -> None:
        self.path = path
        self.events = 0
        self.size_bytes = 0
        self.oldest_ms: int | None = None
        self._lock = lock
        self._log = event_log
        self._position = self._end_of_next = 1

    @classmethod
    async def created(cls, folder: Path, settings: EventLogSettings) -> Self:
        """Return a new, empty file. `settings`: its bounds; the path is chosen here.

        Raises RetryableError where the disk is full or fails, StartupError where the folder cannot be used.
        """
        while True:
            path = folder / f"{uuid.uuid4().hex}{SUFFIX}"
            # The lock is there before the file is: nobody can take it for one whose process has ended.
            lock = _hold(path)
            if lock is not None:
                return await cls._opened(path, lock, settings)

    @classmethod
    async def claimed(cls, path: Path, settings: EventLogSettings) -> Self | None:
        """Take over a file whose process has ended; None where somebody has it or has drained it already.

        Raises DamagedLog, with the file set aside; RetryableError, StartupError.
        """
        lock = _hold(path)
        if lock is None:
            return None
        if _is_gone(path, lock):
            return None
        return await cls._opened(path, lock, settings)

    @classmethod
    async def _opened(cls, path: Path, lock: int, settings: EventLogSettings) -> Self:
        event_log = EventLog(replace(settings, path=path))
        file = cls(path, lock, event_log)
        try:
            await event_log.open()
            file._position = await event_log.position(_DRAINED)
            with contextlib.suppress(RetryableError):
                # A broken page far back does not keep the front from being drained.
                file.events, file.size_bytes, file.oldest_ms = await event_log.backlog(file._position)
        except BaseException as failed:
            if not (isinstance(failed, DamagedLog) or event_log.damaged):
                await file.release()
                raise
            await file.set_aside()
            raise DamagedLog("a spool file cannot be read") from None
        return file

    @property
    def damaged(self) -> bool:
        """Whether the file turned out to be broken."""
        return self._log.damaged

    @property
    def has_room(self) -> bool:
        """Whether the last append did not find it full, and not too much waits to be written."""
        return self._log.ready()

    async def append(self, events: Sequence[EncodedEvent]) -> None:
        """Return once every event is on disk. Raises NotDurable, PermanentError."""
        await self._log.append(events)
        if self.oldest_ms is None:
            self.oldest_ms = events[0].received_ms
        self.events += len(events)
        self.size_bytes += sum(len(event.value) for event in events)

    async def next(self, events_max: int) -> Sequence[EncodedEvent]:
        """Return the events at the front, in order, the same ones until they are `drained`. Raises RetryableError."""
        found = await self._log.read(self._position, events_max)
        if found:
            self.oldest_ms = found[0].received_ms
            self._end_of_next = found[-1].offset + 1
        else:
            self.events, self.size_bytes, self.oldest_ms = 0, 0, None
        return [EncodedEvent(event.id, event.value, event.received_ms) for event in found]

    async def drained(self, events: Sequence[EncodedEvent]) -> None:
        """Go on behind the events that `next` gave, and keep that; a disk that refuses it is no reason to wait."""
        self._position = self._end_of_next
        self.events = max(0, self.events - len(events))
        self.size_bytes = max(0, self.size_bytes - sum(len(event.value) for event in events))
        try:
            await self._log.commit(_DRAINED, self._position)
        except RetryableError as failed:
            log.warning("spool_progress_not_kept", cause=str(failed))

    async def release(self) -> None:
        """Leave the file to whoever claims it next."""
        await self._log.close()
        os.close(self._lock)

    async def remove(self) -> None:
        """Remove the file: all it held is elsewhere."""
        await self._log.close()
        for path in (*_parts(self.path), _lock_path(self.path)):
            path.unlink(missing_ok=True)
        os.close(self._lock)

    async def set_aside(self) -> None:
        """Rename what cannot be read, so that nobody claims it and a person can look at it."""
        await self._log.close()
        for part, aside in zip(_parts(self.path), _parts(self.path.with_suffix(".damaged")), strict=True):
            if part.exists():
                part.rename(aside)
        _lock_path(self.path).unlink(missing_ok=True)
        os.close(self._lock)


def has_files(folder: Path) -> bool:
    """Return whether there is a folder with spool files in it."""
    return folder.is_dir() and any(path.suffix == SUFFIX for path in folder.iterdir())


def _parts(path: Path) -> tuple[Path, Path, Path]:
    """Return the paths of the file, of its write-ahead log and of that one's index."""
    return path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")


def _lock_path(path: Path) -> Path:
    return path.with_suffix(".lock")


def _is_gone(path: Path, lock: int) -> bool:
    """Tell whether there is a lock without a file, as looking for it may have left one; if so, remove it.

    Without a pause: a caller that is cancelled leaves none behind.
    """
    if path.exists():
        return False
    _lock_path(path).unlink(missing_ok=True)
    os.close(lock)
    return True


def _hold(path: Path) -> int | None:
    """Return a descriptor that holds the file's lock; None where another process has it."""
    lock = take_lock(_lock_path(path))
    if lock is not None and os.fstat(lock).st_nlink == 0:
        # Whoever had it has removed it in the meantime.
        os.close(lock)
        return None
    return lock
