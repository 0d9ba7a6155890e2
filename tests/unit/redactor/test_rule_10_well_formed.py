from __future__ import annotations

import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redactor.decode.json import Unusable, _is_grammatical, read_json
from schemas.event import BodyReason
from tests.unit.redactor.pairs import kept_text
from tests.unit.redactor.schemas import MARKED, TEXT, an_object

MALFORMED = [
    b"", b" ", b"{", b"[1,]", b'{"a":1,}', b"{'a':1}", b"01", b"1.", b".5", b"+1", b"-", b"1e", b"NaN", b"[-Infinity]",
    b"Infinity", b"nul", b"True", b'"\x01"', b'"\t"', b'"\\x"', b'"\\u12g4"', b'"', b"1 2", b"[1] x", b"\x00", b"[\x0c1]",
    b"\xc2\xa01", b"\xef\xbb\xbf{}", b"\xff\xfe{\x00}\x00", b'"\xff"', b'"\xed\xa0\x80"', b'"\xc0\xaf"', b'"\\ud800"',
    b'"\\udc00"', b'"\\ud800x\\udc00"', b'"\\udc00\\ud800"', b'"\\ud800\\ud800\\udc00"', b'{"\\uDBFF":1}',
    b'{"a":"\\ud800","a":1}', b"// c\n1", b"[1 2]", b"{1:2}", b'{"a" 1}', b"]", b"[}", b'{"a":}', b"[,1]", b"1,",
]  # fmt: skip
WELL_FORMED = [
    b"{}", b" [ ] ", b'"\\ud83d\\ude00"', b'"\\\\ud800"', b'"\\u0000"', b"-0", b"1e400", b"[null,true,false]",
    b'{"":{"":""}}', b'"\x7f"', b"\t\r\n1", b"9" * 5000,
]  # fmt: skip


def reason_of(text: bytes, depth_max: int = 64) -> BodyReason | None:
    try:
        read_json(text, depth_max)
    except Unusable as unusable:
        return unusable.reason
    return None


@pytest.mark.parametrize("text", MALFORMED, ids=repr)
def test_malformed(text: bytes) -> None:
    assert reason_of(text) is BodyReason.MALFORMED
    # Beyond the depth limit another path decides, by the same definition.
    assert reason_of(b"[" * 70 + text + b"]" * 70) is BodyReason.MALFORMED or text.strip() == b""


@pytest.mark.parametrize("text", WELL_FORMED, ids=lambda text: repr(text[:20]))
def test_well_formed(text: bytes) -> None:
    assert reason_of(text) is None
    assert reason_of(b"[" * 70 + text + b"]" * 70) is BodyReason.TOO_DEEP


@pytest.mark.parametrize("end", [b"oops", b'"\\ud800"', b"\xff", b"NaN", b"[" * 1000])
def test_an_error_shows_nothing_of_the_body(end: bytes) -> None:
    secret = b"s3cret"
    with pytest.raises(Unusable) as raised:
        read_json(b'{"password": "' + secret + b'", "x": ' + end, 64)
    unusable = raised.value
    shown = "".join(traceback.format_exception(unusable)) + repr(unusable) + str(vars(unusable))
    assert secret.decode() not in shown
    assert unusable.__context__ is None
    assert unusable.__cause__ is None


@pytest.mark.parametrize(
    ("depth", "reason"), [(3, None), (4, BodyReason.TOO_DEEP), (100_000, BodyReason.TOO_DEEP)]
)
def test_depth(depth: int, reason: BodyReason | None) -> None:
    assert reason_of(b"[" * depth + b"]" * depth, 3) is reason
    assert reason_of(b'{"a":' * depth + b"1" + b"}" * depth, 3) is reason


def test_brackets_in_strings_are_no_depth() -> None:
    assert reason_of(b'["' + b"[" * 100 + b'\\"' + b"{" * 100 + b'"]', 1) is None


@given(
    st.lists(
        st.sampled_from(
            ["[", "]", "{", "}", ",", ":", '"a"', '"', '\\"', "1", "-1.5e3", "01", "1.", "true", "nul", "null", " ",
             "v", '"\\u00e9"', '"\\x"', "NaN", "+", '{"k":', "[1,", "\\"]
        ),
        max_size=12,
    ).map("".join)
)  # fmt: skip
def test_both_paths_know_the_same_grammar(text: str) -> None:
    assert _is_grammatical(text) == (reason_of(text.encode(), 64) is None)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"b":"1","a":"2","b":"3"}', '{"a":"2","b":"3"}'),
        (b'{"a":{"x":1},"a":"2"}', '{"a":"2"}'),
        (b'{"a":"2","a":{"x":1}}', None),
    ],
)
def test_of_duplicate_keys_the_last_counts(body: bytes, expected: str | None) -> None:
    assert kept_text(an_object(a=MARKED, b=MARKED, c=TEXT), body) == expected


def test_of_duplicate_keys_the_last_counts_in_its_place() -> None:
    free = {"type": "object", "x-auditable": True}
    assert kept_text(free, b'{"b":1,"a":2,"b":3}') == '{"a":2,"b":3}'


HOSTILE: dict[str, tuple[bytes, BodyReason | None]] = {
    "deep arrays": (b"[" * 100_000, BodyReason.MALFORMED),
    "deep objects": (b'{"a":' * 20_000, BodyReason.MALFORMED),
    "closed deep": (b"[" * 50_000 + b"]" * 50_000, BodyReason.TOO_DEEP),
    "quotes": (b'"' * 100_001, BodyReason.MALFORMED),
    "escaped quotes": (b'"' + b'\\"' * 50_000, BodyReason.MALFORMED),
    "escaped quotes outside": (b"[" * 100 + b'\\"' * 50_000, BodyReason.MALFORMED),
    "unterminated": (b"[" * 100 + b'"' + b"\\\\" * 49_999, BodyReason.MALFORMED),
    "backslashes": (b"[" * 100 + b"\\" * 100_000, BodyReason.MALFORMED),
    "long number": (b"[" * 100 + b"9" * 100_000, BodyReason.MALFORMED),
    "exponents": (b"[" * 100 + b"1e" * 50_000, BodyReason.MALFORMED),
    "surrogates": (b'"' + b"\\ud800" * 16_000 + b'"', BodyReason.MALFORMED),
    "pairs": (b'"' + b"\\ud83d\\ude00" * 8_000 + b'"', None),
    "duplicate keys": (b"{" + b'"a":1,' * 16_000 + b'"a":1}', None),
    "keys": (b"{" + b",".join(b'"%d":1' % i for i in range(10_000)) + b"}", None),
}
"""Texts that a careless reader takes long over; `tests/fuzz/test_linear.py` measures what they take."""


@pytest.mark.parametrize(("text", "reason"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_texts_get_distinct_reasons(text: bytes, reason: BodyReason | None) -> None:
    assert reason_of(text) is reason
