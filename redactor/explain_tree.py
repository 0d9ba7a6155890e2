"""A body's schema as a tree to be shown: all of it, or what of it stood in one body and what became of that."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import re2

from redactor.coverage import DEPTH_MAX
from redactor.decisions import SCALAR, Decision, Step, StepKind, Verdict, dropped
from redactor.plan import count_scalars
from redactor.schema_tree import Child, Position
from redactor.wellformed import Json

NODES_MAX = 5_000
"""Nodes of one tree; where it is cut, it says so."""
_UNFIT = "no value here fits the type, or from status 400 on the enum"
_NOT_THERE = "not in the form, or no value that fits the type"
_UNDECLARED = "not declared"


@dataclass
class Node:
    """One position. `kept`: scalars of it in the event, at and below it; None where no pair is explained."""

    label: str
    kind: str
    decision: Decision
    kept: int | None = None
    repeats: bool = False
    """The schema comes back to itself here."""
    cut: bool = False
    """There is more than is shown."""
    children: list[Node] = field(default_factory=list)

    def walk(self) -> Iterator[Node]:
        """Yield the node and all below it."""
        waiting = [self]
        while waiting:
            node = waiting.pop()
            yield node
            waiting.extend(reversed(node.children))


def node_of_schema(root: Position) -> Node:
    """Return the tree of all that a schema declares."""
    top = Node("(body)", root.kind, root.decision)
    waiting: list[tuple[Node, Position, frozenset[Position]]] = [(top, root, frozenset({root}))]
    left = NODES_MAX
    while waiting:
        node, position, above = waiting.pop()
        if len(above) > DEPTH_MAX or left <= 0:
            node.cut = bool(position.children)
            continue
        for step, child in position.children:
            left -= 1
            part = Node(step.label, child.kind, child.decision, repeats=child in above)
            node.children.append(part)
            if not part.repeats:
                waiting.append((part, child, above | {child}))
    return top


class _Seen:
    """What stood at one position of a body, and what of it is in the event."""

    def __init__(self, position: Position | None, label: str) -> None:
        self.position = position
        """None for what is not declared."""
        self.label = label
        self.parts: dict[Step | None, _Seen] = {}
        self.present = 0
        self.kept = 0
        """Values in the event."""
        self.kept_scalars = 0
        """Scalars in the event that stand at this very position, or in a free-form object there."""

    def part(self, step: Step | None, position: Position | None) -> _Seen:
        """Return what stood one step below."""
        label = _UNDECLARED if step is None else step.label
        return self.parts.setdefault(step, _Seen(position, f"({label})" if step is None else label))


def node_of_values(root: Position, bodies: Sequence[Json], recorded: Sequence[Json]) -> Node:
    """Return the tree of what stood in a body, or in each of its lines; `recorded` is what the event holds of them.

    Elements of an array are one node, and so are the entries of a map.
    """
    seen = _Seen(root, "(body)")
    keys = _Keys()
    for each in bodies:
        _walk(seen, each, keys, is_kept=False)
    for each in recorded:
        _walk(seen, each, keys, is_kept=True)
    return _node(seen)


def node_of_form(root: Position, recorded: Sequence[Json]) -> Node:
    """Return the tree of all that a form's schema declares, with what the event holds of it."""
    top = node_of_schema(root)
    waiting: list[tuple[Node, Node | None]] = [
        (top, node_of_values(root, recorded, recorded) if recorded else None)
    ]
    while waiting:
        node, found = waiting.pop()
        node.kept = 0 if found is None else found.kept
        if found is None and node.decision.verdict is not Verdict.DROPPED:
            node.decision = dropped(6, _NOT_THERE, node.decision.pointer)
        parts = {} if found is None else {each.label: each for each in found.children}
        waiting.extend((each, parts.get(each.label)) for each in node.children)
    return top


def _walk(root: _Seen, value: Json, keys: _Keys, *, is_kept: bool) -> None:
    waiting: list[tuple[_Seen, Json]] = [(root, value)]
    while waiting:
        seen, each = waiting.pop()
        parts = _parts_of(seen.position, each, keys)
        if is_kept:
            seen.kept += 1
            seen.kept_scalars += 0 if parts else _own_scalars(seen.position, each)
        else:
            seen.present += 1
        for (step, position), part in parts:
            waiting.append((seen.part(step, position), part))


def _own_scalars(position: Position | None, value: Json) -> int:
    is_whole = position is None or position.is_leaf or not isinstance(value, dict | list)
    return count_scalars(value) if is_whole else 0


_Part = tuple[tuple[Step | None, "Position | None"], Json]


def _parts_of(position: Position | None, value: Json, keys: _Keys) -> list[_Part]:
    """Return the parts of a value and where each is declared. What is undeclared is not looked into."""
    if position is None or position.is_leaf:
        return []
    if type(value) is dict:
        return [(keys.find(position, key), part) for key, part in value.items()]
    if type(value) is list:
        slots = {each.step: each for each in position.children}
        return [(_element(slots, index), part) for index, part in enumerate(value)]
    as_scalar = [] if value is None else [each for each in position.children if each.step == SCALAR]
    return [((each.step, each.position), value) for each in as_scalar]


def _element(slots: Mapping[Step, Child], index: int) -> tuple[Step | None, Position | None]:
    for step in (Step(StepKind.SLOT, str(index)), Step(StepKind.ITEMS)):
        if step in slots:
            return step, slots[step].position
    return None, None


class _Keys:
    """Tells under which declaration a key of a body falls."""

    def __init__(self) -> None:
        self._by_position: dict[Position, dict[Step, Position]] = {}

    def find(self, position: Position, key: str) -> tuple[Step | None, Position | None]:
        """Return the declared property, else the pattern, else the map's entry; nothing where it is undeclared."""
        declared = self._by_position.get(position)
        if declared is None:
            declared = dict(position.children)
            self._by_position[position] = declared
        named = Step(StepKind.PROPERTY, key)
        if named in declared:
            return named, declared[named]
        for step, child in declared.items():
            if step.kind is StepKind.ENTRY or (step.kind is StepKind.PATTERN and _matches(step.text, key)):
                return step, child
        return None, None


def _matches(pattern: str, key: str) -> bool:
    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern, options).search(key) is not None
    except re2.error:
        return False


def _node(top: _Seen) -> Node:
    """Return the nodes of what was seen, in the document's order, and what is undeclared last."""
    left = NODES_MAX

    def made(seen: _Seen) -> Node:
        nonlocal left
        left -= 1
        kind = "" if seen.position is None else seen.position.kind
        node = Node(seen.label, kind, _decided(seen), kept=seen.kept_scalars)
        order = (
            {}
            if seen.position is None
            else {step: index for index, (step, _) in enumerate(seen.position.children)}
        )
        for step in sorted(seen.parts, key=lambda each: order.get(each, len(order)) if each else len(order)):
            if left <= 0:
                node.cut = True
                break
            node.children.append(made(seen.parts[step]))
        node.kept = (node.kept or 0) + sum(child.kept or 0 for child in node.children)
        return node

    return made(top)


def _decided(seen: _Seen) -> Decision:
    if seen.position is None:
        return dropped(1, _UNDECLARED, "")
    decision = seen.position.decision
    if seen.kept:
        if decision.verdict is Verdict.DROPPED:
            return Decision(Verdict.PRESENCE, 11, "null holds the place of a dropped slot", decision.pointer)
        return decision if seen.kept >= seen.present else _in_part(decision)
    if decision.verdict is Verdict.DROPPED:
        return decision
    if seen.parts and not seen.position.is_leaf:
        return dropped(11, "nothing in it is kept", decision.pointer)
    return dropped(6, _UNFIT, decision.pointer)


def _in_part(decision: Decision) -> Decision:
    return decision._replace(words=decision.words + "; what does not fit, or holds nothing kept, is left out")
