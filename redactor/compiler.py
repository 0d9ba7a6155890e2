"""Schemas → plans: all thinking about marks, denials and types happens here, once per schema position."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from redactor.branches import Branch, Choice, Speech, Voices
from redactor.candidates import OWN, STRAY, UNMARKED, Standing, standing
from redactor.config import Limits
from redactor.document import LoadedDocument, Place
from redactor.key_patterns import KeyPatterns
from redactor.maps import Map, PropertyNames, is_free_form, is_map
from redactor.narrowing import Tag, Tags
from redactor.plan import (
    DROP,
    Array,
    Drop,
    Either,
    FreeForm,
    Link,
    MapBranch,
    Narrowed,
    Object,
    Plan,
    Scalar,
)
from redactor.said import Said, can_deny, united
from redactor.wellformed import JsonInteger, JsonNumber

_POSITIONS_MAX = 20_000
_WORK_MAX = 200_000  # steps of compiling one schema, a few seconds at worst
_NESTING_MAX = 32  # deeper positions wait for their turn, so that no schema exhausts the stack
_PYTHON_TYPES: dict[str, type] = {
    "string": str,
    "boolean": bool,
    "integer": JsonInteger,
    "number": JsonNumber,
}


class Circumstances(NamedTuple):
    """What a schema position takes over from where it stands."""

    strict: bool
    """The status is 400 or above: `enum` and `const` are enforced (rule 6)."""
    marked: bool = False
    """A parameter's own mark, or one inherited from a container where the document is configured so (rule 3)."""
    in_marked_array: bool = False
    """The mark on an array of scalars may stand on the array (rule 2)."""
    narrows: bool = True
    """Whether a property may tell alternatives apart: not where it might still be dropped by someone else."""
    narrows_below: bool = True


class _TooComplex(Exception):
    """A schema unfolds into more positions than any that people write."""


class _Waiting(NamedTuple):
    """A position to compile, and the link to bind to its plan."""

    key: object
    said: Said
    at: Circumstances
    link: Link


class _Properties(NamedTuple):
    """What is said of an object's properties, by name; and by each alternative of each choice that may be an object."""

    said: Mapping[str, Said]
    ways: Sequence[Sequence[tuple[int, Mapping[str, Said]]]]


class Compiler:
    """Compiles the schemas of one document; positions met before are taken from memory."""

    def __init__(self, document: LoadedDocument, limits: Limits) -> None:
        self._document = document
        self._limits = limits
        self._inherits = document.config.container_marks == "inherit"
        self._known: dict[object, Plan] = {}
        self._maps: dict[object, Map] = {}
        self._harmful: dict[int, bool] = {}
        self._tags = Tags(document, self._hear)
        self._fresh: list[object] = []
        self._deferred: list[_Waiting] = []
        self._nesting = 0
        self._work = 0

    def compile(
        self,
        schema: Place,
        *,
        strict: bool,
        marked: bool = False,
        narrows: bool = True,
        root_narrows: bool = True,
    ) -> Plan:
        """Return the plan for values that `schema` describes; `marked` says that a mark stands outside of it.

        Without `narrows` no property tells alternatives apart, without `root_narrows` none of the root's own.
        """
        self._fresh = []
        self._work = 0
        at = Circumstances(strict, marked, narrows=narrows and root_narrows, narrows_below=narrows)
        try:
            plan = self._plan(Said((Branch(schema, grants=True),)), at)
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

    def _spend(self, steps: int) -> None:
        self._work += steps
        if self._work > _WORK_MAX:
            raise _TooComplex

    def _hear(self, said: Said) -> Voices:
        voices = Voices(self._document, said.branches, said.choices)
        self._spend(voices.opened)
        return voices

    def _plan(self, said: Said, at: Circumstances) -> Plan:
        self._spend(said.size)
        said = united(self._document, said)
        key = (said.key, at)
        known = self._known.get(key)
        if known is not None:
            return known
        if len(self._fresh) >= _POSITIONS_MAX:
            raise _TooComplex
        link = self._known[key] = Link()
        self._fresh.append(key)
        waiting = _Waiting(key, said, at, link)
        if self._nesting < _NESTING_MAX:
            return self._bind(waiting)
        self._deferred.append(waiting)
        return link

    def _bind(self, waiting: _Waiting) -> Plan:
        self._nesting += 1
        try:
            plan = self._compile(self._hear(waiting.said), waiting.at)
        finally:
            self._nesting -= 1
        self._known[waiting.key] = waiting.link.target = plan
        return plan

    def _compile(self, voices: Voices, at: Circumstances) -> Plan:
        if voices.denied:
            return DROP
        stands = _standing(voices, at)
        as_scalar = self._scalar(voices, stands, at)
        if at.strict and _lists_containers(voices):
            return as_scalar
        as_object = self._object(voices, stands, at) if voices.speaks_of("object") else DROP
        as_array = self._array(voices, stands, at) if voices.speaks_of("array") else DROP
        found = [plan for plan in (as_object, as_array, as_scalar) if not isinstance(plan, Drop)]
        if len(found) < 2:
            return found[0] if found else DROP
        return Either(as_object, as_array, as_scalar)

    def _scalar(self, voices: Speech, stands: Standing, at: Circumstances) -> Plan:
        if stands.scalar_kinds is None:
            return DROP
        types = frozenset(_PYTHON_TYPES[kind] for kind in stands.scalar_kinds)
        lists = {kind: voices.listed_values(kind) for kind in stands.scalar_kinds if at.strict}
        unlisted = frozenset(_PYTHON_TYPES[kind] for kind, values in lists.items() if values is None)
        if unlisted == types or not lists:
            return Scalar(types)
        return Scalar(types, frozenset[str]().union(*(values or () for values in lists.values())), unlisted)

    def _object(self, voices: Speech, stands: Standing, at: Circumstances) -> Plan:
        names = PropertyNames(self._document, voices)
        if names.denied:
            return DROP
        if stands.of_object == OWN and is_free_form(voices.heard):
            return FreeForm(self._limits.free_form_bytes_max, self._limits.free_form_depth_max)
        marked = stands.of_object != UNMARKED
        keys_are_granted = marked or names.marked
        below = self._below(at, marked=marked)
        declared = list(
            {name: None for each in voices.heard for name in each.place.node.get("properties", ())}
        )
        properties = self._properties(voices, declared, keys_are_granted=keys_are_granted)
        if at.narrows:
            narrowed = self._narrowed(voices, properties, at, marked=marked)
            if narrowed is not None:
                return narrowed
        plans = {
            name: self._plan(properties.said[name], below)
            for name in declared
            if self._concerns(properties.said.get(name, Said()))
        }
        entries = self._entries(voices, below) if keys_are_granted else ()
        kept = {name: plan for name, plan in plans.items() if not isinstance(plan, Drop)}
        if not (kept or entries or marked):
            return DROP
        positions = {name: position for position, name in enumerate(kept)}
        return Object(kept, positions, frozenset(plans), entries, marked)

    def _concerns(self, said: Said) -> bool:
        """Tell whether a property is declared or denied; what `not` or the like names without either is nothing."""
        if said.choices or any(branch.declares for branch in said.branches):
            return True
        return bool(said.branches) and self._hear(said).denied

    def _properties(self, voices: Speech, declared: Sequence[str], *, keys_are_granted: bool) -> _Properties:
        """Return what is said of the declared properties, those included that other branches declare."""
        said: dict[str, list[Branch]] = {}
        for branch in voices.own:
            for name in branch.place.node.get("properties", ()):
                said.setdefault(name, []).append(branch.part("properties", name))
        for map_ in map(self._map, filter(is_map, voices.own)):
            self._spend(len(declared))
            for name in declared:
                said.setdefault(name, []).extend(map_.branches_for(name, grants=keys_are_granted))
        for name, branch in self._said_beside(voices, declared):
            said.setdefault(name, []).append(branch)
        self._spend(len(said))
        choices: dict[str, list[tuple[Said, ...]]] = {}
        ways = [
            [
                (index, self._properties(way, declared, keys_are_granted=keys_are_granted).said)
                for index, way in enumerate(choice.alternatives)
                if way.may_be("object")
            ]
            for choice in voices.choices
        ]
        for each in ways:
            for name, alternatives in _by_name([part for _, part in each]).items():
                choices.setdefault(name, []).append(alternatives)
        names = [name for name in {**said, **choices} if said.get(name) or name in choices]
        united_said = {name: Said(tuple(said.get(name, ())), tuple(choices.get(name, ()))) for name in names}
        return _Properties(united_said, ways)

    def _said_beside(self, voices: Speech, declared: Sequence[str]) -> Iterator[tuple[str, Branch]]:
        """Yield what stands beside the wrong type: a property that is denied there is denied all the same (rule 5)."""
        for branch in self._cannot_be_objects(voices):
            for name in branch.place.node.get("properties", ()):
                yield name, branch.part("properties", name)
            if is_map(branch):
                self._spend(len(declared))
                for name in declared:
                    yield from ((name, each) for each in self._map(branch).branches_for(name, grants=False))

    def _is_mapped_elsewhere(self, voices: Speech) -> bool:
        """Tell whether an alternative of another type speaks of undeclared keys: it may not grant, so none is kept."""
        if any(is_map(branch) for branch in self._cannot_be_objects(voices)):
            return True
        ways = [way for choice in voices.choices for way in choice.alternatives if way.may_be("object")]
        return any(self._is_mapped_elsewhere(way) for way in ways)

    def _cannot_be_objects(self, voices: Speech) -> list[Branch]:
        """Return the branches of alternatives that say another type, as ones that can only deny."""
        ways = [way for choice in voices.choices for way in choice.alternatives if not way.may_be("object")]
        branches = [branch.denying() for way in ways for branch in way.heard]
        self._spend(len(branches))
        return branches

    def _narrowed(
        self, voices: Speech, properties: _Properties, at: Circumstances, *, marked: bool
    ) -> Plan | None:
        """Return the plan that a property of one choice decides; None where no property can."""
        below = self._below(at, marked=marked)

        def is_kept(name: str) -> bool:
            heard = self._hear(united(self._document, properties.said[name]))
            is_scalar = not (heard.speaks_of("object") or heard.speaks_of("array"))
            return is_scalar and not heard.denied and _standing(heard, below).scalar_kinds is not None

        for index, choice in enumerate(voices.choices):
            ways = [
                (way, parts)
                for way, parts in properties.ways[index]
                if choice.alternatives[way].speaks_of("object")
            ]
            if len(ways) > 1:
                tag = self._tags.tag(choice, [way for way, _ in ways], [parts for _, parts in ways], is_kept)
                if tag is not None:
                    return self._told_apart(voices, index, tag, at, marked=marked)
        return None

    def _told_apart(self, voices: Speech, index: int, tag: Tag, at: Circumstances, *, marked: bool) -> Plan:
        denying = self._denying(voices.choices[index])
        # An alternative in which the object is not declared stays possible, whatever the property says.
        silent = [i for i, way in enumerate(voices.choices[index].alternatives) if not way.is_declared]
        plans: dict[tuple[int, ...], Plan] = {}
        for chosen in dict.fromkeys(tag.ways.values()):
            ruled_out = [branch for way, branch in denying if way not in chosen]
            narrowed = voices.narrowed(index, [*chosen, *silent], ruled_out, tag.name)
            self._spend(len(narrowed.heard))
            plans[chosen] = self._object(narrowed, _standing(narrowed, at), at)
        if all(isinstance(plan, Drop) for plan in plans.values()):
            return DROP
        return Narrowed(tag.name, {text: plans[chosen] for text, chosen in tag.ways.items()}, marked)

    def _denying(self, choice: Choice) -> list[tuple[int, Branch]]:
        """Return the branches of alternatives that deny something: they do so even where another one is chosen."""
        found = []
        for index, way in enumerate(choice.alternatives):
            for branch in way.heard:
                node = branch.place.node
                if id(node) not in self._harmful:
                    self._harmful[id(node)] = can_deny(self._document, node)
                    self._spend(1)
                if self._harmful[id(node)]:
                    found.append((index, branch))
        return found

    def _map(self, branch: Branch) -> Map:
        known = self._maps.get(branch.identity)
        if known is None:
            known = self._maps[branch.identity] = Map(branch, self._document)
        return known

    def _entries(self, voices: Speech, below: Circumstances) -> tuple[MapBranch, ...]:
        """Return what governs undeclared keys: all of it must agree, and one part unknown denies them all."""
        maps = [self._map(branch) for branch in voices.heard if is_map(branch)]
        if any(each.denies_undeclared for each in maps) or self._is_mapped_elsewhere(voices):
            return ()
        parts = [
            part for each in maps for part in (*(branch for _, branch in each.patterns), each.others) if part
        ]
        if len(parts) > 1:
            # What one of them keeps may not decide anything, as the next may drop it.
            below = below._replace(narrows=False, narrows_below=False)
        return tuple(
            MapBranch(
                KeyPatterns([pattern for pattern, _ in each.patterns]),
                tuple(self._plan(Said((branch,)), below) for _, branch in each.patterns),
                None if each.others is None else self._plan(Said((each.others,)), below),
            )
            for each in maps
            if each.patterns or each.others is not None
        )

    def _array(self, voices: Speech, stands: Standing, at: Circumstances) -> Plan:
        nodes = [branch.place.node for branch in voices.heard]
        if not any(
            {"items", "prefixItems"} & branch.place.node.keys() for branch in voices.heard if branch.grants
        ):
            return DROP
        if not all(_has_sound_items(node, self._document) for node in nodes):
            return DROP
        marked = stands.of_array != UNMARKED
        width = max(len(node.get("prefixItems", ())) for node in nodes)
        self._spend(width * len(nodes))
        elements = [_elements(voices, index) for index in (*range(width), None)]
        covers = stands.of_array == OWN and all(self._is_scalar(each) for each in elements)
        below = self._below(at, marked=marked)._replace(in_marked_array=covers)
        *slots, items = [self._plan(each, below) for each in elements]
        if not marked and all(isinstance(plan, Drop) for plan in (*slots, items)):
            return DROP
        return Array(tuple(slots), items, marked)

    def _is_scalar(self, said: Said) -> bool:
        """Tell whether an element is a scalar for sure, or nothing is said of it: the mark is on an array of scalars."""
        heard = self._hear(said)
        return all(each.is_scalar for each in heard.candidates if each.is_declared)

    def _below(self, at: Circumstances, *, marked: bool) -> Circumstances:
        return Circumstances(
            at.strict,
            marked=self._inherits and (at.marked or marked),
            narrows=at.narrows_below,
            narrows_below=at.narrows_below,
        )


def _standing(voices: Speech, at: Circumstances) -> Standing:
    outside = UNMARKED if not at.marked else STRAY if voices.composed else OWN
    return standing(voices.candidates, outside=outside, in_marked_array=at.in_marked_array)


def _by_name(parts: Sequence[Mapping[str, Said]]) -> Mapping[str, tuple[Said, ...]]:
    """Return what alternatives say of each property, and once that one says nothing of it."""
    found: dict[str, list[Said]] = {}
    for part in parts:
        for name, said in part.items():
            found.setdefault(name, []).append(said)
    return {
        name: tuple(listed) if len(listed) == len(parts) else (*listed, Said())
        for name, listed in found.items()
    }


def _lists_containers(voices: Speech) -> bool:
    """Tell whether `enum` or `const` lists values that may be objects or arrays: those cannot be compared."""
    if not (voices.speaks_of("object") or voices.speaks_of("array")):
        return False
    if any("enum" in node or "const" in node for node in voices.granting):
        return True
    return any(_lists_containers(way) for choice in voices.choices for way in choice.alternatives)


def _elements(voices: Speech, slot: int | None) -> Said:
    """Return what speaks about an array's element: in the tuple slot, or behind all slots."""
    branches = [part for branch in voices.own for part in _element_branches(branch, slot)]
    for way in (way for choice in voices.choices for way in choice.alternatives if not way.may_be("array")):
        # Beside the wrong type, an element that is denied is denied all the same (rule 5).
        branches += [part for branch in way.heard for part in _element_branches(branch.denying(), slot)]
    choices = []
    for choice in voices.choices:
        ways = [_elements(way, slot) for way in choice.alternatives if way.may_be("array")]
        if any(each.branches or each.choices for each in ways):
            choices.append(tuple(ways))
    return Said(tuple(branches), tuple(choices))


def _element_branches(branch: Branch, slot: int | None) -> Iterator[Branch]:
    node = branch.place.node
    if slot is not None and slot < len(node.get("prefixItems", ())):
        yield branch.part("prefixItems", slot)
    elif "items" in node:
        yield branch.part("items")
        # They describe nothing beside `items`, but a denial is heard wherever it stands.
        yield from (
            branch.part(each).denying() for each in ("unevaluatedItems", "additionalItems") if each in node
        )
    elif "unevaluatedItems" in node:
        yield branch.part("unevaluatedItems", grants=False)
    if "contains" in node:
        yield branch.part("contains").denying()


def _has_sound_items(node: Mapping[str, Any], document: LoadedDocument) -> bool:
    """Tell whether an array's elements can be told apart: OpenAPI 3.0 knows no tuples."""
    if "prefixItems" not in node:
        return isinstance(node.get("items", {}), dict | bool)
    return not document.is_3_0 and isinstance(node["prefixItems"], list)
