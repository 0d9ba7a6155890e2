"""All the schemas that speak about one value: the node, what it refers to, and its composition branches.

Some of them grant, all of them deny (rules 5 and 7). `allOf` branches and what a `$ref` leads to grant as the node
itself does. The branches of a `oneOf` or `anyOf` are alternatives: each grants for the values that it may describe.
What stands beside a `$ref` in 3.0, under `not`, in conditionals or dependent schemas only denies.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from math import prod
from typing import Any, NamedTuple

from redactor.candidates import OWN, STRAY, UNMARKED, Candidate
from redactor.document import UNTRUSTED, LoadedDocument, Place
from redactor.kinds import (
    CONTAINER_KINDS,
    NULL,
    SCALAR_KINDS,
    Kinds,
    kinds_of,
    listed_values,
    lists_null_alone,
)
from redactor.said import Branch, Identity, Said, is_denied, is_marked, is_sound, mapped_place

__all__ = [
    "CONTAINER_KINDS",
    "SCALAR_KINDS",
    "Branch",
    "Choice",
    "Speech",
    "Voices",
    "is_denied",
    "is_marked",
]

_DENYING_BRANCH = ("not", "if", "then", "else")
_DENYING_BRANCHES = ("dependentSchemas", "dependencies")
_CHOOSING = ("oneOf", "anyOf")
_OPENED_MAX = 50_000
_CHOICES_NESTED_MAX = 32
_UNFOLDED_MAX = 30_000


class Choice(NamedTuple):
    """A `oneOf` or `anyOf`: a value may be what any of the alternatives describes."""

    alternatives: tuple[Speech, ...]
    places: tuple[Place, ...] = ()
    """Where the alternatives stand, if that is one node's keyword."""
    discriminator: Any = None
    told: frozenset[str] = frozenset()
    """The properties that have told other alternatives apart from these."""

    @property
    def heard(self) -> Iterator[Branch]:
        """Every branch of the alternatives; what several of them share comes several times."""
        return (branch for way in self.alternatives for branch in way.heard)


class Speech:
    """What branches on one value say together, some of them in any case, others as alternatives."""

    def __init__(self, order: Sequence[Branch | Choice]) -> None:
        self.order = order
        self.own = [each for each in order if isinstance(each, Branch)]
        """Every branch that speaks in any case and whose schema is a mapping, in document order."""
        self.choices = [each for each in order if isinstance(each, Choice)]
        self.granting = [branch.place.node for branch in self.own if branch.grants]
        self.marked = any(map(is_marked, self.granting))
        self.own_kinds: Kinds = kinds_of(self.granting)
        """The types that every granting branch admits."""

    @property
    def composed(self) -> bool:
        """Tell whether there is a choice between alternatives."""
        return bool(self.choices)

    @cached_property
    def heard(self) -> list[Branch]:
        """Every branch, those of alternatives too, in document order."""
        heard: dict[int, Branch] = {}
        for each in self.order:
            for branch in [each] if isinstance(each, Branch) else each.heard:
                heard.setdefault(id(branch), branch)
        return list(heard.values())

    @property
    def all(self) -> list[Branch]:
        """Every branch; those of alternatives as ones that grant nothing."""
        certain = {id(each) for each in self.own}
        return [each if id(each) in certain else each._replace(grants=False) for each in self.heard]

    @property
    def kinds(self) -> frozenset[str] | None:
        """The types that the value may have, `null` left aside; None where some of it says no type."""
        found: frozenset[str] = frozenset()
        for candidate in self.candidates:
            if candidate.kinds is None:
                return None
            found |= candidate.kinds
        return found - NULL

    @cached_property
    def candidates(self) -> frozenset[Candidate]:
        """What the value may be, as far as types and marks go: one for each kind of combination of alternatives."""
        own = Candidate(self.own_kinds, OWN, any(branch.declares for branch in self.own))
        # On a mixture of types a mark is nobody's, also where an alternative leaves one of them (rule 4).
        mark = OWN if self.own_kinds is not None and own.is_definite else STRAY
        found = {own._replace(mark=mark if self.marked else UNMARKED)}
        for choice in self.choices:
            ways = frozenset().union(*(way.candidates for way in choice.alternatives))
            found = {one.beside(other) for one in found for other in ways}
        return frozenset(each for each in found if each.kinds is None or each.kinds)

    def listed_values(self, kind: str | None = None) -> frozenset[str] | None:
        """Return the scalars that `enum` and `const` admit, as canonical texts; None where some are not listed.

        With `kind`, alternatives that admit no value of this type do not count.
        """
        admitted = listed_values(self.granting)
        for choice in self.choices:
            able = [way for way in choice.alternatives if way.speaks_of(kind)]
            lists = [way.listed_values(kind) for way in able]
            if lists and None not in lists:
                united_lists = frozenset().union(*(each or () for each in lists))
                admitted = united_lists if admitted is None else admitted & united_lists
        return admitted

    def may_be(self, kind: str) -> bool:
        """Tell whether the value may be of this type."""
        return any(each.admits(kind) for each in self.candidates)

    @property
    def is_declared(self) -> bool:
        """Tell whether anything is said of the value at all."""
        return any(each.is_declared for each in self.candidates)

    def speaks_of(self, kind: str | None) -> bool:
        """Tell whether it says anything of values of this type."""
        return any(each.is_declared and (kind is None or each.admits(kind)) for each in self.candidates)

    def narrowed(
        self, index: int, chosen: Sequence[int], ruled_out: Sequence[Branch] = (), told: str = ""
    ) -> Speech:
        """Return the speech with only the `chosen` ones of a choice's alternatives; `ruled_out` may still deny.

        `told`: the property that told them apart.
        """
        choice = self.choices[index]
        ways = [choice.alternatives[each] for each in chosen]
        position = next(at for at, each in enumerate(self.order) if each is choice)
        rest = Choice(tuple(ways), told=choice.told | {told})
        if choice.places:
            places = tuple(choice.places[each] for each in chosen)
            rest = rest._replace(places=places, discriminator=choice.discriminator)
        instead = ways[0].order if len(ways) == 1 else [rest]
        denying = (branch.denying() for branch in ruled_out)
        return Speech([*self.order[:position], *instead, *self.order[position + 1 :], *denying])


class Voices(Speech):
    """What a document says about one value. Collected once per schema position, while compiling."""

    def __init__(
        self,
        document: LoadedDocument,
        branches: Iterable[Branch],
        choices: Iterable[Sequence[Said]] = (),
        above: tuple[set[Identity], ...] = (),
    ) -> None:
        self._document = document
        self._above = above
        self._seen: set[Identity] = set()
        self.opened = 0
        """How many branches were looked at to hear them all."""
        self.denied = False
        order: list[Branch | Choice] = []
        for each in [*self._collect(branches), *choices]:
            if isinstance(each, Branch):
                order.append(each)
            else:
                found = self._settle(each) if isinstance(each, _Choosing) else self._choice(each)
                order.extend(map(self._unfolded, found))
        super().__init__(order)
        # Schemas that exclude one another describe no value at all.
        self.denied |= not above and bool(order) and not self.candidates

    def _collect(self, branches: Iterable[Branch]) -> list[Branch | _Choosing]:
        """Gather the branches without recursion, each once, so that cycles end and depth does not matter."""
        order: list[Branch | _Choosing] = []
        waiting: list[Branch | _Turn | _Choosing] = []
        waiting.extend(list(branches)[::-1])
        while waiting:
            branch = waiting.pop()
            if isinstance(branch, _Choosing):
                order.append(branch)
            elif isinstance(branch, _Turn):
                order.append(branch.branch)
            elif not any(branch.identity in level for level in (self._seen, *self._above)):
                self._seen.add(branch.identity)
                self.opened += 1
                if self.opened > _OPENED_MAX:
                    self._deny(branch, "too_complex")
                    return order
                waiting.extend(list(self._open(branch))[::-1])
        return order

    def _open(self, branch: Branch) -> Iterator[Branch | _Turn | _Choosing]:
        """Yield what a branch adds: its own turn and its parts' branches, in the order of its keywords."""
        node = branch.place.node
        if isinstance(node, bool):
            self.denied |= branch.grants and not node
            return
        if not isinstance(node, dict) or not is_sound(node, is_3_0=self._document.is_3_0):
            self._deny(branch, "unusable_schema")
            return
        self.denied |= is_denied(node)
        beside_reference = "$ref" in node and self._document.is_3_0
        own = branch._replace(grants=branch.grants and not beside_reference)
        parts = {keyword: list(self._parts(keyword, branch, own)) for keyword in node}
        if "properties" not in node:
            yield _Turn(own)
        for keyword, added in parts.items():
            if keyword == "properties":
                yield _Turn(own)
            yield from added

    def _parts(self, keyword: str, branch: Branch, own: Branch) -> Iterator[Branch | _Choosing]:
        """Yield the branches on the same value that one keyword of a schema adds."""
        value = own.place.node[keyword]
        if keyword == "$ref":
            yield from self._referred(branch)
        elif keyword == "allOf":
            yield from self._listed(own, keyword)
        elif keyword in _CHOOSING:
            yield from self._chosen(own, list(self._listed(own, keyword)))
        elif keyword in _DENYING_BRANCH:
            yield own.part(keyword).denying()
        elif keyword in _DENYING_BRANCHES and isinstance(value, dict):
            for name, schema in value.items():
                if isinstance(schema, dict):
                    yield own.part(keyword, name).denying()
        elif keyword == "discriminator" and isinstance(value, dict):
            yield from self._discriminated(branch, own, value)

    def _referred(self, branch: Branch) -> Iterator[Branch]:
        target = self._document.resolve(branch.place.node["$ref"])
        if target is None:
            self._deny(branch, "broken_reference")
        else:
            yield branch._replace(place=target)

    def _listed(self, own: Branch, keyword: str) -> Iterator[Branch]:
        schemas = own.place.node[keyword]
        if not isinstance(schemas, list):
            self._deny(own, "unusable_schema")
            return
        for index in range(len(schemas)):
            yield own.part(keyword, index)

    def _discriminated(self, branch: Branch, own: Branch, discriminator: dict[str, Any]) -> Iterator[Branch]:
        """Yield the schemas that a discriminator names, or whose names it takes: a denial in one may describe this
        very value.
        """
        mapping = discriminator.get("mapping")
        mapping = mapping if isinstance(mapping, dict) else {}
        if UNTRUSTED in discriminator or UNTRUSTED in mapping:
            self._deny(branch, "unusable_schema")
        named = [mapped_place(self._document, name) for name in mapping.values()]
        for place in (*named, *self._document.extensions_of(own.place.node)):
            if place is not None:
                yield Branch(place, grants=False).denying()

    def _chosen(self, own: Branch, listed: list[Branch]) -> Iterator[Branch | _Choosing]:
        """Yield what a `oneOf` or `anyOf` adds: a choice, if there is one. Null carries nothing and is none."""
        ways = [each for each in listed if not lists_null_alone(each.place.node)]
        if len(ways) < 2 or not own.grants:
            yield from listed if own.grants and not ways else ways
        else:
            yield _Choosing(own, tuple(ways))
        if ways or not own.grants:
            yield from (each.denying() for each in listed if lists_null_alone(each.place.node))

    def _settle(self, choosing: _Choosing) -> Iterator[Choice]:
        discriminator = choosing.own.place.node.get("discriminator")
        places = tuple(each.place for each in choosing.branches)
        for choice in self._choice([Said((each,)) for each in choosing.branches]):
            yield choice._replace(places=places, discriminator=discriminator)

    def _choice(self, alternatives: Sequence[Said]) -> Iterator[Choice]:
        if len(self._above) >= _CHOICES_NESTED_MAX:
            self._deny_all(alternatives)
            return
        above = (*self._above, self._seen)
        ways: list[Voices] = []
        for each in alternatives:
            if self.opened > _OPENED_MAX:
                self._deny_all(alternatives)
                return
            settled = (branch.settled(self._document) for branch in each.branches)
            ways.append(Voices(self._document, settled, each.choices, above))
            self.opened += ways[-1].opened
            self.denied |= ways[-1].denied
        yield Choice(tuple(ways))

    def _unfolded(self, choice: Choice) -> Choice:
        """Return the same choice with one alternative for each way to choose within its alternatives."""
        found: list[tuple[Speech, int]] = []
        for index, way in enumerate(choice.alternatives):
            ways = prod(len(each.alternatives) for each in way.choices)
            steps = ways * len(way.own if len(way.choices) < 2 else way.heard) if way.choices else 0
            if self.opened + steps > _UNFOLDED_MAX:
                found.append((way, index))
            else:
                self.opened += steps
                found.extend((leaf, index) for leaf in _leaves(way))
        places = tuple(choice.places[index] for _, index in found) if choice.places else ()
        return choice._replace(alternatives=tuple(leaf for leaf, _ in found), places=places)

    def _deny_all(self, alternatives: Sequence[Said]) -> None:
        for branch in next((each.branches for each in alternatives if each.branches), ())[:1]:
            self._deny(branch, "too_complex")
        self.denied = True

    def _deny(self, branch: Branch, code: str) -> None:
        self.denied = True
        self._document.findings.add(branch.place.pointer, code)


def _leaves(way: Speech) -> Iterator[Speech]:
    """Yield an alternative once for each way to choose within it."""
    if not way.choices:
        yield way
    for index in range(len(way.choices[0].alternatives) if way.choices else 0):
        yield from _leaves(way.narrowed(0, [index]))


class _Turn(NamedTuple):
    """The place in the order of branches where a branch's own keywords come."""

    branch: Branch


class _Choosing(NamedTuple):
    """The place in the order of branches where a node's choice comes."""

    own: Branch
    branches: tuple[Branch, ...]
