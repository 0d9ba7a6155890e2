"""Why a value is kept or dropped, in the words of the rules: verdicts, the steps of a path, and denials' sources."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

from redactor.branches import Voices, is_denied

_PLAIN_NAME = re.compile(r"[\w$@-]+")


class Verdict(StrEnum):
    """What becomes of a position."""

    KEPT = "kept"
    """A value's content; of a container with parts: it shows where something in it is kept."""
    PRESENCE = "presence"
    """A marked container shows as `{}` or `[]` at least, though nothing in it is ever kept."""
    DROPPED = "dropped"


class Decision(NamedTuple):
    """A verdict, the number of the rule behind it, the rule in short, and the pointer of the schema that decided."""

    verdict: Verdict
    rule: int
    words: str
    pointer: str


def dropped(rule: int, words: str, pointer: str) -> Decision:
    """Return the decision that nothing is kept."""
    return Decision(Verdict.DROPPED, rule, words, pointer)


class StepKind(StrEnum):
    """How a part hangs below its container."""

    PROPERTY = "property"
    PATTERN = "pattern"
    ENTRY = "entry"
    SLOT = "slot"
    ITEMS = "items"
    SCALAR = "scalar"
    """Not a part: the value itself, where it may be a scalar as well as a container."""


class Step(NamedTuple):
    """One step down: a declared name, a pattern or a slot's number; `text` is the document's own."""

    kind: StepKind
    text: str = ""

    @property
    def label(self) -> str:
        """Return how the step is written: a map's keys are data and show as `{key}`."""
        match self.kind:
            case StepKind.PROPERTY:
                return self.text if _PLAIN_NAME.fullmatch(self.text) else f"'{self.text}'"
            case StepKind.PATTERN:
                return f"{{/{self.text}/}}"
            case StepKind.ENTRY:
                return "{key}"
            case StepKind.SLOT:
                return f"[{self.text}]"
            case StepKind.ITEMS:
                return "[]"
            case StepKind.SCALAR:
                return "(scalar)"


ITEMS = Step(StepKind.ITEMS)
ENTRY = Step(StepKind.ENTRY)
SCALAR = Step(StepKind.SCALAR)


def path_text(steps: Sequence[Step]) -> str:
    """Return a path below a body's root, as `rules[].{key}.name`; the root itself is `(body)`."""
    text = ""
    for step in steps:
        joint = "" if not text or step.kind in (StepKind.SLOT, StepKind.ITEMS) else "."
        text += joint + step.label
    return text or "(body)"


def denial_in(voices: Voices) -> Decision | None:
    """Return the first denial among the schemas that speak about a value, or that they cannot be trusted."""
    if not voices.denied:
        return None
    for each in voices.all:
        if is_denied(each.place.node):
            return dropped(5, denial_words(each.place.node), each.place.pointer)
    pointer = voices.all[0].place.pointer if voices.all else ""
    return dropped(5, "its schema cannot be trusted or admits no value", pointer)


def denial_words(node: Mapping[str, Any]) -> str:
    """Return by which keyword a node denies."""
    if node.get("x-sensitive", False) is not False:
        return "x-sensitive"
    if node.get("x-auditable", True) is not True:
        return "x-auditable is not true"
    return "format: password" if node.get("format") == "password" else "its keys stand twice"
