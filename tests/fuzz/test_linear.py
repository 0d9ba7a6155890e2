"""The time of a pair grows no faster than its size. For the long runs alone: even CPU time is not a machine's own.

What is asserted is a ratio of the least CPU times of several runs, far from what is linear as well as from what is
quadratic. The milliseconds per 100 KB are printed, to be held against the bound of 50 on a machine with nothing else to do.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import pytest
from rich.console import Console
from rich.table import Table

from redactor.pipeline.redactor import Redactor
from schemas.capture import Capture
from tests.canary.test_canary_redactor import FUZZING
from tests.fuzz.shapes import JSON, SCALED, Scaled, capture, redactor
from tests.unit.redactor.documents import a_document, an_operation, body_of
from tests.unit.redactor.pairs import EVENT_ID, a_redactor
from tests.unit.redactor.schemas import MARKED, Node, an_object

pytestmark = pytest.mark.skipif(not FUZZING, reason="measures times: for `make fuzz`")

SMALL_BYTES, DOUBLINGS = 60_000, 4
RATIO_MAX = 64
"""Linear is 16, quadratic is 256."""
NOISE_S = 0.002
RUNS = 5


class Case(NamedTuple):
    """A redactor and a pair for it of about as many bytes as asked for."""

    redactor: Redactor
    pair: Callable[[int], Capture]


def of_shape(one: Redactor, shape: Scaled) -> Case:
    return Case(one, lambda n: capture(shape.make(n), media=shape.media, headers=shape.headers))


def of_body(schema: Node, make: Callable[[int], object], status: int = 200) -> Case:
    """A response's body of one schema."""
    operation = an_operation(responses={"default": body_of(schema)})
    one = a_redactor(
        a_document({"/things": {"post": operation}}, "3.1.0", components={"schemas": {"R": NESTED}})
    )

    def pair(size_bytes: int) -> Capture:
        text = json.dumps(make(size_bytes), separators=(",", ":")).encode()
        return capture(text, media=JSON, status=status)

    return Case(one, pair)


def of_query(parameter: Node, make: Callable[[int], str]) -> Case:
    """A query that has the parameter `q` of two operations that tie."""
    marked = {"name": "q", "in": "query", "x-auditable": True} | parameter
    paths = {path: {"post": {"operationId": path, "parameters": [marked]}} for path in ("/a/{x}", "/{y}/b")}
    one = a_redactor(a_document(paths))
    return Case(one, lambda n: capture(None, url=f"/a/b?{make(n)}"))


def of_path(piece: str) -> Case:
    """A path that matches nothing as it is written."""
    one = a_redactor(a_document({"/a/{x_id}": {"post": an_operation()}}))
    return Case(one, lambda n: capture(None, url="/a/" + piece * (n // len(piece))))


PART = b'--x\r\nContent-Disposition: form-data; name="_method"\r\n\r\nPOST\r\n'
NESTED: Node = {
    "oneOf": [{"type": "array", "items": {"$ref": "#/components/schemas/R"}}, an_object(c=MARKED)]
}
PATTERNS: Node = {
    "type": "object",
    "x-auditable": True,
    "patternProperties": dict.fromkeys("abcdefgh", MARKED),
    "additionalProperties": MARKED,
}
MARK = {"x-auditable": True}
LIST: Node = {"schema": {"type": "array", "items": MARKED}}


def list_of(items: Node) -> Node:
    return {"type": "array", "items": items}


def cases() -> Mapping[str, Case]:
    one = redactor()
    rows = list_of({"type": "array", "prefixItems": [MARKED], **MARK}) | MARK
    numbers = list_of({"type": "integer", "enum": [1, 10], **MARK})
    return {
        **{name: of_shape(one, shape) for name, shape in SCALED.items()},
        "a map of 8 patterns": of_body(PATTERNS, lambda n: {f"k{i}": "" for i in range(n // 11)}),
        "a map of 8 patterns, no ASCII": of_body(
            PATTERNS, lambda n: {f"\U0001f600{i}": "" for i in range(n // 22)}
        ),
        "maps of 8 patterns": of_body(list_of(PATTERNS), lambda n: [{"a": ""}] * (n // 9)),
        "empty tuples": of_body(rows, lambda n: [[]] * (n // 3)),
        "empty objects": of_body(list_of(an_object(a=MARKED) | MARK), lambda n: [{}] * (n // 3)),
        "nested arrays in a choice": of_body(NESTED, lambda n: [[[]]] * (n // 5)),
        "listed numbers at 400": of_body(numbers, lambda n: [1] * (n // 2), 400),
        "listed numbers with zeros at 400": of_body(numbers, lambda n: [10] * (n // 3), 400),
        "names without values": of_query(LIST, lambda n: "&".join(["q"] * (n // 2))),
        "values that differ": of_query(LIST, lambda n: "&".join(f"q={i}" for i in range(n // 8))),
        "elements between commas": of_query(
            LIST | {"explode": False}, lambda n: "q=" + ",".join("1" * (n // 2))
        ),
        "elements that differ": of_query(
            LIST | {"explode": False}, lambda n: "q=" + ",".join(map(str, range(n // 6)))
        ),
        "dot segments in a path": of_path("/a/.."),
        "encoded slashes in a path": of_path("%252F"),
        "overlong characters in a path": of_path("%c0%af"),
        "slashes in a path": of_path("/"),
        "parts that repeat the method": Case(
            one, lambda n: capture(PART * (n // len(PART)), media="multipart/form-data; boundary=x")
        ),
        "escapes of a method's field": of_query(LIST, lambda n: "".join(f"%5F{i};" for i in range(n // 9))),
    }


def cpu_s(case: Case, pair: Capture) -> float:
    """Return the least CPU time of a few runs."""
    least = float("inf")
    for _ in range(RUNS):
        started = time.process_time()
        assert case.redactor.redact(pair, EVENT_ID) is not None
        least = min(least, time.process_time() - started)
    return least


@pytest.mark.timeout(3600)
def test_time_is_linear() -> None:
    table = Table("shape", "ms per 100 KB")
    too_much: dict[str, float] = {}
    for name, case in cases().items():
        sizes = [SMALL_BYTES * 2**step for step in range(DOUBLINGS + 1)]
        cpu_s(case, case.pair(1_000))
        times_s = [cpu_s(case, case.pair(size_bytes)) for size_bytes in sizes]
        table.add_row(name, f"{times_s[-1] * 1e8 / sizes[-1]:.1f}")
        ratio = times_s[-1] / (times_s[0] + NOISE_S)
        if ratio > RATIO_MAX:
            too_much[name] = ratio
    Console().print(table)
    assert too_much == {}
