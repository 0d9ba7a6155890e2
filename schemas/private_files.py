"""Files for one user's eyes: keys, tokens, passwords and small state. The only module that reads and writes them.

They are written whole or not at all, with mode 0600 from the beginning. A secret that is empty or short, as a crash or a
full disk leaves it behind, is refused: everybody could guess it.
"""

from __future__ import annotations

import os
import select
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from schemas.errors import StartupError

KEY_CHARS_MIN: Final = 32
"""Of a key that ids or cursors are derived with."""
SECRET_CHARS_MIN: Final = 16
"""Of a token, of a password that auditap generates, and of a key that webhooks are signed with."""
_SECRET_BYTES_MAX: Final = 16_384
_PIPE_WAIT_S: Final = 10
"""How long a secret is waited for that comes by a pipe, as from `<(command)`."""


def make_folder(path: Path, mode: int) -> None:
    """Make a folder with exactly `mode`, and the missing ones above it, which others cannot write to, whatever the umask.

    One that exists is left as it is. Raises OSError.
    """
    missing = [each for each in (path, *path.parents) if not each.exists()]
    if not missing:
        return
    for above in reversed(missing[1:]):
        above.mkdir(mode=0o755, exist_ok=True)
    # Never wider than at the end, not even for a moment.
    path.mkdir(mode=mode & 0o700, exist_ok=True)
    path.chmod(mode)


def replace_private_file(path: Path, text: str) -> None:
    """Write a file, or replace it. Once this returns, it is durable. Raises OSError."""
    with _drafted(path, text) as draft:
        draft.replace(path)


def create_private_file(path: Path, text: str) -> bool:
    """Write a file unless there is one of this name, and return whether it was written. Raises OSError.

    Of two processes that create a file at once, the second finds it there, and complete.
    """
    with _drafted(path, text) as draft:
        try:
            # Unlike a rename, a link fails if the name is in use.
            path.hardlink_to(draft)
        except FileExistsError:
            return False
    return True


def read_secret(path: Path, remedy: str, *, chars_min: int = SECRET_CHARS_MIN) -> str:
    """Return the secret in a file, without the white space around it.

    Raises StartupError, which names the file, what is wrong with it and the `remedy`, and FileNotFoundError.
    """
    return read_secret_bytes(path, remedy, chars_min=chars_min).decode().strip()


def read_token(path: Path, remedy: str) -> str:
    """Return the bearer token in a file. Raises what `read_secret` raises, also for what no header can hold."""
    token = read_secret(path, remedy)
    if len(token.split()) > 1:
        raise StartupError(f"{path} holds more than one line or word: {remedy}.")
    if not token.isascii():
        # Clients and servers do not agree on the bytes of such a header.
        raise StartupError(f"{path} holds a character that is not printable ASCII: {remedy}.")
    return token


def read_secret_bytes(path: Path, remedy: str, *, chars_min: int = SECRET_CHARS_MIN) -> bytes:
    """Return the secret in a file as it stands there, white space included. Raises what `read_secret` raises."""
    try:
        secret = _read(path)
    except FileNotFoundError:
        raise
    except TimeoutError:
        raise StartupError(
            f"{path} is a pipe to which nobody has written for {_PIPE_WAIT_S} s: {remedy}."
        ) from None
    except OSError as error:
        raise StartupError(f"{path} cannot be read ({error.strerror}): {remedy}.") from None
    if wrong := why_unusable(secret, chars_min):
        raise StartupError(f"{path} {wrong}: {remedy}.")
    return secret


def _read(path: Path) -> bytes:
    """Return a file's content up to one byte more than a secret has. Raises OSError, TimeoutError."""
    # A FIFO that nobody writes to would otherwise hold up the process without a word.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        is_regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
        arrived = select.poll()
        arrived.register(descriptor, select.POLLIN)
        deadline = time.monotonic() + _PIPE_WAIT_S
        secret = b""
        while len(secret) <= _SECRET_BYTES_MAX:
            wait_s = max(0.0, deadline - time.monotonic())
            if not is_regular and not arrived.poll(wait_s * 1000):
                raise TimeoutError
            piece = file.read(_SECRET_BYTES_MAX + 1 - len(secret))
            if not piece:
                break
            secret += piece
        return secret


def why_unusable(secret: bytes, chars_min: int) -> str | None:
    """Return what is wrong with a secret, as the end of a sentence about it; None if nothing is."""
    if len(secret) > _SECRET_BYTES_MAX:
        return "is too long for a secret"
    try:
        text = secret.decode().strip()
    except UnicodeDecodeError:
        return "is not UTF-8"
    # White space of every alphabet and zeros look like a secret to `len` and are none.
    visible = sum(char.isprintable() and not char.isspace() for char in text)
    if not visible:
        return "is empty"
    if visible < chars_min:
        return f"has fewer than {chars_min} characters"
    # A file that had its size on disk before its content holds zeros; an editor may begin it with a byte order mark.
    is_text = all(char.isprintable() or char.isspace() for char in text)
    return None if is_text else "has characters that cannot be printed"


@contextmanager
def _drafted(path: Path, text: str) -> Iterator[Path]:
    """Write a temporary file in the same folder for the block to give its name to; then make the name durable."""
    # `mkstemp` creates it with mode 0600.
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    draft = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        yield draft
        _sync_folder(path.parent)
    finally:
        draft.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
