"""Matching a request that matches nothing as written, to say whose action it was (`decode/lenient_path.py`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

import re2

from redactor.decode.lenient_path import LenientReading, lenient_readings
from redactor.openapi.pattern import Pattern
from redactor.openapi.routes import Route, RouteTable, TrieNode, is_more_literal

Select = Callable[[TrieNode], Sequence[Route]]
# Partly literal segments of all documents, compiled on first use: only a request that matches nothing is read leniently.
_PATTERNS_MAX: Final = 4_096


class LenientMatch(NamedTuple):
    """The operations that a reading matches, more literal first, and the segments that it matches them by."""

    routes: tuple[Route, ...]
    segments: Sequence[str]


def lenient_match(tables: Sequence[RouteTable], path: str, method: str) -> LenientMatch | None:
    """Return what the first reading matches that matches anything of this method. Methods are compared in any case."""
    wanted = method.upper()
    return _first_match(tables, path, lambda node: node.routes.get(wanted, ()))


def lenient_match_of_any_method(tables: Sequence[RouteTable], path: str) -> LenientMatch | None:
    """Return what the first reading matches that matches anything, whatever its method."""
    return _first_match(
        tables, path, lambda node: [route for routes in node.routes.values() for route in routes]
    )


def _first_match(tables: Sequence[RouteTable], path: str, select: Select) -> LenientMatch | None:
    for reading in lenient_readings(path):
        nodes = [node for table in tables for node in _matching(table, reading)]
        routes = [route for node in nodes for route in select(node)]
        if routes:
            length = len(reading.segments)
            return LenientMatch(_most_literal(routes, length), _as_declared(routes, reading.segments))
    return None


def _matching(table: RouteTable, reading: LenientReading) -> list[TrieNode]:
    level = [table.root]
    for segment in reading.segments:
        level = [child for node in level for child in _children(node, segment, reading)]
        if not level:
            return []
    # A template may end in a slash, which no reading has.
    return level + [end for node in level if (end := node.literals.get("")) is not None]


def _children(node: TrieNode, segment: str, reading: LenientReading) -> Iterator[TrieNode]:
    yield from node.children(segment)
    if not reading.folds_case:
        return
    exact = node.literals.get(segment)
    yield from (each for each in node.literals_in_any_case(segment) if each is not exact)
    for pattern, child in node.partials.values():
        if pattern.search(segment) is None and _in_any_case(pattern.pattern).search(segment) is not None:
            yield child


@lru_cache(_PATTERNS_MAX)
def _in_any_case(pattern: str) -> Pattern:
    compiled: Pattern = re2.compile("(?i)" + pattern)
    return compiled


def _as_declared(routes: Sequence[Route], segments: Sequence[str]) -> Sequence[str]:
    """Return the segments, with the empty one behind the last slash where every template has it."""
    return [*segments, ""] if all(len(route.ranks) > len(segments) for route in routes) else segments


def _most_literal(routes: Sequence[Route], length: int) -> tuple[Route, ...]:
    """Return the routes that no other one beats, as `most_literal` does; a slash at a template's end does not count."""
    ranks = {id(route): route.ranks[:length] for route in routes}
    best = [
        each
        for each in routes
        if not any(is_more_literal(ranks[id(other)], ranks[id(each)]) for other in routes)
    ]
    return tuple(sorted(best, key=lambda route: ranks[id(route)], reverse=True))
