"""State files: each run keeps its highest sequence number in one, so that a later run can report a crashed one.

A file `<tap id>.<epoch>` belongs to the run that holds a lock on it. The kernel releases the lock when the process ends,
however it ends; a run that ends properly removes its file. A file that is there and not locked was left by a crash.

The file is one memory page, mapped into the process: an update is a plain store to memory, and survives `kill -9`.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from pathlib import Path
from typing import Final, NamedTuple

_MAGIC: Final = b"auditap1"
# The magic, the machine's boot id, the start of the run (Unix ms), its lease (ms), its highest sequence number.
_STATE: Final = struct.Struct("<8s36s4xQQQ")
STATE_BYTES: Final = _STATE.size
HIGHEST: Final = struct.Struct("<Q")
HIGHEST_OFFSET: Final = _STATE.size - HIGHEST.size
_BOOT_ID_FILE: Final = "/proc/sys/kernel/random/boot_id"
_CRASHED_RUNS_MAX: Final = 64  # one heartbeat request takes 100; the next run reports the rest


class CrashedRun(NamedTuple):
    """A run that crashed, as its file has it. `descriptor` holds the lock; `same_boot`: the machine has not restarted."""

    path: Path
    descriptor: int
    epoch: int
    started_ms: int
    lease_ms: int
    highest: int
    same_boot: bool

    def forget(self) -> None:
        """Remove the file: the crash has been reported."""
        self.path.unlink(missing_ok=True)
        os.close(self.descriptor)


class StateFile:
    """The state file of one run, and the files that crashed runs of the same tap left beside it."""

    def __init__(self, folder: Path, tap_id: str) -> None:
        self._folder = folder
        self._tap_id = tap_id
        self._boot_id = _boot_id()
        self._path: Path | None = None
        self._descriptor: int | None = None

    def create(self, epoch: int, started_ms: int, lease_ms: int) -> mmap.mmap | None:
        """Return the memory of a new, locked file; None if the epoch is in use.

        Raises OSError if there can be no such file.
        """
        # With a umask of 0, other users could put files of crashed runs there.
        for folder in reversed((self._folder, *self._folder.parents)):
            folder.mkdir(mode=0o775, exist_ok=True)
        path = self._folder / f"{self._tap_id}.{epoch}"
        unnamed = self._folder / f".{path.name}.{os.getpid()}"
        descriptor = os.open(unnamed, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            # Locked before it gets its name: whoever finds it there unlocked knows that its process has ended.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.write(descriptor, _STATE.pack(_MAGIC, self._boot_id, started_ms, lease_ms, 0))
            # Writing to a mapped page that has no block on the disk would kill the process.
            os.posix_fallocate(descriptor, 0, mmap.PAGESIZE)
            memory = mmap.mmap(descriptor, mmap.PAGESIZE)
            # Unlike a rename, a link fails if the name is in use.
            os.link(unnamed, path)
        except FileExistsError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        finally:
            unnamed.unlink(missing_ok=True)
        self._path, self._descriptor = path, descriptor
        return memory

    def find_crashed_runs(self) -> list[CrashedRun]:
        """Lock and return the files of crashed runs, a bounded number of them."""
        found: list[CrashedRun] = []
        prefix = f"{self._tap_id}."
        with os.scandir(self._folder) as entries:
            names = sorted(entry.name for entry in entries if entry.name.startswith(prefix))
        for name in names:
            if len(found) == _CRASHED_RUNS_MAX:
                break
            epoch = name.removeprefix(prefix)
            path = self._folder / name
            if epoch.isascii() and epoch.isdecimal() and path != self._path:
                crashed = self._lock(path, int(epoch))
                if crashed is not None:
                    found.append(crashed)
        return found

    def _lock(self, path: Path, epoch: int) -> CrashedRun | None:
        """Return the crashed run whose file this is; None if the file is locked, unreadable or not a state file."""
        descriptor = -1
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            state = _STATE.unpack(os.pread(descriptor, _STATE.size, 0))
        except (OSError, struct.error):
            state = None
        if state is not None and state[0] == _MAGIC:
            _, boot_id, started_ms, lease_ms, highest = state
            return CrashedRun(
                path, descriptor, epoch, started_ms, lease_ms, highest, boot_id == self._boot_id
            )
        if descriptor >= 0:
            os.close(descriptor)
        return None

    def remove(self) -> None:
        """Remove the file of this run: the collector knows how the run ended."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Unlock the file and leave it: the next run reports this one."""
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._path = self._descriptor = None


def _boot_id() -> bytes:
    try:
        return Path(_BOOT_ID_FILE).read_bytes().strip()[:36]
    except OSError:
        return b""
