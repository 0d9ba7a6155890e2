"""Compiled plans looked into: which plan governs a part of a value. For lint and explain; no pair passes here.

A plan of a kind that is not known here is asked instead, with a value that holds the part and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from redactor.plan import (
    DROP,
    DROPPED,
    Array,
    Drop,
    Either,
    Every,
    FreeForm,
    Kept,
    Link,
    MapBranch,
    Narrowed,
    Object,
    Plan,
    Scalar,
)
from redactor.wellformed import Json, JsonInteger, JsonNumber

_LINKS_MAX = 100
_ANY_KEY = "\u00a7"  # a name that no document declares
_SAMPLES: tuple[Json, ...] = ("\u00a7", JsonInteger("1"), JsonNumber("1.5"), True, {"\u00a7": "\u00a7"})
_Key = str | int | None


class _Within:
    """The plan for one part of what another plan governs, found by asking that one."""

    def __init__(self, outer: Plan, key: _Key) -> None:
        self._outer = outer
        self._key = key

    def keep(self, value: Json) -> Kept:
        """Return what the outer plan keeps of a value that holds this part alone."""
        if isinstance(self._key, str):
            kept = self._outer.keep({self._key: value})
            return kept.get(self._key, DROPPED) if type(kept) is dict else DROPPED
        before: list[Json] = [None] * (self._key or 0)
        found = self._outer.keep([*before, value])
        return found[-1] if type(found) is list and len(found) > len(before) else DROPPED


class _Some:
    """The plans of which one or another governs a part, as other parts of the value tell."""

    def __init__(self, plans: tuple[Plan, ...]) -> None:
        self.plans = plans

    def keep(self, value: Json) -> Kept:
        """Return what the first plan keeps that keeps any of it."""
        found = (plan.keep(value) for plan in self.plans)
        return next((kept for kept in found if kept is not DROPPED), DROPPED)


class PlanParts:
    """The parts of one document's plans. The same question gives the same object, so that plans tell positions apart."""

    def __init__(self) -> None:
        self._joined: dict[tuple[int, ...], Plan] = {}
        self._within: dict[tuple[int, _Key], Plan] = {}
        self._alive: list[Plan] = []

    def joined(self, plans: Iterable[Plan]) -> Plan:
        """Return the plan that keeps what all of `plans` keep; DROP where one of them keeps nothing."""
        parts = tuple(map(resolved, plans))
        if not parts or any(isinstance(part, Drop) for part in parts):
            return DROP
        if all(part is parts[0] for part in parts):
            return parts[0]
        key = tuple(map(id, parts))
        if key not in self._joined:
            self._alive.extend(parts)
            self._joined[key] = Every(parts)
        return self._joined[key]

    def some(self, plans: Iterable[Plan]) -> Plan:
        """Return the plan that keeps what any of `plans` keeps."""
        found = {id(part): part for part in map(resolved, plans) if not isinstance(part, Drop)}
        if len(found) < 2:
            return next(iter(found.values()), DROP)
        key = (-1, *found)
        if key not in self._joined:
            self._alive.extend(found.values())
            self._joined[key] = _Some(tuple(found.values()))
        return self._joined[key]

    def of_property(self, plan: Plan, name: str) -> Plan:
        """Return the plan for an object's declared property."""
        return self._part(_as_object(plan), lambda each: _property(each, name), name)

    def of_entry(self, plan: Plan, pattern: str | None) -> Plan:
        """Return the plan for a map's entry whose key this pattern alone matches, or, for None, no pattern does.

        Every schema that speaks of undeclared keys must let the entry through.
        """
        key = _ANY_KEY if pattern is None else None
        return self._part(_as_object(plan), lambda each: self._entry(each, pattern), key)

    def of_element(self, plan: Plan, slot: int | None) -> Plan:
        """Return the plan for an array's element: in a tuple slot, or behind all slots."""
        return self._part(_as_array(plan), lambda each: _element(each, slot), 0 if slot is None else slot)

    def of_scalar(self, plan: Plan) -> Plan:
        """Return the plan for a scalar where the schema admits containers as well."""
        plan = resolved(plan)
        if isinstance(plan, Every):
            return self.joined(map(self.of_scalar, plan.plans))
        if isinstance(plan, Either):
            return resolved(plan.as_scalar)
        return DROP if isinstance(plan, FreeForm | Object | Array) or _ways_of(plan) else plan

    def _part(self, plan: Plan, look: Callable[[Plan], Plan], key: _Key) -> Plan:
        if isinstance(plan, Every):
            return self.joined(self._part(each, look, key) for each in _sides(plan, key))
        ways = _ways_of(plan)
        if ways:
            return self.some(self._part(resolved(each), look, key) for each in ways)
        if isinstance(plan, Drop | Scalar | FreeForm | Object | Array):
            return resolved(look(plan))
        if key is None:
            return DROP
        if (id(plan), key) not in self._within:
            self._alive.append(plan)
            self._within[id(plan), key] = _Within(plan, key)
        return self._within[id(plan), key]

    def _entry(self, plan: Plan, pattern: str | None) -> Plan:
        branches = plan.branches if isinstance(plan, Object) else ()
        found = [plan for branch in branches for plan in _plans_of(branch, pattern)]
        return self.joined(found)


def _as_object(plan: Plan) -> Plan:
    plan = resolved(plan)
    return resolved(plan.as_object) if isinstance(plan, Either) else plan


def _as_array(plan: Plan) -> Plan:
    plan = resolved(plan)
    return resolved(plan.as_array) if isinstance(plan, Either) else plan


def _sides(plan: Every, key: _Key) -> Iterable[Plan]:
    return map(_as_array if isinstance(key, int) else _as_object, plan.plans)


def _ways_of(plan: Plan) -> tuple[Plan, ...]:
    """Return the plans one of which governs, for a plan that chooses by what it finds in the value."""
    if isinstance(plan, Narrowed):
        return tuple(plan.ways.values())
    return plan.plans if isinstance(plan, _Some) else ()


def resolved(plan: Plan) -> Plan:
    """Return what a plan's links lead to."""
    for _ in range(_LINKS_MAX):
        if not isinstance(plan, Link):
            return plan
        plan = plan.target
    return DROP


def keeps_value(plan: Plan) -> bool:
    """Tell whether a plan for a value without declared parts keeps the value itself."""
    plan = resolved(plan)
    if isinstance(plan, Scalar):
        return plan.only is None or bool(plan.only) or bool(plan.unlisted)
    if isinstance(plan, Every):
        return all(map(keeps_value, plan.plans))
    if isinstance(plan, Either):
        return any(map(keeps_value, _kinds_of(plan)))
    if _ways_of(plan):
        return any(map(keeps_value, _ways_of(plan)))
    if isinstance(plan, Drop | FreeForm | Object | Array):
        return isinstance(plan, FreeForm)
    return any(plan.keep(sample) == sample for sample in _SAMPLES)


def shows_presence(plan: Plan) -> bool:
    """Tell whether a container shows though nothing in it is kept: it is marked (rules 3 and 11)."""
    plan = resolved(plan)
    if isinstance(plan, Object | Array):
        return plan.marked
    if isinstance(plan, Every):
        return all(map(shows_presence, plan.plans))
    if isinstance(plan, Either):
        return any(map(shows_presence, _kinds_of(plan)))
    if _ways_of(plan):
        return isinstance(plan, _Some) and any(map(shows_presence, plan.plans))
    if isinstance(plan, Drop | Scalar | FreeForm):
        return isinstance(plan, FreeForm)
    return plan.keep({}) == {} or plan.keep([]) == []


def _kinds_of(plan: Either) -> tuple[Plan, ...]:
    return plan.as_object, plan.as_array, plan.as_scalar


def _property(plan: Plan, name: str) -> Plan:
    return plan.properties.get(name, DROP) if isinstance(plan, Object) else DROP


def _plans_of(branch: MapBranch, pattern: str | None) -> Iterator[Plan]:
    matched = [
        plan for text, plan in zip(branch.patterns.texts, branch.plans, strict=True) if text == pattern
    ]
    if matched:
        yield from matched
    elif branch.others is not None:
        yield branch.others


def _element(plan: Plan, slot: int | None) -> Plan:
    if not isinstance(plan, Array):
        return DROP
    return plan.items if slot is None or slot >= len(plan.slots) else plan.slots[slot]
