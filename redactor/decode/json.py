"""JSON text parsed into a tree, with the one definition of well-formed that every code path follows (rule 10).

Well-formed means UTF-8 without BOM, RFC 8259, no lone surrogates, no NaN or Infinity. The last of duplicate keys counts,
in its place. Numbers stay the tokens they were written as. Parsing takes linear time, whatever the text holds.
"""

from __future__ import annotations

import json
import re
from itertools import accumulate
from typing import Any, Final, NoReturn, TypeAlias

from schemas.event import BodyReason


class JsonInteger(str):
    """A number token without fraction and exponent, as it was written."""

    __slots__ = ()


class JsonNumber(str):
    """A number token with a fraction or an exponent, as it was written."""

    __slots__ = ()


Json: TypeAlias = "dict[str, Json] | list[Json] | str | bool | None"
"""A parsed value; numbers are JsonInteger or JsonNumber, so look at `type(value)`, not at `isinstance`."""


BLANKS: Final = b" \t\n\r"
"""What may stand around JSON values."""


class Unusable(Exception):
    """A body cannot be used as a whole.

    It carries the reason and nothing of the body. So it must never be raised while another exception is handled: that
    one would be its context, and may quote the body.
    """

    def __init__(self, reason: BodyReason) -> None:
        super().__init__(reason)
        self.reason = reason


def read_json(text: bytes, depth_max: int) -> Json:
    """Parse one JSON text.

    Raises Unusable: `malformed` where it is not well-formed, else `too_deep` where it nests deeper than `depth_max`.
    """
    return _read(_checked(text), depth_max)


def read_json_lines(text: bytes, depth_max: int, lines_max: int) -> list[Json]:
    """Parse the lines of an NDJSON text; blank lines are skipped.

    Raises Unusable: `too_large` for more than `lines_max` lines, else `malformed` if any line is, else `too_deep`.
    """
    lines = [each for each in text.split(b"\n") if each.strip(b" \t\r")]
    # Before the text is checked: `too_large` comes before `malformed` in the receipt's order.
    if len(lines) > lines_max:
        raise Unusable(BodyReason.TOO_LARGE)
    _checked(text)
    trees: list[Json] = []
    is_too_deep = False
    for line in lines:
        try:
            trees.append(_read(line.decode(), depth_max))
        except Unusable as unusable:
            if unusable.reason is not BodyReason.TOO_DEEP:
                raise
            is_too_deep = True
    if is_too_deep:
        raise Unusable(BodyReason.TOO_DEEP)
    return trees


def decode_utf8(body: bytes) -> str:
    """Return the text of a body. Raises Unusable: `malformed` where it is not UTF-8 or begins with a BOM."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        pass
    else:
        if not text.startswith("\ufeff"):
            return text
    # Raised outside of the handler, because the decoder's error holds the whole body.
    raise Unusable(BodyReason.MALFORMED)


def _checked(text: bytes) -> str:
    decoded = decode_utf8(text)
    if _has_lone_surrogate(decoded):
        raise Unusable(BodyReason.MALFORMED)
    return decoded


def _read(text: str, depth_max: int) -> Json:
    if _is_deeper(text, depth_max):
        raise Unusable(BodyReason.TOO_DEEP if _is_grammatical(text) else BodyReason.MALFORMED)
    try:
        tree: Json = _DECODER.decode(text)
    except ValueError:
        pass
    else:
        return tree
    # Raised outside of the handler, because the decoder's error holds the whole text.
    raise Unusable(BodyReason.MALFORMED)


def _last_of_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) != len(pairs):
        # `dict` keeps a repeated key where it stood first.
        mapping.clear()
        for key, value in pairs:
            mapping.pop(key, None)
            mapping[key] = value
    return mapping


# The json module takes NaN and Infinity, which RFC 8259 does not know.
def _refuse_constant(_: str) -> NoReturn:
    raise ValueError


_DECODER = json.JSONDecoder(
    object_pairs_hook=_last_of_each,
    parse_int=JsonInteger,
    parse_float=JsonNumber,
    parse_constant=_refuse_constant,
)

# Possessive, and the closing quote optional, so that no text makes the scan start over.
_STRINGS = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_NOT_BRACKETS = re.compile(r"[^\[\]{}]++")
_STEPS = {"[": 1, "{": 1, "]": -1, "}": -1}


def _is_deeper(text: str, depth_max: int) -> bool:
    # Nearly every text holds fewer brackets than that, and counting them is cheap.
    if text.count("[") + text.count("{") <= depth_max:
        return False
    brackets = _NOT_BRACKETS.sub("", _STRINGS.sub("", text))
    return max(accumulate(map(_STEPS.__getitem__, brackets)), default=0) > depth_max


_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|.)", re.DOTALL)


def _has_lone_surrogate(text: str) -> bool:
    if _SURROGATE_ESCAPE.search(text) is None:
        return False
    high_ended_at = -1
    for match in _ESCAPE.finditer(text):
        unit = int(match[1] or "0", 16)
        is_low = 0xDC00 <= unit <= 0xDFFF
        is_pair = is_low and high_ended_at == match.start()
        if (is_low or high_ended_at >= 0) and not is_pair:
            return True
        high_ended_at = match.end() if 0xD800 <= unit <= 0xDBFF else -1
    return high_ended_at >= 0


_STRING = re.compile(r'"(?:[^"\\\x00-\x1f]++|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*+("?)')
_OTHER_SCALAR = re.compile(r"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?|true|false|null")
_OUTSIDE_STRINGS = re.compile(r'[\[\]{},:" \t\n\r0-9eE.+\-truefalsn]*')
_WITHOUT_SPACE = str.maketrans("", "", " \t\n\r")
_PAIRS = ("[]", "{}")

_AFTER = {",": "comma", "]": "after", "}": "after"}
_VALUE = {'"': "after", "v": "after", "[": "first", "{": "first_key"}
_NEXT: dict[str, dict[str, str]] = {
    "value": _VALUE,
    "first": {**_VALUE, "]": "after"},
    "first_key": {'"': "colon", "}": "after"},
    "key": {'"': "colon"},
    "colon": {":": "value"},
    "after": _AFTER,
}


def _is_grammatical(text: str) -> bool:
    """Whether a text that is too deep for the recursive decoder is RFC 8259."""
    # Each string becomes its closing quote. One that does not end leaves none, so the counts differ.
    outline, strings = _STRING.subn(r"\1", text)
    if outline.count('"') != strings or _OUTSIDE_STRINGS.fullmatch(outline) is None:
        return False
    # Spaces are removed last, so that `1 2` stays two values in a row and is refused.
    return _is_outline(_OTHER_SCALAR.sub("v", outline).translate(_WITHOUT_SPACE))


def _is_outline(symbols: str) -> bool:
    """Check the order of brackets, commas, colons, strings (`"`) and other scalars (`v`) with a small state machine."""
    state = "value"
    open_brackets: list[str] = []
    for symbol in symbols:
        state = _NEXT[state].get(symbol, "")
        if not state:
            return False
        if symbol in "[{":
            open_brackets.append(symbol)
        elif symbol in "]}":
            if not open_brackets or open_brackets.pop() + symbol not in _PAIRS:
                return False
        elif symbol == ",":
            if not open_brackets:
                return False
            state = "key" if open_brackets[-1] == "{" else "value"
    return state == "after" and not open_brackets
