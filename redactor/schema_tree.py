"""A body's schema as a tree of positions, each kept or dropped, and by which rule. For lint and explain.

What is kept is read off the compiled plan, so it cannot differ from what the redactor does. Why is read off the
schemas that speak about the position.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from redactor.branches import CONTAINER_KINDS, SCALAR_KINDS, Branch, Voices, is_marked
from redactor.decisions import ITEMS, SCALAR, Decision, Step, StepKind, Verdict, denial_in, dropped
from redactor.document import UNTRUSTED, LoadedDocument, Place
from redactor.plan import DROP, Drop, Plan
from redactor.plan_parts import PlanParts, keeps_value, resolved, shows_presence

_UNGRANTED_KEYS = "a map's keys are data, and neither it nor its propertyNames is marked"
_ENUMERATED = "from status 400 on, nothing is kept of a container with an enum or const"
_OUTSIDE_ENVELOPE = "outside of the envelope's property"
_BY_PROPERTIES = "a form is read by its declared properties alone"
_UNREAD_FIELD = "a file, or a field written in a way that is not read"
_NOT_BY_ALL = "not marked in every alternative that declares it"
_NO_SINGLE_TYPE = "a mark grants nothing without one definite type"


class Around(NamedTuple):
    """What a position takes over from where it stands, as far as the reason depends on it."""

    decided: Decision | None = None
    """Nothing below can be kept, and why."""
    array_is_marked: bool = False
    marked_outside: Decision | None = None
    """The mark that counts though it does not stand on the position's own schemas."""
    envelope: str | None = None
    """The one property of a response's root that is recorded (rule 12)."""
    strict: bool = False
    """The status is 400 or above: `enum` and `const` are enforced (rule 6)."""
    unread: frozenset[str] | None = None
    """Of a form, which is read by its declared properties alone: those that are not read, such as files (rule 9)."""
    scalar: bool = False
    """Of a value that may be a container as well, only what it is as a scalar."""


class Child(NamedTuple):
    """A part of a container and the step that leads to it."""

    step: Step
    position: Position


class SchemaTree:
    """The positions of one document's schemas. One that is met again is the same object."""

    def __init__(self, document: LoadedDocument) -> None:
        self.document = document
        self.inherits = document.config.container_marks == "inherit"
        self.parts = PlanParts()
        self._known: dict[object, Position] = {}
        self._voices: dict[object, Voices] = {}

    def root(self, schema: Place, plan: Plan, around: Around = Around()) -> Position:  # noqa: B008  immutable
        """Return the position of a whole body or parameter, as `plan` decides it."""
        branches = [Branch(schema, grants=True)]
        root = self.position(branches, DROP if around.decided else plan, around)
        if around.unread is not None and root.is_leaf and keeps_value(root.plan):
            return self.position(branches, DROP, Around(dropped(9, _BY_PROPERTIES, root.pointer)))
        return root

    def position(self, branches: Sequence[Branch], plan: Plan, around: Around) -> Position:
        """Return the position that `branches` describe and `plan` decides."""
        settled = [each.settled(self.document) for each in branches]
        said = tuple(each.identity for each in settled)
        voices = self._voices.get(said)
        if voices is None:
            voices = self._voices[said] = Voices(self.document, settled)
        return self.again(voices, plan, around)

    def again(self, voices: Voices, plan: Plan, around: Around) -> Position:
        """Return a position of which all that speaks about it is known."""
        plan = resolved(plan)
        key = (id(voices), id(plan), around)
        known = self._known.get(key)
        if known is None:
            # It holds its plan and its voices, so that no others can get the same ids.
            known = self._known[key] = Position(self, voices, plan, around)
        return known


class Position:
    """One position of a schema. `children` may lead back to a position above: whoever walks ends there."""

    def __init__(self, tree: SchemaTree, voices: Voices, plan: Plan, around: Around) -> None:
        self._tree = tree
        self._voices = voices
        self._said = voices.all
        self._around = around
        self._nodes: list[dict[str, Any]] = [each.place.node for each in self._said]
        self._has_object_parts = self._admits("object") and any(map(_declares_object_parts, self._nodes))
        self._has_array_parts = self._admits("array") and any(map(_declares_elements, self._nodes))
        self.plan = plan
        self.pointer = self._said[0].place.pointer if self._said else ""
        self.is_leaf = around.scalar or not (self._has_object_parts or self._has_array_parts)
        """Whether it has no declared parts: a scalar, a free-form object, a value of any type."""
        self._is_present = shows_presence(plan) and around.envelope is None
        self.shows = self._is_present or keeps_value(plan)
        """Whether it shows by itself, whatever is kept below it."""

    def _admits(self, kind: str) -> bool:
        return self._voices.kinds is None or kind in self._voices.kinds

    @property
    def kind(self) -> str:
        """Its types, as `string` or `integer|string`; `any` where no schema names one."""
        kinds = self._voices.kinds
        kinds = _kinds_named(self._nodes) if kinds is None else kinds
        return "|".join(sorted(kinds & SCALAR_KINDS if self._around.scalar else kinds)) or "any"

    @property
    def marked_nodes(self) -> list[dict[str, Any]]:
        """The marked schemas that speak about it, granting or not."""
        return [node for node in self._nodes if is_marked(node)]

    @property
    def nodes(self) -> Sequence[dict[str, Any]]:
        """All schemas that speak about it."""
        return self._nodes

    @cached_property
    def children(self) -> tuple[Child, ...]:
        """Its parts in document order."""
        found: list[Child] = []
        if self._has_object_parts:
            found.extend(self._properties())
            found.extend(self._entries())
        if self._has_array_parts:
            found.extend(self._elements())
        if found and (self._voices.kinds or frozenset()) & SCALAR_KINDS:
            around = self._around._replace(scalar=True, envelope=None, unread=None)
            plan = self._tree.parts.of_scalar(self.plan)
            if self._outside is not None:
                around, plan = Around(self._outside, scalar=True), DROP
            found.append(Child(SCALAR, self._tree.again(self._voices, plan, around)))
        return tuple(found)

    @cached_property
    def decision(self) -> Decision:
        """What becomes of it, by which rule."""
        return self._of_leaf() if self.is_leaf else self._of_container()

    @cached_property
    def keeps_below(self) -> bool:
        """Whether anything below it is kept or shows its presence."""
        seen = {id(self)}
        waiting = [self]
        while waiting:
            for _, child in waiting.pop().children:
                if id(child) in seen or isinstance(child.plan, Drop):
                    continue
                if child.shows:
                    return True
                seen.add(id(child))
                waiting.append(child)
        return False

    def _of_leaf(self) -> Decision:
        if keeps_value(self.plan):
            return self._grant()
        if self._is_present:
            return Decision(Verdict.PRESENCE, 3, "a mark on a container shows its presence", self.pointer)
        return self._decided or self._refusal()

    def _refusal(self) -> Decision:
        """Return why a leaf is dropped that nothing denies."""
        marked_around = self._around.array_is_marked or self._around.marked_outside is not None
        kinds = self._voices.kinds
        if not (self._voices.marked or marked_around):
            if self.marked_nodes:
                return dropped(7, _NOT_BY_ALL, self.pointer)
            return dropped(1, "not marked", self.pointer)
        if kinds is None or not kinds <= SCALAR_KINDS:
            return dropped(4, _NO_SINGLE_TYPE, self.pointer)
        return dropped(7, "another schema of the same value does not keep it", self.pointer)

    def _grant(self) -> Decision:
        marked = [each.place for each in self._said if each.grants and is_marked(each.place.node)]
        at = marked[0].pointer if marked else self.pointer
        if "object" in (self._voices.kinds or ()):
            return Decision(Verdict.KEPT, 4, "a marked free-form object", at)
        if marked:
            return Decision(Verdict.KEPT, 2, "marked", at)
        if self._around.array_is_marked:
            return Decision(Verdict.KEPT, 2, "its array is marked", at)
        return self._around.marked_outside or Decision(Verdict.KEPT, 7, "marked in its branches", at)

    def _of_container(self) -> Decision:
        if self.keeps_below:
            words = "a container's mark shows its presence" if self._is_present else "holds what is kept"
            return Decision(Verdict.KEPT, 3 if self._is_present else 11, words, self.pointer)
        if self._is_present:
            words = "a container's mark does not reach its parts"
            return Decision(Verdict.PRESENCE, 3, words, self.pointer)
        if self._decided is not None:
            return self._decided
        if self._voices.marked and (self._voices.kinds is None or len(self._voices.kinds) != 1):
            return dropped(4, _NO_SINGLE_TYPE, self.pointer)
        if self._voices.marked:
            return dropped(7, "another schema of the same value does not keep it", self.pointer)
        return dropped(11, "nothing in it is kept", self.pointer)

    @cached_property
    def _decided(self) -> Decision | None:
        """Why nothing at the position and below it can be kept, whatever its marks."""
        return self._around.decided or denial_in(self._voices) or self._enumerated()

    def _enumerated(self) -> Decision | None:
        kinds = self._voices.kinds
        if not (self._around.strict and isinstance(self.plan, Drop)) or (kinds and kinds <= SCALAR_KINDS):
            return None
        listing = [each.place for each in self._said if {"enum", "const"} & each.place.node.keys()]
        return dropped(6, _ENUMERATED, listing[0].pointer) if listing else None

    @cached_property
    def _outside(self) -> Decision | None:
        """Why nothing but some declared properties can be kept: it is a response's root, or a form's."""
        if self._around.envelope is not None:
            return self._decided or dropped(12, _OUTSIDE_ENVELOPE, self.pointer)
        if self._around.unread is not None:
            return self._decided or dropped(9, _BY_PROPERTIES, self.pointer)
        return None

    @cached_property
    def _below(self) -> Around:
        mark = self._around.marked_outside
        marked = [each.place for each in self._said if each.grants and is_marked(each.place.node)]
        if self._tree.inherits and marked:
            mark = Decision(Verdict.KEPT, 3, "inherited from a marked container", marked[0].pointer)
        mark = mark if self._tree.inherits else None
        return Around(self._decided, marked_outside=mark, strict=self._around.strict)

    def _properties(self) -> Iterator[Child]:
        declaring: dict[str, list[Branch]] = {}
        for branch in self._said:
            for name in _mapping(branch.place.node, "properties"):
                if name != UNTRUSTED:
                    declaring.setdefault(name, []).append(branch.part("properties", name))
        envelope = self._around.envelope
        outside = Around(self._outside)
        for name, branches in declaring.items():
            if self._around.unread is not None and name in self._around.unread:
                decided = self._decided or dropped(9, _UNREAD_FIELD, self.pointer)
                position = self._tree.position(branches, DROP, Around(decided))
            elif envelope in (None, name):
                position = self._tree.position(branches, self._property_plan(name), self._below)
            else:
                position = self._tree.position(branches, DROP, outside)
            yield Child(Step(StepKind.PROPERTY, name), position)

    def _property_plan(self, name: str) -> Plan:
        return self._tree.parts.of_property(self.plan, name)

    def _entries(self) -> Iterator[Child]:
        speaking = [branch for branch in self._said if _speaks_of_keys(branch.place.node)]
        patterns = {
            text: None for each in speaking for text in _mapping(each.place.node, "patternProperties")
        }
        for text in patterns:
            yield from self._entry(StepKind.PATTERN, text, speaking, "patternProperties", text)
        yield from self._entry(StepKind.ENTRY, "", speaking, "additionalProperties")

    def _entry(self, kind: StepKind, text: str, speaking: Sequence[Branch], *steps: str) -> Iterator[Child]:
        """Yield the entries under one pattern, or under none, where any schema describes them."""
        parts = [each.part(*steps) for each in speaking]
        parts = [each for each in parts if isinstance(each.place.node, dict)]
        if not parts:
            return
        below, plan = self._below, self._tree.parts.of_entry(self.plan, text or None)
        if self._outside is not None:
            below, plan = Around(self._outside), DROP
        elif isinstance(plan, Drop) and below.decided is None and not self._keys_are_granted():
            below = below._replace(decided=dropped(4, _UNGRANTED_KEYS, speaking[0].place.pointer))
        yield Child(Step(kind, text), self._tree.position(parts, plan, below))

    def _keys_are_granted(self) -> bool:
        if self._voices.marked or self._around.marked_outside is not None:
            return True
        names = [each.part("propertyNames") for each in self._said if "propertyNames" in each.place.node]
        return any(each.grants and Voices(self._tree.document, [each]).marked for each in names)

    def _elements(self) -> Iterator[Child]:
        below = self._below._replace(array_is_marked=self._voices.marked)
        whole = self.plan
        if self._outside is not None:
            below, whole = Around(self._outside), DROP
        width = max(len(_slots(node)) for node in self._nodes)
        for slot in (*range(width), None):
            branches = [part for each in self._said for part in _element_branches(each, slot)]
            if branches:
                plan = self._tree.parts.of_element(whole, slot)
                step = ITEMS if slot is None else Step(StepKind.SLOT, str(slot))
                yield Child(step, self._tree.position(branches, plan, below))


def _mapping(node: dict[str, Any], keyword: str) -> dict[str, Any]:
    part = node.get(keyword)
    return part if isinstance(part, dict) else {}


def _slots(node: dict[str, Any]) -> list[Any]:
    slots = node.get("prefixItems")
    return slots if isinstance(slots, list) else []


def _speaks_of_keys(node: dict[str, Any]) -> bool:
    return bool(_mapping(node, "patternProperties") or isinstance(node.get("additionalProperties"), dict))


def _declares_object_parts(node: dict[str, Any]) -> bool:
    return bool(_mapping(node, "properties")) or _speaks_of_keys(node)


def _declares_elements(node: dict[str, Any]) -> bool:
    return isinstance(node.get("items"), dict) or bool(_slots(node))


def _element_branches(branch: Branch, slot: int | None) -> Iterator[Branch]:
    node = branch.place.node
    if slot is not None and slot < len(_slots(node)):
        yield branch.part("prefixItems", slot)
    elif isinstance(node.get("items"), dict):
        yield branch.part("items")


def _kinds_named(nodes: Sequence[dict[str, Any]]) -> frozenset[str]:
    named: set[Any] = set()
    for node in nodes:
        declared = node.get("type")
        listed = declared if isinstance(declared, list) else [declared]
        named.update(each for each in listed if isinstance(each, str))
    return frozenset(named) & (SCALAR_KINDS | CONTAINER_KINDS)
