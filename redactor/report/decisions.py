"""Why a value is recorded or not: the outcome, the rule behind it, and how the path to the value is written.

Rule numbers are those of docs/redaction.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from redactor.compile.applicable_schemas import ApplicableSchemas
from redactor.openapi.marks import is_denied

_PLAIN_NAME = re.compile(r"[\w$@-]+")


class Outcome(StrEnum):
    """What becomes of a position."""

    KEPT = "kept"
    """The value is recorded. A container with declared parts is recorded if any of its parts is."""
    PRESENCE = "presence"
    """A marked container is recorded as `{}` or `[]`, and nothing in it ever is."""
    DROPPED = "dropped"
    """Nothing is recorded."""


class Decision(NamedTuple):
    """An outcome, the number of the rule behind it, the reason in a few words, and the pointer of the deciding schema."""

    outcome: Outcome
    rule: int
    reason: str
    pointer: str


def dropped(rule: int, reason: str, pointer: str) -> Decision:
    """Return the decision to record nothing."""
    return Decision(Outcome.DROPPED, rule, reason, pointer)


@dataclass(frozen=True)
class ExplainedPart:
    """A path variable, query parameter or header. `present` is None where an operation is explained and no pair."""

    label: str
    decision: Decision
    present: bool | None = None


class StepKind(StrEnum):
    """How a container refers to one of its parts."""

    PROPERTY = "property"
    PATTERN = "pattern"
    ENTRY = "entry"
    SLOT = "slot"
    ITEMS = "items"
    SCALAR = "scalar"
    """Not a part: the value itself, where the schema allows a scalar as well as a container."""


class Step(NamedTuple):
    """One step down from a container.

    `text` is the property name, the pattern, or the index in `prefixItems`, and comes from the document.
    """

    kind: StepKind
    text: str = ""

    @property
    def label(self) -> str:
        """How the step is written in a path. The keys of a map are data, so they appear as `{key}`."""
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
    """Return the path below a body's root, such as `rules[].{key}.name`; the root itself is `(body)`."""
    text = ""
    for step in steps:
        is_index = step.kind in (StepKind.SLOT, StepKind.ITEMS)
        text += step.label if is_index or not text else f".{step.label}"
    return text or "(body)"


def denial_in(schemas: ApplicableSchemas) -> Decision | None:
    """Return the first denial among the schemas that apply to a value; None if none of them denies it."""
    if not schemas.denied:
        return None
    for each in schemas.flattened:
        if is_denied(each.place.node):
            return dropped(5, denial_reason(each.place.node), each.place.pointer)
    # Denied without a keyword: the compiler denies what it cannot trust, and what no value can satisfy.
    pointer = schemas.flattened[0].place.pointer if schemas.flattened else ""
    return dropped(5, "its schema is invalid, or no value can satisfy it", pointer)


def denial_reason(node: Mapping[str, Any]) -> str:
    """Return which keyword of a denied node denies."""
    if node.get("x-sensitive", False) is not False:
        return "x-sensitive"
    if node.get("x-auditable", True) is not True:
        return "x-auditable is not true"
    return "format: password" if node.get("format") == "password" else "it has duplicate keys"
