"""A captured URL taken apart: host, path segments, query pairs. Decoded once, and refused where in doubt."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import quote, unquote_to_bytes

_ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://([^/]*)(.*)", re.DOTALL)
_HOST = re.compile(r"[a-z0-9._\-]{1,253}|\[[0-9a-f:.]{2,45}\]")
_MATCHES_NOTHING = re.compile(r"[\x00-\x1f\x7f-\x9f/\\;%\ud800-\udfff]")
_METHOD_FIELDS = frozenset(
    {
        "_method",
        "_http_method",
        "_httpmethod",
        "http_method_override",
        "x_http_method_override",
        "x_http_method",
        "x_method_override",
    }
)
_NAME_ENDS = re.compile(r"[\x00\[]")
_FOLDED = str.maketrans(". -$", "____")
_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_SEGMENT_SAFE = "-._~!$&'()*+,=:@"
_QUERY_SAFE = "-._~!$'()*:@/?"
_QUERY_PLAIN = re.compile("[A-Za-z0-9" + re.escape(_QUERY_SAFE) + "]*")


class Url(NamedTuple):
    """The parts of a URL that may matter. Userinfo and fragment are gone (rule 13)."""

    host: str | None
    """In lower case, without its port; None where only a path was given, empty where it cannot be read."""
    path: str
    query: str


def split_url(url: str) -> Url:
    """Return the parts of an absolute URL, or of a path with or without a query."""
    before, _, query = url.partition("#")[0].partition("?")
    absolute = _ABSOLUTE.fullmatch(before)
    if absolute is None:
        return Url(None, before, query)
    # A backslash ends the host for some readers and belongs to the user's name for others.
    host = "" if "\\" in absolute[1] else read_host(absolute[1].rpartition("@")[2])
    return Url(host, absolute[2] or "/", query)


def read_host(authority: str) -> str:
    """Return the host of `host:port` in lower case, empty where there is none that can be told for sure."""
    host = re.sub(r":[0-9]{0,5}$", "", authority).lower().removesuffix(".")
    return host if _HOST.fullmatch(host) else ""


class Segments(NamedTuple):
    """A path's decoded segments, up to the first that matches nothing by rule."""

    decoded: tuple[str, ...]
    are_all: bool


def split_path(path: str) -> Segments:
    r"""Return the segments of a path, each percent-decoded once.

    One that is empty (but the last), `.` or `..`, or holds `/`, `\\`, `;`, `%` or a control character after that,
    matches nothing and ends the list.
    """
    if not path.startswith("/"):
        return Segments((), are_all=False)
    decoded: list[str] = []
    raw = path[1:].split("/")
    for index, each in enumerate(raw):
        segment = decode(each) if "%" in each else each
        last = index == len(raw) - 1
        if segment is None or segment in (".", "..") or (segment == "" and not last):
            return Segments(tuple(decoded), are_all=False)
        if _MATCHES_NOTHING.search(segment) is not None:
            return Segments(tuple(decoded), are_all=False)
        decoded.append(segment)
    return Segments(tuple(decoded), are_all=True)


def decode(text: str) -> str | None:
    """Return percent-encoded text, decoded once; None where it is not UTF-8 or an escape is broken."""
    if _BROKEN_ESCAPE.search(text) is not None:
        return None
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeError:
        return None


def asks_for_method(query: str) -> bool:
    """Tell whether a query or form holds a field that frameworks take for another method, however it is spelled."""
    if "method" not in query.lower() and "%" not in query:
        return False
    for field in set(re.split("[&;]", query)):
        name = unquote_to_bytes(field.partition("=")[0].replace("+", " ")).decode(errors="replace")
        if names_method(name):
            return True
    return False


def names_method(name: str) -> bool:
    """Tell whether a field of this name is taken for another method, as any framework might fold it."""
    plain = _NAME_ENDS.split(name.strip(), maxsplit=1)[0].lower()
    return plain.translate(_FOLDED) in _METHOD_FIELDS


class QueryPair(NamedTuple):
    """One `name=value` of a query, as it stood and decoded; `value` is None where it cannot be decoded."""

    raw: str
    value: str | None


def split_query(query: str) -> dict[str, list[QueryPair]]:
    """Return the pairs of a query by their decoded name, in order. A name that cannot be decoded is nobody's."""
    pairs: dict[str, list[QueryPair]] = {}
    known: dict[str, tuple[list[QueryPair], QueryPair]] = {}
    for each in filter(None, query.split("&")):
        found = known.get(each)
        if found is None:
            raw_name, _, raw = each.partition("=")
            name = _decode_form(raw_name)
            # Of a name that nobody can have nothing is looked at, but its list is there to be filled.
            listed = [] if name is None else pairs.setdefault(name, [])
            found = known[each] = (listed, QueryPair(raw, _decode_form(raw)))
        found[0].append(found[1])
    return pairs


def _decode_form(text: str) -> str | None:
    spaced = text.replace("+", " ")
    return decode(spaced) if "%" in spaced else spaced


def encode_segment(text: str) -> str:
    """Return text as one path segment."""
    return quote(text, safe=_SEGMENT_SAFE)


def encode_query(text: str) -> str:
    """Return text as a name or value in a query."""
    if _QUERY_PLAIN.fullmatch(text) is not None:
        return text
    return quote(text, safe=_QUERY_SAFE)
