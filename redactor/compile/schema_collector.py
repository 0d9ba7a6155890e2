"""Collecting the schemas that apply to one value, by following `$ref` and composition (rules 5 and 7).

A `$ref` target and `allOf` branches grant as the node itself does. The branches of `oneOf` and `anyOf` become
alternatives. What stands beside a `$ref` in OpenAPI 3.0, under `not`, in conditionals or in dependent schemas can only
deny. A schema that cannot be found or trusted denies, and becomes a finding.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import prod
from typing import Any, NamedTuple

from redactor.compile.applicable_schemas import ApplicableSchemas, Choice, each_way_to_choose
from redactor.compile.json_types import admits_null_alone
from redactor.compile.schema_constraints import ApplicableSchema, Identity, SchemaConstraints
from redactor.openapi.document import UNTRUSTED, OpenApiDocument, broken_reference
from redactor.openapi.marks import is_denied, is_trusted

# Bounds for each value on its own, so that the order of compiling decides nothing. What exceeds one is `too_complex`.
_VISITED_MAX = 50_000
_CHOICES_NESTED_MAX = 32
_UNFOLDED_MAX = 30_000
_ANYTHING: dict[str, Any] = {}
"""The schema that `true` stands for, one object, because schemas are known by identity."""


class _NodeChoice(NamedTuple):
    """A `oneOf` or `anyOf` of one node, its branches not collected yet."""

    node: ApplicableSchema
    branches: tuple[ApplicableSchema, ...]


class _Visited(NamedTuple):
    """A schema in its place in the order, everything that it adds being visited on its own."""

    schema: ApplicableSchema


def collect_schemas(
    document: OpenApiDocument,
    schemas: Iterable[ApplicableSchema],
    choices: Iterable[Sequence[SchemaConstraints]] = (),
) -> ApplicableSchemas:
    """Return all schemas that apply to a value which `schemas` and one alternative of each of `choices` constrain."""
    return _Collector(document, ()).collect(schemas, choices)


class _Collector:
    """Collects one value's schemas. `above`: what was visited around the choice whose alternative this is."""

    def __init__(self, document: OpenApiDocument, above: tuple[set[Identity], ...]) -> None:
        self._document = document
        self._above = above
        self._seen: set[Identity] = set()
        self._visited = 0
        self._denied = False
        self._is_too_complex = False

    def collect(
        self, schemas: Iterable[ApplicableSchema], choices: Iterable[Sequence[SchemaConstraints]]
    ) -> ApplicableSchemas:
        order: list[ApplicableSchema | Choice] = []
        for each in [*self._visit_all(schemas), *choices]:
            if isinstance(each, ApplicableSchema):
                order.append(each)
                continue
            choice = self._choice_of_node(each) if isinstance(each, _NodeChoice) else self._choice(each)
            if choice is not None:
                order.append(self._flattened(choice))
        found = ApplicableSchemas(
            order, denied=self._denied, is_too_complex=self._is_too_complex, visited=self._visited
        )
        # Schemas that exclude one another describe no value at all.
        if not self._above and not found.is_possible:
            found.denied = True
        return found

    def _visit_all(self, schemas: Iterable[ApplicableSchema]) -> list[ApplicableSchema | _NodeChoice]:
        """Visit each schema once, without recursion, so that cycles end and nesting does not matter."""
        order: list[ApplicableSchema | _NodeChoice] = []
        pending: list[ApplicableSchema | _NodeChoice | _Visited] = []
        pending.extend(reversed(list(schemas)))
        while pending:
            schema = pending.pop()
            if isinstance(schema, _NodeChoice):
                order.append(schema)
            elif isinstance(schema, _Visited):
                order.append(schema.schema)
            elif not any(schema.identity in level for level in (self._seen, *self._above)):
                self._seen.add(schema.identity)
                self._visited += 1
                if self._visited > _VISITED_MAX:
                    self._is_too_complex = True
                    self._deny(schema, "too_complex")
                    return order
                pending.extend(reversed(list(self._visit(schema))))
        return order

    def _visit(self, schema: ApplicableSchema) -> Iterator[ApplicableSchema | _NodeChoice | _Visited]:
        """Yield what a schema adds in the order of its keywords: itself where `properties` stands, else first."""
        node = schema.place.node
        if isinstance(node, bool):
            self._denied |= schema.describes and not node
            # `true` is a candidate like `{}`.
            yield _Visited(schema._replace(place=schema.place._replace(node=_ANYTHING)))
            return
        if not isinstance(node, dict) or not is_trusted(node, is_3_0=self._document.is_3_0):
            self._deny(schema, "unusable_schema")
            return
        self._denied |= is_denied(node)
        beside_reference = "$ref" in node and self._document.is_3_0
        own = schema._replace(grants=schema.grants and not beside_reference)
        added = {keyword: list(self._added_by(keyword, schema, own)) for keyword in node}
        if "properties" not in node:
            yield _Visited(own)
        for keyword, schemas in added.items():
            if keyword == "properties":
                yield _Visited(own)
            yield from schemas

    def _added_by(
        self, keyword: str, schema: ApplicableSchema, own: ApplicableSchema
    ) -> Iterator[ApplicableSchema | _NodeChoice]:
        """Yield the schemas on the same value that one keyword adds.

        `own` is the schema in the role of its own keywords: beside a `$ref` in OpenAPI 3.0 it grants nothing.
        """
        match keyword:
            case "$ref":
                yield from self._referenced(schema)
            case "allOf":
                yield from self._branches(own, keyword)
            case "oneOf" | "anyOf":
                yield from self._alternatives(own, list(self._branches(own, keyword)))
            case "not" | "if" | "then" | "else":
                yield own.subschema(keyword).denials_only()
            case "dependentSchemas" | "dependencies":
                yield from self._dependent(own, keyword)
            case "discriminator":
                yield from self._discriminated(schema, own)

    def _referenced(self, schema: ApplicableSchema) -> Iterator[ApplicableSchema]:
        reference = schema.place.node["$ref"]
        target = self._document.resolve(reference)
        if target is None:
            self._deny(schema, broken_reference(reference))
        else:
            yield schema._replace(place=target)

    def _branches(self, own: ApplicableSchema, keyword: str) -> Iterator[ApplicableSchema]:
        branches = own.place.node[keyword]
        if not isinstance(branches, list):
            self._deny(own, "unusable_schema")
            return
        for index in range(len(branches)):
            yield own.subschema(keyword, index)

    def _alternatives(
        self, own: ApplicableSchema, branches: list[ApplicableSchema]
    ) -> Iterator[ApplicableSchema | _NodeChoice]:
        """Yield what a `oneOf` or `anyOf` adds: a choice, if at least two branches describe more than `null`."""
        describing = [each for each in branches if not admits_null_alone(each.place.node)]
        nulls = [each for each in branches if admits_null_alone(each.place.node)]
        if not own.grants:
            yield from describing
        elif not describing:
            yield from branches
            return
        elif len(describing) == 1:
            yield from describing
        else:
            yield _NodeChoice(own, tuple(describing))
        yield from (each.denials_only() for each in nulls)

    def _dependent(self, own: ApplicableSchema, keyword: str) -> Iterator[ApplicableSchema]:
        dependent = own.place.node[keyword]
        if not isinstance(dependent, dict):
            return
        for name, schema in dependent.items():
            if isinstance(schema, dict):
                yield own.subschema(keyword, name).denials_only()

    def _discriminated(self, schema: ApplicableSchema, own: ApplicableSchema) -> Iterator[ApplicableSchema]:
        """Yield the schemas that a discriminator may select: a denial in one of them may describe this very value.

        They are those that its mapping names, and those that refer to this schema, because their names are values of it.
        """
        discriminator = own.place.node["discriminator"]
        if not isinstance(discriminator, dict):
            return
        mapping = discriminator.get("mapping")
        mapping = mapping if isinstance(mapping, dict) else {}
        if UNTRUSTED in discriminator or UNTRUSTED in mapping:
            self._deny(schema, "unusable_schema")
        mapped = [self._document.resolve_mapping(name) for name in mapping.values()]
        for place in (*mapped, *self._document.extensions_of(own.place.node)):
            if place is not None:
                yield ApplicableSchema(place, grants=False, describes=False)

    def _choice_of_node(self, found: _NodeChoice) -> Choice | None:
        choice = self._choice([SchemaConstraints((each,)) for each in found.branches])
        if choice is None:
            return None
        places = tuple(each.place for each in found.branches)
        return choice._replace(places=places, discriminator=found.node.place.node.get("discriminator"))

    def _choice(self, alternatives: Sequence[SchemaConstraints]) -> Choice | None:
        """Collect the alternatives of a choice; None where that exceeds a bound, which denies the value."""
        if len(self._above) >= _CHOICES_NESTED_MAX:
            self._deny_choice(alternatives)
            return None
        above = (*self._above, self._seen)
        collected: list[ApplicableSchemas] = []
        for each in alternatives:
            if self._visited > _VISITED_MAX:
                self._deny_choice(alternatives)
                return None
            schemas = (schema.dereferenced(self._document) for schema in each.schemas)
            collected.append(_Collector(self._document, above).collect(schemas, each.choices))
            self._visited += collected[-1].visited
            self._denied |= collected[-1].denied
            self._is_too_complex |= collected[-1].is_too_complex
        return Choice(tuple(collected))

    def _flattened(self, choice: Choice) -> Choice:
        """Return the same choice with one alternative for each way to choose within its alternatives.

        An alternative that would multiply beyond the bound stays as it is.
        """
        found: list[tuple[ApplicableSchemas, int]] = []
        for index, alternative in enumerate(choice.alternatives):
            steps = _flattening_steps(alternative)
            if self._visited + steps > _UNFOLDED_MAX:
                found.append((alternative, index))
            else:
                self._visited += steps
                found.extend((each, index) for each in each_way_to_choose(alternative))
        places = tuple(choice.places[index] for _, index in found) if choice.places else ()
        return choice._replace(alternatives=tuple(each for each, _ in found), places=places)

    def _deny_choice(self, alternatives: Sequence[SchemaConstraints]) -> None:
        self._denied = self._is_too_complex = True
        schemas = next((each.schemas for each in alternatives if each.schemas), ())
        for first in schemas[:1]:
            self._deny(first, "too_complex")

    def _deny(self, schema: ApplicableSchema, code: str) -> None:
        self._denied = True
        self._document.findings.add(schema.place.pointer, code)


def _flattening_steps(alternative: ApplicableSchemas) -> int:
    if not alternative.choices:
        return 0
    ways = prod(len(each.alternatives) for each in alternative.choices)
    # With one choice each way only repeats what is definite.
    schemas = alternative.definite if len(alternative.choices) == 1 else alternative.schemas
    return ways * len(schemas)
