from __future__ import annotations

import json
from pathlib import Path

import pytest

from redactor.report.line_numbers import lines_and_columns
from tests.unit.redactor.report.reports import SCHEMA, things
from tests.unit.redactor.schemas import MARKED, a_marked_object, an_object

JSON_TEXT = b'{\n "a": {"b/c": [1,\n  {"d": "{\\"x\\": [1,2]}"}],\n "e": null}, "f": true}\n'


YAML_TEXT = b"a:\n  b/c:\n    - 1\n    - d: x\n  e: null\nf: &f\n  g: *f\n"


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.json", JSON_TEXT, {"/a": (2, 2), "/a/b~1c/1": (3, 3), "/a/b~1c/1/d": (3, 4), "/a/e": (4, 2), "/f": (4, 14)}),
        ("a.yaml", YAML_TEXT, {"/a": (1, 1), "/a/b~1c/1": (4, 7), "/a/b~1c/1/d": (4, 7), "/a/e": (5, 3), "/f/g/g": (7, 3)}),
    ],
)  # fmt: skip
def test_pointers_have_a_line_and_column(
    name: str, text: bytes, expected: dict[str, tuple[int, int]]
) -> None:
    assert lines_and_columns(Path(name), text, {*expected, "/missing", ""}) == expected | {"": (1, 1)}


def test_a_pointer_with_escapes_leads_to_its_key() -> None:
    document = things(an_object(**{"a~b/c": MARKED, "d": a_marked_object(e=MARKED)}))
    text = json.dumps(document, indent=2).encode()
    pointers = {SCHEMA + "/properties/a~0b~1c", SCHEMA + "/properties/d/properties/e"}
    lines = text.decode().splitlines()
    for pointer, (line, column) in lines_and_columns(Path("d.json"), text, pointers).items():
        key = json.dumps(pointer.rpartition("/")[2].replace("~1", "/").replace("~0", "~"))
        assert lines[line - 1][column - 1 :].startswith(key)
