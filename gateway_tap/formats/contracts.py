"""Texts of other formats, decoded by a msgspec type. What does not fit is refused with a path of declared fields."""

from __future__ import annotations

import re
from typing import Final, TypeVar

import msgspec

from schemas.errors import RefusalReason, RefusedCapture

_T = TypeVar("_T")
_AT: Final = re.compile(r" - at `\$\.?([A-Za-z0-9_.\[\]]*)`\Z")
_MISSING: Final = re.compile(r"\AObject missing required field `([A-Za-z0-9_]+)`")


def decode_text(decoder: msgspec.json.Decoder[_T], text: bytes) -> _T:
    """Return what a JSON text in UTF-8 holds. Raises RefusedCapture."""
    value = _decoded(decoder, text)
    if isinstance(value, RefusedCapture):
        raise value
    return value


def decode_bytes(decoder: msgspec.json.Decoder[_T], text: bytes) -> tuple[_T, bool]:
    """Return what a JSON text holds whose strings may be any bytes, as Lua's are, and whether they are.

    Gateways on nginx write strings without looking at their encoding. If they are not UTF-8, each character of a string stands
    for one byte. Raises RefusedCapture.
    """
    value = _decoded(decoder, text)
    is_bytes = False
    if isinstance(value, RefusedCapture) and value.reason is RefusalReason.MALFORMED and not _is_utf8(text):
        value = _decoded(decoder, text.decode("latin-1").encode())
        is_bytes = True
    if isinstance(value, RefusedCapture):
        raise value
    return value, is_bytes


def _decoded(decoder: msgspec.json.Decoder[_T], text: bytes) -> _T | RefusedCapture:
    """Return what the text holds, or why it is refused."""
    try:
        return decoder.decode(text)
    except msgspec.ValidationError as error:
        # It may quote a value: only its path is used.
        path = _path(str(error))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return RefusedCapture(RefusalReason.MALFORMED)
    return RefusedCapture(RefusalReason.INVALID, path)


def _path(message: str) -> str:
    at = _AT.search(message)
    path = at[1] if at else ""
    missing = _MISSING.match(message)
    if missing is None:
        return f"{path}: type" if path else ""
    return f"{path}.{missing[1]}: required" if path else f"{missing[1]}: required"


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True
