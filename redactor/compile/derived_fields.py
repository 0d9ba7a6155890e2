"""What the document says about the record of an operation: action, scope, product, type, and where ids are found.

By default it follows from path and method. An operation may override it with these extensions:

- `x-audit-action-type`: `create`, `update`, `delete` or `view`;
- `x-audit-description`, `x-audit-scope`, `x-audit-product`, `x-audit-resource-type`: the text itself;
- `x-audit-resource-id`: where the id stands, as an OpenAPI runtime expression: `$request.path.policy_id`,
  `$request.body#/id` or `$response.body#/result/id`. Only what was kept can be found there (rule 15).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from redactor.compile.plan import DROPPED, Kept
from redactor.decode.json import JsonInteger
from redactor.openapi.operations import LITERAL, TEMPLATED, Operation, Segment

ACTION_TYPES = frozenset({"create", "update", "delete", "view"})
_TYPE_OF_METHOD = {"POST": "create", "PUT": "update", "PATCH": "update", "DELETE": "delete"}
_VERSION = re.compile(r"v[0-9]+(?:[._]?[0-9]+)*(?:(?:alpha|beta|rc)[0-9]*)?")
_IDENTIFIER = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,512}")
_BODY_POINTER = re.compile(r"\$(request|response)\.body#((?:/.*)?)", re.DOTALL)
_PATH_POINTER = "$request.path."
# These texts of the document stand in every event of the operation.
_TEXT_MAX = 1024


@dataclass(frozen=True, slots=True)
class OperationFacts:
    """The fields of a record that depend on the operation alone."""

    action_type: str
    description: str | None
    scope: str | None
    product: str | None
    resource_type: str | None


def action_type_of(method: str) -> str:
    return _TYPE_OF_METHOD.get(method, "view")


def facts_of(operation: Operation) -> OperationFacts:
    """Derive an operation's facts from its extensions, or else from its path, method and summary."""
    node = operation.place.node
    scope, product, resource_type = _by_path(operation.segments)
    # Text first: anything may stand there, and not all of it can be looked up.
    declared = _text(node.get("x-audit-action-type"))
    return OperationFacts(
        declared if declared in ACTION_TYPES else action_type_of(operation.method),
        _text(node.get("x-audit-description")) or _text(node.get("summary")),
        _text(node.get("x-audit-scope")) or scope,
        _text(node.get("x-audit-product")) or product,
        _text(node.get("x-audit-resource-type")) or resource_type,
    )


def common_facts(facts: Sequence[OperationFacts], method: str) -> OperationFacts:
    """Return the facts of operations that match the same request: a field is set where all of them agree."""

    def agreed(name: str) -> Any:
        values = {getattr(each, name) for each in facts}
        return values.pop() if len(values) == 1 else None

    action_type = agreed("action_type") or action_type_of(method)
    return OperationFacts(
        action_type, agreed("description"), agreed("scope"), agreed("product"), agreed("resource_type")
    )


def _text(value: Any) -> str | None:
    return value[:_TEXT_MAX] if isinstance(value, str) and value else None


def _by_path(segments: Sequence[Segment]) -> tuple[str | None, str | None, str | None]:
    """Return scope, product and resource type: the first literal segment, the one after it, and the last one.

    Version segments are left out. A path that begins with a variable has no scope.
    """
    literals = [
        each.literal
        for each in segments
        if each.rank == LITERAL and each.literal and _VERSION.fullmatch(each.literal) is None
    ]
    if not literals:
        return None, None, None
    scope = literals[0] if segments[0].rank == LITERAL else None
    rest = (literals[1:] if scope else literals) or literals
    return scope, rest[0], rest[-1]


@dataclass(frozen=True, slots=True)
class IdPositions:
    """Where an operation's ids are found: the indices of path segments, or a place in a body."""

    account: int | None
    zone: int | None
    resource: int | None
    pointer: tuple[str, tuple[str, ...]] | None
    """`request` or `response`, and the steps from the root of what was kept of its body."""
    is_overridden: bool
    """Whether `x-audit-resource-id` says where the resource's id is found."""


def id_positions(operation: Operation) -> IdPositions:
    """Find an operation's ids: the segments after `accounts` and `zones` (leftmost), and the last other variable."""
    segments = operation.segments
    account, zone = _segment_after(segments, "accounts"), _segment_after(segments, "zones")
    declared = operation.place.node.get("x-audit-resource-id")
    if isinstance(declared, str):
        return IdPositions(account, zone, _named_position(segments, declared), _pointer(declared), True)
    others = [
        index
        for index, segment in enumerate(segments)
        if segment.rank != LITERAL and index not in (account, zone)
    ]
    last = others[-1] if others else None
    return IdPositions(account, zone, last, ("response", ("id",)), False)


def _segment_after(segments: Sequence[Segment], literal: str) -> int | None:
    for index in range(1, len(segments)):
        if segments[index].rank == TEMPLATED and segments[index - 1].literal == literal:
            return index
    return None


def _named_position(segments: Sequence[Segment], declared: str) -> int | None:
    name = declared.removeprefix(_PATH_POINTER)
    positions = [
        index for index, each in enumerate(segments) if each.rank == TEMPLATED and name in each.names
    ]
    return positions[0] if positions and declared.startswith(_PATH_POINTER) else None


def _pointer(declared: str) -> tuple[str, tuple[str, ...]] | None:
    match = _BODY_POINTER.fullmatch(declared)
    if match is None:
        return None
    steps = (step.replace("~1", "/").replace("~0", "~") for step in match[2].split("/")[1:])
    return match[1], tuple(steps)


def valid_resource_id(value: Any) -> str | None:
    """Return a kept string or integer as a resource's id; None where it is not printable or too long."""
    if type(value) is not str and not isinstance(value, JsonInteger):
        return None
    return str(value) if _IDENTIFIER.fullmatch(value) is not None else None


def value_at(kept: Kept, steps: Sequence[str]) -> Kept:
    """Return the part of a kept tree that JSON pointer steps lead to, or DROPPED."""
    for step in steps:
        if type(kept) is dict:
            kept = kept.get(step, DROPPED)
        elif type(kept) is list and step.isdecimal() and len(step) < 10 and int(step) < len(kept):
            kept = kept[int(step)]
        else:
            return DROPPED
    return kept
