"""What is copied of a request/response pair: the chosen headers, and bodies within a bound.

Everything in this module runs on the application's own thread, so it does no more than copy, in plain loops: a generator
costs more than the headers that it would go through.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, Final, Protocol, TypeVar

from .encoding import encode_pair

RawHeaders = list[tuple[bytes, bytes]]

_PAIR_BYTES: Final = 1_024  # what a waiting pair takes besides its bodies, headers and URL
_HEADER_VALUE_BYTES_MAX: Final = (
    16_384  # a signed token with many claims is longer than most servers' default of 8 KiB
)
_HEADER_LINES_MAX: Final = 64
# The redactor records nothing of these media types, and some of these streams never end.
_MEDIA_NEVER_RECORDED: Final = (b"text/event-stream", b"image/", b"audio/", b"video/", b"font/")
_REPEATABLE: Final = frozenset({list, tuple})
# Each proxy appends to these, so that their end can be trusted and their start is what the client made up.
_CHAINS: Final = frozenset({b"x-forwarded-for", b"forwarded"})
_UNDERSCORE: Final = ord("_")  # a number, because looking for one byte as `bytes` takes ten times as long

_Part = TypeVar("_Part")


def repeatable(parts: Iterable[_Part]) -> Iterable[_Part]:
    """Return the parts in a form that can be read more than once: themselves, or a list of them.

    ASGI lets servers and applications pass any iterable. What is read of an iterator is gone for whoever comes next, so
    it has to be passed on in this form. Raises what the iterator raises.
    """
    return parts if type(parts) in _REPEATABLE else list(parts)


def repeatable_headers(headers: Iterable[Any]) -> Iterable[Any]:
    """Return headers in a form that can be read more than once; each of them is an iterable of its own."""
    headers = repeatable(headers)
    # Compared by type in one call, because nearly all headers are tuples and each request has many.
    if _REPEATABLE.issuperset(map(type, headers)):
        return headers
    return [tuple(header) for header in headers]


class ByteBudget(Protocol):
    """The bytes that all pairs in memory may take together."""

    def reserve(self, size_bytes: int) -> bool:
        """Reserve so many bytes, and return whether they fit."""

    def release(self, size_bytes: int) -> None:
        """Give reserved bytes back."""


class HeaderSelection:
    """Which headers are copied: exact names, and prefixes written `name-*`.

    Names are compared with `_` read as `-`, because services behind WSGI and CGI take either for the same header. They are copied
    as they were written, in lower case.
    """

    def __init__(self, names: Iterable[str]) -> None:
        lowered = [_dashed(name.lower().encode("latin-1")) for name in names]
        self._names = frozenset(name for name in lowered if not name.endswith(b"*"))
        self._prefixes = tuple(name[:-1] for name in lowered if name.endswith(b"*"))

    def select(self, headers: Iterable[tuple[bytes, bytes]]) -> RawHeaders:
        """Return the chosen header lines in their order, repeated ones included; long values are cut, chains of proxies at
        their start.
        """
        selected: RawHeaders = []
        for name, value in headers:
            # Copied, because servers may reuse the memory; of `bytes`, no copy is made.
            lowered = bytes(name).lower()
            if (
                lowered in self._names
                or (self._prefixes and lowered.startswith(self._prefixes))
                or (_UNDERSCORE in lowered and self._takes(_dashed(lowered)))
            ):
                kept = value if len(value) <= _HEADER_VALUE_BYTES_MAX else _cut(lowered, value)
                selected.append((lowered, bytes(kept)))
        return selected if len(selected) <= _HEADER_LINES_MAX else self._fewer(selected)

    def _takes(self, dashed: bytes) -> bool:
        return dashed in self._names or dashed.startswith(self._prefixes)

    def _fewer(self, selected: RawHeaders) -> RawHeaders:
        """Return the first and the last line of each header: all of those with exact names, and as many others as there is room for.

        A client that sends one header many times must not hide another one, nor the value that the service takes. The lines
        of a chain of proxies are joined: without those in its middle, it would seem that others had passed the request on.
        All spellings of an exact name with `_` count as one header, or there would be so many that nothing bounds them.
        """
        ends: dict[bytes, RawHeaders] = {}
        for name, value in selected:
            lines = ends.setdefault(self._group(name), [])
            if name in _CHAINS and lines:
                lines[0] = (name, _cut(name, lines[0][1] + b", " + value))
            else:
                lines[1:] = [(name, value)]
        exact, others = RawHeaders(), RawHeaders()
        for name, lines in ends.items():
            (exact if _dashed(name) in self._names else others).extend(lines)
        return exact + others[: max(0, _HEADER_LINES_MAX - len(exact))]

    def _group(self, name: bytes) -> bytes:
        if name in self._names or _dashed(name) not in self._names:
            return name
        return name.replace(b"-", b"_")


def _dashed(name: bytes) -> bytes:
    return name.replace(b"_", b"-")


def _cut(name: bytes, value: bytes) -> bytes:
    return value[-_HEADER_VALUE_BYTES_MAX:] if name in _CHAINS else value[:_HEADER_VALUE_BYTES_MAX]


def is_never_recorded(headers: RawHeaders) -> bool:
    """Return whether a body with these headers is of a media type that the redactor always drops."""
    for name, value in headers:
        if name == b"content-type" and value.lstrip().lower().startswith(_MEDIA_NEVER_RECORDED):
            return True
    return False


class BodyCopy:
    """A bounded copy of a body.

    A body that does not fit is discarded as a whole and marked truncated: the redactor would record no part of it.
    One that the application did not read to its end is marked `not_read` as well.
    `copied` is False for methods whose bodies are never copied; such a copy stays empty and is not marked.
    """

    __slots__ = ("_budget", "_bytes_max", "_copied", "data", "not_read", "truncated")

    def __init__(self, budget: ByteBudget, bytes_max: int, *, copied: bool) -> None:
        self._budget = budget
        self._bytes_max = bytes_max
        self._copied = copied
        self.data = bytearray()
        self.truncated = False
        self.not_read = False

    @property
    def takes_more(self) -> bool:
        """Whether `append` still copies."""
        return self._copied and not self.truncated

    def append(self, chunk: bytes | bytearray | memoryview) -> None:
        if not chunk or self.truncated or not self._copied:
            return
        # The length of a memoryview counts its items, which need not be bytes.
        size_bytes = len(chunk) if type(chunk) is bytes else memoryview(chunk).nbytes
        if len(self.data) + size_bytes > self._bytes_max or not self._budget.reserve(size_bytes):
            self.discard()
        else:
            self.data += chunk

    def discard(self) -> None:
        """Drop what was copied, give its bytes back, and mark the body truncated."""
        if self._copied:
            self.truncated = True
            self._budget.release(len(self.data))
            self.data = bytearray()

    def leave_unread(self) -> None:
        """Discard the body because the application did not read it to its end."""
        self.not_read = self.takes_more
        self.discard()


class Pair:
    """One request and its response, as observed. Its repr shows nothing of them.

    `path` and `query` are as received; `at_ms` is the time of the request (Unix milliseconds); `status` is None until a
    response has begun; `complete` says whether the whole response was sent; `size_bytes` is what the buffer reserved.
    """

    __slots__ = (
        "at_ms",
        "client",
        "complete",
        "duration_ms",
        "host",
        "id",
        "method",
        "path",
        "query",
        "request_body",
        "request_headers",
        "response_body",
        "response_headers",
        "scheme",
        "seq",
        "server",
        "size_bytes",
        "status",
    )

    def __init__(
        self, scope: Any, headers: RawHeaders, request_body: BodyCopy, response_body: BodyCopy
    ) -> None:
        self.at_ms = 0
        self.id = ""
        self.seq = 0
        # Copied where the server or the application may change or reuse them: the pair is encoded later, in another thread.
        self.client = tuple(scope.get("client") or ())
        self.server = tuple(scope.get("server") or ())
        self.scheme: str = scope.get("scheme") or "http"
        self.method: str = scope["method"]
        raw_path = scope.get("raw_path")
        self.path: bytes | str = bytes(raw_path) if raw_path else scope["path"]
        self.query = bytes(scope.get("query_string") or b"")
        self.host = [value for name, value in headers if name == b"host"]
        self.request_headers = headers
        self.response_headers: RawHeaders = []
        self.request_body = request_body
        self.response_body = response_body
        self.status: int | None = None
        self.complete = False
        self.duration_ms = 0.0
        self.size_bytes = 0

    def __repr__(self) -> str:
        return "<pair>"

    def assign(self, seq: int, at_ms: int) -> None:
        """Set sequence number and time, and the id that follows from the time."""
        self.seq = seq
        self.at_ms = at_ms
        self.id = _uuid7(at_ms)

    def encode(self, tap_id: str, epoch: int) -> bytes:
        return encode_pair(self, tap_id, epoch)

    def body_bytes(self) -> int:
        return len(self.request_body.data) + len(self.response_body.data)

    def size_without_bodies(self) -> int:
        size_bytes = _PAIR_BYTES + len(self.path) + len(self.query)
        for headers in (self.request_headers, self.response_headers):
            for name, value in headers:
                size_bytes += len(name) + len(value)
        return size_bytes


def _uuid7(at_ms: int) -> str:
    """Return a UUIDv7 of this time (Unix ms) as 32 hex digits; `uuid.uuid7` of Python 3.14 takes the present time."""
    # Not from `random`, whose state a forked process would share: it would draw the same ids.
    drawn = int.from_bytes(os.urandom(10), "big")
    head = at_ms << 80 | 0x7 << 76 | (drawn >> 64 & 0xFFF) << 64
    return f"{head | 0b10 << 62 | drawn & (1 << 62) - 1:032x}"
