"""The tree that explain shows of a body: all that its schema declares, or what one body held and what became of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import re2

from redactor.compile.plan import count_scalars
from redactor.decode.json import Json
from redactor.report.coverage import DEPTH_MAX
from redactor.report.decisions import ITEMS, SCALAR, Decision, Outcome, Step, StepKind, dropped
from redactor.report.schema_tree import Position

NODES_MAX = 5_000
"""Nodes of one tree; where it is cut, it says so."""
_UNFIT = "no value here fits the type, or from status 400 on the enum"
_NOT_PRESENT = "not in the form, or no value that fits the type"
_UNDECLARED = "not declared"


@dataclass
class Node:
    """One position. `kept` counts the scalars recorded at and below it; None where no pair is explained."""

    label: str
    kind: str
    decision: Decision
    kept: int | None = None
    repeats: bool = False
    """Whether the schema refers to itself here."""
    cut: bool = False
    """Whether there are more nodes than are shown."""
    children: list[Node] = field(default_factory=list)

    def walk(self) -> Iterator[Node]:
        """Yield the node and all nodes below it."""
        waiting = [self]
        while waiting:
            node = waiting.pop()
            yield node
            waiting.extend(reversed(node.children))


def node_of_schema(root: Position) -> Node:
    """Return the tree of all positions that a schema declares."""
    top = Node("(body)", root.kind, root.decision)
    waiting: list[tuple[Node, Position, frozenset[Position]]] = [(top, root, frozenset({root}))]
    remaining = NODES_MAX
    while waiting:
        node, position, above = waiting.pop()
        # NODES_MAX bounds the breadth; a long chain of schemas is cut by its depth.
        if len(above) > DEPTH_MAX or remaining <= 0:
            node.cut = bool(position.children)
            continue
        for step, child in position.children:
            remaining -= 1
            part = Node(step.label, child.kind, child.decision, repeats=child in above)
            node.children.append(part)
            if not part.repeats:
                waiting.append((part, child, above | {child}))
    return top


class _Observed:
    """What one body held at one position, and how much of it the event holds."""

    def __init__(self, position: Position | None, label: str) -> None:
        self.position = position
        """None for parts that are not declared."""
        self.label = label
        self.parts: dict[Step | None, _Observed] = {}
        """By step; under None all parts that are not declared."""
        self.values = 0
        """Values in the body."""
        self.kept_values = 0
        """Values in the event."""
        self.kept_scalars = 0
        """Scalars in the event at this position, or in a free-form object here; those of its parts are not included."""

    def part(self, step: Step | None, position: Position | None) -> _Observed:
        """Return what is one step below; it is added if it is new."""
        label = f"({_UNDECLARED})" if step is None else step.label
        return self.parts.setdefault(step, _Observed(position, label))

    def ordered_parts(self) -> list[_Observed]:
        """Return the parts in document order, those that are not declared last."""
        declared = () if self.position is None else self.position.children
        order: dict[Step | None, int] = {child.step: index for index, child in enumerate(declared)}
        return [self.parts[step] for step in sorted(self.parts, key=lambda step: order.get(step, len(order)))]


def node_of_values(root: Position, bodies: Sequence[Json], recorded: Sequence[Json]) -> Node:
    """Return the tree of the positions that a body holds, or several bodies such as the lines of NDJSON.

    `recorded` is what the event holds of them. All elements of an array are one node, and so are the entries of a map.
    """
    observed = _Observed(root, "(body)")
    declarations = _Declarations()
    for body in bodies:
        for each, _ in _observe(observed, body, declarations):
            each.values += 1
    for body in recorded:
        for each, scalars in _observe(observed, body, declarations):
            each.kept_values += 1
            each.kept_scalars += scalars
    return _TreeBuilder().node(observed)


def node_of_form(root: Position, recorded: Sequence[Json]) -> Node:
    """Return the tree of all positions that a form's schema declares, with what the event holds of the form.

    The redactor reads a form only as far as it is recorded, so what else the form held is not known.
    """
    top = node_of_schema(root)
    found_top = node_of_values(root, recorded, recorded) if recorded else None
    waiting: list[tuple[Node, Node | None]] = [(top, found_top)]
    while waiting:
        node, found = waiting.pop()
        node.kept = 0 if found is None else found.kept
        if found is None and node.decision.outcome is not Outcome.DROPPED:
            node.decision = dropped(6, _NOT_PRESENT, node.decision.pointer)
        # Both trees are made from one schema, so a part has the same label in both.
        parts = {} if found is None else {each.label: each for each in found.children}
        waiting.extend((each, parts.get(each.label)) for each in node.children)
    return top


def _observe(root: _Observed, body: Json, declarations: _Declarations) -> Iterator[tuple[_Observed, int]]:
    """Yield each position at which a body holds a value, with the number of scalars at that very position."""
    waiting: list[tuple[_Observed, Json]] = [(root, body)]
    while waiting:
        observed, value = waiting.pop()
        parts = _parts_of(observed.position, value, declarations)
        yield observed, 0 if parts else _own_scalars(observed.position, value)
        for (step, position), part in parts:
            waiting.append((observed.part(step, position), part))


def _own_scalars(position: Position | None, value: Json) -> int:
    is_whole = position is None or position.is_field or not isinstance(value, dict | list)
    return count_scalars(value) if is_whole else 0


_Declared = tuple[Step | None, "Position | None"]
"""The step and position that describe a part; both None for a part that is not declared."""


def _parts_of(
    position: Position | None, value: Json, declarations: _Declarations
) -> list[tuple[_Declared, Json]]:
    """Return the parts of a value and where each is declared. What is not declared has no parts."""
    if position is None or position.is_field:
        return []
    if type(value) is dict:
        return [(declarations.of_key(position, key), part) for key, part in value.items()]
    if type(value) is list:
        return [(declarations.of_index(position, index), part) for index, part in enumerate(value)]
    # A scalar where containers are declared too: SCALAR stands for it. A null is counted at the position itself.
    if value is None:
        return []
    return [((each.step, each.position), value) for each in position.children if each.step == SCALAR]


class _Declarations:
    """Finds the declaration of a part of a value."""

    def __init__(self) -> None:
        self._by_position: dict[Position, Mapping[Step, Position]] = {}

    def of_key(self, position: Position, key: str) -> _Declared:
        """Return the declared property of that name, else the pattern that matches, else the entry of the map."""
        declared = self._declared(position)
        named = Step(StepKind.PROPERTY, key)
        if named in declared:
            return named, declared[named]
        for step, child in declared.items():
            if step.kind is StepKind.ENTRY or (step.kind is StepKind.PATTERN and _matches(step.text, key)):
                return step, child
        return None, None

    def of_index(self, position: Position, index: int) -> _Declared:
        """Return the slot of `prefixItems`, else the items of the array."""
        declared = self._declared(position)
        for step in (Step(StepKind.SLOT, str(index)), ITEMS):
            if step in declared:
                return step, declared[step]
        return None, None

    def _declared(self, position: Position) -> Mapping[Step, Position]:
        if position not in self._by_position:
            self._by_position[position] = dict(position.children)
        return self._by_position[position]


def _matches(pattern: str, key: str) -> bool:
    # RE2 as in the redactor: a pattern that it refuses grants nothing, so it describes no key here either.
    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern, options).search(key) is not None
    except re2.error:
        return False


class _TreeBuilder:
    """Makes the nodes of what was observed, NODES_MAX at most."""

    def __init__(self) -> None:
        self._remaining = NODES_MAX

    def node(self, observed: _Observed) -> Node:
        """Return the node of a position with all below it; `cut` where NODES_MAX is reached."""
        self._remaining -= 1
        kind = "" if observed.position is None else observed.position.kind
        node = Node(observed.label, kind, _decision_of(observed))
        kept = observed.kept_scalars
        for part in observed.ordered_parts():
            if self._remaining <= 0:
                node.cut = True
                break
            child = self.node(part)
            node.children.append(child)
            kept += child.kept or 0
        node.kept = kept
        return node


def _decision_of(observed: _Observed) -> Decision:
    """Return what became of the values at a position, where their declaration alone does not decide it."""
    if observed.position is None:
        return dropped(1, _UNDECLARED, "")
    decision = observed.position.decision
    if observed.kept_values:
        return _decision_if_kept(observed, decision)
    if decision.outcome is Outcome.DROPPED:
        return decision
    if observed.parts and not observed.position.is_field:
        return dropped(11, "nothing in it is recorded", decision.pointer)
    return dropped(6, _UNFIT, decision.pointer)


def _decision_if_kept(observed: _Observed, decision: Decision) -> Decision:
    if decision.outcome is Outcome.DROPPED:
        return Decision(Outcome.PRESENCE, 11, "null replaces a slot that is dropped", decision.pointer)
    if observed.kept_values < observed.values:
        reason = f"{decision.reason}; values that do not fit, or hold nothing recorded, are left out"
        return decision._replace(reason=reason)
    return decision
