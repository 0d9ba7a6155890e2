"""Values that fit a schema, with a token in every place, and what becomes of each."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any

from tests.canary.reading import (
    ANOTHER_TYPE,
    KEPT_FREE_FORM,
    KEPT_MAP_KEY,
    NOT_LISTED,
    OPEN_COMPOSED,
    SCALARS,
    UNMARKED,
    UNTYPED,
    ApplicableSchema,
    Document,
    Node,
    Position,
    Verdict,
)
from tests.canary.tokens import Mint

OPEN_MAP = Verdict(None, "4: a map entry that keeps nothing, or that another branch describes")
_DEPTH_MAX = 12
_VALUES_MAX = 600


class Writer:
    """Writes values into one body. `kept` counts the scalars that must leave, `is_open` is set where it may be more."""

    def __init__(self, mint: Mint, rng: random.Random, *, fitting: bool) -> None:
        self._mint = mint
        self._rng = rng
        self._fitting = fitting
        self._left = _VALUES_MAX
        self.kept = 0
        self.is_open = False
        self.names_show_type = True
        """Whether a list can be told from an object: not by the names of a form's fields, where `0` may be a key."""

    def body(self, position: Position, verdict_of_property: Callable[[str], Verdict | None]) -> Any:
        """Return a value for a body's root, whose properties may be ruled out or left open as a whole."""
        active = self._active(position.schemas)
        if self._kind(active) == "object" and position.properties():
            return self._object(position, active, 0, None, verdict_of_property)
        return self.value(position, 0)

    def value(self, position: Position, depth: int, ruled: Verdict | None = None) -> Any:
        """Return a value for a position; `ruled` is what becomes of all of it, where something above decides that."""
        self._left -= 1
        active = self._active(position.schemas)
        kind = self._kind(active)
        if not self._fitting and not position.is_composed and self._rng.random() < 0.15:
            return self._misfit(kind)
        if kind in SCALARS:
            return self.scalar(position, kind, ruled)
        if position.excludes("object" if kind == "untyped" else kind):
            ruled = ruled or ANOTHER_TYPE
        if position.strict and position.lists_values():
            ruled = ruled or NOT_LISTED
        if kind == "array":
            return self._array(position, depth, ruled)
        if kind == "object":
            return self._object(position, active, depth, ruled)
        return self._anything(ruled or (UNTYPED if position.marks() else UNMARKED))

    def scalar(self, position: Position, kind: str, ruled: Verdict | None = None) -> Any:
        """Return a scalar: a token, or where only listed values keep an alternative open, one of them."""
        verdict = ruled or position.scalar_verdict(kind)
        # A boolean may be listed all the same.
        self.is_open |= verdict == NOT_LISTED and kind == "boolean"
        if verdict.recorded is None:
            listed = [value for each in position.granting for value in each.node.get("enum", ())]
            if listed:
                self.is_open = True
                return self._rng.choice(listed)
        return self._token(kind, verdict)

    def _token(self, kind: str, verdict: Verdict) -> Any:
        self._count(verdict)
        if kind == "boolean":
            return self._rng.random() < 0.5
        if verdict.recorded is False:
            number = self._mint.secret_number if kind != "string" else self._mint.secret_text
            token: Any = number(verdict.rule)
        else:
            token = (self._mint.shown_number if kind != "string" else self._mint.shown_text)(verdict.rule)
        return token + 0.5 if kind == "number" and self._rng.random() < 0.3 else token

    def text(self, verdict: Verdict) -> str:
        """Return a text token."""
        return str(self._token("string", verdict))

    def _count(self, verdict: Verdict) -> None:
        self.kept += verdict.recorded is True
        self.is_open |= verdict.recorded is None

    def _active(self, schemas: Iterable[ApplicableSchema]) -> list[ApplicableSchema]:
        """Return the schemas that this value is made by: those of one branch of each composition, or of all."""
        granting = [each for each in schemas if each.grants]
        if self._rng.random() < 0.3:
            return granting
        # By what was chosen above it: a schema that refers to itself has the same composition at several levels.
        chosen: dict[tuple[object, int], int] = {}
        for each in granting:
            for level, (composition, index) in enumerate(each.choice):
                key = each.choice[:level], composition
                if key not in chosen or self._rng.random() < 0.4:
                    chosen[key] = index
        return [
            each
            for each in granting
            if all(
                chosen[each.choice[:level], composition] == index
                for level, (composition, index) in enumerate(each.choice)
            )
        ]

    def _kind(self, active: Iterable[ApplicableSchema]) -> str:
        for each in active:
            declared = each.node.get("type")
            for kind in declared if isinstance(declared, list) else [declared]:
                if kind in SCALARS | {"object", "array"}:
                    return str(kind)
        for each in active:
            if "properties" in each.node or isinstance(each.node.get("additionalProperties"), dict):
                return "object"
            if "items" in each.node:
                return "array"
        return "untyped"

    def _misfit(self, kind: str) -> Any:
        may_be_list = self.names_show_type or kind != "object"
        if may_be_list and (kind in SCALARS or self._rng.random() < 0.5):
            return [self._anything(ANOTHER_TYPE), None] if kind != "array" else self._anything(ANOTHER_TYPE)
        return self._mint.secret_text(ANOTHER_TYPE.rule)

    def _anything(self, verdict: Verdict) -> Any:
        return {self._key(verdict): [self.text(verdict), self._token("integer", verdict)]}

    def _key(self, verdict: Verdict) -> str:
        if verdict.recorded is False:
            return self._mint.secret_text(verdict.rule)
        return self._mint.shown_text(verdict.rule)

    def _array(self, position: Position, depth: int, ruled: Verdict | None) -> Any:
        element = position.element()
        if element is None:
            verdict = UNTYPED if position.marks() else UNMARKED
            return [self._token("string", ruled or verdict)]
        if depth > _DEPTH_MAX or self._left < 0:
            return []
        many = [self.value(element, depth + 1, ruled) for _ in range(self._rng.choice([1, 1, 2]))]
        return (
            many
            if self._fitting
            else [*many, None, self._mint.secret_text(ANOTHER_TYPE.rule), [], {}][
                : len(many) + (4 if self._safe_to_misfit(element) else 0)
            ]
        )

    def _safe_to_misfit(self, element: Position) -> bool:
        """Return whether a text among the elements is of another type for sure."""
        kinds = element.kinds()
        return not element.is_composed and kinds != set() and "string" not in kinds and not element.marks()

    def _object(
        self,
        position: Position,
        active: list[ApplicableSchema],
        depth: int,
        ruled: Verdict | None,
        of_property: Callable[[str], Verdict | None] = lambda _: None,
    ) -> Node:
        if position.is_free_form() or position.may_be_free_form():
            return self._free_form(position, ruled)
        if depth > _DEPTH_MAX or self._left < 0:
            return {}
        written: Node = {}
        names = {name for each in active for name in each.node.get("properties", ())}
        for name, part in position.properties().items():
            if name in names:
                written[name] = self.value(part, depth + 1, ruled or of_property(name))
        entry = position.entry()
        if entry is not None:
            written |= self._entry(position, entry, depth, ruled)
        else:
            written[self._key(UNMARKED)] = self._anything(UNMARKED)
        return self._shuffled(written)

    def _free_form(self, position: Position, ruled: Verdict | None) -> Node:
        verdict = ruled or position.container_verdict()
        if verdict.recorded is True:
            verdict = KEPT_FREE_FORM
        return {
            self._key(verdict): self._anything(verdict),
            self._key(verdict): self._token("integer", verdict),
        }

    def _entry(self, position: Position, entry: Position, depth: int, ruled: Verdict | None) -> Node:
        """Return one entry of a map, whose key is data."""
        verdict = ruled or position.keys_verdict()
        several = any("additionalProperties" not in each.node for each in position.schemas) and any(
            each.choice or not each.grants for each in position.schemas
        )
        if verdict.recorded is None or (verdict.recorded and several):
            return {self._key(OPEN_MAP): self.value(entry, depth + 1, OPEN_COMPOSED)}
        if verdict.recorded is False:
            return {self._key(verdict): self.value(entry, depth + 1, verdict)}
        kind = self._kind(self._active(entry.schemas))
        kept = kind in SCALARS and self._fitting and entry.scalar_verdict(kind).recorded is True
        key = self._key(KEPT_MAP_KEY if kept else OPEN_MAP)
        return {key: self.value(entry, depth + 1, ruled)}

    def _shuffled(self, written: Node) -> Node:
        names = list(written)
        self._rng.shuffle(names)
        return {name: written[name] for name in names}


def position_of(document: Document, schema: Any, *, denied: bool, strict: bool) -> Position:
    """Return the position of a body's or parameter's root."""
    return Position(document, [ApplicableSchema(schema)], denied=denied, strict=strict)
