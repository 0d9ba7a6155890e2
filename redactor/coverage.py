"""How much of what an operation may carry is kept: leaves counted, and their paths listed, by side and body."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

from redactor.decisions import Step, Verdict, path_text
from redactor.parameter_surface import ParameterLeaf, parameter_leaves
from redactor.schema_tree import Position
from redactor.surface import Body, OperationSurface, Side, Surface

LEAVES_MAX = 20_000
"""Leaves listed or counted of one body."""
DEPTH_MAX = 64
"""Levels walked; a recursive schema ends where it comes back to itself, so this bounds the others."""


class Tally(NamedTuple):
    """Leaves, and how many of them are kept."""

    leaves: int = 0
    kept: int = 0

    @property
    def percent(self) -> float | None:
        """The share that is kept; None of nothing."""
        return None if self.leaves == 0 else 100 * self.kept / self.leaves


def total(tallies: Iterator[Tally] | Sequence[Tally]) -> Tally:
    """Return the sum of tallies."""
    listed = list(tallies)
    return Tally(sum(each.leaves for each in listed), sum(each.kept for each in listed))


class LeafCounter:
    """Counts the leaves below positions. A schema that refers to itself is counted once on each way down."""

    def __init__(self) -> None:
        self._known: dict[Position, Tally] = {}
        self._left = 0

    def count(self, root: Position) -> Tally:
        """Return the leaves of a body and how many are kept; at most LEAVES_MAX of those that recur."""
        self._left = LEAVES_MAX
        return self._count(root, set(), 0)[0]

    def _count(self, position: Position, above: set[Position], depth: int) -> tuple[Tally, bool]:
        """Return the tally, and whether it is whole: the same wherever the position stands."""
        known = self._known.get(position)
        if known is not None:
            return known, True
        if position.is_leaf:
            return Tally(1, int(position.decision.verdict is Verdict.KEPT)), True
        leaves = kept = 0
        whole = True
        above.add(position)
        for _, child in position.children:
            if child in above or depth >= DEPTH_MAX or self._left <= 0:
                whole = False
                continue
            self._left -= 1
            (more, more_kept), part_is_whole = self._count(child, above, depth + 1)
            leaves, kept, whole = leaves + more, kept + more_kept, whole and part_is_whole
        above.remove(position)
        if whole:
            self._known[position] = Tally(leaves, kept)
        return Tally(leaves, kept), whole


class Leaf(NamedTuple):
    """A leaf and the way to it."""

    steps: tuple[Step, ...]
    position: Position

    @property
    def path(self) -> str:
        """The way as text."""
        return path_text(self.steps)


def leaves_of(root: Position, *, kept_only: bool = False) -> Iterator[Leaf]:
    """Yield the leaves below a position, LEAVES_MAX at most; with `kept_only`, those that are kept."""
    left = LEAVES_MAX
    waiting: list[tuple[tuple[Step, ...], Position, frozenset[Position]]] = [((), root, frozenset())]
    while waiting and left > 0:
        steps, position, above = waiting.pop()
        if position.is_leaf:
            if position.decision.verdict is Verdict.KEPT or not kept_only:
                left -= 1
                yield Leaf(steps, position)
            continue
        if len(steps) >= DEPTH_MAX or (kept_only and position.decision.verdict is not Verdict.KEPT):
            continue
        within = above | {position}
        waiting.extend(
            ((*steps, step), child, within)
            for step, child in reversed(position.children)
            if child not in within
        )


class BodyCoverage(NamedTuple):
    """One body and what of it is kept."""

    body: Body
    tally: Tally


class OperationCoverage:
    """What is kept of one operation's bodies and parameters."""

    def __init__(self, surface: OperationSurface, counter: LeafCounter) -> None:
        self.operation = surface.operation
        self.product = surface.governing.facts.product or ""
        self.reads_bodies = surface.reads_responses
        self.bodies = tuple(
            BodyCoverage(body, Tally() if body.root is None else counter.count(body.root))
            for body in (surface.bodies() if self.reads_bodies else ())
        )
        self.parameters: tuple[ParameterLeaf, ...] = tuple(parameter_leaves(surface))

    @property
    def name(self) -> str:
        """Method and path template."""
        return f"{self.operation.method} {self.operation.template}"

    def side(self, side: Side) -> Tally:
        """Return the leaves of one side, over all media types and statuses."""
        return self._sides[side]

    @cached_property
    def _sides(self) -> Mapping[Side, Tally]:
        tallies: dict[Side, list[Tally]] = {side: [] for side in Side}
        for body, tally in self.bodies:
            tallies[body.side].append(tally)
        for each in self.parameters:
            tallies[each.side].append(Tally(1, int(each.decision.verdict is Verdict.KEPT)))
        return {side: total(found) for side, found in tallies.items()}

    def kept_paths(self) -> Iterator[tuple[str, str]]:
        """Yield every leaf that is kept: where (side, status, media type), and its path.

        A variable of the path is told by its place, whatever its name.
        """
        for body, tally in self.bodies:
            if body.root is not None and tally.kept:
                where = " ".join(filter(None, (body.side, body.status, body.media_type)))
                for leaf in leaves_of(body.root, kept_only=True):
                    yield where, leaf.path
        variables = [each for each in self.parameters if each.side is Side.PATH]
        for number, each in enumerate(variables, 1):
            if each.decision.verdict is Verdict.KEPT:
                yield Side.PATH, f"variable {number}"
        for each in self.parameters:
            if each.side is Side.QUERY and each.decision.verdict is Verdict.KEPT:
                yield Side.QUERY, each.path


def coverage_of(surface: Surface) -> tuple[OperationCoverage, ...]:
    """Return the coverage of every operation that a request can reach, in document order."""
    counter = LeafCounter()
    reachable = (surface.of(operation) for operation in surface.operations)
    return tuple(OperationCoverage(each, counter) for each in reachable if each is not None)


def by_side(operations: Sequence[OperationCoverage]) -> Mapping[Side, Tally]:
    """Return the leaves of each side over several operations."""
    return {side: total([each.side(side) for each in operations]) for side in Side}
