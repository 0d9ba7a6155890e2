"""What an operation's path and extensions say about the record: action, scope, product, type, and where ids stand.

An operation may override what its path says, with text of the document alone:

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

from redactor.operations import LITERAL, TEMPLATED, Operation, Segment
from redactor.plan import DROPPED, Kept
from redactor.wellformed import JsonInteger

ACTION_TYPES = frozenset({"create", "update", "delete", "view"})
_TYPE_OF_METHOD = {"POST": "create", "PUT": "update", "PATCH": "update", "DELETE": "delete"}
_VERSION = re.compile(r"v[0-9]+(?:[._]?[0-9]+)*(?:(?:alpha|beta|rc)[0-9]*)?")
_IDENTIFIER = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,512}")
_OWNER_ID = re.compile(r"[\w.:@\-]{1,128}", re.ASCII)
_POINTED = re.compile(r"\$(request|response)\.body#((?:/.*)?)", re.DOTALL)
_PATH_POINTED = "$request.path."
_TEXT_MAX = 1024


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of an operation before any traffic."""

    action_type: str
    description: str | None
    scope: str | None
    product: str | None
    resource_type: str | None


def action_type_of(method: str) -> str:
    """Return the action type that a method stands for."""
    return _TYPE_OF_METHOD.get(method, "view")


def facts_of(operation: Operation) -> Facts:
    """Return an operation's facts: by its extensions, else by its path, method and summary."""
    node = operation.place.node
    scope, product, resource_type = _by_path(operation.segments)
    declared = node.get("x-audit-action-type")
    return Facts(
        declared if declared in ACTION_TYPES else action_type_of(operation.method),
        _text(node.get("x-audit-description")) or _text(node.get("summary")),
        _text(node.get("x-audit-scope")) or scope,
        _text(node.get("x-audit-product")) or product,
        _text(node.get("x-audit-resource-type")) or resource_type,
    )


def facts_in_common(facts: Sequence[Facts], method: str) -> Facts:
    """Return what operations that tie all say."""

    def agreed(name: str) -> Any:
        values = {getattr(each, name) for each in facts}
        return values.pop() if len(values) == 1 else None

    action_type = agreed("action_type") or action_type_of(method)
    return Facts(
        action_type, agreed("description"), agreed("scope"), agreed("product"), agreed("resource_type")
    )


def _text(value: Any) -> str | None:
    return value[:_TEXT_MAX] if isinstance(value, str) and value else None


def _by_path(segments: Sequence[Segment]) -> tuple[str | None, str | None, str | None]:
    """Return scope, product and type: the first literal, the one after it, and the last; versions do not count."""
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
    """At which segments of the path an operation's ids stand."""

    account: int | None
    zone: int | None
    resource: int | None
    pointer: tuple[str, tuple[str, ...]] | None
    """`request` or `response`, and the steps into what was kept of its body."""
    is_overridden: bool


def id_positions(operation: Operation) -> IdPositions:
    """Return where ids stand: behind `accounts` and `zones` (leftmost), and in the last variable that is neither."""
    segments = operation.segments
    account, zone = _behind(segments, "accounts"), _behind(segments, "zones")
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


def _behind(segments: Sequence[Segment], literal: str) -> int | None:
    for index in range(1, len(segments)):
        if segments[index].rank == TEMPLATED and segments[index - 1].literal == literal:
            return index
    return None


def _named_position(segments: Sequence[Segment], declared: str) -> int | None:
    name = declared.removeprefix(_PATH_POINTED)
    positions = [
        index for index, each in enumerate(segments) if each.rank == TEMPLATED and name in each.names
    ]
    return positions[0] if positions and declared.startswith(_PATH_POINTED) else None


def _pointer(declared: str) -> tuple[str, tuple[str, ...]] | None:
    pointed = _POINTED.fullmatch(declared)
    if pointed is None:
        return None
    steps = (step.replace("~1", "/").replace("~0", "~") for step in pointed[2].split("/")[1:])
    return pointed[1], tuple(steps)


def owner_id(value: str | None) -> str | None:
    """Return an account's or zone's id if it looks like one."""
    return value if value is not None and _OWNER_ID.fullmatch(value) is not None else None


def resource_id(value: Any) -> str | None:
    """Return a kept text or whole number as a resource's id if it is printable and of bearable length."""
    if type(value) is not str and not isinstance(value, JsonInteger):
        return None
    return str(value) if _IDENTIFIER.fullmatch(value) is not None else None


def pointed_at(kept: Kept, steps: Sequence[str]) -> Kept:
    """Return what stands in a kept tree where the steps lead."""
    for step in steps:
        if type(kept) is dict:
            kept = kept.get(step, DROPPED)
        elif type(kept) is list and step.isdecimal() and len(step) < 10 and int(step) < len(kept):
            kept = kept[int(step)]
        else:
            return DROPPED
    return kept
