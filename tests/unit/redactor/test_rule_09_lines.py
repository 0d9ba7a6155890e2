from __future__ import annotations

from typing import Any

import pytest

from redactor.config import Limits
from schemas.event import BodyReason
from tests.unit.redactor.raw_bodies import recorded_of
from tests.unit.redactor.schemas import MARKED, TEXT, a_marked_object, an_object

SCHEMA = an_object(w=MARKED, x=TEXT)
LINES = "application/x-ndjson"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"w":"1"}\n{"w":"2","x":"s"}\n', [{"w": "1"}, {"w": "2"}]),
        (b'{"w":"1"}\r\n\r\n  {"w":"2"}\t', [{"w": "1"}, {"w": "2"}]),
        (b'{"w":"1"}\n{"x":"s"}\n7\n', [{"w": "1"}]),
        (b'{"x":"s"}\n', None),
        (b" \n \n", None),
        (b'{"w":"1"}\n{"w":\n', BodyReason.MALFORMED),
        (b'{"w":\n"1"}', BodyReason.MALFORMED),
        (b"[1\n2]", BodyReason.MALFORMED),
        (b'{"w":"1"} {"w":"2"}', BodyReason.MALFORMED),
        (b'{"w":"1"}\n{"x":"\xff"}', BodyReason.MALFORMED),
        (b'{"w":"1"}\n{"x":"\\ud800"}', BodyReason.MALFORMED),
        (b'\xef\xbb\xbf{"w":"1"}', BodyReason.MALFORMED),
        (b'{"w":"1"}\n' + b"[" * 70 + b"]" * 70, BodyReason.TOO_DEEP),
        (b"[" * 70 + b"]" * 70 + b"\n{", BodyReason.MALFORMED),
        (b'{"w":"1"}\n' * 4, BodyReason.TOO_LARGE),
    ],
)  # fmt: skip
def test_the_schema_is_per_line_and_one_bad_line_drops_the_body(body: bytes, expected: Any) -> None:
    assert recorded_of(SCHEMA, body, LINES, limits=Limits(lines_max=3)) == expected


def test_a_marked_line_shows_its_presence() -> None:
    assert recorded_of(a_marked_object(w=MARKED), b'{"x":"s"}\n{"w":"1"}', LINES) == [{}, {"w": "1"}]


@pytest.mark.parametrize(
    "media_type", ["application/jsonl", "application/x-jsonlines", "application/ndjson; charset=utf-8"]
)
def test_its_names(media_type: str) -> None:
    assert recorded_of(SCHEMA, b'{"w":"1"}', media_type) == [{"w": "1"}]


def test_a_line_that_fits_no_branch_vanishes_alone() -> None:
    def branch(kind: str) -> Any:
        return an_object(kind=MARKED | {"enum": [kind]}, **{kind: MARKED})

    body = b'{"kind":"a","a":"1"}\n{"kind":"c","a":"s"}\n{"kind":"b","a":"s"}'
    assert recorded_of({"oneOf": [branch("a"), branch("b")]}, body, LINES) == [
        {"kind": "a", "a": "1"},
        {"kind": "b"},
    ]
