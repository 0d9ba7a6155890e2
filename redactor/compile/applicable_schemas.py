"""All schemas that apply to one value: the node, what it refers to, and its composition branches (rules 5 and 7).

Definite schemas apply in any case: the node itself, the target of its `$ref`, its `allOf` branches. The branches of a
`oneOf` or `anyOf` are alternatives. All of them can deny; `candidates` decide which marks count.

`schema_collector.collect_schemas` makes them from a document.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from redactor.compile.effective_marks import Candidate, Mark
from redactor.compile.json_types import NULL, JsonTypes, common_types, listed_values
from redactor.compile.schema_constraints import ApplicableSchema
from redactor.openapi.document import Place
from redactor.openapi.marks import is_marked


class Choice(NamedTuple):
    """A `oneOf` or `anyOf`: the value may be what any of the alternatives describes."""

    alternatives: tuple[ApplicableSchemas, ...]
    places: tuple[Place, ...] = ()
    """Where the alternatives stand, if they are the branches of one node's keyword."""
    discriminator: Any = None
    used_tags: frozenset[str] = frozenset()
    """The properties that have already excluded other alternatives."""

    @property
    def schemas(self) -> Iterator[ApplicableSchema]:
        """The schemas of all alternatives; one that several alternatives share comes several times."""
        return (schema for alternative in self.alternatives for schema in alternative.schemas)


class ApplicableSchemas:
    """The schemas that apply to one value, some of them in any case, others as alternatives."""

    def __init__(
        self,
        order: Sequence[ApplicableSchema | Choice],
        *,
        denied: bool = False,
        is_too_complex: bool = False,
        visited: int = 0,
    ) -> None:
        self.order = order
        """Schemas and choices in document order."""
        self.denied = denied
        """Whether nothing of the value may be kept, whatever is marked."""
        self.is_too_complex = is_too_complex
        """Whether it is denied because collecting the schemas exceeds a bound."""
        self.visited = visited
        """How many schemas were visited to collect these: what it cost."""
        self.definite = [each for each in order if isinstance(each, ApplicableSchema)]
        self.choices = [each for each in order if isinstance(each, Choice)]
        self.granting = [schema.place.node for schema in self.definite if schema.grants]
        self.marked = any(map(is_marked, self.granting))
        self._definite_types: JsonTypes = common_types(self.granting)

    @property
    def has_choice(self) -> bool:
        return bool(self.choices)

    @cached_property
    def schemas(self) -> list[ApplicableSchema]:
        """Every schema, those of alternatives included, in document order."""
        found: dict[int, ApplicableSchema] = {}
        for each in self.order:
            for schema in [each] if isinstance(each, ApplicableSchema) else each.schemas:
                found.setdefault(id(schema), schema)
        return list(found.values())

    @property
    def flattened(self) -> list[ApplicableSchema]:
        """Every schema; those of alternatives as ones that grant nothing."""
        # By identity: the same schema may also stand in an alternative, as an equal tuple.
        definite = {id(each) for each in self.definite}
        return [each if id(each) in definite else each._replace(grants=False) for each in self.schemas]

    @property
    def types(self) -> frozenset[str] | None:
        """The JSON types that the value may have, without `null`; None where some combination names no type."""
        found: frozenset[str] = frozenset()
        for candidate in self.candidates:
            if candidate.types is None:
                return None
            found |= candidate.types
        return found - NULL

    @cached_property
    def candidates(self) -> frozenset[Candidate]:
        """What the value may be: the distinct combinations of one alternative of each choice with what is definite."""
        candidates = {self._definite_candidate()}
        for choice in self.choices:
            alternatives = frozenset().union(*(each.candidates for each in choice.alternatives))
            candidates = {one.combined_with(other) for one in candidates for other in alternatives}
        return frozenset(candidates)

    @cached_property
    def is_possible(self) -> bool:
        """Whether the types of some candidate do not exclude one another."""
        return any(each.is_possible for each in self.candidates)

    def _definite_candidate(self) -> Candidate:
        describes = any(schema.describes for schema in self.definite)
        candidate = Candidate(self._definite_types, Mark.TYPED, describes)
        if not self.marked:
            return candidate._replace(mark=Mark.NONE)
        # A mark on a mixture of types grants nothing, even where an alternative leaves only one of them (rule 4).
        is_typed = self._definite_types is not None and candidate.is_definite
        return candidate if is_typed else candidate._replace(mark=Mark.UNTYPED)

    def listed_values(self, json_type: str | None = None) -> frozenset[str] | None:
        """Return the scalars that `enum` and `const` admit, as canonical texts; None where some are not listed.

        With `json_type`, alternatives that do not describe values of this type are left out.
        """
        admitted = listed_values(self.granting)
        for choice in self.choices:
            alternatives = [each for each in choice.alternatives if each.describes(json_type)]
            lists = [each.listed_values(json_type) for each in alternatives]
            if lists and None not in lists:
                united = frozenset().union(*(each or () for each in lists))
                admitted = united if admitted is None else admitted & united
        return admitted

    def admits(self, json_type: str) -> bool:
        """Whether the value may be of this type."""
        return any(each.admits(json_type) for each in self.candidates)

    def describes(self, json_type: str | None = None) -> bool:
        """Whether any schema describes the value; with `json_type`, whether one describes values of this type."""
        described = (each for each in self.candidates if each.is_described)
        return any(json_type is None or each.admits(json_type) for each in described)

    def excludes(self, alternative: ApplicableSchemas) -> bool:
        """Whether no value can be what an alternative describes, by itself or beside what is definite."""
        definite = Candidate(self._definite_types, Mark.NONE, is_described=True)
        return not any(definite.combined_with(each).is_possible for each in alternative.candidates)

    def with_alternatives(
        self, index: int, chosen: Sequence[int], excluded: Sequence[ApplicableSchema] = (), tag: str = ""
    ) -> ApplicableSchemas:
        """Return the schemas that apply if one of the `chosen` alternatives of a choice does.

        The schemas of `excluded` alternatives may still deny. `tag` is the property that excluded them.
        """
        choice = self.choices[index]
        position = next(at for at, each in enumerate(self.order) if each is choice)
        denying = (schema.denials_only() for schema in excluded)
        return ApplicableSchemas(
            [
                *self.order[:position],
                *_remaining_alternatives(choice, chosen, tag),
                *self.order[position + 1 :],
                *denying,
            ]
        )


def _remaining_alternatives(
    choice: Choice, chosen: Sequence[int], tag: str
) -> Sequence[ApplicableSchema | Choice]:
    """Return what stands for a choice of which the `chosen` alternatives are left."""
    alternatives = tuple(choice.alternatives[each] for each in chosen)
    if len(alternatives) == 1:
        return alternatives[0].order
    rest = Choice(alternatives, used_tags=choice.used_tags | {tag})
    if choice.places:
        places = tuple(choice.places[each] for each in chosen)
        rest = rest._replace(places=places, discriminator=choice.discriminator)
    return [rest]


def each_way_to_choose(schemas: ApplicableSchemas) -> Iterator[ApplicableSchemas]:
    """Yield the schemas once for each way to choose one alternative of all choices; then no choice is left."""
    if not schemas.choices:
        yield schemas
        return
    for index in range(len(schemas.choices[0].alternatives)):
        yield from each_way_to_choose(schemas.with_alternatives(0, [index]))
