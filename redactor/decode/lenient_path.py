r"""A path as lenient gateways and services read it.

Such a reading says whose action it was, and never opens a body: a request that matches only so is recorded without bodies
and query. Every step takes time in proportion to the path, whose length the capture's contract bounds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

_DECODINGS_MAX: Final = 2
"""A gateway that decodes before a service that decodes: more than two layers are not seen in the field."""
_OVERLONG: Final = re.compile(rb"([\xc0\xc1]|\xe0[\x80\x81]|\xf0\x80[\x80\x81])([\x80-\xbf])")
"""ASCII characters in more bytes than UTF-8 allows, which old decoders accept."""
_SLASHES: Final = re.compile("//+")
_BLANKS: Final = "".join(map(chr, (*range(0x21), 0x7F)))
_WIDE_ESCAPE: Final = re.compile(r"%u([0-9A-Fa-f]{4})")
"""How IIS lets a character be written."""
_SUFFIX: Final = re.compile(r"(?:\.[^.?#]*+|[?#].*|(?<![. ])[. ]++)$", re.DOTALL)
"""What a router or a rewriting gateway takes off the last segment: a format (`.json`), trailing dots, an encoded query."""
_AUTHORITY: Final = re.compile(r"[/\\]?(?:[A-Za-z][A-Za-z0-9+.\-]*:)?[/\\]{2,}[^/\\]*(?=[/\\])")
"""What readers that resolve a request's target like a link take for scheme and host."""
_FRONT_CONTROLLER: Final = re.compile(r"[A-Za-z0-9_\-]+\.php", re.IGNORECASE)
"""The script behind which PHP services accept every path: `/index.php/accounts`."""


class LenientReading(NamedTuple):
    """One way to read a path."""

    segments: Sequence[str]
    """Decoded; none of them is empty."""
    folds_case: bool
    """Whether a literal of the route table is matched in any case."""


def lenient_readings(path: str) -> Iterator[LenientReading]:
    r"""Yield the readings of a path that matches nothing as written, in the order in which they are tried.

    First as gateways normalize it: percent-encoding decoded twice at most, `\` and `%2F` taken as slashes, slashes merged, dot
    segments resolved, `;parameters` and blanks cut. Then the same without what a router takes off the last segment. Then
    as services read it that split before they decode, so that an encoded slash is part of a value. At last without what
    stands before the path itself: a host behind two slashes, or a script.
    """
    path = path.encode(errors="replace").decode()  # a lone surrogate could not be recorded
    normalized = _normalized(path)
    for segments in (normalized, _split_first(path), *_without_lead(path, normalized)):
        if segments and segments != ["*"]:
            yield LenientReading(segments, folds_case=False)
            yield LenientReading(segments, folds_case=True)
            last = _SUFFIX.sub("", segments[-1])
            if last and last != segments[-1]:
                yield LenientReading([*segments[:-1], last], folds_case=True)


def _without_lead(path: str, normalized: Sequence[str]) -> Iterator[Sequence[str]]:
    if normalized and _FRONT_CONTROLLER.fullmatch(normalized[0]) is not None:
        yield normalized[1:]
    authority = _AUTHORITY.match(path)
    if authority is not None:
        yield _normalized(path[authority.end() :])


def _normalized(path: str) -> list[str]:
    path = _WIDE_ESCAPE.sub(_wide_character, path)
    for _ in range(_DECODINGS_MAX):
        if "%" not in path:
            break
        path = _decoded(path)
    # Behind a NUL, readers that take a path as a C string see nothing.
    path = _SLASHES.sub("/", path.partition("\0")[0].replace("\\", "/"))
    segments: list[str] = []
    for each in path.split("/"):
        segment = each.partition(";")[0].strip(_BLANKS)
        if segment == "..":
            del segments[-1:]
        elif segment not in ("", "."):
            segments.append(segment)
    return segments


def _split_first(path: str) -> list[str]:
    segments = (
        (_decoded(each) if "%" in each else each).strip(_BLANKS)
        for each in _SLASHES.sub("/", path).split("/")
    )
    return [each for each in segments if each]


def _decoded(text: str) -> str:
    """Decode percent-encoded text once. Broken escapes stay, and bytes that are no text become replacement characters."""
    octets = unquote_to_bytes(text)
    return _OVERLONG.sub(_shortest, octets).decode(errors="replace")


def _wide_character(escape: re.Match[str]) -> str:
    return chr(int(escape[1], 16)).encode(errors="replace").decode()


def _shortest(overlong: re.Match[bytes]) -> bytes:
    return bytes([(overlong[1][-1] & 1) << 6 | overlong[2][0] & 0x3F])
