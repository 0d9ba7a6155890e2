"""What schemas say of an object's undeclared keys: they are data, and only those of a marked map are kept (rule 4)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from redactor.compile.applicable_schemas import ApplicableSchemas
from redactor.compile.key_patterns import KeyPattern
from redactor.compile.schema_collector import collect_schemas
from redactor.compile.schema_constraints import ApplicableSchema
from redactor.openapi.document import OpenApiDocument

_MAP_KEYWORDS = ("patternProperties", "additionalProperties", "unevaluatedProperties")


def is_free_form(schemas: Iterable[ApplicableSchema]) -> bool:
    """Whether none of the schemas constrains an object's parts: a mark may keep it whole (rule 4)."""
    nodes = [schema.place.node for schema in schemas]
    if any(node.get("properties") for node in nodes):
        return False
    return not any(node.get(keyword, True) is not True for node in nodes for keyword in _MAP_KEYWORDS)


def is_map(schema: ApplicableSchema) -> bool:
    """Whether a schema constrains the values of keys that it does not declare."""
    return any(isinstance(schema.place.node.get(keyword), dict) for keyword in _MAP_KEYWORDS)


def is_closed(applicable: ApplicableSchemas) -> bool:
    """Whether no undeclared key is kept, because a map stands beside a schema that admits none (rule 4).

    An alternative without undeclared keys closes its own map, and all maps only if the other alternatives have none either.
    """
    return _admits_no_key(applicable) or any(
        any(map(is_map, each.schemas)) and is_closed(each)
        for choice in applicable.choices
        for each in choice.alternatives
    )


def _admits_no_key(applicable: ApplicableSchemas) -> bool:
    if any(map(_forbids_undeclared_keys, applicable.definite)):
        return True
    of_objects = [
        [each for each in choice.alternatives if each.describes("object")] for choice in applicable.choices
    ]
    return any(alternatives and all(map(_admits_no_key, alternatives)) for alternatives in of_objects)


def _forbids_undeclared_keys(schema: ApplicableSchema) -> bool:
    """Whether a schema forbids all keys that it does not declare. With patterns it is a map, which forbids the others."""
    node = schema.place.node
    is_forbidding = node.get("additionalProperties") is False and not node.get("patternProperties")
    return schema.describes and is_forbidding


class PropertyNames:
    """What `propertyNames` says of an object's keys, which are marked or denied like values (rule 4)."""

    def __init__(self, document: OpenApiDocument, applicable: ApplicableSchemas) -> None:
        definite = {id(schema) for schema in applicable.definite}
        self.denied = False
        """Whether some schema denies the keys, and so the object."""
        self._marked: set[int] = set()
        for schema in applicable.schemas:
            if "propertyNames" not in schema.place.node:
                continue
            names = collect_schemas(document, [schema.subschema("propertyNames")])
            self.denied |= names.denied
            # Only what applies in any case may grant the keys.
            if id(schema) in definite and schema.grants and names.marked and not names.has_choice:
                self._marked.add(id(schema))

    def are_marked_in(self, schema: ApplicableSchema) -> bool:
        """Whether a schema's own `propertyNames` grants the keys of the map that it is."""
        return id(schema) in self._marked


class MapSchema:
    """One schema that constrains the values of keys that it does not declare.

    A pattern that RE2 cannot run adds a finding, and denies every undeclared key.
    """

    def __init__(self, schema: ApplicableSchema, document: OpenApiDocument) -> None:
        node = schema.place.node
        self._schema = schema
        self.patterns: list[tuple[KeyPattern, ApplicableSchema]] = []
        self._unusable: list[ApplicableSchema] = []
        for text in node.get("patternProperties", ()):
            value = schema.subschema("patternProperties", text)
            pattern = KeyPattern.of(text)
            if pattern is None:
                document.findings.add(value.place.pointer, "unusable_pattern")
                self._unusable.append(value)
            else:
                self.patterns.append((pattern, value))
        self.additional = (
            schema.subschema("additionalProperties") if _has_schema(node, "additionalProperties") else None
        )
        """What constrains the keys that match no pattern."""
        self.forbids_others = node.get("additionalProperties") is False
        """Whether keys that match no pattern are forbidden."""
        self._has_unevaluated = _has_schema(node, "unevaluatedProperties") and self.additional is None
        self.denies_undeclared = bool(self._unusable) or self._has_unevaluated or not schema.grants

    @property
    def schemas(self) -> list[ApplicableSchema]:
        """Everything that may constrain the value of an undeclared key."""
        values = [schema for _, schema in self.patterns]
        return values if self.additional is None else [*values, self.additional]

    def schemas_for(self, name: str) -> list[ApplicableSchema]:
        """Return what this map says of a property that some schema declares by name.

        No mark in it counts, because such a property is never kept through a map.
        """
        matched, is_certain = self._matched(name)
        found = [schema._replace(grants=False) for schema in (*self._unusable, *matched)]
        declares = name in self._schema.place.node.get("properties", ())
        if declares or (matched and is_certain):
            return found
        if self.additional is not None:
            found.append(self.additional._replace(grants=False))
        elif self._has_unevaluated:
            found.append(self._schema.subschema("unevaluatedProperties", grants=False))
        return found

    def _matched(self, name: str) -> tuple[list[ApplicableSchema], bool]:
        """Return what the patterns that `name` matches say, and whether it is certain for all patterns."""
        matches = [(pattern.matches(name), schema) for pattern, schema in self.patterns]
        matched = [schema for match, schema in matches if match is not False]
        return matched, all(match is not None for match, _ in matches)


def _has_schema(node: dict[str, Any], keyword: str) -> bool:
    return isinstance(node.get(keyword), dict)
