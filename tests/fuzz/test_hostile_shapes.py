"""Every hostile shape has one clear result, in the redactor and behind the collector's endpoint."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from redactor.config import Limits
from redactor.pipeline.redactor import Redactor
from schemas.capture import Capture
from schemas.event import BodyReason, UnmatchedReason, decode_event
from tests.fuzz.shapes import (
    BODIES,
    ENCODED,
    HEADERS,
    INJECTED,
    JSON,
    PATHS,
    QUERIES,
    Expected,
    capture,
    redactor,
)
from tests.unit.redactor.documents import a_document
from tests.unit.redactor.pairs import EVENT_ID, a_redactor, kept
from tests.unit.redactor.schemas import MARKED, Node, an_object

ANY = b'{"name": "a"}'


@pytest.fixture(scope="module")
def any_redactor() -> Redactor:
    return redactor()


METHODS = ("POST", "PUT")


def check(redactor: Redactor, pair: Capture, expected: Expected) -> None:
    value = redactor.redact(pair, EVENT_ID)
    assert value is not None
    event = decode_event(value)
    if expected.unmatched is not None:
        assert event.receipt.unmatched is expected.unmatched
        assert event.receipt.request.reason is BodyReason.NO_OPERATION
        return
    assert event.receipt.unmatched is None
    request, response = event.receipt.request, event.receipt.response
    assert (request.reason, request.kept) == (expected.reason, expected.kept)
    if pair.request.method == "POST" and expected.reason in (BodyReason.TOO_LARGE, BodyReason.ENCODING):
        # What cannot be read may ask for another method.
        assert (response.reason, response.kept) == (BodyReason.NO_OPERATION, None)
    else:
        assert (response.reason, response.kept) == (expected.reason, expected.kept)
    assert expected.uri in (None, event.raw.uri)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", BODIES)
def test_a_body(any_redactor: Redactor, name: str, method: str) -> None:
    body, expected = BODIES[name]
    check(any_redactor, capture(body, method=method), expected)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ENCODED)
def test_an_encoded_body(any_redactor: Redactor, name: str, method: str) -> None:
    coding, make, expected = ENCODED[name]
    check(any_redactor, capture(make(), method=method, headers={"content-encoding": coding}), expected)


@pytest.mark.parametrize("name", PATHS)
def test_a_path(any_redactor: Redactor, name: str) -> None:
    url, expected = PATHS[name]
    check(any_redactor, capture(ANY, url=url), expected)


@pytest.mark.parametrize("name", HEADERS)
def test_headers(any_redactor: Redactor, name: str) -> None:
    headers, expected = HEADERS[name]
    check(any_redactor, capture(ANY, headers=headers), expected)


@pytest.mark.parametrize("value", INJECTED)
def test_an_injected_header_is_not_recorded(any_redactor: Redactor, value: str) -> None:
    names = ["x-actor-id", "x-actor-email", "x-actor-token-name", "x-account-id", "user-agent", "cf-ray"]
    output = any_redactor.redact(capture(ANY, headers=dict.fromkeys(names, value)), EVENT_ID)
    assert output is not None
    event = json.loads(output)
    assert event["actor"] == event["account"] == {}
    assert event["raw"].keys() == {"method", "status_code", "uri"}


@pytest.mark.parametrize("name", QUERIES)
def test_a_query(any_redactor: Redactor, name: str) -> None:
    query, recorded = QUERIES[name]
    output = any_redactor.redact(capture(ANY, url=f"/things?{query}"), EVENT_ID)
    assert output is not None
    event = decode_event(output)
    if name == "an override":
        assert event.receipt.unmatched is UnmatchedReason.METHOD_OVERRIDE
    else:
        assert event.raw.uri == ("/things?" + recorded).rstrip("?")


def test_a_field_that_overrides_the_method(any_redactor: Redactor) -> None:
    form = capture(b"name=a&_method=GET", media="application/x-www-form-urlencoded")
    check(any_redactor, form, Expected(unmatched=UnmatchedReason.METHOD_OVERRIDE))


def test_a_number_of_50_mb_in_a_body_that_is_allowed() -> None:
    large = redactor(limits=Limits(body_bytes_max=60_000_000))
    check(large, capture(b'{"count": ' + b"9" * 50_000_000 + b"}"), Expected(kept=0))


CYCLES: Mapping[str, Node] = {
    "itself": {"A": {"$ref": "#/components/schemas/A"}},
    "one another": {"A": {"$ref": "#/components/schemas/B"}, "B": {"$ref": "#/components/schemas/A"}},
    "itself in allOf": {"A": {"allOf": [{"$ref": "#/components/schemas/A"}, MARKED]}},
    "itself in oneOf": {
        "A": {"oneOf": [{"$ref": "#/components/schemas/A"}, {"anyOf": [{"$ref": "#/components/schemas/A"}]}]}
    },
    "itself in not": {
        "A": {"type": "string", "x-auditable": True, "not": {"$ref": "#/components/schemas/A"}}
    },
    "itself as items": {"A": {"type": "array", "items": {"$ref": "#/components/schemas/A"}}},
    "itself as a map": {"A": {"type": "object", "additionalProperties": {"$ref": "#/components/schemas/A"}}},
    "a chain of 5,000": {
        "A": {"$ref": "#/components/schemas/N0"},
        **{f"N{number}": {"$ref": f"#/components/schemas/N{number + 1}"} for number in range(5_000)},
        "N5000": MARKED,
    },
    "nowhere": {"A": {"$ref": "#/components/schemas/none"}},
    "elsewhere": {"A": {"$ref": "https://example.com/schema.json"}},
    "a property's name": {"A": an_object(a={"$ref": "#/components/schemas/A/properties/a"})},
}


@pytest.mark.parametrize("name", CYCLES)
def test_references_that_turn_in_circles_end(name: str) -> None:
    schema = an_object(a={"$ref": "#/components/schemas/A"}, b=MARKED)
    found = kept(schema, {"a": {"a": [{"a": "x"}]}, "b": "y"}, schemas=CYCLES[name])
    assert found["b"] == "y"
    assert "x" not in json.dumps(found)


PATTERNS = [
    r"^(a+)+$",
    r"^(a|a)*$",
    r"^(a|aa)+$",
    r"(.*a){30}",
    r"^(([a-z])+.)+[A-Z]([a-z])+$",
    r"(?=a)a",
    r"(a)\1",
    r"[",
    "a{99999}",
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_catastrophic_pattern_does_not_hang(pattern: str) -> None:
    names = {"type": "object", "x-auditable": True, "patternProperties": {pattern: MARKED}}
    schema = an_object(a=names, b=MARKED | {"pattern": pattern})
    value = "a" * 50_000 + "!"
    found = kept(schema, {"a": {value: "x"}, "b": value}, version="3.1.0")
    assert found["b"] == value


@pytest.mark.parametrize("keyword", ["oneOf", "anyOf", "allOf"])
def test_10_000_branches(keyword: str) -> None:
    branches = [an_object(name=MARKED, **{f"only{number}": MARKED}) for number in range(10_000)]
    schema = an_object(a={keyword: branches}, b=MARKED)
    found = kept(schema, {"a": {"name": "x", "only1": "y", "unknown": "z"}, "b": "y"})
    assert found["b"] == "y"
    assert "z" not in json.dumps(found)


def test_10_000_operations_of_10_000_properties() -> None:
    wide = {"type": "object", "properties": {f"p{number}": MARKED for number in range(10_000)}}
    content = {"content": {JSON: {"schema": {"$ref": "#/components/schemas/Wide"}}}}
    paths = {
        f"/a/{{b}}/c{number}/{{d}}": {"post": {"operationId": str(number), "requestBody": content}}
        for number in range(10_000)
    }
    redactor = a_redactor(a_document(paths, components={"schemas": {"Wide": wide}}))
    check(redactor, capture(b"{}", url="/a/x/c9999/y/z"), Expected(unmatched=UnmatchedReason.NO_PATH))
    output = redactor.redact(capture(b'{"p9999": "x"}', url="/a/x/c9999/y"), EVENT_ID)
    assert output is not None
    assert decode_event(output).receipt.request.kept == 1


BOMBS = """
import resource
from tests.fuzz.shapes import ENCODED, capture, redactor
from tests.unit.redactor.pairs import EVENT_ID
made = {name: (coding, make()) for name, (coding, make, _) in ENCODED.items() if "bomb" in name}
redactor_ = redactor()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
# Nothing that is made here may count: the peak is limited anew by the address space that is left.
limit = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize() + 64_000_000
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for name, (coding, body) in made.items():
    assert redactor_.redact(capture(body, headers={"content-encoding": coding}), EVENT_ID) is not None, name
print("done")
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="counts memory as Linux does")
def test_bombs_take_no_memory() -> None:
    """200 MB each, in a process that may take 64 MB more than it has."""
    done = subprocess.run(
        [sys.executable, "-c", BOMBS], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.stdout == "done\n", done.stderr
