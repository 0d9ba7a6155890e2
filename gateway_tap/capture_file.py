"""Files of captures for the commands that read them: NDJSON, read line by line, or JSON; gzipped or not."""

from __future__ import annotations

import gzip
import re
import zlib
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from io import BufferedReader, BytesIO, RawIOBase
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple, cast

import msgspec

from gateway_tap.body import RejectedBody, split_texts
from gateway_tap.formats.recognition import recognize
from schemas.errors import StartupError

_GZIP_MAGIC: Final = b"\x1f\x8b"
_LINE_SPACE: Final = b" \t\r\n"
_CHUNK_BYTES: Final = 64 * 1024
_JSON_BYTES_MAX: Final = 64 * 1024 * 1024
"""A file that is one JSON text is held in memory as a whole."""
_ELEMENTS_MAX: Final = 100_000

_POSITION: Final = re.compile(r"\(byte ([0-9]+)\)")
# In JSON, a raw line end is only white space; a line of captures ends with one.
_LINE_ENDS_TO_BLANKS: Final = bytes.maketrans(b"\r\n", b"  ")

_raw_decoder = msgspec.json.Decoder(msgspec.Raw)


class Line(NamedTuple):
    """A capture's text on one line: a line of the file, without the space around it, or an element of its array.

    `number` counts lines, or elements, from 1. The repr does not show the text.
    """

    number: int
    text: bytes

    def __repr__(self) -> str:
        return f"Line({self.number})"


def read_lines(source: Path | BinaryIO, line_bytes_max: int) -> Iterator[Line]:
    """Yield the captures' texts: the lines that are not blank, the elements of an array, or an object on several lines.

    A line longer than `line_bytes_max` is cut, but still longer than that. Raises StartupError, one sentence, if the file
    cannot be read, is damaged or not UTF-8, holds no captures, or begins with an array that is too long or not JSON.
    """
    number = 0
    is_empty = True
    with reading(source, lambda: f"line {number}") as opened:
        if found := recognize(opened.peek(_CHUNK_BYTES)):
            raise StartupError(
                f"{input_name(source)} is a {found} file: send it with `auditap import`, or turn it into captures with"
                " `auditap import --to-captures`"
            )
        for number, text in _numbered_texts(opened, input_name(source), line_bytes_max):
            if stripped := text.strip(_LINE_SPACE):
                is_empty = False
                yield Line(number, stripped)
    if is_empty:
        raise StartupError(f"{input_name(source)} holds no captures")


@contextmanager
def reading(source: Path | BinaryIO, place: Callable[[], str]) -> Iterator[BufferedReader[Any]]:
    """Open a source past its byte order mark; what is gzipped is inflated while it is read.

    Raises StartupError, one sentence, if it cannot be read or is damaged. `place` then says how far it was read.
    """
    try:
        with _open(source) as opened:
            _skip_byte_order_mark(opened, input_name(source))
            yield opened
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise StartupError(f"{input_name(source)} is damaged after {place()}") from None
    except OSError as failure:
        raise StartupError(f"cannot read {input_name(source)}: {failure.strerror}") from None


def _numbered_texts(
    opened: BufferedReader[Any], name: str, line_bytes_max: int
) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a file, or the elements of its array, with their numbers."""
    head = opened.read(_JSON_BYTES_MAX + 1) if _may_be_one_text(opened) else b""
    if _is_one_text(head, name):
        yield from _texts(head, name)
    else:
        yield from _numbered_lines(head, opened, line_bytes_max)


@contextmanager
def _open(source: Path | BinaryIO) -> Iterator[BufferedReader[Any]]:
    with ExitStack() as stack:
        opened = stack.enter_context(source.open("rb")) if isinstance(source, Path) else source
        buffered: BufferedReader[Any] = BufferedReader(cast("RawIOBase", opened))
        # The reader would close the source with itself, which belongs to the caller.
        stack.callback(buffered.detach)
        if buffered.peek(2).startswith(_GZIP_MAGIC):
            inflated = stack.enter_context(gzip.GzipFile(fileobj=buffered))
            yield BufferedReader(cast("RawIOBase", inflated))
        else:
            yield buffered


def _skip_byte_order_mark(opened: BufferedReader[Any], name: str) -> None:
    """Skip what some editors and shells write before UTF-8. Raises StartupError for a file that is marked as UTF-16."""
    head = opened.peek(len(BOM_UTF8))
    if head.startswith(BOM_UTF8):
        opened.read(len(BOM_UTF8))
    elif head.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
        raise StartupError(f"{name} is UTF-16: write it as UTF-8")


def _may_be_one_text(opened: BufferedReader[Any]) -> bool:
    """Whether the file begins with an array, or with a line that is only the beginning of an object."""
    line, line_end, _ = opened.peek(_CHUNK_BYTES).lstrip(_LINE_SPACE).partition(b"\n")
    return line[:1] == b"[" or (line[:1] == b"{" and bool(line_end) and not _is_json(line))


def _is_one_text(head: bytes, name: str) -> bool:
    """Whether a file of which `head` was read is one JSON text. Raises StartupError for an array that is too long or not JSON."""
    is_short = len(head) <= _JSON_BYTES_MAX
    if is_short and _is_json(head):
        return True
    line = head.lstrip(_LINE_SPACE).partition(b"\n")[0]
    # These are lines. The first may be an array, which the collector refuses, or a malformed object: no capture is so long.
    if line[:1] != b"[" or _is_json(line):
        return False
    if is_short:
        raise StartupError(_array_error(head, name))
    raise StartupError(f"{name} is longer than {_JSON_BYTES_MAX} bytes: write one capture on each line")


def _array_error(text: bytes, name: str) -> str:
    """Return why an array is not JSON, and on which line, without anything of it."""
    message = ""
    try:
        _raw_decoder.decode(text)
    except msgspec.DecodeError as error:
        message = str(error)
    except (UnicodeDecodeError, RecursionError):
        pass
    if "truncated" in message:
        return f"{name} is not JSON: it ends inside its array"
    found = _POSITION.search(message)
    if found is None:
        return f"{name} is not JSON: its array is malformed"
    line = text.count(b"\n", 0, int(found[1])) + 1
    return f"{name} is not JSON: its array is malformed on line {line}"


def _texts(body: bytes, name: str) -> Iterator[tuple[int, bytes]]:
    try:
        texts = split_texts(body, "application/json", _ELEMENTS_MAX)
    except RejectedBody:
        raise StartupError(
            f"{name} is an array that is too long (at most {_ELEMENTS_MAX} captures): write one capture on each line"
        ) from None
    for number, text in enumerate(texts, 1):
        yield number, text.translate(_LINE_ENDS_TO_BLANKS)


def _numbered_lines(
    head: bytes, rest: BufferedReader[Any], line_bytes_max: int
) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a file of which `head` was read, with their numbers; a long one is cut, but still too long."""
    # Two bytes more: one shows that the line is too long, one may be its line end.
    read_bytes = line_bytes_max + 2
    if head:
        # The end of the line in which the head ends.
        head += rest.readline(read_bytes)
        _skip_rest_of_line(rest, head)
    number = 0
    for opened in (BytesIO(head), rest):
        while text := opened.readline(read_bytes):
            number += 1
            _skip_rest_of_line(opened, text)
            yield number, text


def _is_json(text: bytes) -> bool:
    try:
        _raw_decoder.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def _skip_rest_of_line(opened: BinaryIO, text: bytes) -> None:
    while text and not text.endswith(b"\n"):
        text = opened.readline(_CHUNK_BYTES)


def input_name(source: Path | BinaryIO) -> str:
    """Return what an error calls the source."""
    return str(source) if isinstance(source, Path) else "the input"
