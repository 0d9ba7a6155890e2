"""The plan for one part of a value, found in the compiled plan for the whole. Only lint and explain need it.

A plan of a type that is not known here is probed: it is given a value that holds this part and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from redactor.compile.plan import (
    DROP,
    DROPPED,
    AllOfPlan,
    ArrayPlan,
    DropPlan,
    FreeFormPlan,
    Kept,
    MapEntryPlans,
    ObjectPlan,
    Plan,
    ScalarPlan,
    TaggedUnionPlan,
    TypeSwitchPlan,
    resolved,
)
from redactor.decode.json import Json, JsonInteger, JsonNumber

# A property name and a text that no document declares.
_UNDECLARED = "\u00a7"
_SAMPLES: tuple[Json, ...] = (
    _UNDECLARED,
    JsonInteger("1"),
    JsonNumber("1.5"),
    True,
    {_UNDECLARED: _UNDECLARED},
)
_Key = str | int | None
"""A property's name, an element's index, or None for a part that cannot be probed."""


class _ProbedPlan:
    """The plan for one part, of a plan of unknown type for the whole."""

    def __init__(self, whole: Plan, key: _Key) -> None:
        self._whole = whole
        self._key = key

    def keep(self, value: Json) -> Kept:
        """Return what the whole's plan keeps of a value that holds only this part."""
        if isinstance(self._key, str):
            kept = self._whole.keep({self._key: value})
            return kept.get(self._key, DROPPED) if type(kept) is dict else DROPPED
        before: list[Json] = [None] * (self._key or 0)
        found = self._whole.keep([*before, value])
        return found[-1] if type(found) is list and len(found) > len(before) else DROPPED


class _AnyOfPlan:
    """The plans of which one applies to a part, depending on other parts of the value."""

    def __init__(self, plans: tuple[Plan, ...]) -> None:
        self.plans = plans

    def keep(self, value: Json) -> Kept:
        """Return the result of the first plan that keeps any of the value."""
        for plan in self.plans:
            kept = plan.keep(value)
            if kept is not DROPPED:
                return kept
        return DROPPED


class PlanParts:
    """Finds the plans for parts of values, for one document.

    The same question gives the same object: positions are compared by the identity of their plans.
    """

    def __init__(self) -> None:
        self._combined: dict[tuple[int, ...], Plan] = {}
        self._probed: dict[tuple[int, _Key], Plan] = {}
        self._properties: dict[tuple[int, str], Plan] = {}
        # The keys above hold ids, which would be reused if the plans behind them were freed.
        self._referenced: list[Plan] = []

    def of_property(self, plan: Plan, name: str) -> Plan:
        """Return the plan for a declared property of an object."""
        plan = _as_object(plan)
        known = self._properties.get((id(plan), name))
        if known is None:
            self._referenced.append(plan)
            known = self._properties[id(plan), name] = self._property(plan, name)
        return known

    def _property(self, plan: Plan, name: str) -> Plan:
        alternatives = _alternatives(plan)
        if alternatives:
            # By way of what is known of each alternative: unions of recursive schemas hold the same ones many times.
            return self.any_of(self._property_of_alternative(resolved(each), name) for each in alternatives)
        return self._part(plan, lambda each: _property(each, name), name)

    def _property_of_alternative(self, plan: Plan, name: str) -> Plan:
        if isinstance(plan, ObjectPlan | DropPlan):
            return resolved(_property(plan, name))
        return self._part(plan, lambda each: _property(each, name), name)

    def of_entry(self, plan: Plan, pattern: str | None) -> Plan:
        """Return the plan for an entry of a map whose key matches only `pattern`; no pattern at all, for None.

        Every schema that describes undeclared keys must grant the entry.
        """
        key = _UNDECLARED if pattern is None else None
        return self._part(_as_object(plan), lambda each: self._entry(each, pattern), key)

    def of_element(self, plan: Plan, slot: int | None) -> Plan:
        """Return the plan for an element of an array: one slot of `prefixItems`, or for None those behind them."""
        return self._part(_as_array(plan), lambda each: _element(each, slot), 0 if slot is None else slot)

    def of_scalar(self, plan: Plan) -> Plan:
        """Return the plan that applies if the value is a scalar, where the schema allows containers as well."""
        plan = resolved(plan)
        if isinstance(plan, AllOfPlan):
            return self.all_of(map(self.of_scalar, plan.plans))
        if isinstance(plan, TypeSwitchPlan):
            return resolved(plan.as_scalar)
        is_for_containers = isinstance(plan, FreeFormPlan | ObjectPlan | ArrayPlan) or _alternatives(plan)
        return DROP if is_for_containers else plan

    def all_of(self, plans: Iterable[Plan]) -> Plan:
        """Return the plan that keeps what all of `plans` keep."""
        parts = tuple(map(resolved, plans))
        if not parts or any(isinstance(part, DropPlan) for part in parts):
            return DROP
        if all(part is parts[0] for part in parts):
            return parts[0]
        return self._combine(AllOfPlan, parts, tuple(map(id, parts)))

    def any_of(self, plans: Iterable[Plan]) -> Plan:
        """Return the plan that keeps what any of `plans` keeps."""
        distinct: dict[int, Plan] = {}
        for part in map(resolved, plans):
            for each in part.plans if isinstance(part, _AnyOfPlan) else (part,):
                if not isinstance(each, DropPlan):
                    distinct[id(each)] = each
        if not distinct:
            return DROP
        parts = tuple(distinct.values())
        return parts[0] if len(parts) == 1 else self._combine(_AnyOfPlan, parts, (-1, *distinct))

    def _combine(
        self, make: Callable[[tuple[Plan, ...]], Plan], parts: tuple[Plan, ...], key: tuple[int, ...]
    ) -> Plan:
        if key not in self._combined:
            self._referenced.extend(parts)
            self._combined[key] = make(parts)
        return self._combined[key]

    def _part(self, plan: Plan, look: Callable[[Plan], Plan], key: _Key) -> Plan:
        """Return the part that `look` finds in a plan of one type, through all combinations of plans."""
        if isinstance(plan, AllOfPlan):
            by_type = _as_array if isinstance(key, int) else _as_object
            return self.all_of(self._part(by_type(each), look, key) for each in plan.plans)
        alternatives = _alternatives(plan)
        if alternatives:
            return self.any_of(self._part(resolved(each), look, key) for each in alternatives)
        if isinstance(plan, DropPlan | ScalarPlan | FreeFormPlan | ObjectPlan | ArrayPlan):
            return resolved(look(plan))
        if key is None:
            return DROP
        if (id(plan), key) not in self._probed:
            self._referenced.append(plan)
            self._probed[id(plan), key] = _ProbedPlan(plan, key)
        return self._probed[id(plan), key]

    def _entry(self, plan: Plan, pattern: str | None) -> Plan:
        if not isinstance(plan, ObjectPlan):
            return DROP
        return self.all_of(entry for each in plan.map_entries for entry in _entry_plans(each, pattern))


def keeps_value(plan: Plan) -> bool:
    """Whether a plan keeps a value that has no declared parts."""
    plan = resolved(plan)
    if isinstance(plan, FreeFormPlan | DropPlan | ObjectPlan | ArrayPlan):
        return isinstance(plan, FreeFormPlan)
    if isinstance(plan, ScalarPlan):
        return plan.allowed_values is None or bool(plan.allowed_values) or bool(plan.unrestricted_types)
    if isinstance(plan, AllOfPlan):
        return all(map(keeps_value, plan.plans))
    possible = _by_type(plan) or _alternatives(plan)
    if possible:
        return any(map(keeps_value, possible))
    return any(plan.keep(sample) == sample for sample in _SAMPLES)


def keeps_presence(plan: Plan) -> bool:
    """Whether a container is recorded though nothing in it is, because it is marked (rules 3 and 11)."""
    plan = resolved(plan)
    if isinstance(plan, FreeFormPlan | DropPlan | ScalarPlan | TaggedUnionPlan):
        return isinstance(plan, FreeFormPlan)
    if isinstance(plan, ObjectPlan | ArrayPlan):
        return plan.marked
    if isinstance(plan, AllOfPlan):
        return all(map(keeps_presence, plan.plans))
    possible = _by_type(plan) or _alternatives(plan)
    if possible:
        return any(map(keeps_presence, possible))
    return plan.keep({}) == {} or plan.keep([]) == []


def _as_object(plan: Plan) -> Plan:
    plan = resolved(plan)
    return resolved(plan.as_object) if isinstance(plan, TypeSwitchPlan) else plan


def _as_array(plan: Plan) -> Plan:
    plan = resolved(plan)
    return resolved(plan.as_array) if isinstance(plan, TypeSwitchPlan) else plan


def _by_type(plan: Plan) -> tuple[Plan, ...]:
    """Return the plans of which a plan selects one by the value's type; none for a plan of another kind."""
    return (plan.as_object, plan.as_array, plan.as_scalar) if isinstance(plan, TypeSwitchPlan) else ()


def _alternatives(plan: Plan) -> tuple[Plan, ...]:
    """Return the plans of which a plan selects one by what the value holds; none for a plan of another kind."""
    if isinstance(plan, TaggedUnionPlan):
        return tuple(plan.variants.values())
    return plan.plans if isinstance(plan, _AnyOfPlan) else ()


def _property(plan: Plan, name: str) -> Plan:
    return plan.properties.get(name, DROP) if isinstance(plan, ObjectPlan) else DROP


def _entry_plans(entries: MapEntryPlans, pattern: str | None) -> Sequence[Plan]:
    by_pattern = zip(entries.patterns.texts, entries.plans, strict=True)
    matched = [plan for text, plan in by_pattern if text == pattern]
    if matched or entries.additional is None:
        return matched
    return [entries.additional]


def _element(plan: Plan, slot: int | None) -> Plan:
    if not isinstance(plan, ArrayPlan):
        return DROP
    return plan.items if slot is None or slot >= len(plan.slots) else plan.slots[slot]
