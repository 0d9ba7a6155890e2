"""Compiled plans: what a schema lets through, ready to walk. No schema is looked at from here on.

A plan's `keep` returns what of one value may leave, or DROPPED. Nothing that is dropped influences what is kept:
not the order of keys, not the presence of a container, not a count (rules 3, 4, 6 and 11).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import MAX_EMAX, MIN_EMIN, Context
from enum import Enum
from typing import Any, Protocol, TypeAlias

import msgspec

from redactor.wellformed import Json, JsonInteger, JsonNumber


class Nothing(Enum):
    """The one value that says: not kept. `null` is kept as None."""

    DROPPED = "dropped"


DROPPED = Nothing.DROPPED
Kept: TypeAlias = "Json | Nothing"


class Plan(Protocol):
    """What one schema position lets through."""

    def keep(self, value: Json) -> Kept:
        """Return the part of `value` that may leave, made of new containers and the same scalars."""
        ...


@dataclass(frozen=True, slots=True)
class Drop:
    """Nothing leaves."""

    def keep(self, value: Json) -> Kept:  # noqa: ARG002
        """Return DROPPED."""
        return DROPPED


DROP = Drop()


@dataclass(frozen=True, slots=True)
class Scalar:
    """A marked scalar of one of `types`, or null; with `only`, just the values it lists (rule 6).

    Values of the types in `unlisted` need not be listed: another alternative admits them all.
    """

    types: frozenset[type]
    only: frozenset[str] | None = None
    unlisted: frozenset[type] = frozenset()

    def keep(self, value: Json) -> Kept:
        """Return a scalar that fits."""
        if value is None:
            return None
        if type(value) not in self.types:
            return DROPPED
        if self.only is None or type(value) in self.unlisted or canonical(value) in self.only:
            return value
        return DROPPED


@dataclass(frozen=True, slots=True)
class FreeForm:
    """A marked object without declared parts, kept whole within the limits, else as its presence (rule 4)."""

    bytes_max: int
    depth_max: int

    def keep(self, value: Json) -> Kept:
        """Return the whole object."""
        if type(value) is not dict:
            return None if value is None else DROPPED
        return {} if value and self.is_too_large(value) else value

    def is_too_large(self, value: dict[str, Json]) -> bool:
        """Tell whether an object is beyond the limits."""
        return _depth(value) > self.depth_max or len(encode_json(value)) > self.bytes_max


class Found(Protocol):
    """A match, as far as it is needed."""

    def __getitem__(self, group: int) -> str | None:
        """Return the text of a group."""
        ...


class Pattern(Protocol):
    """A compiled regular expression, as far as it is needed."""

    def search(self, text: str) -> Found | None:
        """Return the first match anywhere in `text`."""
        ...


class Keys(Protocol):
    """A map's patterns, as far as they are needed."""

    @property
    def texts(self) -> Sequence[str]:
        """The patterns as the document has them."""
        ...

    def matching(self, key: str) -> Sequence[int] | None:
        """Return which of them a key matches, in no order; None where that is in doubt."""
        ...


@dataclass(frozen=True, slots=True)
class MapBranch:
    """What one schema says of keys it does not declare: patterns, else the plan for all others."""

    patterns: Keys
    plans: tuple[Plan, ...]
    """One for each pattern."""
    others: Plan | None

    def plans_for(self, key: str) -> tuple[Plan, ...]:
        """Return every plan that the key's value must pass; empty where the branch says nothing of it."""
        matching = self.patterns.matching(key) if self.plans else ()
        if matching is None:
            return (DROP,)
        if matching or self.others is None:
            return tuple(self.plans[index] for index in matching)
        return (self.others,)


@dataclass(frozen=True, slots=True)
class Object:
    """An object's declared properties in document order, and behind them the entries of a marked map, sorted."""

    properties: Mapping[str, Plan]
    positions: Mapping[str, int]
    """Where each of `properties` stands."""
    declared: frozenset[str]
    """All declared names, also those that keep nothing: they are no map keys."""
    branches: tuple[MapBranch, ...]
    marked: bool

    def keep(self, value: Json) -> Kept:
        """Return the object with what is kept of each property, or DROPPED where that is nothing."""
        if type(value) is not dict:
            return None if value is None and self.marked else DROPPED
        kept: dict[str, Json] = {}
        for name in self._declared_in(value) if value else ():
            part = self.properties[name].keep(value[name])
            if part is not DROPPED:
                kept[name] = part
        if self.branches and value:
            self._keep_entries(value, kept)
        return kept if kept or self.marked else DROPPED

    def names_in(self, value: dict[str, Json]) -> list[str]:
        """Return the names in `value` of which something may be kept, in the order of the output."""
        return [*self._declared_in(value), *(sorted(value.keys() - self.declared) if self.branches else ())]

    def plans_for(self, name: str) -> tuple[Plan, ...]:
        """Return every plan that the value of a name must pass; empty where nothing of it is kept."""
        plan = self.properties.get(name)
        if plan is not None:
            return (plan,)
        if name in self.declared:
            return ()
        return tuple(plan for branch in self.branches for plan in branch.plans_for(name))

    def _declared_in(self, value: dict[str, Json]) -> list[str]:
        properties = self.properties
        if len(value) * 4 >= len(properties):
            return [name for name in properties if name in value]
        # Many small objects of a wide schema must not cost its width each.
        return sorted((name for name in value if name in properties), key=self.positions.__getitem__)

    def _keep_entries(self, value: dict[str, Json], kept: dict[str, Json]) -> None:
        for key in sorted(value.keys() - self.declared):
            plans = [plan for branch in self.branches for plan in branch.plans_for(key)]
            part = keep_by_all(plans, value[key]) if plans else DROPPED
            if part is not DROPPED:
                kept[key] = part


@dataclass(frozen=True, slots=True)
class Array:
    """Tuple slots, then items. What does not fit is removed singly, slots before a kept element become null."""

    slots: tuple[Plan, ...]
    items: Plan
    marked: bool

    def keep(self, value: Json) -> Kept:
        """Return the array with what is kept of each element, or DROPPED where that is nothing."""
        if type(value) is not list:
            return None if value is None and self.marked else DROPPED
        if self.slots and value:
            kept = [self.plan_at(index).keep(each) for index, each in enumerate(value)]
            return closed_up(kept, len(self.slots), marked=self.marked)
        keep = self.items.keep
        whole: list[Json] = [part for each in value if (part := keep(each)) is not DROPPED]
        return whole if whole or self.marked else DROPPED

    def plan_at(self, index: int) -> Plan:
        """Return the plan for the element at an index."""
        return self.slots[index] if index < len(self.slots) else self.items


@dataclass(frozen=True, slots=True)
class Narrowed:
    """An object that one of several schemas describes; which one, its property `name` tells (rule 7).

    That property decides only because it is kept itself: where it is missing, not kept, or of a value that no schema
    lists, nothing is kept of the object.
    """

    name: str
    ways: Mapping[str, Plan]
    """What is kept, by the property's canonical text."""
    marked: bool

    def keep(self, value: Json) -> Kept:
        """Return what the schemas keep that the property leaves over."""
        if type(value) is not dict:
            return None if value is None and self.marked else DROPPED
        kept = self.way_of(value).keep(value)
        return kept if type(kept) is dict and self.name in kept else DROPPED

    def way_of(self, value: dict[str, Json]) -> Plan:
        """Return the plan that the property's value leaves over."""
        told = value.get(self.name)
        if type(told) in _CONTAINERS or self.name not in value:
            return DROP
        return self.ways.get(canonical(told), DROP)


_CONTAINERS = (dict, list)


@dataclass(frozen=True, slots=True)
class Either:
    """A value whose schema admits several kinds: each is kept by its own plan."""

    as_object: Plan
    as_array: Plan
    as_scalar: Plan = DROP

    def keep(self, value: Json) -> Kept:
        """Return what the plan for the value's kind keeps."""
        if value is None:
            kept = (plan.keep(None) for plan in (self.as_object, self.as_array, self.as_scalar))
            return None if None in kept else DROPPED
        return self.of_kind(value).keep(value)

    def of_kind(self, value: Json) -> Plan:
        """Return the plan for values of this value's kind."""
        if type(value) is dict:
            return self.as_object
        return self.as_array if type(value) is list else self.as_scalar


def finds_no_branch(plan: Plan, value: Json) -> bool:
    """Tell whether a body's root, of which nothing was kept, fits none of the schemas it could be told apart by."""
    return isinstance(plan.of_kind(value) if isinstance(plan, Either) else plan, Narrowed)


@dataclass(frozen=True, slots=True)
class Every:
    """Several plans that all must let a value through: operations that tie, patterns that overlap."""

    plans: tuple[Plan, ...]

    def keep(self, value: Json) -> Kept:
        """Return what every plan keeps."""
        return keep_by_all(self.plans, value)


class Link:
    """A plan that is still being compiled, for schemas that refer to themselves. Bound once, then never changed."""

    __slots__ = ("target",)

    def __init__(self) -> None:
        self.target: Plan = DROP

    def keep(self, value: Json) -> Kept:
        """Return what the plan behind the link keeps."""
        return self.target.keep(value)


def keep_by_all(plans: Sequence[Plan], value: Json) -> Kept:
    """Return what every one of the plans keeps of `value`, each part judged where it stands in it.

    Not one after the other: what the first drops would shift positions and sizes for the next.
    """
    if len(plans) == 1:
        return plans[0].keep(value)
    if value is None:
        return None if all(plan.keep(None) is None for plan in plans) else DROPPED
    needed: set[str] = set()
    # Each once: schemas that refer to themselves would double the work at every level.
    parts = list({id(part): part for plan in plans for part in _concrete(plan, value, needed)}.values())
    if type(value) is dict:
        kept = _keep_object_by_all(parts, value)
        return kept if type(kept) is not dict or needed <= kept.keys() else DROPPED
    if type(value) is list:
        return _keep_array_by_all(parts, value)
    return value if all(part.keep(value) is not DROPPED for part in parts) else DROPPED


def _concrete(plan: Plan, value: Json, needed: set[str]) -> Iterator[Plan]:
    """Yield the plans behind links and choices that govern this value, and note what tells them apart."""
    if isinstance(plan, Link):
        yield from _concrete(plan.target, value, needed)
    elif isinstance(plan, Every):
        for each in plan.plans:
            yield from _concrete(each, value, needed)
    elif isinstance(plan, Either):
        yield from _concrete(plan.of_kind(value), value, needed)
    elif isinstance(plan, Narrowed) and type(value) is dict:
        needed.add(plan.name)
        yield from _concrete(plan.way_of(value), value, needed)
    else:
        yield plan


def _keep_object_by_all(parts: Sequence[Plan], value: dict[str, Json]) -> Kept:
    objects = [part for part in parts if isinstance(part, Object)]
    free = [part for part in parts if isinstance(part, FreeForm)]
    if len(objects) + len(free) < len(parts):
        return DROPPED
    kept: dict[str, Json] = {} if objects else value
    for name in objects[0].names_in(value) if objects else ():
        said = [each.plans_for(name) for each in objects]
        part = keep_by_all([plan for plans in said for plan in plans], value[name]) if all(said) else DROPPED
        if part is not DROPPED:
            kept[name] = part
    # Measured last: what another plan drops must not decide whether the rest fits.
    if any(each.is_too_large(kept) for each in free):
        kept = {}
    return kept if kept or all(each.marked for each in objects) else DROPPED


def _keep_array_by_all(parts: Sequence[Plan], value: list[Json]) -> Kept:
    arrays = [part for part in parts if isinstance(part, Array)]
    if len(arrays) < len(parts):
        return DROPPED
    kept = [keep_by_all([each.plan_at(index) for each in arrays], part) for index, part in enumerate(value)]
    return closed_up(
        kept, max(len(each.slots) for each in arrays), marked=all(each.marked for each in arrays)
    )


def closed_up(kept: Sequence[Kept], slots: int, *, marked: bool) -> Kept:
    """Return an array of what is kept of each element: a slot before a kept one is null, behind them gaps close."""
    tail = [part for part in kept[slots:] if part is not DROPPED]
    head = list(kept[:slots])
    if not tail:
        while head and head[-1] is DROPPED:
            head.pop()
    whole: list[Json] = [None if part is DROPPED else part for part in head]
    whole += tail
    return whole if whole or marked else DROPPED


_EXACT = Context(prec=80, Emax=MAX_EMAX, Emin=MIN_EMIN)


def canonical(scalar: Any) -> str:
    """Return a text that is the same for two JSON scalars if they are equal: `1.0` and `1`, but not `"1"`."""
    kind = type(scalar)
    if kind is str:
        return '"' + str(scalar)
    if scalar is None or kind is bool:
        return str(scalar)
    token = str(scalar)
    if kind is JsonInteger and token[-1] != "0":
        return token
    if len(token) > 64:
        return token
    try:
        number = _EXACT.create_decimal(token)
        return str(number.normalize(_EXACT)) if number else "0"
    except ArithmeticError:
        return token


def encode_json(kept: Json) -> bytes:
    """Return the JSON text of a kept tree, number tokens as they were written."""
    return _ENCODER.encode(kept)


def count_scalars(kept: Json) -> int:
    """Return how many scalars a kept tree writes."""
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
