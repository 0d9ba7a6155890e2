"""`multipart/form-data` bodies split into parts; what two parsers might split differently is malformed (rule 9).

The name of a part decides what is kept of it, so the parser is strict: the delimiter stands nowhere else, lines end in
CRLF, nothing precedes the first part or follows the last, header lines are not folded, each header and each parameter
stands once, and no name holds escapes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from redactor.decode.json import Unusable
from schemas.event import BodyReason

_HEADERS_BYTES_MAX = 8192
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*)")
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105  what RFC 9110 calls a token
_DISPOSITION = re.compile(
    r'form-data((?:[ \t]*;[ \t]*[a-z*]+=(?:"[^"\\]*"|' + _TOKEN + r"))+)[ \t]*", re.IGNORECASE
)
_PARAMETER = re.compile(r'([a-z*]+)=(?:"([^"\\]*)"|(' + _TOKEN + "))", re.IGNORECASE)
_PARAMETERS = frozenset({"name", "filename", "filename*"})
_PLAIN_TEXT = re.compile(r"text/plain(?:[ \t]*;[ \t]*charset=\"?(?:utf-8|us-ascii)\"?)?[ \t]*", re.IGNORECASE)
_PLAIN_TRANSFERS = frozenset({"7bit", "8bit", "binary"})
_KNOWN = frozenset(
    {b"content-disposition", b"content-type", b"content-transfer-encoding", b"content-encoding"}
)


class FormPart(NamedTuple):
    """One field of a form, multipart or urlencoded."""

    name: str
    content: bytes
    has_file_name: bool = False
    is_text: bool = True
    """Whether its content type is plain text in UTF-8, or missing."""


def split_parts(body: bytes, boundary: str, parts_max: int) -> Iterator[FormPart]:
    """Yield the parts of a form in order.

    Raises Unusable: `malformed`, or `too_large` for more than `parts_max` parts.
    """
    delimiter = b"--" + boundary.encode()
    # Counted first: `too_large` comes before `malformed` in the receipt's order, and the pieces are not made in vain.
    if body.count(delimiter) > parts_max + 1:
        raise Unusable(BodyReason.TOO_LARGE)
    pieces = body.split(delimiter)
    if len(pieces) < 3 or pieces[0] or pieces[-1] not in (b"--", b"--\r\n"):
        raise Unusable(BodyReason.MALFORMED)
    for piece in pieces[1:-1]:
        yield _part(piece)


def _part(part: bytes) -> FormPart:
    if not (part.startswith(b"\r\n") and part.endswith(b"\r\n")):
        raise Unusable(BodyReason.MALFORMED)
    head, separator, content = part[:-2].partition(b"\r\n\r\n")
    if not separator or len(head) > _HEADERS_BYTES_MAX:
        raise Unusable(BodyReason.MALFORMED)
    headers = _headers(head[2:])
    name, has_file_name = _disposition(headers.get(b"content-disposition", ""))
    transfer = headers.get(b"content-transfer-encoding", "binary").lower()
    is_text = _PLAIN_TEXT.fullmatch(headers.get(b"content-type", "text/plain")) is not None
    if transfer not in _PLAIN_TRANSFERS or b"content-encoding" in headers:
        # A part with an encoding of its own is not read. It still counts as a field of its name.
        return FormPart(name, b"", has_file_name=True, is_text=False)
    return FormPart(name, content, has_file_name, is_text)


def _headers(head: bytes) -> dict[bytes, str]:
    found: dict[bytes, str] = {}
    for line in head.split(b"\r\n"):
        header = _HEADER.fullmatch(line)
        if header is None:
            raise Unusable(BodyReason.MALFORMED)
        name = header[1].lower()
        if name in found:
            raise Unusable(BodyReason.MALFORMED)
        if name in _KNOWN:
            found[name] = header[2].decode(errors="surrogateescape")
    return found


def _disposition(value: str) -> tuple[str, bool]:
    """Return a part's name, and whether it has a file name."""
    disposition = _DISPOSITION.fullmatch(value)
    if disposition is None:
        raise Unusable(BodyReason.MALFORMED)
    found: dict[str, str] = {}
    for each in _PARAMETER.finditer(disposition[1]):
        key = each[1].lower()
        if key in found or key not in _PARAMETERS:
            raise Unusable(BodyReason.MALFORMED)
        found[key] = each[3] if each[2] is None else each[2]
    if "name" not in found:
        raise Unusable(BodyReason.MALFORMED)
    return found["name"], len(found) > 1
