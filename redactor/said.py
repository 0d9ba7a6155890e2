"""One schema and what it says of a value: whether it is marked, denies, can be trusted; and several taken together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

from redactor.document import UNTRUSTED, LoadedDocument, Place

# What these bring in cannot be told from the document's text alone.
_UNREACHABLE = ("$dynamicRef", "$recursiveRef", "contentSchema")
_PARTS_THAT_MUST_BE_MAPPINGS = ("properties", "patternProperties", "dependentSchemas")
_REFERENCES_MAX = 100
_LOOKED_AT_MAX = 1000
_HARMLESS_IF_FALSE = frozenset(
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


def is_sound(node: dict[str, Any], *, is_3_0: bool) -> bool:
    """Tell whether all that a schema says of its value can be found and read."""
    if any(keyword in node for keyword in _UNREACHABLE):
        return False
    if not is_3_0 and "$id" in node:
        return False
    for keyword in _PARTS_THAT_MUST_BE_MAPPINGS:
        part = node.get(keyword, {})
        if not isinstance(part, dict) or UNTRUSTED in part:
            return False
    return True


def can_deny(document: LoadedDocument, schema: Any) -> bool:
    """Tell whether anything that a schema leads to denies, or might: in doubt it does."""
    seen: set[int] = set()
    waiting: list[Any] = [schema]
    while waiting:
        node = waiting.pop()
        if id(node) in seen or not isinstance(node, dict | list):
            continue
        seen.add(id(node))
        if len(seen) > _LOOKED_AT_MAX:
            return True
        if isinstance(node, dict):
            target = document.resolve(node["$ref"]) if "$ref" in node else Place(None, "")
            if target is None or is_denied(node) or not is_sound(node, is_3_0=document.is_3_0):
                return True
            if any(value is False and keyword not in _HARMLESS_IF_FALSE for keyword, value in node.items()):
                return True
            waiting.append(target.node)
        waiting.extend(node.values() if isinstance(node, dict) else node)
    return False


Identity: TypeAlias = tuple[int, bool, bool]


class Branch(NamedTuple):
    """One schema that speaks about a value; `grants` says whether its marks count."""

    place: Place
    grants: bool
    declares: bool = True
    """Whether it says what the value is. What does not, can deny it all the same."""

    @property
    def identity(self) -> Identity:
        """Return what makes it the same branch again; nodes live as long as their document."""
        return id(self.place.node), self.grants, self.declares

    def part(self, *steps: str | int, grants: bool = True) -> Branch:
        """Return the branch that a keyword below this one adds, granting only if this one does."""
        return Branch(self.place.child(*steps), self.grants and grants, self.declares)

    def denying(self) -> Branch:
        """Return the same schema, heard for its denials alone."""
        return Branch(self.place, grants=False, declares=False)

    def settled(self, document: LoadedDocument) -> Branch:
        """Return what a bare reference stands for, so that the same schema is the same branch."""
        place = self.place
        for _ in range(_REFERENCES_MAX):
            node = place.node
            target = (
                document.resolve(node["$ref"]) if isinstance(node, dict) and [*node] == ["$ref"] else None
            )
            if target is None:
                return self if place is self.place else self._replace(place=place)
            place = target
        return self


class Said(NamedTuple):
    """What is said about a value: all of `branches`, and of each of `choices` one alternative or another."""

    branches: tuple[Branch, ...] = ()
    choices: tuple[tuple[Said, ...], ...] = ()

    @property
    def key(self) -> object:
        """Return what makes it the same again."""
        return _key_of(self)

    @property
    def size(self) -> int:
        """Return how many branches it has, those of alternatives too."""
        return len(self.branches) + sum(each.size for alternatives in self.choices for each in alternatives)


def _key_of(said: Said) -> object:
    return (
        tuple(branch.identity for branch in said.branches),
        tuple(tuple(map(_key_of, alternatives)) for alternatives in said.choices),
    )


def united(document: LoadedDocument, said: Said, above: Sequence[dict[Identity, Branch]] = ()) -> Said:
    """Return the same in the form that recursive schemas come back to: nothing is repeated, no choice has one way."""
    own: dict[Identity, Branch] = {}
    levels = (*above, own)

    def take(branches: Iterable[Branch]) -> None:
        for branch in branches:
            settled = branch.settled(document)
            if not any(settled.identity in level for level in levels):
                own[settled.identity] = settled

    take(said.branches)
    choices: dict[object, tuple[Said, ...]] = {}
    waiting = list(said.choices[::-1])
    while waiting:
        ways = _ways(document, waiting.pop(), levels)
        if len(ways) > 1:
            choices.setdefault(tuple(ways), tuple(ways.values()))
        for only in ways.values() if len(ways) == 1 else ():
            take(only.branches)
            waiting.extend(only.choices[::-1])
    return Said(tuple(own.values()), tuple(choices.values()))


def _ways(
    document: LoadedDocument, alternatives: Iterable[Said], above: Sequence[dict[Identity, Branch]]
) -> dict[object, Said]:
    """Return the different alternatives; one that is nothing but a choice itself is taken apart."""
    ways: dict[object, Said] = {}
    for alternative in alternatives:
        alone = united(document, alternative, above)
        apart = alone.choices[0] if not alone.branches and len(alone.choices) == 1 else (alone,)
        for each in apart:
            ways.setdefault(each.key, each)
    return ways


def mapped_place(document: LoadedDocument, name: Any) -> Place | None:
    """Return the schema that a discriminator's mapping names, by a reference or by its bare name."""
    if not isinstance(name, str):
        return None
    return document.resolve(name if "#" in name else f"#/components/schemas/{name}")
