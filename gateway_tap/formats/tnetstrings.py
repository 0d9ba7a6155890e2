"""tnetstrings (https://tnetstrings.info), with mitmproxy's type `;` for texts: `3:abc,` is three bytes, `0:~` is null."""

from __future__ import annotations

from typing import BinaryIO, Final

_PREFIX_DIGITS_MAX: Final = 12
_NUMBER_CHARS_MAX: Final = 32
_DEPTH_MAX: Final = 32
_ITEMS_MAX: Final = 100_000
"""A flow has some hundred. Each takes 60 bytes and more, and `0:~` is three."""

Value = None | bool | int | float | str | bytes | list["Value"] | dict[str, "Value"]


class NotTnetstring(ValueError):
    """The bytes are no tnetstring, or exceed a bound. The message holds nothing of them."""


def next_frame(source: BinaryIO, frame_bytes_max: int) -> bytes | None:
    """Return the next tnetstring of a file with its prefix and type, not decoded; None at the end of the file.

    One that is longer than `frame_bytes_max` is skipped, and empty bytes are returned. Raises NotTnetstring.
    """
    prefix = bytearray()
    while (char := source.read(1)).isdigit():
        prefix += char
        if len(prefix) > _PREFIX_DIGITS_MAX:
            raise NotTnetstring("a prefix that is too long")
    if not char and not prefix:
        return None
    if char != b":" or not prefix:
        raise NotTnetstring("no prefix")
    # With the type after it.
    left = int(prefix) + 1
    if left > frame_bytes_max:
        _skip(source, left)
        return b""
    content = source.read(left)
    if len(content) < left:
        raise NotTnetstring("the end is missing")
    return bytes(prefix) + b":" + content


def parse(text: bytes) -> Value:
    """Return what one tnetstring holds. Raises NotTnetstring."""
    value, end = _Parser(text).value(0, len(text), 0)
    if end != len(text):
        raise NotTnetstring("more than one")
    return value


def _skip(source: BinaryIO, left: int) -> None:
    while left:
        read = len(source.read(min(left, 1 << 20)))
        if not read:
            raise NotTnetstring("the end is missing")
        left -= read


class _Parser:
    def __init__(self, text: bytes) -> None:
        self._text = text
        self._items = 0

    def value(self, start: int, limit: int, depth: int) -> tuple[Value, int]:
        """Return the value that begins at `start` and ends before `limit`, and where it ends."""
        self._items += 1
        if self._items > _ITEMS_MAX or depth > _DEPTH_MAX:
            raise NotTnetstring("too many values, or too deep")
        colon = self._text.find(b":", start, min(limit, start + _PREFIX_DIGITS_MAX + 1))
        digits = self._text[start:colon] if colon > start else b""
        if not digits.isdigit():
            raise NotTnetstring("no prefix")
        begin, end = colon + 1, colon + 1 + int(digits)
        if end >= limit:
            raise NotTnetstring("the end is missing")
        kind = self._text[end : end + 1]
        if kind == b"]":
            return self._list(begin, end, depth), end + 1
        if kind == b"}":
            return self._dict(begin, end, depth), end + 1
        return _scalar(kind, self._text[begin:end]), end + 1

    def _list(self, at: int, end: int, depth: int) -> list[Value]:
        values: list[Value] = []
        while at < end:
            value, at = self.value(at, end, depth + 1)
            values.append(value)
        return values

    def _dict(self, at: int, end: int, depth: int) -> dict[str, Value]:
        values: dict[str, Value] = {}
        while at < end:
            name, at = self.value(at, end, depth + 1)
            value, at = self.value(at, end, depth + 1)
            if isinstance(name, bytes):
                name = name.decode("latin-1")
            if not isinstance(name, str):
                raise NotTnetstring("a name that is not text")
            values[name] = value
        return values


def _scalar(kind: bytes, content: bytes) -> Value:
    if kind == b",":
        return content
    # Raised out here so that an error of Python's, which quotes the value, is not even its context.
    try:
        match kind:
            case b";":
                return content.decode()
            case b"#" if len(content) <= _NUMBER_CHARS_MAX:
                return int(content)
            case b"^" if len(content) <= _NUMBER_CHARS_MAX:
                return float(content)
            case b"!" if content in (b"true", b"false"):
                return content == b"true"
            case b"~" if not content:
                return None
            case _:
                pass
    except ValueError:
        pass
    raise NotTnetstring("a value that is not of its type")
