"""The schemas that constrain one value, before references and composition are followed.

`SchemaConstraints` identify a position: two positions with the same normalized constraints have the same plan, so a
schema that refers to itself is compiled once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

from redactor.openapi.document import OpenApiDocument, Place

_REFERENCES_MAX = 100  # in a row; also ends circles of references

Identity: TypeAlias = tuple[int, bool, bool]


class ApplicableSchema(NamedTuple):
    """One schema that applies to a value."""

    place: Place
    grants: bool
    """Whether its marks count (rule 5). Its denials always do."""
    describes: bool = True
    """Whether it describes the value. A schema under `not`, in a conditional or the like can only deny."""

    @property
    def identity(self) -> Identity:
        """What makes it the same schema in the same role. Nodes live as long as their document, so ids are safe."""
        return id(self.place.node), self.grants, self.describes

    def subschema(self, *steps: str | int, grants: bool = True) -> ApplicableSchema:
        """Return the schema that a keyword of this one holds; it grants only if this one does."""
        return ApplicableSchema(self.place.child(*steps), self.grants and grants, self.describes)

    def denials_only(self) -> ApplicableSchema:
        """Return the same schema in a role in which nothing but its denials count."""
        return ApplicableSchema(self.place, grants=False, describes=False)

    def dereferenced(self, document: OpenApiDocument) -> ApplicableSchema:
        """Return what a bare `$ref` stands for, so that the same schema has the same identity."""
        place = self.place
        for _ in range(_REFERENCES_MAX):
            node = place.node
            if not (isinstance(node, dict) and [*node] == ["$ref"]):
                break
            target = document.resolve(node["$ref"])
            if target is None:
                break
            place = target
        return self if place is self.place else self._replace(place=place)


class SchemaConstraints(NamedTuple):
    """What constrains one value: all of `schemas`, and one alternative of each of `choices`."""

    schemas: tuple[ApplicableSchema, ...] = ()
    choices: tuple[tuple[SchemaConstraints, ...], ...] = ()

    @property
    def key(self) -> object:
        """What makes them the same constraints, hashable."""
        return _key_of(self)

    @property
    def all_schemas(self) -> Iterator[ApplicableSchema]:
        """All schemas, those of alternatives included."""
        yield from self.schemas
        for alternatives in self.choices:
            for each in alternatives:
                yield from each.all_schemas

    @property
    def size(self) -> int:
        """The number of schemas, those of alternatives included."""
        return len(self.schemas) + sum(each.size for alternatives in self.choices for each in alternatives)


def _key_of(constraints: SchemaConstraints) -> object:
    return (
        tuple(schema.identity for schema in constraints.schemas),
        tuple(tuple(map(_key_of, alternatives)) for alternatives in constraints.choices),
    )


_Level: TypeAlias = dict[Identity, ApplicableSchema]


def normalized(
    document: OpenApiDocument, constraints: SchemaConstraints, above: Sequence[_Level] = ()
) -> SchemaConstraints:
    """Return the same constraints in the form that a recursive schema comes back to.

    Bare references are followed, no schema is repeated (not those of `above`, the levels around a choice, either), and
    no choice has a single alternative.
    """
    own: _Level = {}
    levels = (*above, own)

    def add(schemas: Iterable[ApplicableSchema]) -> None:
        for each in schemas:
            schema = each.dereferenced(document)
            if not any(schema.identity in level for level in levels):
                own[schema.identity] = schema

    add(constraints.schemas)
    choices: dict[object, tuple[SchemaConstraints, ...]] = {}
    pending = list(reversed(constraints.choices))
    while pending:
        alternatives = _distinct(document, pending.pop(), levels)
        if len(alternatives) > 1:
            choices.setdefault(tuple(alternatives), tuple(alternatives.values()))
        for only in alternatives.values() if len(alternatives) == 1 else ():
            add(only.schemas)
            pending.extend(reversed(only.choices))
    return SchemaConstraints(tuple(own.values()), tuple(choices.values()))


def _distinct(
    document: OpenApiDocument, alternatives: Iterable[SchemaConstraints], above: Sequence[_Level]
) -> dict[object, SchemaConstraints]:
    """Return the distinct alternatives by key; one that is nothing but a choice is replaced by its own alternatives."""
    distinct: dict[object, SchemaConstraints] = {}
    for alternative in alternatives:
        single = normalized(document, alternative, above)
        is_only_a_choice = not single.schemas and len(single.choices) == 1
        for each in single.choices[0] if is_only_a_choice else (single,):
            distinct.setdefault(each.key, each)
    return distinct
