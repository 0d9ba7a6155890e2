"""Small schemas for the redactor's tests."""

from __future__ import annotations

from typing import Any

Node = dict[str, Any]

TEXT: Node = {"type": "string"}
MARKED: Node = {"type": "string", "x-auditable": True}
DENIED: Node = {"type": "string", "x-sensitive": True}


def an_object(**properties: Any) -> Node:
    return {"type": "object", "properties": properties}


def a_marked_object(**properties: Any) -> Node:
    return an_object(**properties) | {"x-auditable": True}
