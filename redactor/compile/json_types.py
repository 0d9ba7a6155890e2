"""The JSON types that schemas name, and the scalars that `enum` and `const` list."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from redactor.compile.plan import canonical_text

SCALAR_TYPES = frozenset({"string", "boolean", "integer", "number"})
CONTAINER_TYPES = frozenset({"object", "array"})
NULL = frozenset({"null"})
ALL_TYPES = SCALAR_TYPES | CONTAINER_TYPES | NULL

JsonTypes = frozenset[str] | None
"""The types that a schema admits, `null` among them; None where it names no type."""


def declared_types(declared: Any) -> frozenset[str]:
    """Return the types that the value of `type` names. Anything unknown in it admits nothing; a number may be an integer."""
    names = declared if isinstance(declared, list) else [declared]
    types = {name for name in names if isinstance(name, str)} & ALL_TYPES
    return frozenset(types | {"integer"}) if "number" in types else frozenset(types)


def intersection(one: JsonTypes, other: JsonTypes) -> JsonTypes:
    """Return the types that two schemas admit together."""
    if one is None:
        return other
    return one if other is None else one & other


def common_types(nodes: Iterable[Mapping[str, Any]]) -> JsonTypes:
    """Return the types that all of these schemas admit."""
    admitted: JsonTypes = None
    for node in nodes:
        if "type" in node:
            admitted = intersection(admitted, declared_types(node["type"]))
        elif admits_null_alone(node):
            admitted = intersection(admitted, NULL)
    return admitted


def admits_null_alone(node: Any) -> bool:
    """Whether a schema describes `null` and nothing else, by `type`, `const` or `enum`."""
    if not isinstance(node, dict):
        return False
    if "type" in node:
        return declared_types(node["type"]) == NULL
    return ("const" in node and node["const"] is None) or node.get("enum") == [None]


def listed_values(nodes: Iterable[Mapping[str, Any]]) -> frozenset[str] | None:
    """Return the scalars that every `enum` and `const` admits, as canonical texts; None where there is neither."""
    admitted: frozenset[str] | None = None
    for node in nodes:
        for listed in _lists_of(node):
            texts = frozenset(canonical_text(each) for each in listed if not isinstance(each, dict | list))
            admitted = texts if admitted is None else admitted & texts
    return admitted


def _lists_of(node: Mapping[str, Any]) -> Iterable[list[Any]]:
    listed = node.get("enum")
    if listed is not None:
        yield listed if isinstance(listed, list) else []
    if "const" in node:
        yield [node["const"]]
