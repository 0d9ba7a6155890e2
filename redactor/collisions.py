"""Path templates that match a common URL: which of them governs it is a question of how literal they are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import NamedTuple

from redactor.operations import LITERAL, TEMPLATED, Operation, Segment

PAIRS_MAX = 100_000


class Relation(StrEnum):
    """How two templates that match a common URL stand to each other."""

    TWINS = "twins"
    """Of one shape: every URL of one is the other's."""
    CROSSWISE = "crosswise"
    """Each is more literal in some segment: on their common URLs only what both keep is kept."""
    SHADOWED = "shadowed"
    """One is more literal, and governs alone where both have the method."""


class Collision(NamedTuple):
    """Two templates that match a common URL. `first` is the more literal one where there is one."""

    relation: Relation
    first: tuple[Operation, ...]
    second: tuple[Operation, ...]

    @property
    def shared(self) -> list[tuple[Operation, Operation]]:
        """The operations of the two that have the same method."""
        by_method = {each.method: each for each in self.second}
        return [(each, by_method[each.method]) for each in self.first if each.method in by_method]

    @property
    def only_second(self) -> list[Operation]:
        """The operations of the second whose method the first lacks: they govern the first's URLs too."""
        methods = {each.method for each in self.first}
        return [each for each in self.second if each.method not in methods]


def collisions_of(operations: Sequence[Operation]) -> Iterator[Collision]:
    """Yield every pair of templates below a common server that match a common URL; PAIRS_MAX at most."""
    by_template: dict[str, list[Operation]] = defaultdict(list)
    for operation in operations:
        by_template[operation.template].append(operation)
    by_length: dict[int, list[tuple[Operation, ...]]] = defaultdict(list)
    for found in by_template.values():
        by_length[len(found[0].segments)].append(tuple(found))
    left = PAIRS_MAX
    for group in by_length.values():
        for one, other in _candidates(group):
            if left > 0 and _meet(one[0].segments, other[0].segments) and _share_server(one, other):
                left -= 1
                yield _collision(one, other)


def _candidates(
    group: Sequence[tuple[Operation, ...]],
) -> Iterator[tuple[tuple[Operation, ...], tuple[Operation, ...]]]:
    """Yield the pairs whose first segments may be alike, without looking at all of them."""
    by_literal: dict[str, list[int]] = defaultdict(list)
    open_ended: list[int] = []
    for index, each in enumerate(group):
        first = each[0].segments[0]
        (by_literal[first.literal] if first.rank == LITERAL else open_ended).append(index)
    for indices in by_literal.values():
        for position, index in enumerate(indices):
            yield from ((group[index], group[other]) for other in indices[position + 1 :])
    for position, index in enumerate(open_ended):
        later = open_ended[position + 1 :]
        literal = (each for indices in by_literal.values() for each in indices)
        yield from ((group[index], group[other]) for other in (*later, *literal))


def _meet(one: Sequence[Segment], other: Sequence[Segment]) -> bool:
    return all(_segments_meet(mine, yours) for mine, yours in zip(one, other, strict=True))


def _segments_meet(one: Segment, other: Segment) -> bool:
    if one.rank == LITERAL and other.rank == LITERAL:
        return one.literal == other.literal
    if LITERAL in (one.rank, other.rank):
        literal, open_one = (one, other) if one.rank == LITERAL else (other, one)
        if not literal.literal or open_one.pattern is None:
            return bool(literal.literal)
        return open_one.pattern.search(literal.literal) is not None
    if TEMPLATED in (one.rank, other.rank):
        return True
    return _affixes_meet(one.text, other.text)


def _affixes_meet(one: str, other: str) -> bool:
    """Tell whether two partly literal segments may match one text: their literal beginnings and ends agree."""
    heads = [each.partition("{")[0] for each in (one, other)]
    tails = [each.rpartition("}")[2][::-1] for each in (one, other)]
    return all(
        mine.startswith(yours) or yours.startswith(mine) for mine, yours in (tuple(heads), tuple(tails))
    )


def _share_server(one: Sequence[Operation], other: Sequence[Operation]) -> bool:
    def addresses(operations: Sequence[Operation]) -> set[tuple[object, ...]]:
        return {
            (
                server.host,
                str(getattr(server.host_pattern, "pattern", "")),
                *(each.text for each in server.base),
            )
            for operation in operations
            for server in operation.servers
        }

    return bool(addresses(one) & addresses(other))


def _collision(one: tuple[Operation, ...], other: tuple[Operation, ...]) -> Collision:
    mine = [segment.rank for segment in one[0].segments]
    yours = [segment.rank for segment in other[0].segments]
    if mine == yours:
        return Collision(Relation.TWINS, one, other)
    if all(a >= b for a, b in zip(mine, yours, strict=True)):
        return Collision(Relation.SHADOWED, one, other)
    if all(a <= b for a, b in zip(mine, yours, strict=True)):
        return Collision(Relation.SHADOWED, other, one)
    return Collision(Relation.CROSSWISE, one, other)
