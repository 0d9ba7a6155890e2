"""What the keywords of one schema node grant or deny, and whether the node can be trusted (rules 1 and 5)."""

from __future__ import annotations

from typing import Any

from redactor.openapi.document import UNTRUSTED, OpenApiDocument

# The document's text alone does not say which schema these keywords bring in.
_UNRESOLVABLE_KEYWORDS = ("$dynamicRef", "$recursiveRef", "contentSchema")
_KEYWORDS_HOLDING_MAPPINGS = ("properties", "patternProperties", "dependentSchemas")
# Beyond it a denial is assumed: the bound may drop a value, and never keep one.
_NODES_SEARCHED_MAX = 1000
_FALSE_IS_NO_SCHEMA = frozenset(
    {
        "additionalProperties",
        "unevaluatedProperties",
        "additionalItems",
        "unevaluatedItems",
        "items",
        "nullable",
        "deprecated",
        "readOnly",
        "writeOnly",
        "required",
        "uniqueItems",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "default",
        "example",
    }
)
"""Keywords whose `false` denies no value that could be kept. Any other `false` may be a schema that admits nothing."""


def is_marked(node: Any) -> bool:
    """Whether a node is marked: `x-auditable` is JSON true, nothing else (rule 1)."""
    return isinstance(node, dict) and node.get("x-auditable") is True


def is_denied(node: Any) -> bool:
    """Whether a node's own keywords deny what it describes (rules 1 and 5)."""
    if not isinstance(node, dict):
        return False
    return (
        node.get("x-sensitive", False) is not False
        or node.get("x-auditable", True) is not True
        or node.get("format") == "password"
        or UNTRUSTED in node
    )


def is_trusted(schema: dict[str, Any], *, is_3_0: bool) -> bool:
    """Whether every constraint of a schema can be found in the document and read.

    A schema that cannot be trusted may hide a denial, so it denies its value.
    """
    if any(keyword in schema for keyword in _UNRESOLVABLE_KEYWORDS):
        return False
    # `$id` changes what the references below it mean; OpenAPI 3.0 does not know it.
    if not is_3_0 and "$id" in schema:
        return False
    for keyword in _KEYWORDS_HOLDING_MAPPINGS:
        part = schema.get(keyword, {})
        if not isinstance(part, dict) or UNTRUSTED in part:
            return False
    return True


def may_deny(document: OpenApiDocument, schema: Any) -> bool:
    """Whether a denial stands anywhere in a schema or in what it refers to (rule 5).

    Where that is uncertain (a broken reference, an untrusted schema, a schema too large to search) the answer is yes.
    """
    seen: set[int] = set()
    pending: list[Any] = [schema]
    while pending:
        node = pending.pop()
        if id(node) in seen or not isinstance(node, dict | list):
            continue
        seen.add(id(node))
        if len(seen) > _NODES_SEARCHED_MAX:
            return True
        if isinstance(node, list):
            pending.extend(node)
            continue
        if _denies_by_itself(document, node):
            return True
        if "$ref" in node:
            target = document.resolve(node["$ref"])
            if target is None:
                return True
            pending.append(target.node)
        pending.extend(node.values())
    return False


def _denies_by_itself(document: OpenApiDocument, node: dict[str, Any]) -> bool:
    if is_denied(node) or not is_trusted(node, is_3_0=document.is_3_0):
        return True
    return any(value is False and keyword not in _FALSE_IS_NO_SCHEMA for keyword, value in node.items())
