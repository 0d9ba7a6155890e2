"""`read_json` agrees with the standard library's parser and the rules it lacks, on what is accepted and on the value."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import event, example, given
from hypothesis import strategies as st

from redactor.decode.json import JsonInteger, JsonNumber, Unusable, read_json
from schemas.event import BodyReason

DEPTH_MAX = 6


class Refused(Exception):
    def __init__(self, reason: BodyReason) -> None:
        super().__init__(reason)
        self.reason = reason


def oracle(text: bytes) -> Any:
    """Return the value with its numbers as `(kind, token)`; raises Refused. An independent version of rule 10."""
    try:
        decoded = text.decode("utf-8", "strict")
        if decoded.startswith("\ufeff"):
            raise Refused(BodyReason.MALFORMED)
        value = json.loads(
            decoded,
            object_pairs_hook=_object,
            parse_int=lambda token: ("integer", token),
            parse_float=lambda token: ("number", token),
            parse_constant=_no_constant,
        )
        _no_lone_surrogate(value)
    except (ValueError, RecursionError):
        raise Refused(BodyReason.MALFORMED) from None
    if _depth(value) > DEPTH_MAX:
        raise Refused(BodyReason.TOO_DEEP)
    return _last_of_each(value)


class _Pairs(list[tuple[str, Any]]):
    """An object as it was written, repeated keys and all."""


def _object(pairs: list[tuple[str, Any]]) -> _Pairs:
    return _Pairs(pairs)


def _no_constant(_: str) -> Any:
    raise ValueError("a constant")


def _no_lone_surrogate(value: Any) -> None:
    if isinstance(value, str):
        value.encode()
    elif isinstance(value, _Pairs):
        for key, part in value:
            _no_lone_surrogate(key)
            _no_lone_surrogate(part)
    elif isinstance(value, list):
        for part in value:
            _no_lone_surrogate(part)


def _depth(value: Any) -> int:
    if isinstance(value, _Pairs):
        return 1 + max((_depth(part) for _, part in value), default=0)
    return 1 + max(map(_depth, value), default=0) if isinstance(value, list) else 0


def _last_of_each(value: Any) -> Any:
    if isinstance(value, _Pairs):
        last = {key: index for index, (key, _) in enumerate(value)}
        return [(key, _last_of_each(part)) for index, (key, part) in enumerate(value) if last[key] == index]
    return [_last_of_each(part) for part in value] if isinstance(value, list) else value


def ours(text: bytes) -> Any:
    try:
        return _plain(read_json(text, DEPTH_MAX))
    except Unusable as unusable:
        raise Refused(unusable.reason) from None


def _plain(value: Any) -> Any:
    if type(value) is dict:
        return [(key, _plain(part)) for key, part in value.items()]
    if type(value) is list:
        return [_plain(part) for part in value]
    if type(value) is JsonInteger:
        return ("integer", str(value))
    return ("number", str(value)) if type(value) is JsonNumber else value


def verdict(parse: Any, text: bytes) -> tuple[BodyReason | None, Any]:
    try:
        return None, parse(text)
    except Refused as refused:
        return refused.reason, None


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=True)
    | st.text(st.characters(codec=None), max_size=5)
)
VALUES = st.recursive(
    SCALARS,
    lambda each: (
        st.lists(each, max_size=3)
        | st.dictionaries(st.text("ab\ud800\U0001f600", max_size=2), each, max_size=3)
    ),
    max_leaves=12,
)
TOKENS = [
    *(
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        " ",
        "\n",
        "\t",
        "\x0b",
        "\xa0",
        '"',
        "\\",
        "\\u",
        "/",
        "//",
        "'",
        "\0",
        "\x1f",
    ),
    *("null", "true", "false", "NaN", "Infinity", "-Infinity", "nul", "True", "undefined"),
    *(
        "0",
        "1",
        "-",
        "-0",
        "01",
        "1.",
        ".5",
        "1e",
        "1e5",
        "1E+5",
        "1.10",
        "+1",
        "0x1",
        "1_0",
        "\u0661",
        "9" * 30,
        "1e400",
    ),
    *(
        '"a"',
        '"\\ud800"',
        '"\\udc00"',
        '"\\ud83d\\ude00"',
        '"\\uD83D\\uD83D\\uDE00"',
        '"\\x"',
        '"\ud7ff"',
        '"\x7f"',
    ),
    *('{"a":1,"a":2}', '{"a":1,"b":2,"a":3}', "[1,]", "{,}", "[[[[[[[1]]]]]]]", "\ufeff", "\u2028"),
]


@st.composite
def texts(draw: st.DrawFn) -> bytes:
    """Draw a JSON text, whole or with something done to it."""
    way = draw(st.sampled_from(["whole", "spliced", "tokens", "bytes"]))
    if way == "tokens":
        return "".join(draw(st.lists(st.sampled_from(TOKENS), max_size=12))).encode("utf-8", "surrogatepass")
    value, ascii_only = draw(VALUES), draw(st.booleans())
    text = json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    if way == "spliced":
        at = draw(st.integers(0, len(text)))
        cut = draw(st.integers(0, 3))
        token = draw(st.sampled_from(TOKENS)).encode("utf-8", "surrogatepass")
        return text[:at] + token + text[at + cut :]
    if way == "bytes":
        at = draw(st.integers(0, len(text)))
        return text[:at] + bytes([draw(st.integers(0, 255))]) + text[at + 1 :]
    return text


@given(texts())
@example(b"\xef\xbb\xbf{}")
@example(b'{"a": "\xed\xa0\x80"}')
@example(b'{"a": "\\ud800", "a": 1}')
@example(b'["\\ud83d\\ude00", "\\\\ud800", "\\\\\\ud800"]')
@example(b"[" * 7 + b"]" * 7)
@example(b"[" * 7 + b"]" * 6 + b"}")
@example(b"[" * 100_000)
def test_it_accepts_and_reads_what_the_rules_say(text: bytes) -> None:
    expected = verdict(oracle, text)
    assert verdict(ours, text) == expected
    event(str(expected[0]))
