"""The checks on path templates: pairs that match a common URL, and operations that no request can reach.

Of such a pair the more literal template applies; if neither is more literal, only what both record is recorded.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from itertools import combinations
from typing import NamedTuple

from redactor.openapi.operations import LITERAL, TEMPLATED, Operation, Segment
from redactor.report.findings import Finding

PAIRS_MAX = 100_000

_Template = tuple[Operation, ...]
"""The operations of one path template, one for each method; never empty."""


class Overlap(StrEnum):
    """How two templates that match a common URL relate. The values are names in the JSON report."""

    TWINS = "twins"
    """They have the same shape: every URL of one is a URL of the other."""
    CROSSWISE = "crosswise"
    """Each is more literal in some segment: on their common URLs only what both record is recorded."""
    SHADOWED = "shadowed"
    """One is more literal, and applies alone where both have the method."""


class AmbiguousPaths(NamedTuple):
    """Two templates that match a common URL. If one of them is more literal, it is `first`."""

    overlap: Overlap
    first: _Template
    second: _Template

    @property
    def same_method(self) -> list[tuple[Operation, Operation]]:
        """The pairs of operations, one of each template, that have the same method."""
        by_method = {each.method: each for each in self.second}
        return [(each, by_method[each.method]) for each in self.first if each.method in by_method]

    @property
    def only_second(self) -> list[Operation]:
        """The second's operations whose method the first lacks; they apply to the first's URLs too."""
        methods = {each.method for each in self.first}
        return [each for each in self.second if each.method not in methods]


def ambiguous_paths_of(operations: Sequence[Operation]) -> Iterator[AmbiguousPaths]:
    """Yield the pairs of templates below a common server that match a common URL, PAIRS_MAX at most."""
    by_template: dict[str, list[Operation]] = defaultdict(list)
    for operation in operations:
        by_template[operation.template].append(operation)
    # A variable never matches a slash, so only templates of equal length can match one URL.
    by_length: dict[int, list[_Template]] = defaultdict(list)
    for found in by_template.values():
        by_length[len(found[0].segments)].append(tuple(found))
    remaining = PAIRS_MAX
    for group in by_length.values():
        for one, other in _candidates(group):
            if remaining > 0 and _may_match_one_url(one, other):
                remaining -= 1
                yield _compared(one, other)


def findings_of(pairs: Iterable[AmbiguousPaths]) -> Iterator[Finding]:
    """Yield a finding for every operation on which a pair of templates has an effect."""
    for pair in pairs:
        if pair.overlap is Overlap.SHADOWED:
            literal = pair.first[0].template
            for operation in pair.only_second:
                message = f"{operation.method} {literal} is handled as {operation.template}"
                yield Finding("route_method_gap", operation.place.pointer, message)
        else:
            code = "route_twins" if pair.overlap is Overlap.TWINS else "route_crosswise"
            for one, other in pair.same_method:
                message = f"{one.method} {one.template} and {other.template} match common URLs"
                yield Finding(code, one.place.pointer, message)


def _candidates(group: Sequence[_Template]) -> Iterator[tuple[_Template, _Template]]:
    """Yield the pairs of a group whose first segments may match one text.

    Most first segments are literal, and those are compared only with equal ones: a document of thousands of paths
    has millions of pairs.
    """
    by_literal: dict[str, list[_Template]] = defaultdict(list)
    not_literal: list[_Template] = []
    for template in group:
        first = template[0].segments[0]
        if first.rank == LITERAL:
            by_literal[first.literal].append(template)
        else:
            not_literal.append(template)
    literal: list[_Template] = []
    for templates in by_literal.values():
        yield from combinations(templates, 2)
        literal.extend(templates)
    for index, one in enumerate(not_literal):
        for other in (*not_literal[index + 1 :], *literal):
            yield one, other


def _may_match_one_url(one: _Template, other: _Template) -> bool:
    pairs = zip(one[0].segments, other[0].segments, strict=True)
    return all(_may_match_one_text(mine, yours) for mine, yours in pairs) and _share_server(one, other)


def _may_match_one_text(one: Segment, other: Segment) -> bool:
    if one.rank == LITERAL and other.rank == LITERAL:
        return one.literal == other.literal
    if one.rank == LITERAL:
        return _matches_literal(other, one.literal)
    if other.rank == LITERAL:
        return _matches_literal(one, other.literal)
    if TEMPLATED in (one.rank, other.rank):
        return True
    # Whether two patterns can match one text is hard to decide exactly; a pair too many only adds a finding.
    return _affixes_agree(one.text, other.text)


def _matches_literal(segment: Segment, literal: str) -> bool:
    if not literal:
        # A variable matches at least one character.
        return False
    return segment.pattern is None or segment.pattern.search(literal) is not None


def _affixes_agree(one: str, other: str) -> bool:
    """Whether two partly literal segments may match one text: their literal prefixes and suffixes agree."""
    prefixes = one.partition("{")[0], other.partition("{")[0]
    suffixes = one.rpartition("}")[2], other.rpartition("}")[2]
    prefixes_agree = prefixes[0].startswith(prefixes[1]) or prefixes[1].startswith(prefixes[0])
    suffixes_agree = suffixes[0].endswith(suffixes[1]) or suffixes[1].endswith(suffixes[0])
    return prefixes_agree and suffixes_agree


def _share_server(one: _Template, other: _Template) -> bool:
    return bool(_addresses(one) & _addresses(other))


def _addresses(template: _Template) -> set[tuple[object, ...]]:
    """Return host and base path of every server of a template's operations, in a form that can be compared."""
    return {
        (server.host, str(getattr(server.host_pattern, "pattern", "")), *(each.text for each in server.base))
        for operation in template
        for server in operation.servers
    }


def _compared(one: _Template, other: _Template) -> AmbiguousPaths:
    # A higher rank is more literal.
    ranks = [(a.rank, b.rank) for a, b in zip(one[0].segments, other[0].segments, strict=True)]
    if all(a == b for a, b in ranks):
        return AmbiguousPaths(Overlap.TWINS, one, other)
    if all(a >= b for a, b in ranks):
        return AmbiguousPaths(Overlap.SHADOWED, one, other)
    if all(a <= b for a, b in ranks):
        return AmbiguousPaths(Overlap.SHADOWED, other, one)
    return AmbiguousPaths(Overlap.CROSSWISE, one, other)
