"""Finding the operations of a path quickly: the trie of routes turned into an automaton, state by state as it is used.

A state stands for every node of the trie that the segments so far can lead to, so that one look-up a segment is enough.
States depend on the table alone, never on what is asked: literals that the table does not have share one state.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redactor.routes import Node, Route, Table, most_literal

_STATES_MAX = 50_000
_DOUBTFUL = ("", ".", "..")


class State:
    """The nodes that a path may have led to."""

    __slots__ = ("_has_partials", "_nodes", "_routes", "_states", "literals", "memory", "otherwise")

    def __init__(self, nodes: Sequence[Node], states: dict[tuple[int, ...], State]) -> None:
        self._nodes = nodes
        self._states = states
        self._has_partials = any(node.partials for node in nodes)
        self._routes: dict[str, tuple[Route, ...]] = {}
        self.literals: dict[str, State | None] = dict.fromkeys(
            [*_DOUBTFUL, *(name for node in nodes for name in node.literals)]
        )
        """Where each of the table's own literals leads; None until it was met, and for what only the trie judges."""
        self.memory: dict[tuple[str, int], Any] = {}
        """What whoever asks wants to find here again, by method and status."""
        self.otherwise: State | None = None
        """Where every other segment leads; None until one was met, or where it depends on patterns."""

    def governing(self, method: str) -> tuple[Route, ...]:
        """Return the operations that govern `method` here, as `Routes.match` does."""
        found = self._routes.get(method)
        if found is None:
            found = most_literal([route for node in self._nodes for route in node.routes.get(method, ())])
            if found:
                self._routes[method] = found
        return found

    def made(self, segment: str) -> State | None:
        """Return the state behind a segment; None where only the trie can tell."""
        is_literal = segment in self.literals
        if segment in _DOUBTFUL or (self._has_partials and not is_literal):
            return None  # what a pattern says of a segment is not known beforehand
        nodes = [child for node in self._nodes for child in node.children(segment)]
        key = tuple(map(id, nodes))
        state = self._states.get(key)
        if state is None:
            if len(self._states) >= _STATES_MAX:
                return None
            state = self._states[key] = State(nodes, self._states)
        if is_literal:
            self.literals[segment] = state
        else:
            self.otherwise = state
        return state


def automaton(table: Table) -> State:
    """Return the state in which every path of a table begins: before the nothing that its first slash follows."""
    states: dict[tuple[int, ...], State] = {}
    before = State([Node()], states)
    before.literals[""] = State([table.root], states)
    return before


def walk(state: State | None, segments: Sequence[str]) -> State | None:
    """Return the state behind all segments, the first of them empty; None where only the trie can tell."""
    for segment in segments:
        if state is None:
            return None
        state = state.literals.get(segment, state.otherwise) or state.made(segment)
    return state
