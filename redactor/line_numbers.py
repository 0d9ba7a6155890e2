"""Where in a document's text a JSON pointer's node stands, for tools that show a line."""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import yaml

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*+"|[\[\]{},]|[^\s"\[\]{},:]++')
_END = re.compile("\n")


class TextPosition(NamedTuple):
    """A line and a column, both counted from 1."""

    line: int
    column: int


def positions_of(path: Path, text: bytes, pointers: Collection[str]) -> Mapping[str, TextPosition]:
    """Return where the nodes that `pointers` name stand: at their key, or at the value where there is none.

    `text` is a document that has been loaded. A pointer that leads nowhere is left out.
    """
    wanted = frozenset(pointers)
    decoded = text.decode("utf-8-sig", errors="replace")
    if path.suffix.lower() == ".json" or text.lstrip()[:1] == b"{":
        return _of_json(decoded, wanted)
    return dict(_of_yaml(decoded, wanted))


class _Open:
    """A container that has not ended yet."""

    __slots__ = ("at_key", "index", "is_object", "pointer")

    def __init__(self, pointer: str, *, is_object: bool) -> None:
        self.pointer = pointer
        self.is_object = is_object
        self.at_key = is_object
        self.index = 0


def _of_json(text: str, wanted: frozenset[str]) -> dict[str, TextPosition]:
    starts = [0, *(match.end() for match in _END.finditer(text))]
    found: dict[str, TextPosition] = {}

    def note(pointer: str, offset: int) -> None:
        if pointer in wanted:
            line = bisect_right(starts, offset)
            found[pointer] = TextPosition(line, offset - starts[line - 1] + 1)

    stack: list[_Open] = []
    pointer = ""
    note(pointer, 0)
    for match in _TOKEN.finditer(text):
        lexeme = match[0]
        top = stack[-1] if stack else None
        if lexeme == ",":
            if top is not None:
                top.at_key, top.index = top.is_object, top.index + 1
        elif lexeme in "]}":
            stack.pop()
        elif top is not None and top.at_key:
            pointer = f"{top.pointer}/{_escaped(json.loads(lexeme))}"
            top.at_key = False
            note(pointer, match.start())
        else:
            if top is not None and not top.is_object:
                pointer = f"{top.pointer}/{top.index}"
                note(pointer, match.start())
            if lexeme in "[{":
                stack.append(_Open(pointer, is_object=lexeme == "{"))
    return found


def _of_yaml(text: str, wanted: frozenset[str]) -> Iterator[tuple[str, TextPosition]]:
    # Only ways towards a wanted pointer are walked, which ends aliases that hold themselves, too.
    on_the_way = {pointer[:end] for pointer in wanted for end in _ends(pointer)}
    root = yaml.compose(text, Loader=yaml.CSafeLoader)
    waiting: list[tuple[str, yaml.Node, yaml.Node]] = [] if root is None else [("", root, root)]
    while waiting:
        pointer, shown, node = waiting.pop()
        if pointer in wanted:
            yield pointer, TextPosition(shown.start_mark.line + 1, shown.start_mark.column + 1)
        if pointer not in on_the_way:
            continue
        if isinstance(node, yaml.MappingNode):
            waiting.extend((f"{pointer}/{_escaped(str(key.value))}", key, value) for key, value in node.value)
        elif isinstance(node, yaml.SequenceNode):
            waiting.extend((f"{pointer}/{index}", each, each) for index, each in enumerate(node.value))


def _ends(pointer: str) -> list[int]:
    return [index for index, character in enumerate(pointer) if character == "/"]


def _escaped(step: str) -> str:
    return step.replace("~", "~0").replace("/", "~1")
