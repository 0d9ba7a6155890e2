"""Compiled plans: what one schema position lets through. Keeping a value by its plan looks at no schema.

A plan's `keep` takes one JSON value and returns the part that may leave: new containers, the same scalars, or DROPPED.
Nothing that is dropped influences what is kept: not the order of keys, not whether a container shows, not a count
(rules 3, 4, 6 and 11).

`pipeline.typed_bodies` compiles the same plans further, into msgspec types. What is here defines the result.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import MAX_EMAX, MIN_EMIN, Context
from enum import Enum
from typing import Any, Protocol, TypeAlias

import msgspec

from redactor.decode.json import Json, JsonInteger, JsonNumber


class NotKept(Enum):
    """The type of DROPPED, which is no JSON value: a `null` that is kept is None."""

    DROPPED = "dropped"


DROPPED = NotKept.DROPPED
Kept: TypeAlias = "Json | NotKept"


class Plan(Protocol):
    """What one schema position lets through."""

    def keep(self, value: Json) -> Kept:
        """Return the part of `value` that may leave, or DROPPED."""
        ...


@dataclass(frozen=True, slots=True)
class DropPlan:
    """Nothing is kept. The default everywhere (rule 1)."""

    is_too_complex: bool = False
    """Whether nothing is kept because compiling the schema would take more than any that people write."""

    def keep(self, value: Json) -> Kept:  # noqa: ARG002
        return DROPPED


DROP = DropPlan()
TOO_COMPLEX = DropPlan(is_too_complex=True)
# One reference may lead to the next. So many do so only where they lead back to one another.
_REFS_MAX = 100


@dataclass(frozen=True, slots=True)
class ScalarPlan:
    """A marked scalar: null, or a value of one of `types` (rule 6)."""

    types: frozenset[type]
    number_chars_max: int
    """A number that is written longer is dropped."""
    allowed_values: frozenset[str] | None = None
    """Where `enum` or `const` are enforced, the canonical texts of the values that they list."""
    unrestricted_types: frozenset[type] = frozenset()
    """Types of which every value is kept although others must be listed: another alternative admits them all."""

    def keep(self, value: Json) -> Kept:
        if value is None:
            return None
        if type(value) not in self.types:
            return DROPPED
        if is_long_number(value, self.number_chars_max):
            return DROPPED
        if self.allowed_values is None or type(value) in self.unrestricted_types:
            return value
        return value if canonical_text(value) in self.allowed_values else DROPPED


@dataclass(frozen=True, slots=True)
class FreeFormPlan:
    """A marked object without declared parts: kept whole within the limits, beyond them as `{}` (rule 4).

    Numbers that are too long are removed from it first (rule 6), so that they count towards no limit.
    """

    bytes_max: int
    depth_max: int
    number_chars_max: int

    def keep(self, value: Json) -> Kept:
        if type(value) is not dict:
            return None if value is None else DROPPED
        value = self.without_long_numbers(value)
        return {} if value and self.is_too_large(value) else value

    def without_long_numbers(self, value: dict[str, Json]) -> dict[str, Json]:
        if not _holds_long_number(value, self.number_chars_max):
            return value
        return _object_without_long_numbers(value, self.number_chars_max)

    def is_too_large(self, value: dict[str, Json]) -> bool:
        return _depth(value) > self.depth_max or len(encode_json(value)) > self.bytes_max


class KeyMatcher(Protocol):
    """The patterns of one `patternProperties`."""

    @property
    def texts(self) -> Sequence[str]:
        """The patterns as the document has them."""
        ...

    def matching(self, key: str) -> Sequence[int] | None:
        """Return the indices of the patterns that a key matches, in no order; None where that is uncertain."""
        ...


@dataclass(frozen=True, slots=True)
class MapEntryPlans:
    """How one schema lets through the values of keys that it does not declare (rule 4)."""

    patterns: KeyMatcher
    plans: tuple[Plan, ...]
    """One for each pattern."""
    additional: Plan | None
    """The plan for keys that match no pattern; None where the schema does not constrain them."""

    def plans_for(self, key: str) -> tuple[Plan, ...]:
        """Return every plan that the key's value must pass; none where the schema does not constrain it."""
        matching = self.patterns.matching(key) if self.plans else ()
        if matching is None:
            return (DROP,)
        if matching or self.additional is None:
            return tuple(self.plans[index] for index in matching)
        return (self.additional,)


@dataclass(frozen=True, slots=True)
class ObjectPlan:
    """An object: its declared properties in document order, then the entries of a marked map, sorted (rules 3, 4, 11)."""

    properties: Mapping[str, Plan]
    """Declared properties of which something may be kept."""
    positions: Mapping[str, int]
    """The index of each of `properties`."""
    declared: frozenset[str]
    """All declared names. Even where nothing of them is kept, they are no map keys."""
    map_entries: tuple[MapEntryPlans, ...]
    """Empty where keys are not granted. A key's value must pass the plans of all of them."""
    marked: bool
    """Whether the object shows as `{}` although nothing in it is kept."""

    def keep(self, value: Json) -> Kept:
        if type(value) is not dict:
            return None if value is None and self.marked else DROPPED
        kept: dict[str, Json] = {}
        if value:
            self._keep_properties(value, kept)
        if value and self.map_entries:
            self._keep_entries(value, kept)
        return kept if kept or self.marked else DROPPED

    def names_in(self, value: dict[str, Json]) -> list[str]:
        """Return the names in `value` of which something may be kept, in the order of the output."""
        entries = sorted(value.keys() - self.declared) if self.map_entries else ()
        return [*self._declared_in(value), *entries]

    def plans_for(self, name: str) -> tuple[Plan, ...]:
        """Return every plan that the value of a name must pass; none where nothing of it is kept."""
        plan = self.properties.get(name)
        if plan is not None:
            return (plan,)
        if name in self.declared:
            return ()
        return tuple(plan for entries in self.map_entries for plan in entries.plans_for(name))

    def _declared_in(self, value: dict[str, Json]) -> list[str]:
        properties = self.properties
        if len(value) * 4 >= len(properties):
            return [name for name in properties if name in value]
        # Many small objects of a wide schema must not cost its width each.
        return sorted((name for name in value if name in properties), key=self.positions.__getitem__)

    def _keep_properties(self, value: dict[str, Json], kept: dict[str, Json]) -> None:
        for name in self._declared_in(value):
            part = self.properties[name].keep(value[name])
            if part is not DROPPED:
                kept[name] = part

    def _keep_entries(self, value: dict[str, Json], kept: dict[str, Json]) -> None:
        for key in sorted(value.keys() - self.declared):
            plans = [plan for entries in self.map_entries for plan in entries.plans_for(key)]
            part = keep_by_every(plans, value[key]) if plans else DROPPED
            if part is not DROPPED:
                kept[key] = part


@dataclass(frozen=True, slots=True)
class ArrayPlan:
    """An array: tuple slots, then items. Elements that do not fit are removed one by one (rules 6 and 11)."""

    slots: tuple[Plan, ...]
    items: Plan
    marked: bool
    """Whether the array shows as `[]` although nothing in it is kept."""

    def keep(self, value: Json) -> Kept:
        if type(value) is not list:
            return None if value is None and self.marked else DROPPED
        if self.slots and value:
            kept = [self.plan_at(index).keep(each) for index, each in enumerate(value)]
            return close_gaps(kept, len(self.slots), marked=self.marked)
        keep = self.items.keep
        elements: list[Json] = [part for each in value if (part := keep(each)) is not DROPPED]
        return elements if elements or self.marked else DROPPED

    def plan_at(self, index: int) -> Plan:
        return self.slots[index] if index < len(self.slots) else self.items


@dataclass(frozen=True, slots=True)
class TaggedUnionPlan:
    """An object that one of several schemas describes; the value of its property `tag` says which (rule 7).

    The tag may decide only because it is kept itself: an object whose tag is missing, not kept, or names no schema is
    dropped.
    """

    tag: str
    variants: Mapping[str, Plan]
    """By the canonical text of the tag's value."""
    marked: bool

    def keep(self, value: Json) -> Kept:
        if type(value) is not dict:
            return None if value is None and self.marked else DROPPED
        kept = self.variant_for(value).keep(value)
        return kept if type(kept) is dict and self.tag in kept else DROPPED

    def variant_for(self, value: dict[str, Json]) -> Plan:
        """Return the plan that the tag in `value` selects; DROP where it selects none."""
        tag_value = value.get(self.tag)
        if type(tag_value) in _CONTAINERS or self.tag not in value:
            return DROP
        return self.variants.get(canonical_text(tag_value), DROP)


_CONTAINERS = (dict, list)


class Kind(Enum):
    """What JSON types are, as far as a form or a URL may leave it open."""

    OBJECT = "object"
    ARRAY = "array"
    SCALAR = "scalar"


@dataclass(frozen=True, slots=True)
class TypeSwitchPlan:
    """A value whose schema admits several JSON types: the type of the value selects the plan (rule 7)."""

    as_object: Plan
    as_array: Plan
    as_scalar: Plan = DROP
    keeps_null: bool = True
    """Whether `null` is kept if one of them keeps it: not where only some of the value's schemas are marked."""
    described: frozenset[Kind] = frozenset()
    """For a value that may be written as text, which does not show its type: what it may be. Else empty."""

    def hides(self, kind: Kind) -> bool:
        """Whether the value may be of a kind of which nothing is kept."""
        plan = {Kind.OBJECT: self.as_object, Kind.ARRAY: self.as_array, Kind.SCALAR: self.as_scalar}[kind]
        return kind in self.described and isinstance(plan, DropPlan)

    def keep(self, value: Json) -> Kept:
        if value is None:
            plans = (self.as_object, self.as_array, self.as_scalar) if self.keeps_null else ()
            return None if any(plan.keep(None) is None for plan in plans) else DROPPED
        return self.plan_for(value).keep(value)

    def plan_for(self, value: Json) -> Plan:
        if type(value) is dict:
            return self.as_object
        return self.as_array if type(value) is list else self.as_scalar


@dataclass(frozen=True, slots=True)
class AllOfPlan:
    """Several plans that must all let a value through: those of operations that tie, or of overlapping patterns."""

    plans: tuple[Plan, ...]

    def keep(self, value: Json) -> Kept:
        return keep_by_every(self.plans, value)


class RefPlan:
    """A reference to a plan that is compiled later, for schemas that refer to themselves. Bound once, then immutable."""

    __slots__ = ("target",)

    def __init__(self) -> None:
        self.target: Plan = DROP

    def keep(self, value: Json) -> Kept:
        return self.target.keep(value)


def resolved(plan: Plan) -> Plan:
    """Return the plan that a plan for a `$ref` leads to; DROP for one that only leads to others of its kind."""
    for _ in range(_REFS_MAX):
        if not isinstance(plan, RefPlan):
            return plan
        plan = plan.target
    return DROP


def fits_no_variant(plan: Plan, value: Json) -> bool:
    """Whether a dropped body was dropped because its tag selects no schema (the reason `no_branch`)."""
    return isinstance(plan.plan_for(value) if isinstance(plan, TypeSwitchPlan) else plan, TaggedUnionPlan)


def is_too_complex(plan: Plan) -> bool:
    """Whether a whole body is dropped because its schema is too complex (the reason `too_complex`)."""
    if isinstance(plan, AllOfPlan):
        return any(map(is_too_complex, plan.plans))
    return isinstance(plan, DropPlan) and plan.is_too_complex


def keep_by_every(plans: Sequence[Plan], value: Json) -> Kept:
    """Return what every one of the plans keeps of `value` (rules 4 and 7).

    The plans look at each part together, in its place in `value`. Applied one after the other, what the first plan drops
    would shift positions and sizes for the next.
    """
    if len(plans) == 1:
        return plans[0].keep(value)
    if value is None:
        return None if all(plan.keep(None) is None for plan in plans) else DROPPED
    tags: set[str] = set()
    deciding = _all_selected(plans, value, tags)
    if type(value) is dict:
        return _keep_object_by_every(deciding, value, tags)
    if type(value) is list:
        return _keep_array_by_every(deciding, value)
    return value if all(plan.keep(value) is not DROPPED for plan in deciding) else DROPPED


def _all_selected(plans: Sequence[Plan], value: Json, tags: set[str]) -> list[Plan]:
    # Each plan once: schemas that refer to themselves would double the work at every level.
    return list({id(each): each for plan in plans for each in _selected(plan, value, tags)}.values())


def _selected(plan: Plan, value: Json, tags: set[str]) -> Iterator[Plan]:
    """Yield the plans that decide about this value, behind references and switches; add the tags that select them."""
    if isinstance(plan, RefPlan):
        yield from _selected(plan.target, value, tags)
    elif isinstance(plan, AllOfPlan):
        for each in plan.plans:
            yield from _selected(each, value, tags)
    elif isinstance(plan, TypeSwitchPlan):
        yield from _selected(plan.plan_for(value), value, tags)
    elif isinstance(plan, TaggedUnionPlan) and type(value) is dict:
        tags.add(plan.tag)
        yield from _selected(plan.variant_for(value), value, tags)
    else:
        yield plan


def _keep_object_by_every(plans: Sequence[Plan], value: dict[str, Json], tags: set[str]) -> Kept:
    """Return the object with what every plan keeps of each property."""
    objects = [plan for plan in plans if isinstance(plan, ObjectPlan)]
    free_forms = [plan for plan in plans if isinstance(plan, FreeFormPlan)]
    if len(objects) + len(free_forms) < len(plans):
        return DROPPED  # one of them keeps no object
    kept = _keep_properties_by_every(objects, value) if objects else value
    for plan in free_forms:
        kept = plan.without_long_numbers(kept)
    # Measured last: what another plan drops must not decide whether the rest is within the limits.
    if any(plan.is_too_large(kept) for plan in free_forms):
        kept = {}
    if not (kept or all(plan.marked for plan in objects)):
        return DROPPED
    return kept if tags <= kept.keys() else DROPPED


def _keep_properties_by_every(objects: Sequence[ObjectPlan], value: dict[str, Json]) -> dict[str, Json]:
    kept: dict[str, Json] = {}
    for name in objects[0].names_in(value):
        plans_of_each = [each.plans_for(name) for each in objects]
        if not all(plans_of_each):
            continue  # one of them keeps nothing of this property
        plans = [plan for plans in plans_of_each for plan in plans]
        part = keep_by_every(plans, value[name])
        if part is not DROPPED:
            kept[name] = part
    return kept


def _keep_array_by_every(plans: Sequence[Plan], value: list[Json]) -> Kept:
    arrays = [plan for plan in plans if isinstance(plan, ArrayPlan)]
    if len(arrays) < len(plans):
        return DROPPED  # one of them keeps no array
    kept = [keep_by_every([each.plan_at(index) for each in arrays], part) for index, part in enumerate(value)]
    slots = max(len(each.slots) for each in arrays)
    return close_gaps(kept, slots, marked=all(each.marked for each in arrays))


def close_gaps(kept: Sequence[Kept], slots: int, *, marked: bool) -> Kept:
    """Return an array of the kept elements (rule 11).

    A dropped element in a tuple slot becomes null if something behind it is kept, because slots have positions. Behind
    the slots, dropped elements leave no trace.
    """
    items = [part for part in kept[slots:] if part is not DROPPED]
    in_slots = list(kept[:slots])
    while in_slots and not items and in_slots[-1] is DROPPED:
        in_slots.pop()
    elements: list[Json] = [None if part is DROPPED else part for part in in_slots]
    elements += items
    return elements if elements or marked else DROPPED


# Wide enough never to round a number of the compared length.
_EXACT = Context(prec=80, Emax=MAX_EMAX, Emin=MIN_EMIN)
_COMPARED_CHARS_MAX = 64  # longer numbers are equal only if they are written alike


def canonical_text(scalar: Any) -> str:
    """Return a text that is the same for two JSON scalars if they are equal: for `1.0` and `1`, but not for `"1"`."""
    kind = type(scalar)
    if kind is str:
        return '"' + str(scalar)
    token = str(scalar)
    if scalar is None or kind is bool:
        return token
    is_canonical = kind is JsonInteger and token[-1] != "0"
    if is_canonical or len(token) > _COMPARED_CHARS_MAX:
        return token
    try:
        number = _EXACT.create_decimal(token)
        return str(number.normalize(_EXACT)) if number else "0"
    except ArithmeticError:
        return token


def is_long_number(value: Json, chars_max: int) -> bool:
    """Whether a value is a number whose token is longer than `chars_max`."""
    return isinstance(value, JsonInteger | JsonNumber) and len(value) > chars_max


def _holds_long_number(value: Json, chars_max: int) -> bool:
    if type(value) is dict:
        return any(_holds_long_number(part, chars_max) for part in value.values())
    if type(value) is list:
        return any(_holds_long_number(part, chars_max) for part in value)
    return is_long_number(value, chars_max)


def _object_without_long_numbers(value: dict[str, Json], chars_max: int) -> dict[str, Json]:
    parts = {name: part for name, part in value.items() if not is_long_number(part, chars_max)}
    return {name: _without_long_numbers(part, chars_max) for name, part in parts.items()}


def _without_long_numbers(value: Json, chars_max: int) -> Json:
    """Return a value that is itself no long number, without those in it."""
    if type(value) is dict:
        return _object_without_long_numbers(value, chars_max)
    if type(value) is list:
        return [
            _without_long_numbers(part, chars_max) for part in value if not is_long_number(part, chars_max)
        ]
    return value


def encode_json(kept: Json) -> bytes:
    """Return the JSON text of a kept tree, numbers as they were written."""
    return _ENCODER.encode(kept)


def count_scalars(kept: Json) -> int:
    if type(kept) is dict:
        return sum(map(count_scalars, kept.values()))
    return sum(map(count_scalars, kept)) if type(kept) is list else 1


def _token(value: Any) -> msgspec.Raw:
    if isinstance(value, JsonInteger | JsonNumber):
        return msgspec.Raw(str(value))
    raise TypeError("not a JSON value")


_ENCODER = msgspec.json.Encoder(enc_hook=_token)


def _depth(value: Json) -> int:
    if type(value) is dict:
        return 1 + max(map(_depth, value.values()), default=0)
    return 1 + max(map(_depth, value), default=0) if type(value) is list else 0
