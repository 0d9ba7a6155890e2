"""All the schemas that speak about one value: the node, what it refers to, and its composition branches.

Some of them grant, all of them deny (rules 5 and 7). `allOf` branches and what a `$ref` leads to grant as the node
itself does. What stands beside a `$ref` in 3.0, under `not`, in conditionals or dependent schemas only denies.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from redactor.document import UNTRUSTED, LoadedDocument, Place

SCALAR_KINDS = frozenset({"string", "boolean", "integer", "number"})
CONTAINER_KINDS = frozenset({"object", "array"})
_KINDS = SCALAR_KINDS | CONTAINER_KINDS | {"null"}
_DENYING_BRANCH = ("not", "if", "then", "else")
_DENYING_BRANCHES = ("dependentSchemas", "dependencies")
# What these bring in cannot be told from the document's text alone.
_UNREACHABLE = ("$dynamicRef", "$recursiveRef", "contentSchema")
_PARTS_THAT_MUST_BE_MAPPINGS = ("properties", "patternProperties", "dependentSchemas")


def is_denied(node: Any) -> bool:
    """Tell whether a node's own keywords deny what it describes (rules 1 and 5)."""
    if not isinstance(node, dict):
        return False
    return (
        node.get("x-sensitive", False) is not False
        or node.get("x-auditable", True) is not True
        or node.get("format") == "password"
        or UNTRUSTED in node
    )


def is_marked(node: Any) -> bool:
    """Tell whether a node is marked: `x-auditable` is JSON true, nothing else (rule 1)."""
    return isinstance(node, dict) and node.get("x-auditable") is True


class Branch(NamedTuple):
    """One schema that speaks about a value; `grants` says whether its marks count."""

    place: Place
    grants: bool

    @property
    def identity(self) -> tuple[int, bool]:
        """Return what makes it the same branch again; nodes live as long as their document."""
        return id(self.place.node), self.grants

    def part(self, *steps: str | int, grants: bool = True) -> Branch:
        """Return the branch that a keyword below this one adds, granting only if this one does."""
        return Branch(self.place.child(*steps), self.grants and grants)


class Voices:
    """What all branches on one value say together. Collected once per schema position, while compiling."""

    def __init__(self, document: LoadedDocument, branches: Iterable[Branch]) -> None:
        self._document = document
        self.all: list[Branch] = []
        """Every branch whose schema is a mapping, in document order."""
        self.denied = False
        self.composed = False
        """Whether a granting branch holds `oneOf` or `anyOf`."""
        self._collect(branches)
        self.granting = [branch.place.node for branch in self.all if branch.grants]
        self.marked = any(map(is_marked, self.granting))
        self.kinds = self._kinds()
        """The types that every granting branch admits, `null` left aside; None where none says a type."""

    def _collect(self, branches: Iterable[Branch]) -> None:
        """Gather the branches without recursion, each once, so that cycles end and depth does not matter."""
        seen: set[tuple[int, bool]] = set()
        waiting: list[Branch | _Turn] = []
        waiting.extend(list(branches)[::-1])
        while waiting:
            branch = waiting.pop()
            if isinstance(branch, _Turn):
                self.all.append(branch.branch)
            elif branch.identity not in seen:
                seen.add(branch.identity)
                waiting.extend(list(self._open(branch))[::-1])

    def _open(self, branch: Branch) -> Iterator[Branch | _Turn]:
        """Yield what a branch adds: its own turn and its parts' branches, in the order of its keywords."""
        node = branch.place.node
        if isinstance(node, bool):
            self.denied |= branch.grants and not node
            return
        if not isinstance(node, dict) or not self._is_sound(branch):
            self._deny(branch, "unusable_schema")
            return
        self.denied |= is_denied(node)
        beside_reference = "$ref" in node and self._document.is_3_0
        own = Branch(branch.place, branch.grants and not beside_reference)
        parts = {keyword: list(self._parts(keyword, branch, own)) for keyword in node}
        if "properties" not in node:
            yield _Turn(own)
        for keyword, added in parts.items():
            if keyword == "properties":
                yield _Turn(own)
            yield from added

    def _parts(self, keyword: str, branch: Branch, own: Branch) -> Iterator[Branch]:
        """Yield the branches on the same value that one keyword of a schema adds."""
        value = own.place.node[keyword]
        if keyword == "$ref":
            yield from self._referred(branch)
        elif keyword == "allOf":
            yield from self._listed(own, keyword, grants=True)
        elif keyword in ("oneOf", "anyOf"):
            self.composed |= own.grants
            yield from self._listed(own, keyword, grants=False)
        elif keyword in _DENYING_BRANCH:
            yield own.part(keyword, grants=False)
        elif keyword in _DENYING_BRANCHES and isinstance(value, dict):
            for name, schema in value.items():
                if isinstance(schema, dict):
                    yield own.part(keyword, name, grants=False)
        elif keyword == "discriminator" and isinstance(value, dict):
            yield from self._mapped(value.get("mapping"))

    def _referred(self, branch: Branch) -> Iterator[Branch]:
        target = self._document.resolve(branch.place.node["$ref"])
        if target is None:
            self._deny(branch, "broken_reference")
        else:
            yield Branch(target, branch.grants)

    def _listed(self, own: Branch, keyword: str, *, grants: bool) -> Iterator[Branch]:
        schemas = own.place.node[keyword]
        if not isinstance(schemas, list):
            self._deny(own, "unusable_schema")
            return
        for index in range(len(schemas)):
            yield own.part(keyword, index, grants=grants)

    def _mapped(self, mapping: Any) -> Iterator[Branch]:
        """Yield the schemas that a discriminator names: a denial in one may describe this very value."""
        for name in mapping.values() if isinstance(mapping, dict) else ():
            if isinstance(name, str):
                target = self._document.resolve(name if "#" in name else f"#/components/schemas/{name}")
                if target is not None:
                    yield Branch(target, grants=False)

    def _is_sound(self, branch: Branch) -> bool:
        """Tell whether all that the schema says of its value can be found and read."""
        node = branch.place.node
        if any(keyword in node for keyword in _UNREACHABLE):
            return False
        if not self._document.is_3_0 and "$id" in node:
            return False
        for keyword in _PARTS_THAT_MUST_BE_MAPPINGS:
            part = node.get(keyword, {})
            if not isinstance(part, dict) or UNTRUSTED in part:
                return False
        return True

    def _deny(self, branch: Branch, code: str) -> None:
        self.denied = True
        self._document.findings.add(branch.place.pointer, code)

    def _kinds(self) -> frozenset[str] | None:
        admitted: frozenset[str] | None = None
        for node in self.granting:
            if "type" in node:
                declared = _declared_kinds(node["type"])
                admitted = declared if admitted is None else admitted & declared
        # Branches that exclude one another describe no value at all.
        self.denied |= admitted is not None and not admitted
        return None if admitted is None else admitted - {"null"}


class _Turn(NamedTuple):
    """The place in the order of branches where a branch's own keywords come."""

    branch: Branch


def _declared_kinds(declared: Any) -> frozenset[str]:
    """Return the types that `type` lists; what is no type admits nothing."""
    names = declared if isinstance(declared, list) else [declared]
    kinds = {name for name in names if isinstance(name, str)} & _KINDS
    return frozenset(kinds | {"integer"}) if "number" in kinds else frozenset(kinds)
