"""Random bodies that fit the schemas of real documents, and bodies changed in all that was not kept of them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from tests.canary.reading import ApplicableSchema, Document, Position, is_marked
from tests.property.documents import ABSENT, CANARY, Node

Steps = tuple[str | int, ...]
_DEPTH_MAX = 6
_SCALARS = ("string", "integer", "number", "boolean")
_KINDS: dict[type, str] = {str: "string", bool: "boolean", int: "integer", float: "number"}


class Instances:
    """Draws values of a document's schemas. Every string is a token of its own; a list has one element at most."""

    def __init__(self, root: Node, draw: random.Random) -> None:
        self._root = root
        self._draw = draw
        self._count = 0

    def value(self, schema: Any, depth: int = 0) -> Any:
        """A value of the schema, ABSENT where none is needed."""
        node = self.flat(schema)
        if depth > _DEPTH_MAX:
            return ABSENT
        listed = [node["const"]] if "const" in node else node.get("enum")
        if listed:
            return self._draw.choice(listed)
        kind = node.get("type", "object" if "properties" in node else "string")
        kind = (
            self._draw.choice([each for each in kind if each != "null"]) if isinstance(kind, list) else kind
        )
        if kind == "array":
            element = self.value(node.get("items", {}), depth + 1)
            return [] if element is ABSENT else [element]
        return self._object(node, depth) if kind == "object" else self._scalar(str(kind))

    def _object(self, node: Node, depth: int) -> Node:
        found = {
            name: self.value(part, depth + 1)
            for name, part in node.get("properties", {}).items()
            if self._draw.random() < 0.8
        }
        if not found or isinstance(node.get("additionalProperties"), dict):
            found[self._token()] = self.value(node.get("additionalProperties") or {}, depth + 1)
        return {name: value for name, value in found.items() if value is not ABSENT}

    def _scalar(self, kind: str) -> Any:
        if kind == "boolean":
            return self._draw.random() < 0.5
        if kind in ("integer", "number"):
            return self._draw.randrange(10**6, 10**9) + (0.5 if kind == "number" else 0)
        return self._token()

    def _token(self) -> str:
        self._count += 1
        return f"v{self._count}"

    def flat(self, schema: Any) -> Node:
        """One schema in place of references, `allOf` and one branch of each choice."""
        node: Node = {}
        waiting: list[Any] = [schema]
        for _ in range(100):
            if not waiting:
                break
            each = waiting.pop()
            if not isinstance(each, dict):
                continue
            waiting += [self._referred(each["$ref"])] if isinstance(each.get("$ref"), str) else []
            waiting += each.get("allOf", [])
            waiting += [self._draw.choice(each[key]) for key in ("oneOf", "anyOf") if each.get(key)]
            properties = node.get("properties", {}) | each.get("properties", {})
            node |= each | ({"properties": properties} if properties else {})
        return node

    def _referred(self, reference: str) -> Any:
        found: Any = self._root
        for step in reference.removeprefix("#/").split("/"):
            found = (
                found.get(step.replace("~1", "/").replace("~0", "~"), {}) if isinstance(found, dict) else {}
            )
        return found


class Changes:
    """Changes a body in all that the second reading of the rules says may not leave, and in nothing else.

    Where that reading leaves a value open it stays. `made` counts the changes.
    """

    def __init__(self, document: Document, draw: random.Random) -> None:
        self._document = document
        self._draw = draw
        self._marked: dict[int, bool] = {}
        self.made = 0

    def of(self, schema: Any, body: Any) -> Any:
        """Return a changed body; ABSENT where there is none any more."""
        return self._value(Position(self._document, [ApplicableSchema(schema)]), body)

    def _value(self, position: Position, value: Any) -> Any:
        if self._is_silent(position):
            return self._other(value)
        if isinstance(value, dict):
            return self._object(position, value)
        element = position.element()
        if isinstance(value, list):
            found = [each if element is None else self._value(element, each) for each in value]
            return [each for each in found if each is not ABSENT]
        kind = _KINDS.get(type(value))
        if kind is None or position.scalar_verdict(kind).recorded is not False:
            return value
        self.made += 1
        return self._other_scalar(value)

    def _object(self, position: Position, value: Node) -> Node:
        declared = position.properties()
        found = {
            name: self._value(declared[name], part) if name in declared else part
            for name, part in value.items()
        }
        if self._drops_undeclared(position):
            others = {name: self._other(part) for name, part in value.items() if name not in declared}
            found |= others | {
                f"{CANARY}{number}": self._secret() for number in range(self._draw.randrange(3))
            }
        names = list(found)
        self._draw.shuffle(names)
        return {name: found[name] for name in names if found[name] is not ABSENT}

    def _drops_undeclared(self, position: Position) -> bool:
        if any({"propertyNames", "patternProperties"} & each.node.keys() for each in position.schemas):
            return False
        may_be_map = position.entry() is not None or not position.properties()
        return not may_be_map or position.container_verdict().recorded is False

    def _is_silent(self, position: Position) -> bool:
        """Return whether nothing here may leave, whatever it is: it is denied, or no mark stands here or below."""
        nodes = [each.node for each in position.schemas]
        nodes += [each.node for each in position.array.schemas] if position.array is not None else []
        return position.denied or not any(map(self._has_marks, nodes))

    def _has_marks(self, node: Node) -> bool:
        known = self._marked.get(id(node))
        if known is None:
            known = self._marked[id(node)] = any(map(is_marked, self._reached(node)))
        return known

    def _reached(self, start: Any) -> Iterator[Node]:
        seen: set[int] = set()
        waiting = [start]
        while waiting:
            node = waiting.pop()
            if id(node) in seen:
                continue
            seen.add(id(node))
            if isinstance(node, dict):
                yield node
                waiting += [*node.values(), *self._document.chain(node)[1:]]
            elif isinstance(node, list):
                waiting += node

    def _other(self, value: Any) -> Any:
        """Something else where nothing is kept: of the same type, of another, or nothing."""
        self.made += 1
        if isinstance(value, bool | int | float) and self._draw.random() < 0.5:
            return self._other_scalar(value)
        if isinstance(value, dict) and self._draw.random() < 0.5:
            others = {name: self._other(part) for name, part in value.items()} | {CANARY: self._secret()}
            return {name: part for name, part in others.items() if part is not ABSENT}
        return self._draw.choice([ABSENT, self._secret(), self._secret()])

    def _other_scalar(self, value: Any) -> Any:
        if isinstance(value, bool):
            return not value
        return value + 1 if isinstance(value, int | float) else f"{CANARY}{self._draw.randrange(10**6)}"

    def _secret(self) -> Any:
        token = f"{CANARY}{self._draw.randrange(10**6)}"
        number = self._draw.randrange(10**9)
        return self._draw.choice([token, number, True, False, None, {token: token}, [token]])


def marked_at_random(root: Node, draw: random.Random) -> None:
    """Mark every second schema that has a type, and deny one in thirty."""
    for node in _nodes(root):
        if isinstance(node.get("type"), str) and node["type"] in (*_SCALARS, "array", "object"):
            dice = draw.random()
            node.pop("x-auditable", None)
            if dice < 0.6:
                node["x-auditable"] = True
            elif dice > 0.97:
                node["x-sensitive"] = True


def _nodes(root: Any) -> Iterator[Node]:
    waiting = [root]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            yield each
        waiting.extend(each.values() if isinstance(each, dict) else each if isinstance(each, list) else ())
