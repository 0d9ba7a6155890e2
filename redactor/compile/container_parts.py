"""What constrains the parts of a container: an object's declared properties, an array's elements (rules 4, 5 and 7).

Parts are collected from all schemas of the container. Those of alternatives stay alternatives for the part, too. An
alternative that cannot describe the container, because its types are others or exclude one another, grants nothing to
its parts, but what it declares unmarked stays unmarked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from redactor.compile.applicable_schemas import ApplicableSchemas, Choice
from redactor.compile.maps import MapSchema, is_map
from redactor.compile.schema_constraints import ApplicableSchema, Identity, SchemaConstraints
from redactor.openapi.document import OpenApiDocument


class PropertyConstraints(NamedTuple):
    """What constrains an object's declared properties."""

    by_name: Mapping[str, SchemaConstraints]
    by_alternative: Sequence[Sequence[tuple[int, Mapping[str, SchemaConstraints]]]]
    """For each choice, its alternatives that count for an object: their index, and the same by name."""


class ObjectParts:
    """Finds what constrains the properties of one document's objects. `spend` counts the work, and raises above a bound."""

    def __init__(self, document: OpenApiDocument, spend: Callable[[int], None]) -> None:
        self._document = document
        self._spend = spend
        self._maps: dict[Identity, MapSchema] = {}

    def forget(self) -> None:
        """Forget the maps that were found."""
        self._maps.clear()

    def map_of(self, schema: ApplicableSchema) -> MapSchema:
        known = self._maps.get(schema.identity)
        if known is None:
            known = self._maps[schema.identity] = MapSchema(schema, self._document)
        return known

    def properties(self, applicable: ApplicableSchemas, declared: Sequence[str]) -> PropertyConstraints:
        """Return what constrains each of the `declared` names, in whichever schema it is declared."""
        schemas = self._definite(applicable, declared)
        self._spend(len(schemas))
        by_alternative = [self._by_alternative(applicable, each, declared) for each in applicable.choices]
        choices: dict[str, list[tuple[SchemaConstraints, ...]]] = {}
        for choice, alternatives in zip(applicable.choices, by_alternative, strict=True):
            # One that cannot be an object says nothing of the names that it does not declare.
            counting = [
                each for index, each in alternatives if each or choice.alternatives[index].admits("object")
            ]
            for name, choice_of_name in _choices_by_name(counting).items():
                choices.setdefault(name, []).append(choice_of_name)
        by_name = {
            name: SchemaConstraints(tuple(schemas.get(name, ())), tuple(choices.get(name, ())))
            for name in {**schemas, **choices}
            if schemas.get(name) or name in choices
        }
        return PropertyConstraints(by_name, by_alternative)

    def has_map_of_other_type(self, applicable: ApplicableSchemas) -> bool:
        """Whether an alternative of another JSON type constrains undeclared keys: it grants none, so none is kept."""
        for each in _alternatives(applicable):
            if each.admits("object"):
                found = self.has_map_of_other_type(each)
            else:
                self._spend(len(each.schemas))
                found = any(map(is_map, each.schemas))
            if found:
                return True
        return False

    def _definite(
        self, applicable: ApplicableSchemas, declared: Sequence[str]
    ) -> dict[str, list[ApplicableSchema]]:
        """Return what definite schemas say of each name: declarations, then what maps say of all `declared` names."""
        found: dict[str, list[ApplicableSchema]] = {}
        for schema in applicable.definite:
            for name in schema.place.node.get("properties", ()):
                found.setdefault(name, []).append(schema.subschema("properties", name))
        for schema in filter(is_map, applicable.definite):
            for name, values in self._in_map(schema, declared):
                found.setdefault(name, []).extend(values)
        return found

    def _in_map(
        self, schema: ApplicableSchema, declared: Sequence[str]
    ) -> Iterator[tuple[str, list[ApplicableSchema]]]:
        self._spend(len(declared))
        map_schema = self.map_of(schema)
        for name in declared:
            yield name, map_schema.schemas_for(name)

    def _by_alternative(
        self, applicable: ApplicableSchemas, choice: Choice, declared: Sequence[str]
    ) -> list[tuple[int, Mapping[str, SchemaConstraints]]]:
        found: list[tuple[int, Mapping[str, SchemaConstraints]]] = []
        for index, each in enumerate(choice.alternatives):
            if each.admits("object"):
                found.append((index, self.properties(each, declared).by_name))
                continue
            declared_there = self._declared_by_other_type(each, declared)
            if declared_there or applicable.excludes(each):
                found.append((index, declared_there))
        return found

    def _declared_by_other_type(
        self, alternative: ApplicableSchemas, declared: Sequence[str]
    ) -> Mapping[str, SchemaConstraints]:
        """Return what an alternative that cannot be an object says of properties; no mark in it counts."""
        self._spend(len(alternative.schemas))
        found: dict[str, list[ApplicableSchema]] = {}
        for schema in alternative.schemas:
            for name in schema.place.node.get("properties", ()):
                found.setdefault(name, []).append(schema.subschema("properties", name, grants=False))
            for name, values in self._in_map(schema, declared) if is_map(schema) else ():
                found.setdefault(name, []).extend(values)
        return {name: SchemaConstraints(tuple(schemas)) for name, schemas in found.items() if schemas}


def element_constraints(applicable: ApplicableSchemas, slot: int | None) -> SchemaConstraints:
    """Return what constrains an array's element: in a tuple slot, or for None behind all slots."""
    elements = tuple(part for schema in applicable.definite for part in _element_schemas(schema, slot))
    choices = [_element_choice(choice, slot) for choice in applicable.choices]
    return SchemaConstraints(elements, tuple(choice for choice in choices if choice))


def _element_choice(choice: Choice, slot: int | None) -> tuple[SchemaConstraints, ...]:
    """Return what each alternative says of an element; nothing where none of them says anything."""
    arrays = tuple(element_constraints(each, slot) for each in choice.alternatives if each.admits("array"))
    others = [each for each in choice.alternatives if not each.admits("array")]
    of_other_type = [part for each in others if (part := _elements_of_other_type(each, slot)).schemas]
    alternatives = (*arrays, *of_other_type)
    return alternatives if any(each.schemas or each.choices for each in alternatives) else ()


def _elements_of_other_type(alternative: ApplicableSchemas, slot: int | None) -> SchemaConstraints:
    """Return what an alternative that cannot be an array says of an element; no mark in it counts."""
    parts = (part for schema in alternative.schemas for part in _element_schemas(schema, slot))
    return SchemaConstraints(tuple(part._replace(grants=False) for part in parts))


def _element_schemas(schema: ApplicableSchema, slot: int | None) -> Iterator[ApplicableSchema]:
    node = schema.place.node
    if slot is not None and slot < len(node.get("prefixItems", ())):
        yield schema.subschema("prefixItems", slot)
    elif "items" in node:
        yield schema.subschema("items")
        # These describe nothing beside `items`, but a denial counts wherever it stands.
        for keyword in ("unevaluatedItems", "additionalItems"):
            if keyword in node:
                yield schema.subschema(keyword).denials_only()
    elif "unevaluatedItems" in node:
        yield schema.subschema("unevaluatedItems", grants=False)
    if "contains" in node:
        yield schema.subschema("contains").denials_only()


def _alternatives(applicable: ApplicableSchemas) -> Iterator[ApplicableSchemas]:
    return (each for choice in applicable.choices for each in choice.alternatives)


def _choices_by_name(
    alternatives: Iterable[Mapping[str, SchemaConstraints]],
) -> Mapping[str, tuple[SchemaConstraints, ...]]:
    """Return the choice that alternatives make of each property. Those that do not mention it are one empty alternative."""
    alternatives = list(alternatives)
    found: dict[str, list[SchemaConstraints]] = {}
    for each in alternatives:
        for name, constraints in each.items():
            found.setdefault(name, []).append(constraints)
    for constraints_of_name in found.values():
        if len(constraints_of_name) < len(alternatives):
            constraints_of_name.append(SchemaConstraints())
    return {name: tuple(constraints) for name, constraints in found.items()}
