"""The fast form of route matching: a deterministic automaton, built from the trie as paths are looked up.

A state stands for all trie nodes that the segments so far can lead to, so one dictionary look-up per segment is enough.
Which states exist depends on the route table alone, not on the traffic: segments that the table does not hold share one
state.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redactor.openapi.routes import Route, RouteTable, TrieNode, most_literal

# Bounds memory; beyond it the trie decides, with the same result.
_STATES_MAX = 50_000
_NEVER_CACHED = ("", ".", "..")  # segments that are refused, or allowed at a path's end only


class RouteState:
    """All trie nodes that the segments of a path so far match."""

    __slots__ = ("_has_partials", "_nodes", "_routes", "_states", "cache", "literals", "otherwise")

    def __init__(self, nodes: Sequence[TrieNode], states: dict[tuple[int, ...], RouteState]) -> None:
        self._nodes = nodes
        self._states = states
        self._has_partials = any(node.partials for node in nodes)
        self._routes: dict[str, tuple[Route, ...]] = {}
        self.literals: dict[str, RouteState | None] = dict.fromkeys(
            [*_NEVER_CACHED, *(name for node in nodes for name in node.literals)]
        )
        """The next state for each literal of the table; None until it is built, and where only the trie can decide."""
        self.cache: dict[tuple[str, int], Any] = {}
        """What the caller keeps for this state, by method and status."""
        self.otherwise: RouteState | None = None
        """The next state for every other segment; None until it is built, and where patterns decide."""

    def routes_for(self, method: str) -> tuple[Route, ...]:
        """Return the routes of `method` for a path that ends here, as `Routes.match` does."""
        found = self._routes.get(method)
        if found is None:
            found = most_literal([route for node in self._nodes for route in node.routes.get(method, ())])
            # Only what is found is kept, because clients may send any method.
            if found:
                self._routes[method] = found
        return found

    def next_state(self, segment: str) -> RouteState | None:
        """Build the state after a segment; None where only the trie can decide."""
        is_literal = segment in self.literals
        if segment in _NEVER_CACHED or (self._has_partials and not is_literal):
            return None  # whether a pattern matches depends on the segment itself
        nodes = [child for node in self._nodes for child in node.children(segment)]
        key = tuple(map(id, nodes))
        state = self._states.get(key)
        if state is None:
            # The trie decides then, with the same result.
            if len(self._states) >= _STATES_MAX:
                return None
            state = self._states[key] = RouteState(nodes, self._states)
        if is_literal:
            self.literals[segment] = state
        else:
            self.otherwise = state
        return state


def start_state(table: RouteTable) -> RouteState:
    """Return the state before a path's first segment, which is the empty text before its first slash."""
    states: dict[tuple[int, ...], RouteState] = {}
    before = RouteState([TrieNode()], states)
    before.literals[""] = RouteState([table.root], states)
    return before


def state_after(state: RouteState | None, segments: Sequence[str]) -> RouteState | None:
    """Return the state after all segments, the first of them empty; None where only the trie can decide."""
    for segment in segments:
        if state is None:
            return None
        state = state.literals.get(segment, state.otherwise) or state.next_state(segment)
    return state
