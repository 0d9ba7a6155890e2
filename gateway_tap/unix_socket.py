"""The Unix socket that taps on the same host send to, open to its owner and group alone."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import socket
import stat
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from schemas.errors import StartupError

PEER_UID: Final = "peer_uid"
"""Name under which the server leaves the user id of the process at the other end in a request's state."""
_BACKLOG: Final = 1024
_CREDENTIALS: Final = struct.Struct("iII")


def bind_unix_socket(path: str | Path, mode: int = 0o660, *, setting: str = "") -> socket.socket:
    """Return a socket that listens at `path`, with the permissions `mode` from the first moment anyone can connect.

    A socket that a dead process left there is replaced. Raises StartupError if a process listens at `path`, if
    something that is not a socket is there, or if the folder is missing or not writable; it
    names the `setting` that the path comes from.
    """
    listener = socket.socket(socket.AF_UNIX)
    try:
        with place_for_socket(path, mode, setting=setting) as place:
            listener.bind(str(place))
            listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


@contextmanager
def place_for_socket(path: str | Path, mode: int = 0o660, *, setting: str = "") -> Iterator[Path]:
    """Yield another path, where the caller lets a socket listen; it is then moved to `path`, as `bind_unix_socket` has it.

    Raises StartupError as `bind_unix_socket` does.
    """
    path = Path(path)
    remedy = f"choose another path in {setting}" if setting else "choose another path"
    try:
        with _folder_locked(path.parent):
            _refuse_if_taken(path, remedy)
            # Made in a folder that nobody else can enter, then moved. Setting a umask instead would affect all threads.
            private = tempfile.mkdtemp(prefix=".", dir=path.parent)
            try:
                made = Path(private, "s")
                yield made
                made.chmod(mode)
                made.rename(path)
            finally:
                shutil.rmtree(private, ignore_errors=True)
    except OSError as failure:
        # Python itself refuses a path that does not fit into the socket's address, with an OSError without errno.
        reason = "the path is too long" if failure.errno is None else os.strerror(failure.errno)
        raise StartupError(f"cannot listen at {path} ({reason}): {remedy}") from None


def peer_uid(connected: socket.socket) -> int | None:
    """Return the user id of the process at the other end of a Unix socket; None where the system does not tell."""
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return None
    try:
        _pid, uid, _gid = _CREDENTIALS.unpack(
            connected.getsockopt(socket.SOL_SOCKET, option, _CREDENTIALS.size)
        )
    except OSError:
        return None
    return int(uid)


@contextmanager
def _folder_locked(folder: Path) -> Iterator[None]:
    """Lock the folder, so that of two processes that start at once the second sees the first one's socket."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _refuse_if_taken(path: Path, remedy: str) -> None:
    with socket.socket(socket.AF_UNIX) as probe:
        # Non-blocking, because a listener whose backlog is full would hold up the start. No response means that it is there.
        probe.setblocking(False)
        outcome = probe.connect_ex(str(path))
    if outcome == errno.ENOENT:
        return
    if not stat.S_ISSOCK(path.lstat().st_mode):
        raise StartupError(f"{path} is not a socket: remove it or {remedy}")
    if outcome != errno.ECONNREFUSED:
        raise StartupError(f"another process listens at {path}: stop it or {remedy}")
