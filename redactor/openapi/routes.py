"""Matching a request to operations: a trie of path segments for each host.

A wrong operation is a wrong allow-list, so the whole path must match. Among the templates that have the method, a more
literal one wins over a less literal one. Where neither of two is more literal than the other (they cross, or have the
same shape), both apply, and only what all of them keep is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from redactor.decode.url import Segments, Url
from redactor.openapi.document import OpenApiDocument
from redactor.openapi.operations import (
    LITERAL,
    TEMPLATED,
    VARIABLE,
    Operation,
    Segment,
    Server,
    operations_of,
)
from redactor.openapi.pattern import Pattern
from schemas.event import UnmatchedReason

_COMBINED_MAX = 50_000
_SAMPLE = "\u00a7"


class Route(NamedTuple):
    """One operation below one base path."""

    operation: Operation
    base_length: int
    """How many segments the base path has."""
    ranks: tuple[int, ...]
    """How literal each segment is, those of the base path included."""


class Match(NamedTuple):
    """The operations that a request matches, more literal first, or why it matches none."""

    routes: tuple[Route, ...]
    unmatched: UnmatchedReason | None
    known_path: str
    """Of an unmatched path, its longest literal prefix in the route table. The text is the table's, not the request's."""


class TrieNode:
    """What the paths that begin with the same segments have in common."""

    __slots__ = ("_folded", "is_base", "literals", "partials", "routes", "templated", "text")

    def __init__(self, text: str = "") -> None:
        self.text = text
        self.is_base = False
        self.literals: dict[str, TrieNode] = {}
        self.partials: dict[str, tuple[Pattern, TrieNode]] = {}
        self.templated: TrieNode | None = None
        self.routes: dict[str, list[Route]] = {}
        self._folded: dict[str, list[TrieNode]] = {}

    def descend(self, segment: Segment) -> TrieNode:
        """Return the child for a template's segment; it is added where it is missing."""
        if segment.rank == LITERAL:
            if segment.literal not in self.literals:
                node = self.literals[segment.literal] = TrieNode(segment.text)
                self._folded.setdefault(segment.literal.lower(), []).append(node)
            return self.literals[segment.literal]
        if segment.rank == TEMPLATED:
            self.templated = self.templated or TrieNode()
            return self.templated
        assert segment.pattern is not None  # noqa: S101  every partly literal segment has one
        return self.partials.setdefault(segment.text, (segment.pattern, TrieNode()))[1]

    def samples(self) -> Iterator[str]:
        """Yield segments of paths that lead to each child: every literal, and a text that no document has among them."""
        yield from self.literals
        yield from (VARIABLE.sub(_SAMPLE, text) for text in self.partials)
        yield _SAMPLE

    def children(self, segment: str) -> Iterator[TrieNode]:
        """Yield every child that a decoded segment of a path matches. An empty segment matches literals alone."""
        literal = self.literals.get(segment)
        if literal is not None:
            yield literal
        if segment:
            for pattern, node in self.partials.values():
                if pattern.search(segment) is not None:
                    yield node
            if self.templated is not None:
                yield self.templated

    def literals_in_any_case(self, segment: str) -> Sequence[TrieNode]:
        """Return the children for literals that differ from a decoded segment in case at most."""
        return self._folded.get(segment.lower(), ())


class RouteTable:
    """The routes of one host, or of every host that no document is bound to."""

    def __init__(self) -> None:
        self.root = TrieNode()

    def add(self, operation: Operation, server: Server) -> None:
        node = self.root
        for segment in server.base:
            node = node.descend(segment)
        node.is_base = True
        for segment in operation.segments:
            node = node.descend(segment)
        ranks = tuple(segment.rank for segment in (*server.base, *operation.segments))
        routes = node.routes.setdefault(operation.method, [])
        # Two servers with the same base path must not make an operation tie with itself.
        if all(route.operation is not operation for route in routes):
            routes.append(Route(operation, len(server.base), ranks))

    def matching(self, segments: Sequence[str]) -> list[dict[str, list[Route]]]:
        """Return, for each template that matches the whole path, its routes by method."""
        level = [self.root]
        for segment in segments:
            level = [child for node in level for child in node.children(segment)]
        return [node.routes for node in level if node.routes]

    def combinations(self) -> Iterator[tuple[Route, ...]]:
        """Yield the routes that apply together to a path of this table, for each method; each combination at least once.

        Of partly literal segments a sample decides, so a combination that other texts lead to may be missing. At most
        _COMBINED_MAX sets of nodes are visited.
        """
        seen: set[tuple[int, ...]] = set()
        pending: list[tuple[TrieNode, ...]] = [(self.root,)]
        while pending and len(seen) < _COMBINED_MAX:
            nodes = pending.pop()
            key = tuple(map(id, nodes))
            if key in seen:
                continue
            seen.add(key)
            yield from _most_literal_by_method(nodes)
            pending.extend(_below(nodes))

    def known_path(self, segments: Iterable[str]) -> str:
        """Return the longest literal prefix of a path that the table has, without the base path, in its own text."""
        node: TrieNode | None = self.root
        texts: list[str] = []
        for segment in segments:
            node = node.literals.get(segment) if node is not None else None
            if node is None:
                break
            # What is recorded starts after the base path, as for a matched operation.
            texts = [] if node.is_base else [*texts, node.text]
        return "".join("/" + text for text in texts if text)


def _most_literal_by_method(nodes: tuple[TrieNode, ...]) -> Iterator[tuple[Route, ...]]:
    for method in dict.fromkeys(method for node in nodes for method in node.routes):
        yield most_literal([route for node in nodes for route in node.routes.get(method, ())])


def _below(nodes: tuple[TrieNode, ...]) -> Iterator[tuple[TrieNode, ...]]:
    """Yield the nodes that the next segment leads to, for a sample of each kind of segment."""
    for sample in dict.fromkeys(sample for node in nodes for sample in node.samples()):
        children = tuple(child for node in nodes for child in node.children(sample))
        if children:
            yield children


class Routes:
    """The routes of all documents."""

    def __init__(self, documents: Sequence[OpenApiDocument], *, trailing_slash_allowed: bool) -> None:
        self._trailing_slash_allowed = trailing_slash_allowed
        self._by_host: dict[str, RouteTable] = {}
        self._by_pattern: dict[str, tuple[Pattern, RouteTable]] = {}
        self._any_host = RouteTable()
        self._serves_any_host = False
        self._served: set[int] = set()
        for document in documents:
            for operation in operations_of(document):
                self._add(operation, alone=len(documents) == 1)

    def _add(self, operation: Operation, *, alone: bool) -> None:
        # Configured hosts replace those of the servers.
        hosts = operation.document.config.hosts
        for server in operation.servers:
            # A server's host that cannot be read is empty, and no request's.
            if hosts or alone or server.host != "":
                self._served.add(id(operation.document))
            for table in self._tables_of(server, hosts, alone=alone):
                table.add(operation, server)

    def _tables_of(self, server: Server, hosts: Sequence[str], *, alone: bool) -> Iterator[RouteTable]:
        """Yield the tables in which a server's operations stand."""
        if hosts:
            for host in hosts:
                yield self._by_host.setdefault(host, RouteTable())
        elif alone or (server.host is None and server.host_pattern is None):
            self._serves_any_host = True
            yield self._any_host
        elif server.host is not None:
            yield self._by_host.setdefault(server.host, RouteTable())
        elif server.host_pattern is not None:
            key = server.host_pattern.pattern
            yield self._by_pattern.setdefault(key, (server.host_pattern, RouteTable()))[1]

    def combinations(self) -> Iterator[tuple[Route, ...]]:
        """Yield the routes that apply together to some request, as far as one table decides; some of them repeatedly."""
        for _, table in self._by_pattern.values():
            yield from table.combinations()
        for table in (*self._by_host.values(), self._any_host):
            yield from table.combinations()

    def serves(self, document: OpenApiDocument) -> bool:
        """Whether some request can match an operation of the document; not where none of its servers can be read."""
        return id(document) in self._served

    @property
    def depend_on_host(self) -> bool:
        """Whether some document serves certain hosts only."""
        return bool(self._by_host or self._by_pattern)

    def only_table(self, host: str | None) -> RouteTable | None:
        """Return the table that serves a host; None where there is none, or more than one."""
        tables = self.tables(host)
        return tables[0] if len(tables) == 1 else None

    def known_path(self, url: Url, host: str | None, segments: Segments) -> str:
        """Return the longest literal prefix of the path in any table that serves the host; see `Match.known_path`."""
        tables = self.tables(url.host if url.host is not None else host)
        return max((table.known_path(segments.decoded) for table in tables), key=len, default="")

    def possible_tables(self, url: Url, host: str | None) -> list[RouteTable]:
        """Return the tables of the URL's host or, where that has none, of the Host header's.

        All tables where no host can be read: a Host header that stands twice still reaches some service.
        """
        found = self.tables(url.host if url.host is not None else host) or self.tables(host)
        return found if found or (host or url.host) else self._all_tables()

    def match(self, url: Url, host: str | None, method: str, segments: Segments) -> Match:
        """Match a request by host, method and decoded path.

        `host` is that of the Host header; it counts where the URL names none. Where neither names one, only a document
        that serves any host can match.
        """
        tables = self.tables(url.host if url.host is not None else host)
        if not tables:
            return Match((), UnmatchedReason.NO_DOCUMENT, "")
        matching = self._matching(tables, segments) if segments.is_complete else []
        routes = most_literal([route for by_method in matching for route in by_method.get(method, ())])
        if routes:
            return Match(routes, None, "")
        reason = UnmatchedReason.NO_METHOD if matching else _reason_without_path(segments)
        return Match((), reason, self.known_path(url, host, segments))

    def tables(self, host: str | None) -> list[RouteTable]:
        """Return the tables that serve a host; None where the request names none, empty where it cannot be read."""
        if host == "" and self.depend_on_host:
            return []  # the host cannot be read, and may be one that a document is bound to
        tables: list[RouteTable] = []
        if host is not None:
            exact = self._by_host.get(host)
            tables = [] if exact is None else [exact]
            tables += [
                table for pattern, table in self._by_pattern.values() if pattern.search(host) is not None
            ]
        if tables:
            return tables
        return [self._any_host] if self._serves_any_host else []

    def _all_tables(self) -> list[RouteTable]:
        by_host = [table for host, table in self._by_host.items() if host]
        return [*by_host, *(table for _, table in self._by_pattern.values()), self._any_host]

    def _matching(self, tables: Sequence[RouteTable], segments: Segments) -> list[dict[str, list[Route]]]:
        decoded = segments.decoded
        found = [each for table in tables for each in table.matching(decoded)]
        if not found and self._trailing_slash_allowed and len(decoded) > 1 and decoded[-1] == "":
            found = [each for table in tables for each in table.matching(decoded[:-1])]
        return found


def _reason_without_path(segments: Segments) -> UnmatchedReason:
    is_invalid = not segments.is_complete or segments.decoded[-1:] == ("",)
    return UnmatchedReason.INVALID_PATH if is_invalid else UnmatchedReason.NO_PATH


def most_literal(routes: Sequence[Route]) -> tuple[Route, ...]:
    """Return the routes that no other one beats, more literal first, compared from the left."""
    if len(routes) < 2:
        return tuple(routes)
    best = [each for each in routes if not any(is_more_literal(other.ranks, each.ranks) for other in routes)]
    return tuple(sorted(best, key=lambda route: route.ranks, reverse=True))


def is_more_literal(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether a template of the ranks `one` beats one of `other`: it is nowhere less literal, and somewhere more."""
    return one != other and all(mine >= yours for mine, yours in zip(one, other, strict=True))
