"""Schemas → plans: all thinking about marks, denials and types happens here, once per schema position."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import re2

from redactor.branches import SCALAR_KINDS, Branch, Voices
from redactor.config import Limits
from redactor.document import LoadedDocument, Place
from redactor.plan import (
    DROP,
    Array,
    Drop,
    Either,
    FreeForm,
    Link,
    MapBranch,
    Object,
    Pattern,
    Plan,
    Scalar,
    canonical,
)
from redactor.wellformed import JsonInteger, JsonNumber

_POSITIONS_MAX = 20_000
_NESTING_MAX = 32  # deeper positions wait for their turn, so that no schema exhausts the stack
_OBJECT = frozenset({"object"})
_ARRAY = frozenset({"array"})
_MAP_KEYWORDS = ("patternProperties", "additionalProperties", "unevaluatedProperties")
_PYTHON_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "boolean": (bool,),
    "integer": (JsonInteger,),
    "number": (JsonInteger, JsonNumber),
}


class Circumstances(NamedTuple):
    """What a schema position takes over from where it stands."""

    strict: bool
    """The status is 400 or above: `enum` and `const` are enforced (rule 6)."""
    marked: bool = False
    """A parameter's own mark, or one inherited from a container where the document is configured so (rule 3)."""
    in_marked_array: bool = False
    """The mark on an array of scalars may stand on the array (rule 2)."""


class _TooComplex(Exception):
    """A schema unfolds into more positions than any that people write."""


class _Waiting(NamedTuple):
    """A position to compile, and the link to bind to its plan."""

    key: object
    branches: Sequence[Branch]
    at: Circumstances
    link: Link


class Compiler:
    """Compiles the schemas of one document; positions met before are taken from memory."""

    def __init__(self, document: LoadedDocument, limits: Limits) -> None:
        self._document = document
        self._limits = limits
        self._inherits = document.config.container_marks == "inherit"
        self._known: dict[object, Plan] = {}
        self._fresh: list[object] = []
        self._deferred: list[_Waiting] = []
        self._nesting = 0

    def compile(self, schema: Place, *, strict: bool, marked: bool = False) -> Plan:
        """Return the plan for values that `schema` describes; `marked` says that a mark stands outside of it."""
        self._fresh = []
        try:
            plan = self._plan([Branch(schema, grants=True)], Circumstances(strict, marked))
            while self._deferred:
                self._bind(self._deferred.pop())
        except _TooComplex:
            # What was compiled on the way may lead to links that will never be bound.
            for key in self._fresh:
                self._known.pop(key, None)
            self._deferred = []
            self._document.findings.add(schema.pointer, "too_complex")
            return DROP
        return plan

    def voices(self, schema: Place) -> Voices:
        """Return all that speaks about the values that `schema` describes."""
        return Voices(self._document, [Branch(schema, grants=True)])

    def _plan(self, branches: Sequence[Branch], at: Circumstances) -> Plan:
        key = (tuple(branch.identity for branch in branches), at)
        known = self._known.get(key)
        if known is not None:
            return known
        if len(self._fresh) >= _POSITIONS_MAX:
            raise _TooComplex
        link = self._known[key] = Link()
        self._fresh.append(key)
        waiting = _Waiting(key, branches, at, link)
        if self._nesting < _NESTING_MAX:
            return self._bind(waiting)
        self._deferred.append(waiting)
        return link

    def _bind(self, waiting: _Waiting) -> Plan:
        self._nesting += 1
        try:
            plan = self._compile(waiting.branches, waiting.at)
        finally:
            self._nesting -= 1
        self._known[waiting.key] = waiting.link.target = plan
        return plan

    def _compile(self, branches: Sequence[Branch], at: Circumstances) -> Plan:
        voices = Voices(self._document, branches)
        if voices.denied or voices.composed:
            return DROP
        kinds = voices.kinds
        if kinds is not None and kinds <= SCALAR_KINDS:
            return self._scalar(voices, kinds, at)
        if at.strict and any("enum" in node or "const" in node for node in voices.granting):
            return DROP
        as_object = self._object(voices, at) if kinds is None or "object" in kinds else DROP
        as_array = self._array(voices, at) if kinds is None or "array" in kinds else DROP
        if isinstance(as_array, Drop):
            return as_object
        return as_array if isinstance(as_object, Drop) else Either(as_object, as_array)

    def _scalar(self, voices: Voices, kinds: frozenset[str], at: Circumstances) -> Plan:
        if not (voices.marked or at.marked or at.in_marked_array):
            return DROP
        types = frozenset(each for kind in kinds for each in _PYTHON_TYPES[kind])
        return Scalar(types, _listed_values(voices.granting) if at.strict else None)

    def _object(self, voices: Voices, at: Circumstances) -> Plan:
        # A mark on a node of no type, or of several kinds, grants nothing (rule 4).
        marked = (voices.marked or at.marked) and voices.kinds == _OBJECT
        names = _PropertyNames(self._document, voices)
        if names.denied:
            return DROP
        if marked and _is_free_form(voices):
            return FreeForm(self._limits.free_form_bytes_max, self._limits.free_form_depth_max)
        below = self._below(at, marked=marked)
        maps = [_Map(branch, self._document) for branch in voices.all if _is_map(branch)]
        keys_are_granted = marked or names.marked
        plans = self._properties(voices, maps, below, keys_are_granted=keys_are_granted)
        properties = {name: plan for name, plan in plans.items() if not isinstance(plan, Drop)}
        entries = self._map_branches(maps, below) if keys_are_granted else ()
        if not (properties or entries or marked):
            return DROP
        positions = {name: position for position, name in enumerate(properties)}
        return Object(properties, positions, frozenset(plans), entries, marked)

    def _properties(
        self, voices: Voices, maps: Sequence[_Map], below: Circumstances, *, keys_are_granted: bool
    ) -> dict[str, Plan]:
        """Return the plan of every declared property, in document order."""
        declaring: dict[str, list[Branch]] = {}
        for branch in voices.all:
            for name in branch.place.node.get("properties", ()):
                declaring.setdefault(name, []).append(branch.part("properties", name))
        for name, said in declaring.items():
            for each in maps:
                said.extend(each.branches_for(name, grants=keys_are_granted))
        return {name: self._plan(branches, below) for name, branches in declaring.items()}

    def _map_branches(self, maps: Sequence[_Map], below: Circumstances) -> tuple[MapBranch, ...]:
        """Return what governs undeclared keys: all of it must agree, and one part unknown denies them all."""
        if any(each.denies_undeclared for each in maps):
            return ()
        compiled = [
            MapBranch(
                tuple((pattern, self._plan([branch], below)) for pattern, branch in each.patterns),
                None if each.others is None else self._plan([each.others], below),
            )
            for each in maps
            if each.patterns or each.others is not None
        ]
        return tuple(compiled)

    def _array(self, voices: Voices, at: Circumstances) -> Plan:
        if not any("items" in node or "prefixItems" in node for node in voices.granting):
            return DROP
        if any(
            not _has_sound_items(node, self._document) for node in (each.place.node for each in voices.all)
        ):
            return DROP
        marked = (voices.marked or at.marked) and voices.kinds == _ARRAY
        below = self._below(at, marked=marked)._replace(in_marked_array=marked)
        width = max(len(each.place.node.get("prefixItems", ())) for each in voices.all)
        slots = [self._plan(_elements(voices, index), below) for index in range(width)]
        items = self._plan(_elements(voices, None), below)
        if not marked and all(isinstance(plan, Drop) for plan in (*slots, items)):
            return DROP
        return Array(tuple(slots), items, marked)

    def _below(self, at: Circumstances, *, marked: bool) -> Circumstances:
        return Circumstances(at.strict, marked=self._inherits and (at.marked or marked))


def _elements(voices: Voices, slot: int | None) -> list[Branch]:
    """Return what speaks about an array's element: in the tuple slot, or behind all slots."""
    branches: list[Branch] = []
    for branch in voices.all:
        node = branch.place.node
        if slot is not None and slot < len(node.get("prefixItems", ())):
            branches.append(branch.part("prefixItems", slot))
        elif "items" in node:
            branches.append(branch.part("items"))
        elif "unevaluatedItems" in node:
            branches.append(branch.part("unevaluatedItems", grants=False))
        if "contains" in node:
            branches.append(branch.part("contains", grants=False))
    return branches


def _has_sound_items(node: dict[str, Any], document: LoadedDocument) -> bool:
    """Tell whether an array's elements can be told apart: OpenAPI 3.0 knows no tuples."""
    if "prefixItems" not in node:
        return isinstance(node.get("items", {}), dict | bool)
    return not document.is_3_0 and isinstance(node["prefixItems"], list)


def _is_free_form(voices: Voices) -> bool:
    """Tell whether no branch declares anything about an object's parts (rule 4)."""
    nodes = [branch.place.node for branch in voices.all]
    if any(node.get("properties") for node in nodes):
        return False
    return not any(node.get(keyword, True) is not True for node in nodes for keyword in _MAP_KEYWORDS)


def _listed_values(granting: Iterable[dict[str, Any]]) -> frozenset[str] | None:
    """Return the scalars that every `enum` and `const` admits, as canonical texts; None where there is none."""
    admitted: frozenset[str] | None = None
    for node in granting:
        for listed in (node.get("enum"), [node["const"]] if "const" in node else None):
            if listed is not None:
                values = listed if isinstance(listed, list) else []
                texts = frozenset(canonical(each) for each in values if not isinstance(each, dict | list))
                admitted = texts if admitted is None else admitted & texts
    return admitted


class _PropertyNames:
    """What `propertyNames` says about an object's keys: they are data, marked or denied like values."""

    def __init__(self, document: LoadedDocument, voices: Voices) -> None:
        said = [
            (branch.grants, Voices(document, [branch.part("propertyNames")]))
            for branch in voices.all
            if "propertyNames" in branch.place.node
        ]
        self.denied = any(each.denied for _, each in said)
        self.marked = any(grants and each.marked and not each.composed for grants, each in said)


def _is_map(branch: Branch) -> bool:
    return any(isinstance(branch.place.node.get(keyword), dict) for keyword in _MAP_KEYWORDS)


class _Map:
    """What one branch says of the keys that it does not declare."""

    def __init__(self, branch: Branch, document: LoadedDocument) -> None:
        node = branch.place.node
        self._branch = branch
        self.patterns: list[tuple[Pattern, Branch]] = []
        self._unknown: list[Branch] = []
        for text in node.get("patternProperties", ()):
            part = branch.part("patternProperties", text)
            pattern = _regular_expression(text)
            if pattern is None:
                document.findings.add(part.place.pointer, "unusable_pattern")
                self._unknown.append(part)
            else:
                self.patterns.append((pattern, part))
        self.others = (
            branch.part("additionalProperties") if _is_schema(node, "additionalProperties") else None
        )
        self._unevaluated = _is_schema(node, "unevaluatedProperties") and self.others is None
        self.denies_undeclared = bool(self._unknown) or self._unevaluated or not branch.grants

    def branches_for(self, name: str, *, grants: bool) -> list[Branch]:
        """Return what speaks, beside its declaration elsewhere, about a declared property."""
        part = self._branch.part
        found = [Branch(each.place, grants=False) for each in self._unknown]
        matched = [each for pattern, each in self.patterns if pattern.search(name) is not None]
        found += [Branch(each.place, each.grants and grants) for each in matched]
        if matched or name in self._branch.place.node.get("properties", ()):
            return found
        if self.others is not None:
            found.append(part("additionalProperties", grants=grants))
        elif self._unevaluated:
            found.append(part("unevaluatedProperties", grants=False))
        return found


def _is_schema(node: dict[str, Any], keyword: str) -> bool:
    return isinstance(node.get(keyword), dict)


def _regular_expression(text: str) -> Pattern | None:
    """Return a document's regular expression, compiled to run in linear time; None where RE2 does not know it."""
    options = re2.Options()
    options.log_errors = False
    try:
        pattern: Pattern = re2.compile(text, options)
    except re2.error:
        return None
    return pattern
