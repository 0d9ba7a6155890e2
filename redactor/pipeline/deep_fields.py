"""Fields of a form in the style `deepObject`: `address[city]`, `items[0][price]`, `expand[]` (rule 9).

Only what a plan keeps is read. So a field that is not kept never decides whether an object or a list is there.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from redactor.compile.plan import (
    DROP,
    DROPPED,
    AllOfPlan,
    ArrayPlan,
    FreeFormPlan,
    Kept,
    Kind,
    ObjectPlan,
    Plan,
    RefPlan,
    ScalarPlan,
    TaggedUnionPlan,
    TypeSwitchPlan,
    canonical_text,
    close_gaps,
)
from redactor.compile.text_values import read_text, readings
from redactor.decode.json import Json
from redactor.decode.multipart import FormPart

_NAME: Final = re.compile(r"[^\[\]]+(?:\[[^\[\]]*\])+")
_STEP: Final = re.compile(r"\[([^\[\]]*)\]")
_INDEX: Final = re.compile(r"0|[1-9][0-9]{0,8}")
_APPENDED: Final = ""  # `expand[]`


class FieldNode:
    """The fields of one name, and below it those whose names go on in brackets."""

    __slots__ = ("children", "parts")

    def __init__(self, *parts: FormPart) -> None:
        self.parts = list(parts)
        self.children: dict[str, FieldNode] = {}

    def add(self, part: FormPart, depth_max: int) -> None:
        """Add a field below this node, which stands for the name before the brackets; one that is too deep is left out."""
        steps = _STEP.findall(part.name) if _NAME.fullmatch(part.name) is not None else []
        if 0 < len(steps) <= depth_max:
            node = self
            for step in steps:
                node = node.children.setdefault(step, FieldNode())
            node.parts.append(part)


def text_of(part: FormPart) -> str | None:
    """Return a field's text; None for a file."""
    if part.has_file_name or not part.is_text:
        return None
    try:
        return part.content.decode()
    except UnicodeDecodeError:
        return None


def deciding(plan: Plan) -> Plan:
    """Return the plan that says which JSON types a value has. Where several must agree, any of them will do."""
    while isinstance(plan, RefPlan | AllOfPlan):
        plan = plan.target if isinstance(plan, RefPlan) else plan.plans[0]
    return plan


def read_tagged(plan: TaggedUnionPlan, text: str, read: Callable[[Plan], Kept]) -> Kept:
    """Return the object as the variant that its tag selects; DROPPED where the tag's text may select several."""
    found: dict[int, Kept] = {}
    for value in readings(text):
        variant = plan.variants.get(canonical_text(value), DROP)
        tree = read(variant)
        if type(tree) is dict and canonical_text(tree.get(plan.tag)) == canonical_text(value):
            found[id(variant)] = tree
    return next(iter(found.values())) if len(found) == 1 else DROPPED


def read_deep(node: FieldNode, plan: Plan) -> Kept:
    """Return the value at a node as far as the plan might keep it; DROPPED where it keeps no field of it."""
    plan = deciding(plan)
    if isinstance(plan, ScalarPlan):
        text = _only_text(node)
        return DROPPED if text is None else read_text(plan, text)
    if isinstance(plan, TypeSwitchPlan):
        return _switched(node, plan)
    if isinstance(plan, ArrayPlan):
        return _elements(node, plan)
    if isinstance(plan, ObjectPlan):
        return _properties(node, plan)
    if isinstance(plan, TaggedUnionPlan):
        return _tagged(node, plan)
    return _free_form(node) if isinstance(plan, FreeFormPlan) else DROPPED


def _only_text(node: FieldNode) -> str | None:
    return text_of(node.parts[0]) if len(node.parts) == 1 else None


def _switched(node: FieldNode, plan: TypeSwitchPlan) -> Kept:
    """Return the value as the one JSON type of which anything is kept; the names alone do not say which type is meant.

    An index may be a key as well: it is neither where an object or an array of which nothing is kept may be meant.
    """
    as_array = DROP if plan.hides(Kind.OBJECT) else plan.as_array
    as_object = _without_indices(node) if plan.hides(Kind.ARRAY) else node
    values = [
        read_deep(as_object, plan.as_object),
        read_deep(node, as_array),
        read_deep(node, plan.as_scalar),
    ]
    found = [each for each in values if each is not DROPPED]
    return found[0] if len(found) == 1 else DROPPED


def _without_indices(node: FieldNode) -> FieldNode:
    named = FieldNode(*node.parts)
    named.children = {name: each for name, each in node.children.items() if not _INDEX.fullmatch(name)}
    return named


def _tagged(node: FieldNode, plan: TaggedUnionPlan) -> Kept:
    tag = node.children.get(plan.tag)
    text = None if tag is None else _only_text(tag)
    return DROPPED if text is None else read_tagged(plan, text, lambda each: read_deep(node, each))


def _properties(node: FieldNode, plan: ObjectPlan) -> Kept:
    found: dict[str, Json] = {}
    for name, child in node.children.items():
        # What several schemas must let through one by one is not read: the object may be empty in the end.
        plans = plan.plans_for(name) if name != _APPENDED else ()
        value = read_deep(child, plans[0]) if len(plans) == 1 else DROPPED
        if value is not DROPPED:
            found[name] = value
    return found or DROPPED


def _elements(node: FieldNode, plan: ArrayPlan) -> Kept:
    """Return the elements by their index, then those without one. The slots of a tuple are read by their index alone."""
    slots = len(plan.slots)
    indexed = {int(name): child for name, child in node.children.items() if _INDEX.fullmatch(name)}
    in_slots = [
        read_deep(indexed[index], each) if index in indexed else DROPPED
        for index, each in enumerate(plan.slots)
    ]
    elements = [indexed[index] for index in sorted(indexed) if index >= slots]
    if _APPENDED in node.children and not slots:
        elements += [FieldNode(part) for part in node.children[_APPENDED].parts]
    items = [read_deep(each, plan.items) for each in elements]
    return close_gaps([*in_slots, *items], slots, marked=False)


def _free_form(node: FieldNode) -> Kept:
    found: dict[str, Json] = {}
    for name, child in node.children.items():
        value = _free_form(child) if child.children else _only_text(child)
        if name != _APPENDED and value is not None and value is not DROPPED:
            found[name] = value
    return found or DROPPED
