"""A captured URL split into host, path segments and query pairs (rule 13).

Percent-encoding is decoded once. What servers might read differently is refused.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple
from urllib.parse import quote, unquote_to_bytes

_ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://([^/]*)(.*)", re.DOTALL)
_HOST = re.compile(r"[a-z0-9._\-]{1,253}|\[[0-9a-f:.]{2,45}\]")
_LABEL = "[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_REFUSED_CHARS = re.compile(r"[\x00-\x1f\x7f-\x9f/\\;%\ud800-\udfff]")
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
    """The parts of a URL that are read. Userinfo and fragment are not among them."""

    host: str | None
    """In lower case, without its port; None where the URL is a path alone, empty where the host cannot be read."""
    path: str
    query: str


def split_url(url: str) -> Url:
    """Split an absolute URL, or a path with or without a query."""
    before, _, query = url.partition("#")[0].partition("?")
    absolute = _ABSOLUTE.fullmatch(before)
    if absolute is None:
        return Url(None, before, query)
    # Some readers end the host at a backslash, others take it as part of the userinfo.
    host = "" if "\\" in absolute[1] else parse_host(absolute[1].rpartition("@")[2])
    return Url(host, absolute[2] or "/", query)


def parse_host(authority: str) -> str:
    """Return the host of `host:port` in lower case, without a final dot; empty where it is no valid host."""
    # Some other letters have ASCII ones as their lower case, so a foreign name could become a known one.
    host = re.sub(r":[0-9]{0,5}$", "", authority).lower().removesuffix(".") if authority.isascii() else ""
    return host if _HOST.fullmatch(host) else ""


def valid_host(host: str) -> str | None:
    """Return what `parse_host` found if it is an address, in its usual form, or can be a name; else None."""
    if host.startswith("["):
        address = _address(IPv6Address, host[1:-1])
        return None if address is None else f"[{address}]"
    # What ends in a number is an address or nothing: so do browsers read it.
    if host.rpartition(".")[2].isdecimal():
        return _address(IPv4Address, host)
    return host if _HOST_NAME.fullmatch(host) is not None else None


def _address(kind: type[IPv4Address | IPv6Address], text: str) -> str | None:
    try:
        return str(kind(text))
    except ValueError:
        return None


class Segments(NamedTuple):
    """A path's segments."""

    decoded: tuple[str, ...]
    """Percent-decoded once, up to the first one that is refused."""
    is_complete: bool


def split_path(path: str) -> Segments:
    r"""Split a path and decode each segment once.

    A segment is refused, because no template may match it, if it is empty (unless it is the last one), `.` or `..`, or
    if it holds `/`, `\\`, `;`, `%` or a control character after decoding.
    """
    if not path.startswith("/"):
        return Segments((), is_complete=False)
    decoded: list[str] = []
    raw = path[1:].split("/")
    for index, each in enumerate(raw):
        segment = percent_decode(each) if "%" in each else each
        last = index == len(raw) - 1
        if segment is None or segment in (".", "..") or (segment == "" and not last):
            return Segments(tuple(decoded), is_complete=False)
        if _REFUSED_CHARS.search(segment) is not None:
            return Segments(tuple(decoded), is_complete=False)
        decoded.append(segment)
    return Segments(tuple(decoded), is_complete=True)


def percent_decode(text: str) -> str | None:
    """Decode percent-encoded text once; None where an escape is broken or the result is not UTF-8."""
    if _BROKEN_ESCAPE.search(text) is not None:
        return None
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeError:
        return None


def query_overrides_method(query: str, method: str) -> bool:
    """Whether a query, or a urlencoded form, holds a field by which frameworks override the request's `method`."""
    if "method" not in query.lower() and "%" not in query:
        return False
    # Each distinct field once: the same one may stand in a query many thousand times.
    for field in set(re.split("[&;]", query)):
        name, _, value = (_decode_leniently(part) for part in field.partition("="))
        if is_method_override_field(name) and names_other_method(value, method):
            return True
    return False


def _decode_leniently(text: str) -> str:
    return unquote_to_bytes(text.replace("+", " ")).decode(errors="replace")


def names_other_method(value: str, method: str) -> bool:
    """Whether the value of a method override asks for another method: it is not empty, and not the request's own."""
    return value.strip(" \t").upper() not in ("", method.upper())


def is_method_override_field(name: str) -> bool:
    """Whether some framework takes a field of this name as a method override, however the framework normalizes it."""
    plain = _NAME_ENDS.split(name.strip(), maxsplit=1)[0].lower()
    return plain.translate(_FOLDED) in _METHOD_FIELDS


class QueryPair(NamedTuple):
    """The value of one `name=value` in a query."""

    raw: str
    """As it stood."""
    value: str | None
    """Decoded; None where it cannot be decoded."""


def split_query(query: str) -> dict[str, list[QueryPair]]:
    """Return the pairs of a query by their decoded name, in order. Pairs without a decodable name are left out."""
    pairs: dict[str, list[QueryPair]] = {}
    # Each distinct pair is decoded once: the same one may stand in a query many thousand times.
    known: dict[str, tuple[list[QueryPair], QueryPair]] = {}
    for each in filter(None, query.split("&")):
        found = known.get(each)
        if found is None:
            raw_name, _, raw = each.partition("=")
            name = _decode_form(raw_name)
            # The list for an undecodable name is filled and thrown away.
            listed = [] if name is None else pairs.setdefault(name, [])
            found = known[each] = (listed, QueryPair(raw, _decode_form(raw)))
        found[0].append(found[1])
    return pairs


def _decode_form(text: str) -> str | None:
    spaced = text.replace("+", " ")
    return percent_decode(spaced) if "%" in spaced else spaced


def encode_segment(text: str) -> str:
    """Encode text as one path segment."""
    return quote(text, safe=_SEGMENT_SAFE)


def encode_query(text: str) -> str:
    """Encode text as a name or value in a query."""
    if _QUERY_PLAIN.fullmatch(text) is not None:
        return text
    return quote(text, safe=_QUERY_SAFE)
