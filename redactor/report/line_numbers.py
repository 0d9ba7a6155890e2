"""Line and column of a JSON pointer's node in the text of a document, for SARIF.

PyYAML's nodes carry their positions. JSON has a scanner here although libyaml can read it: on a document of 8.6 MB
libyaml takes 6.0 s and the scanner 0.8 s. json-source-map, the library for this, had its last release in 2022.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import yaml

# Possessive quantifiers: on a long string a backtracking one would keep a state for every character.
_JSON_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*+"|[\[\]{},]|[^\s"\[\]{},:]++')
_NEWLINE = re.compile("\n")


class LineColumn(NamedTuple):
    """A line and a column, both counted from 1; columns are counted in code points."""

    line: int
    column: int


def lines_and_columns(path: Path, text: bytes, pointers: Collection[str]) -> Mapping[str, LineColumn]:
    """Return where the nodes of `pointers` are: at their key, or at the value where there is no key.

    `text` is a document that has been loaded, so it is well-formed. Pointers that lead nowhere are left out.
    """
    wanted = frozenset(pointers)
    decoded = text.decode("utf-8-sig", errors="replace")
    if path.suffix.lower() != ".json" and text.lstrip()[:1] != b"{":
        return dict(_of_yaml(decoded, wanted))
    line_starts = [0, *(match.end() for match in _NEWLINE.finditer(decoded))]
    found: dict[str, LineColumn] = {}
    for pointer, offset in _json_nodes(decoded):
        if pointer in wanted:
            line = bisect_right(line_starts, offset)
            found[pointer] = LineColumn(line, offset - line_starts[line - 1] + 1)
    return found


class _OpenContainer:
    """An object or array whose end has not been reached yet."""

    __slots__ = ("expects_key", "index", "is_object", "pointer")

    def __init__(self, pointer: str, *, is_object: bool) -> None:
        self.pointer = pointer
        self.is_object = is_object
        self.expects_key = is_object
        self.index = 0

    def next_part(self) -> None:
        """Go on behind a comma."""
        self.expects_key = self.is_object
        self.index += 1


def _json_nodes(text: str) -> Iterator[tuple[str, int]]:
    """Yield the pointer and offset of every node: of the root, of each key, and of each array element."""
    yield "", 0
    outermost = _OpenContainer("", is_object=False)
    stack = [outermost]
    pointer = ""
    for match in _JSON_TOKEN.finditer(text):
        lexeme = match[0]
        container = stack[-1]
        if lexeme == ",":
            container.next_part()
        elif lexeme in "]}":
            stack.pop()
        elif container.expects_key:
            pointer = f"{container.pointer}/{_escaped(json.loads(lexeme))}"
            container.expects_key = False
            yield pointer, match.start()
        else:
            if not container.is_object and container is not outermost:
                pointer = f"{container.pointer}/{container.index}"
                yield pointer, match.start()
            if lexeme in "[{":
                stack.append(_OpenContainer(pointer, is_object=lexeme == "{"))


def _of_yaml(text: str, wanted: frozenset[str]) -> Iterator[tuple[str, LineColumn]]:
    # Only the paths towards wanted pointers are walked. That also ends at aliases that contain themselves.
    ancestors = {pointer[:end] for pointer in wanted for end in _slashes(pointer)}
    root = yaml.compose(text, Loader=yaml.CSafeLoader)
    waiting: list[tuple[str, yaml.Mark, yaml.Node]] = []
    if root is not None:
        waiting.append(("", root.start_mark, root))
    while waiting:
        pointer, mark, node = waiting.pop()
        if pointer in wanted:
            yield pointer, LineColumn(mark.line + 1, mark.column + 1)
        if pointer in ancestors:
            waiting.extend(_yaml_parts(pointer, node))


def _yaml_parts(pointer: str, node: yaml.Node) -> Iterator[tuple[str, yaml.Mark, yaml.Node]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield f"{pointer}/{_escaped(str(key.value))}", key.start_mark, value
    elif isinstance(node, yaml.SequenceNode):
        for index, element in enumerate(node.value):
            yield f"{pointer}/{index}", element.start_mark, element


def _slashes(pointer: str) -> list[int]:
    return [index for index, character in enumerate(pointer) if character == "/"]


def _escaped(step: str) -> str:
    return step.replace("~", "~0").replace("/", "~1")
