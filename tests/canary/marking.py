"""Random marks and denials for a document that has none, by seed."""

from __future__ import annotations

import random
from typing import Any

from tests.canary.reading import Node

_SCALARS = ("string", "boolean", "integer", "number")


def mark(root: Node, seed: int) -> None:
    """Put marks and denials on schemas and parameters all over a document, in place."""
    rng = random.Random(seed)
    for item in root.get("paths", {}).values():
        for operation in item.values():
            if isinstance(operation, dict) and "responses" in operation and rng.random() < 0.1:
                _deny_headers(operation, rng)
    waiting: list[Any] = [root.get("paths"), root.get("components")]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            if _is_schema(node) or isinstance(node.get("in"), str):
                _mark_node(node, rng)
            waiting.extend(
                value for key, value in node.items() if key not in ("example", "examples", "default")
            )
        elif isinstance(node, list):
            waiting.extend(node)


def _deny_headers(operation: Node, rng: random.Random) -> None:
    """Declare headers that the configuration reads, and deny one of a request or of its responses."""
    denial: Node = rng.choice([{"x-sensitive": True}, {"schema": {"type": "string", "format": "password"}}])
    if rng.random() < 0.5:
        named: Node = {"in": "header", "name": "User-Agent"} | denial
        operation["parameters"] = [*operation.get("parameters", ()), named]
        return
    for response in operation["responses"].values():
        if "$ref" not in response:
            response["headers"] = response.get("headers", {}) | {"X-Actor-Token-Name": denial}


def _is_schema(node: Node) -> bool:
    return isinstance(node.get("type"), str) or any(
        isinstance(node.get(keyword), list) for keyword in ("allOf", "oneOf", "anyOf")
    )


def _mark_node(node: Node, rng: random.Random) -> None:
    chance = rng.random()
    likely = 0.5 if node.get("type") in _SCALARS else 0.3
    if chance < likely:
        node["x-auditable"] = True
    elif chance > 0.985:
        node.update(rng.choice([{"x-sensitive": True}, {"x-auditable": False}, {"format": "password"}]))
    elif chance > 0.97:
        node["x-auditable"] = rng.choice(["true", 1, None])
