"""Plans agree with `jsonschema` about which scalars are of a schema's type, and which are listed."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.unit.redactor.pairs import NOTHING, kept
from tests.unit.redactor.schemas import Node, an_object

KINDS = ["string", "boolean", "integer", "number"]
TOKENS = [
    *('""', '"a"', '"1"', '"true"', '"null"', '"\\u00e9"', '"\\ud83d\\ude00"', "true", "false"),
    *(
        "0",
        "-0",
        "1",
        "-1",
        "10000000000000000000000000",
        "1.5",
        "0.1",
        "-0.5",
        "1.10",
        "1e400",
        "2.5e-3",
        "1e2",
    ),
    *("[]", "{}", '["a"]', '{"a": 1}', "[1]", "[true]"),
]


def keeps(schema: Node, text: str, *, strict: bool) -> bool:
    """Whether a marked field of this schema keeps the value."""
    body = an_object(field=schema | {"x-auditable": True})
    written = kept(body, f'{{"field": {text}}}'.encode(), status=400 if strict else 200, version="3.1.0")
    return written is not NOTHING


def is_valid(schema: Node, text: str) -> bool:
    return bool(jsonschema.Draft202012Validator(schema).is_valid(json.loads(text)))


def by_rule(schema: Node, text: str) -> bool | None:
    """Return what the rules say where they say something else than validation; None where they do not."""
    value = json.loads(text)
    if value is None:
        return True  # rule 11: null at a marked node is kept
    if isinstance(value, float) and schema["type"] == "integer" and value.is_integer():
        return False  # rule 6: an integer has no fraction and no exponent
    return None


@pytest.mark.parametrize("token", TOKENS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_type_keeps_what_it_describes(kind: str, token: str) -> None:
    schema = {"type": kind}
    expected = by_rule(schema, token)
    assert keeps(schema, token, strict=False) == (is_valid(schema, token) if expected is None else expected)


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.sampled_from([0.5, 1.0, -0.0, 2.5])
    | st.text("a1", max_size=2)
)
VALUES = (
    SCALARS | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.lists(SCALARS, max_size=2)
)


@given(st.lists(st.sampled_from(KINDS), min_size=1, max_size=4, unique=True), VALUES)
def test_a_list_of_types_keeps_what_one_of_them_describes(kinds: list[str], value: Any) -> None:
    schema: Node = {"type": kinds if len(kinds) > 1 else kinds[0]}
    text = json.dumps(value)
    whole = isinstance(value, float) and value.is_integer()
    assume(not (whole and "integer" in kinds))
    assert keeps(schema, text, strict=False) == (value is None or is_valid(schema, text))


@given(st.sampled_from(KINDS), st.lists(SCALARS, max_size=4), SCALARS, st.booleans())
def test_at_400_and_above_a_value_must_be_listed(
    kind: str, listed: list[Any], value: Any, const: bool
) -> None:
    schema: Node = {"type": kind} | ({"const": value} if const and listed else {}) | {"enum": listed}
    text = json.dumps(value)
    expected = by_rule({"type": kind}, text)
    decided = is_valid(schema, text) if expected is None else expected
    if value is None:
        assume(None in listed)
    assert keeps(schema, text, strict=True) == (
        decided and (value is None or is_valid(schema | {"type": [kind, "null"]}, text))
    )
    assert keeps(schema, text, strict=False) == (
        is_valid({"type": kind}, text) if expected is None else expected
    )


@given(st.sampled_from(["format", "pattern", "minLength", "maxLength", "minimum", "multipleOf"]), VALUES)
def test_formats_patterns_and_ranges_do_not_decide(keyword: str, value: Any) -> None:
    limit = {
        "format": "uuid",
        "pattern": "^never$",
        "minLength": 99,
        "maxLength": 0,
        "minimum": 10**9,
        "multipleOf": 7,
    }
    for kind in KINDS:
        plain, limited = {"type": kind}, {"type": kind, keyword: limit[keyword]}
        text = json.dumps(value)
        assert keeps(plain, text, strict=True) == keeps(limited, text, strict=True)
