"""Which operations govern a request: a trie of path segments, walked over decoded segments.

A wrong operation is a wrong allow-list. So the whole path must match, among the templates that have the method; a
more literal template goes before a less literal one, and where neither of two is more literal than the other
(crosswise, or twins of one shape), all of them govern together and only what all of them keep is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from redactor.document import LoadedDocument
from redactor.operations import LITERAL, TEMPLATED, Operation, Segment, Server, operations_of
from redactor.plan import Pattern
from redactor.url import Segments, Url
from schemas.event import UnmatchedReason


class Route(NamedTuple):
    """One operation below one base path."""

    operation: Operation
    base_length: int
    ranks: tuple[int, ...]


class Match(NamedTuple):
    """The operations that govern, more literal first, or why none does."""

    routes: tuple[Route, ...]
    unmatched: UnmatchedReason | None
    known_path: str
    """For what did not match: the longest literal prefix that the table has, in the table's own text."""


class Node:
    """A place in the trie of segments."""

    __slots__ = ("is_base", "literals", "partials", "routes", "templated", "text")

    def __init__(self, text: str = "") -> None:
        self.text = text
        self.is_base = False
        self.literals: dict[str, Node] = {}
        self.partials: dict[str, tuple[Pattern, Node]] = {}
        self.templated: Node | None = None
        self.routes: dict[str, list[Route]] = {}

    def descend(self, segment: Segment) -> Node:
        """Return the child for a template's segment, made if need be."""
        if segment.rank == LITERAL:
            return self.literals.setdefault(segment.literal, Node(segment.text))
        if segment.rank == TEMPLATED:
            self.templated = self.templated or Node()
            return self.templated
        assert segment.pattern is not None  # noqa: S101  every partly literal segment has one
        return self.partials.setdefault(segment.text, (segment.pattern, Node()))[1]

    def children(self, segment: str) -> Iterator[Node]:
        """Yield every child that a path's segment may lead to."""
        literal = self.literals.get(segment)
        if literal is not None:
            yield literal
        if segment:
            for pattern, node in self.partials.values():
                if pattern.search(segment) is not None:
                    yield node
            if self.templated is not None:
                yield self.templated


class Table:
    """The routes of one host."""

    def __init__(self) -> None:
        self.root = Node()

    def add(self, operation: Operation, server: Server) -> None:
        """Add an operation below a server's base path."""
        node = self.root
        for segment in server.base:
            node = node.descend(segment)
        node.is_base = True
        for segment in operation.segments:
            node = node.descend(segment)
        ranks = tuple(segment.rank for segment in (*server.base, *operation.segments))
        routes = node.routes.setdefault(operation.method, [])
        if all(route.operation is not operation for route in routes):
            routes.append(Route(operation, len(server.base), ranks))

    def ends(self, segments: Sequence[str]) -> list[dict[str, list[Route]]]:
        """Return the routes by method of every template that matches all of the path."""
        level = [self.root]
        for segment in segments:
            level = [child for node in level for child in node.children(segment)]
        return [node.routes for node in level if node.routes]

    def known_path(self, segments: Iterable[str]) -> str:
        """Return the longest literal prefix of a path that the table has, in its own text."""
        node: Node | None = self.root
        texts: list[str] = []
        for segment in segments:
            node = node.literals.get(segment) if node is not None else None
            if node is None:
                break
            texts = [] if node.is_base else [*texts, node.text]
        return "".join("/" + text for text in texts if text)


class Routes:
    """The routes of all documents."""

    def __init__(self, documents: Sequence[LoadedDocument], *, trailing_slash_allowed: bool) -> None:
        self._trailing_slash_allowed = trailing_slash_allowed
        self._by_host: dict[str, Table] = {}
        self._by_pattern: dict[str, tuple[Pattern, Table]] = {}
        self._any_host = Table()
        self._serves_any_host = False
        for document in documents:
            for operation in operations_of(document):
                self._add(operation, alone=len(documents) == 1)

    def _add(self, operation: Operation, *, alone: bool) -> None:
        hosts = operation.document.config.hosts
        for server in operation.servers:
            if hosts:
                for host in hosts:
                    self._by_host.setdefault(host.lower(), Table()).add(operation, server)
            elif alone or (server.host is None and server.host_pattern is None):
                self._serves_any_host = True
                self._any_host.add(operation, server)
            elif server.host is not None:
                self._by_host.setdefault(server.host, Table()).add(operation, server)
            elif server.host_pattern is not None:
                key = str(getattr(server.host_pattern, "pattern", ""))
                self._by_pattern.setdefault(key, (server.host_pattern, Table()))[1].add(operation, server)

    @property
    def depend_on_host(self) -> bool:
        """Tell whether some document is bound to a host."""
        return bool(self._by_host or self._by_pattern)

    def only_table(self, host: str | None) -> Table | None:
        """Return the one table that serves a host; None where there is none, or several."""
        tables = self._tables(host)
        return tables[0] if len(tables) == 1 else None

    def known_path(self, url: Url, host: str | None, segments: Segments) -> str:
        """Return the longest literal prefix of the path that the table has, in the table's own text."""
        tables = self._tables(url.host if url.host is not None else host)
        return max((table.known_path(segments.decoded) for table in tables), key=len, default="")

    def match(self, url: Url, host: str | None, method: str, segments: Segments) -> Match:
        """Return what governs `method` on the path whose segments are given.

        `host` counts where the URL names none; where neither does, only a document for any host can match.
        """
        tables = self._tables(url.host if url.host is not None else host)
        if not tables:
            return Match((), UnmatchedReason.NO_DOCUMENT, "")
        ends = self._ends(tables, segments) if segments.are_all else []
        routes = most_literal([route for by_method in ends for route in by_method.get(method, ())])
        if routes:
            return Match(routes, None, "")
        known_path = self.known_path(url, host, segments)
        if ends:
            return Match((), UnmatchedReason.NO_METHOD, known_path)
        invalid = not segments.are_all or segments.decoded[-1:] == ("",)
        return Match((), UnmatchedReason.INVALID_PATH if invalid else UnmatchedReason.NO_PATH, known_path)

    def _tables(self, host: str | None) -> list[Table]:
        tables = []
        if host == "" and (self._by_host or self._by_pattern):
            return []  # a host stands there and cannot be told: it may be one that a document is bound to
        if host is not None:
            exact = self._by_host.get(host)
            tables = [] if exact is None else [exact]
            tables += [
                table for pattern, table in self._by_pattern.values() if pattern.search(host) is not None
            ]
        return tables or ([self._any_host] if self._serves_any_host else [])

    def _ends(self, tables: Sequence[Table], segments: Segments) -> list[dict[str, list[Route]]]:
        decoded = segments.decoded
        ends = [end for table in tables for end in table.ends(decoded)]
        if not ends and self._trailing_slash_allowed and len(decoded) > 1 and decoded[-1] == "":
            ends = [end for table in tables for end in table.ends(decoded[:-1])]
        return ends


def most_literal(routes: Sequence[Route]) -> tuple[Route, ...]:
    """Return the routes that no other is more literal than, leftmost literal first."""
    if len(routes) < 2:
        return tuple(routes)
    best = [each for each in routes if not any(_is_more_literal(other.ranks, each.ranks) for other in routes)]
    return tuple(sorted(best, key=lambda route: route.ranks, reverse=True))


def _is_more_literal(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return one != other and all(mine >= yours for mine, yours in zip(one, other, strict=True))
