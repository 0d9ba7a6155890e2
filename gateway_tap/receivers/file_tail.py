"""A receiver of lines that a gateway writes to a file in memory (tmpfs) and rotates.

For gateways that never wait for a file, and would make users wait for a socket whose reader hangs. What is read is erased from the
file at once, by punching a hole. Reading goes on at the first data behind the hole, so no other place stores how far it has come.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import logging
import os
import stat
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Final

from gateway_tap.formats.port import LineFormat
from gateway_tap.receivers.received_tap import ReceivedTap
from gateway_tap.turns import in_turns
from schemas.errors import RefusedCapture, StartupError

LINE_BYTES_MAX: Final = 16 * 1024 * 1024
_READ_BYTES: Final = 1024 * 1024
_LOOK_EVERY_S: Final = 0.05
_WARN_EVERY_LOOKS: Final = 1_200  # a minute
_FILES_MAX: Final = 1_000
_IN_MEMORY: Final = frozenset({"tmpfs", "ramfs"})
_MOUNTS: Final = Path("/proc/self/mountinfo")
# From linux/falloc.h: keep the size of the file, and make a hole.
_PUNCH_HOLE: Final = 0x01 | 0x02

_log = logging.getLogger("auditap.receivers")


class FileTail:
    """Takes the lines of `path` and of the files that it was renamed to, `NAME-*.EXT` beside it, oldest first.

    A renamed file is removed once it has been read. If the gateway removed one that had not been read to its end, what it held
    is a gap of one number: how many lines there were is not known.
    """

    def __init__(self, path: Path, line_format: LineFormat) -> None:
        """Raises StartupError if the folder is missing or not in memory."""
        if not path.parent.is_dir():
            raise StartupError(f"{path.parent} is not there: make the folder that collector.receivers names")
        if not _is_in_memory(path.parent):
            raise StartupError(
                f"{path.parent} is on a disk, where bodies must not be written: choose one on a tmpfs (`df -t tmpfs` lists them) by collector.receivers"
            )
        self._path = path
        self._format = line_format
        self._latest = path.with_name(f".{path.name}.read")
        self._failed_looks = 0
        self._is_skipping = False
        """Whether what comes next is the rest of a line that was too long."""

    async def run(self, tap: ReceivedTap) -> None:
        """Hand lines to `tap` until cancelled."""
        while True:
            try:
                await self._look(tap)
                self._failed_looks = 0
            except OSError as failure:
                if self._failed_looks % _WARN_EVERY_LOOKS == 0:
                    _log.warning(
                        "cannot read what the gateway writes to %s (%s): let auditap read and write the file and its folder",
                        self._path,
                        os.strerror(failure.errno or 0),
                    )
                self._failed_looks += 1
            await asyncio.sleep(_LOOK_EVERY_S)

    async def _look(self, tap: ReceivedTap) -> None:
        """Read all that can be read. Raises OSError."""
        with ExitStack() as stack:
            # The file that is being written is opened first: if it is renamed meanwhile, it is found among the renamed ones.
            active = _open(self._path, stack)
            rotated = [(path, _open(path, stack)) for path in self._rotated()]
            opened = [descriptor for _, descriptor in rotated if descriptor is not None]
            opened += [] if active is None else [active]
            self._note_removed({os.fstat(descriptor).st_ino for descriptor in opened}, tap)
            for path, descriptor in rotated:
                if descriptor is not None:
                    await self._read(descriptor, tap)
                    self._finish(path, descriptor, tap)
            if active is not None:
                await self._read(active, tap)

    def _rotated(self) -> list[Path]:
        """Return the renamed files, oldest first: their names hold the time."""
        start, end = f"{self._path.stem}-", self._path.suffix
        with os.scandir(self._path.parent) as entries:
            names = sorted(
                each.name for each in entries if each.name.startswith(start) and each.name.endswith(end)
            )
        return [self._path.with_name(name) for name in names[:_FILES_MAX]]

    def _note_removed(self, present: set[int], tap: ReceivedTap) -> None:
        """Count a loss if the file that was read last is gone, and remember the one that is written now."""
        try:
            active = str(self._path.stat().st_ino)
        except FileNotFoundError:
            return
        try:
            latest, read_ms = self._latest.read_text(), self._latest.stat().st_mtime_ns // 1_000_000
        except FileNotFoundError:
            latest, read_ms = "", 0
        if latest and latest != active and int(latest) not in present:
            tap.lose_unknown(read_ms)
        if latest == active:
            os.utime(self._latest)
        else:
            self._latest.write_text(active)

    async def _read(self, descriptor: int, tap: ReceivedTap) -> None:
        """Take each whole line that has not been read, and erase it."""
        while True:
            start = _start_of_unread(descriptor)
            text = os.pread(descriptor, _READ_BYTES, start)
            if len(text) == _READ_BYTES and b"\n" not in text:
                text = os.pread(descriptor, LINE_BYTES_MAX, start)
            whole = text[: text.rfind(b"\n") + 1]
            if whole:
                lines = whole.split(b"\n")[self._is_skipping :]
                self._is_skipping = False
                async for line in in_turns(lines):
                    self._take(line, tap)
                _erase(descriptor, start, len(whole))
            elif len(text) == LINE_BYTES_MAX:
                if not self._is_skipping:
                    tap.refuse()
                self._is_skipping = True
                _erase(descriptor, start, len(text))
            else:
                return

    def _take(self, line: bytes, tap: ReceivedTap) -> None:
        # What was erased of a page reads as zeros, and no line has one.
        line = line.lstrip(b"\0").strip()
        if not line:
            return
        try:
            capture = self._format.decode(line)
        except RefusedCapture:
            tap.refuse()
        else:
            tap.take(capture, len(line))

    def _finish(self, path: Path, descriptor: int, tap: ReceivedTap) -> None:
        """Remove a renamed file: nothing is written to it any more."""
        if (
            os.pread(descriptor, _READ_BYTES, _start_of_unread(descriptor)).strip(b"\0")
            and not self._is_skipping
        ):
            tap.refuse()
        self._is_skipping = False
        path.unlink(missing_ok=True)


def _open(path: Path, stack: ExitStack) -> int | None:
    """Return a descriptor of the file, for reading and erasing, that the stack closes; None if it is not there. Raises OSError."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    stack.callback(os.close, descriptor)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    return descriptor


def _start_of_unread(descriptor: int) -> int:
    """Return where the first data of a file begins; its end if it has none."""
    try:
        return os.lseek(descriptor, 0, os.SEEK_DATA)
    except OSError:
        return os.lseek(descriptor, 0, os.SEEK_END)


def _erase(descriptor: int, start: int, size_bytes: int) -> None:
    """Make a hole. Raises OSError."""
    if _libc().fallocate(descriptor, _PUNCH_HOLE, ctypes.c_int64(start), ctypes.c_int64(size_bytes)) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _is_in_memory(folder: Path) -> bool:
    """Whether the file system of the folder is one in memory."""
    device = folder.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in _MOUNTS.read_text().splitlines():
        fields, _, kind = line.partition(" - ")
        if fields.split()[2] == wanted:
            return kind.split()[0] in _IN_MEMORY
    return False
