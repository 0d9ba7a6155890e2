"""How many fields of an operation are recorded, and which ones a change of the document adds or removes.

A field is a declared scalar, a free-form object or a value of any type: whatever has no declared parts of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

from redactor.report.decisions import Outcome, Step, path_text
from redactor.report.operation_fields import Body, DocumentFields, OperationFields, Side
from redactor.report.parameter_fields import ParameterField, parameter_fields
from redactor.report.schema_tree import Position

FIELDS_MAX = 20_000
"""Fields listed or counted of one body."""
DEPTH_MAX = 64
"""Levels walked. A recursive schema ends where it refers to itself, so this bounds only the others."""
CHANGES_MAX = 10_000

_PATH_VARIABLE = re.compile(r"\{[^{}]*\}")


class Tally(NamedTuple):
    """A number of fields, and how many of them are recorded."""

    fields: int = 0
    kept: int = 0

    @property
    def percent(self) -> float | None:
        """The share that is recorded, 0 to 100; None where there are no fields."""
        return None if self.fields == 0 else 100 * self.kept / self.fields


def total(tallies: Iterable[Tally]) -> Tally:
    listed = list(tallies)
    return Tally(sum(each.fields for each in listed), sum(each.kept for each in listed))


class _Parts(NamedTuple):
    """The parts of a container."""

    own: Tally
    """Those that are fields."""
    containers: tuple[Position, ...]


class FieldCounter:
    """Counts the fields below positions. A recursive schema is counted once on each path down to it.

    One counter serves all bodies of a document: a schema that many of them share is counted once.
    """

    def __init__(self) -> None:
        self._known: dict[Position, Tally] = {}
        self._parts: dict[Position, _Parts] = {}
        self._steps_left = 0

    def count(self, root: Position) -> Tally:
        """Return the fields of a body and how many of them are recorded.

        At most FIELDS_MAX positions are visited that are not known from another body.
        """
        self._steps_left = FIELDS_MAX
        return self._count(root, set(), 0)[0]

    def _count(self, position: Position, above: set[Position], depth: int) -> tuple[Tally, bool]:
        """Return the tally, and whether it is complete.

        Only a complete tally may be reused elsewhere: one that was cut depends on the path that led to the position.
        """
        known = self._known.get(position)
        if known is not None:
            return known, True
        if position.is_field:
            return _tally_of(position), True
        if depth >= DEPTH_MAX or self._steps_left <= 0:
            return Tally(), False
        # Recursion is safe here: DEPTH_MAX bounds it.
        parts = self._parts_of(position)
        self._steps_left -= parts.own.fields
        fields, kept = parts.own
        is_complete = True
        above.add(position)
        for child in parts.containers:
            if child in above or self._steps_left <= 0:
                is_complete = False
                continue
            self._steps_left -= 1
            tally, child_is_complete = self._count(child, above, depth + 1)
            fields += tally.fields
            kept += tally.kept
            is_complete = is_complete and child_is_complete
        above.remove(position)
        summed = Tally(fields, kept)
        if is_complete:
            self._known[position] = summed
        return summed, is_complete

    def _parts_of(self, position: Position) -> _Parts:
        """Return the parts of a container; each is found once, because recursive schemas lead to it many times."""
        known = self._parts.get(position)
        if known is None:
            children = [child for _, child in position.children]
            own = total(_tally_of(child) for child in children if child.is_field)
            containers = tuple(child for child in children if not child.is_field)
            known = self._parts[position] = _Parts(own, containers)
        return known


def _tally_of(field: Position | ParameterField) -> Tally:
    return Tally(1, int(field.decision.outcome is Outcome.KEPT))


class FieldPath(NamedTuple):
    """A field and the steps from the body's root to it."""

    steps: tuple[Step, ...]
    position: Position

    @property
    def path(self) -> str:
        """The steps as text, such as `rules[].name`."""
        return path_text(self.steps)


def fields_of(root: Position) -> Iterator[FieldPath]:
    """Yield the fields below a position in document order, FIELDS_MAX at most."""
    return _fields_of(root, kept_only=False)


def kept_fields_of(root: Position) -> Iterator[FieldPath]:
    """Yield those fields below a position that are recorded, FIELDS_MAX at most."""
    return _fields_of(root, kept_only=True)


def _fields_of(root: Position, *, kept_only: bool) -> Iterator[FieldPath]:
    remaining = FIELDS_MAX
    waiting: list[tuple[tuple[Step, ...], Position, frozenset[Position]]] = [((), root, frozenset())]
    while waiting and remaining > 0:
        steps, position, above = waiting.pop()
        if kept_only and position.decision.outcome is not Outcome.KEPT:
            continue
        if position.is_field:
            remaining -= 1
            yield FieldPath(steps, position)
        elif len(steps) < DEPTH_MAX:
            within = above | {position}
            # A stack returns the last first, so the parts are added in reverse to come out in document order.
            for step, child in reversed(position.children):
                if child not in within:
                    waiting.append(((*steps, step), child, within))


class BodyCoverage(NamedTuple):
    """One body and how many of its fields are recorded."""

    body: Body
    tally: Tally


class OperationCoverage:
    """What is recorded of one operation: of each of its bodies, and of its path and query parameters."""

    def __init__(self, fields: OperationFields, counter: FieldCounter) -> None:
        self.operation = fields.operation
        self.product = fields.resolved.facts.product or ""
        self.reads_bodies = fields.reads_responses
        bodies = fields.bodies() if self.reads_bodies else ()
        self.bodies = tuple(
            BodyCoverage(body, Tally() if body.root is None else counter.count(body.root)) for body in bodies
        )
        self.parameters: tuple[ParameterField, ...] = tuple(parameter_fields(fields))

    @property
    def name(self) -> str:
        """Method and path template."""
        return f"{self.operation.method} {self.operation.template}"

    def side(self, side: Side) -> Tally:
        """Return the tally of one side over all media types and statuses."""
        return self._sides[side]

    @cached_property
    def _sides(self) -> Mapping[Side, Tally]:
        tallies: dict[Side, list[Tally]] = {side: [] for side in Side}
        for body, tally in self.bodies:
            tallies[body.side].append(tally)
        for parameter in self.parameters:
            tallies[parameter.side].append(_tally_of(parameter))
        return {side: total(found) for side, found in tallies.items()}

    def kept_paths(self) -> Iterator[tuple[str, str]]:
        """Yield where and under which path each recorded field is: `response 200 application/json`, `result.id`."""
        for body, tally in self.bodies:
            if body.root is not None and tally.kept:
                where = " ".join(filter(None, (body.side, body.status, body.media_type)))
                for field in kept_fields_of(body.root):
                    yield where, field.path
        yield from self._kept_parameters()

    def _kept_parameters(self) -> Iterator[tuple[str, str]]:
        variables = [each for each in self.parameters if each.side is Side.PATH]
        for number, variable in enumerate(variables, 1):
            if variable.decision.outcome is Outcome.KEPT:
                # Path variables have numbers here, so that renaming one is no change of what is recorded.
                yield Side.PATH, f"variable {number}"
        for parameter in self.parameters:
            if parameter.side is Side.QUERY and parameter.decision.outcome is Outcome.KEPT:
                yield Side.QUERY, parameter.path


def coverage_of(document_fields: DocumentFields) -> tuple[OperationCoverage, ...]:
    """Return the coverage of every operation that a request can reach, in document order."""
    counter = FieldCounter()
    reachable = (document_fields.of(operation) for operation in document_fields.operations)
    return tuple(OperationCoverage(each, counter) for each in reachable if each is not None)


def by_side(operations: Sequence[OperationCoverage]) -> Mapping[Side, Tally]:
    """Return the tally of each side over several operations."""
    return {side: total([each.side(side) for each in operations]) for side in Side}


class Change(NamedTuple):
    """One field that is recorded under one of two documents and not under the other."""

    exposed: bool
    """Whether the new document records it, and the old one does not."""
    operation: str
    pointer: str
    where: str
    """Side, status and media type."""
    path: str


def changes_between(old: Sequence[OperationCoverage], new: Sequence[OperationCoverage]) -> Iterator[Change]:
    """Yield what `new` records and `old` does not, then the reverse.

    Operations correspond if method and path agree; the names of path variables may differ.
    """
    old_by_key = {_key(each): each for each in old}
    new_by_key = {_key(each): each for each in new}
    for key, operation in new_by_key.items():
        pointer = operation.operation.place.pointer
        yield from _kept_only_by(operation, old_by_key.get(key), exposed=True, pointer=pointer)
    for key, operation in old_by_key.items():
        # An operation that is gone has no place in the new document.
        pointer = operation.operation.place.pointer if key in new_by_key else "/paths"
        yield from _kept_only_by(operation, new_by_key.get(key), exposed=False, pointer=pointer)


def _key(operation: OperationCoverage) -> str:
    return _PATH_VARIABLE.sub("{}", operation.name)


def _kept_only_by(
    operation: OperationCoverage, other: OperationCoverage | None, *, exposed: bool, pointer: str
) -> Iterator[Change]:
    kept_by_other = set() if other is None else set(other.kept_paths())
    for where, path in dict.fromkeys(operation.kept_paths()):
        if (where, path) not in kept_by_other:
            yield Change(exposed, operation.name, pointer, where, path)
