"""The JSON types that schemas name, and the scalars that `enum` and `const` list."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from redactor.plan import canonical

SCALAR_KINDS = frozenset({"string", "boolean", "integer", "number"})
CONTAINER_KINDS = frozenset({"object", "array"})
NULL = frozenset({"null"})
KINDS = SCALAR_KINDS | CONTAINER_KINDS | NULL

Kinds = frozenset[str] | None
"""Types that are admitted, `null` among them; None: nothing is said about it."""


def declared_kinds(declared: Any) -> frozenset[str]:
    """Return the types that `type` lists; what is no type admits nothing."""
    names = declared if isinstance(declared, list) else [declared]
    kinds = {name for name in names if isinstance(name, str)} & KINDS
    return frozenset(kinds | {"integer"}) if "number" in kinds else frozenset(kinds)


def both(one: Kinds, other: Kinds) -> Kinds:
    """Return the types that two schemas admit together."""
    if one is None or other is None:
        return other if one is None else one
    return one & other


def kinds_of(nodes: Iterable[Mapping[str, Any]]) -> Kinds:
    """Return the types that all of these schemas admit."""
    admitted: Kinds = None
    for node in nodes:
        if "type" in node:
            admitted = both(admitted, declared_kinds(node["type"]))
        elif lists_null_alone(node):
            admitted = both(admitted, NULL)
    return admitted


def lists_null_alone(node: Any) -> bool:
    """Tell whether a schema describes null and nothing else."""
    if not isinstance(node, dict):
        return False
    if "type" in node:
        return declared_kinds(node["type"]) == NULL
    return ("const" in node and node["const"] is None) or node.get("enum") == [None]


def listed_values(nodes: Iterable[Mapping[str, Any]]) -> frozenset[str] | None:
    """Return the scalars that every `enum` and `const` admits, as canonical texts; None where there is none."""
    admitted: frozenset[str] | None = None
    for node in nodes:
        for listed in (node.get("enum"), [node["const"]] if "const" in node else None):
            if listed is not None:
                values = listed if isinstance(listed, list) else []
                texts = frozenset(canonical(each) for each in values if not isinstance(each, dict | list))
                admitted = texts if admitted is None else admitted & texts
    return admitted
