"""Positions and their plans as a graph: plans are drafted one by one, and finished when all that they lead to is drafted.

A draft refers to the plans of its parts. Whether a part keeps anything may depend on the draft itself, where schemas are
recursive, so what keeps nothing is found for the whole graph at once, and then left out. The result depends on the
schemas alone, not on where drafting began.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Generic, TypeVar

from redactor.compile.plan import (
    DROP,
    ArrayPlan,
    DropPlan,
    Kind,
    MapEntryPlans,
    ObjectPlan,
    Plan,
    RefPlan,
    TaggedUnionPlan,
    TypeSwitchPlan,
)
from redactor.compile.schema_constraints import SchemaConstraints

_Context = TypeVar("_Context")


class Position(Generic[_Context]):
    """A schema position on its way to a plan."""

    __slots__ = (
        "children",
        "constraints",
        "context",
        "draft",
        "is_complete",
        "is_too_complex",
        "reference",
        "steps",
    )

    def __init__(self, constraints: SchemaConstraints, context: _Context) -> None:
        self.constraints = constraints
        self.context = context
        self.reference = RefPlan()
        self.draft: Plan | None = None
        """Its plan, in which the plans of its parts are references; None before it is expanded."""
        self.children: Sequence[Position[_Context]] = ()
        self.steps = 0
        """What expanding it took."""
        self.is_complete = False
        """Whether its plan is finished, and so are those of all that it leads to."""
        self.is_too_complex = False
        """Whether what it leads to exceeds a bound."""

    def expanded(self, draft: Plan, children: Sequence[Position[_Context]], steps: int) -> None:
        self.draft = draft
        self.children = children
        self.steps = steps
        self.constraints = SchemaConstraints()


def steps_of(root: Position[_Context], steps_max: int) -> int | None:
    """Return what a position and all that it leads to took; None if that is more than `steps_max`."""
    seen = {id(root)}
    pending = [root]
    steps = 0
    while pending:
        position = pending.pop()
        steps += position.steps
        if steps > steps_max:
            return None
        for each in position.children:
            if id(each) not in seen:
                seen.add(id(each))
                pending.append(each)
    return steps


def finish(positions: Collection[Position[_Context]]) -> None:
    """Finish the plans of positions that lead only to one another and to complete ones."""
    keeping = _keeping(positions)
    # Parts mostly follow what they are parts of. In reverse, most of them are finished when they are needed.
    for position in reversed([*positions]):
        assert position.draft is not None  # noqa: S101  all are expanded
        keeps = id(position.reference) in keeping
        position.reference.target = _finished(position.draft, keeping) if keeps else _dropped(position.draft)
        position.draft = position.reference.target
        position.is_complete = True


def _dropped(draft: Plan) -> Plan:
    return draft if isinstance(draft, DropPlan) else DROP


def _keeping(positions: Collection[Position[_Context]]) -> set[int]:
    """Return the ids of the references whose plans may keep something, those of complete positions included."""
    users: dict[int, list[int]] = {}
    pending: list[int] = []
    for position in positions:
        assert position.draft is not None  # noqa: S101  all are expanded
        own = id(position.reference)
        if _keeps_by_itself(position.draft):
            pending.append(own)
        for reference in _references(position.draft):
            users.setdefault(id(reference), []).append(own)
            if not isinstance(reference.target, DropPlan):
                pending.append(id(reference))
    keeping: set[int] = set()
    while pending:
        reference_id = pending.pop()
        if reference_id not in keeping:
            keeping.add(reference_id)
            pending.extend(users.get(reference_id, ()))
    return keeping


def _keeps_by_itself(plan: Plan) -> bool:
    """Whether a plan keeps something whatever becomes of the references in it."""
    match plan:
        case ObjectPlan():
            return (
                plan.marked or bool(plan.map_entries) or any(map(_keeps_by_itself, plan.properties.values()))
            )
        case ArrayPlan():
            return plan.marked or any(map(_keeps_by_itself, (*plan.slots, plan.items)))
        case TypeSwitchPlan():
            return any(map(_keeps_by_itself, (plan.as_object, plan.as_array, plan.as_scalar)))
        case TaggedUnionPlan():
            return any(map(_keeps_by_itself, plan.variants.values()))
        case _:
            return not isinstance(plan, RefPlan | DropPlan)


def _references(plan: Plan) -> Iterator[RefPlan]:
    """Yield the references in a plan. Those of map entries are left out: they decide nothing about the plan itself."""
    parts: Collection[Plan] = ()
    match plan:
        case RefPlan():
            yield plan
        case ObjectPlan():
            parts = plan.properties.values()
        case ArrayPlan():
            parts = (*plan.slots, plan.items)
        case TypeSwitchPlan():
            parts = (plan.as_object, plan.as_array, plan.as_scalar)
        case TaggedUnionPlan():
            parts = plan.variants.values()
    for each in parts:
        yield from _references(each)


def _finished(plan: Plan, keeping: set[int]) -> Plan:
    """Return the plan without what keeps nothing, and without references to plans that are finished."""
    match plan:
        case RefPlan():
            return _target(plan) if id(plan) in keeping else DROP
        case ObjectPlan():
            properties = {name: _finished(each, keeping) for name, each in plan.properties.items()}
            return object_plan(properties, plan.declared, plan.map_entries, marked=plan.marked)
        case ArrayPlan():
            *slots, items = [_finished(each, keeping) for each in (*plan.slots, plan.items)]
            return array_plan(slots, items, marked=plan.marked)
        case TypeSwitchPlan():
            parts = (plan.as_object, plan.as_array, plan.as_scalar)
            finished = [_finished(each, keeping) for each in parts]
            return type_switch_plan(*finished, keeps_null=plan.keeps_null, described=plan.described)
        case TaggedUnionPlan():
            variants = {text: _finished(each, keeping) for text, each in plan.variants.items()}
            return tagged_union_plan(plan.tag, variants, marked=plan.marked)
        case _:
            return plan


def _target(reference: RefPlan) -> Plan:
    """Return the plan that a reference leads to; the reference where that plan is not finished yet."""
    return reference if isinstance(reference.target, DropPlan) else reference.target


def object_plan(
    properties: Mapping[str, Plan],
    declared: frozenset[str],
    entries: tuple[MapEntryPlans, ...],
    *,
    marked: bool,
) -> Plan:
    """Return the plan of an object with these properties; DROP where nothing of it is kept."""
    kept = {name: plan for name, plan in properties.items() if not isinstance(plan, DropPlan)}
    if not (kept or entries or marked):
        return DROP
    positions = {name: position for position, name in enumerate(kept)}
    return ObjectPlan(kept, positions, declared, entries, marked)


def array_plan(slots: Sequence[Plan], items: Plan, *, marked: bool) -> Plan:
    """Return the plan of an array; DROP where nothing of it is kept."""
    if not marked and all(isinstance(plan, DropPlan) for plan in (*slots, items)):
        return DROP
    return ArrayPlan(tuple(slots), items, marked)


def type_switch_plan(
    as_object: Plan,
    as_array: Plan,
    as_scalar: Plan,
    *,
    keeps_null: bool,
    described: frozenset[Kind] = frozenset(),
) -> Plan:
    """Return the plan of a value that may be of several types; the only one of them that keeps anything, if it is one.

    For a value that may be written as text, the other types that it may be of (`described`) are not left out.
    """
    plans = [plan for plan in (as_object, as_array, as_scalar) if not isinstance(plan, DropPlan)]
    if not plans:
        return DROP
    is_one_type = len(plans) == 1 and len(described) <= 1
    if is_one_type and (keeps_null or plans[0].keep(None) is not None):
        return plans[0]
    return TypeSwitchPlan(as_object, as_array, as_scalar, keeps_null, described)


def tagged_union_plan(tag: str, variants: Mapping[str, Plan], *, marked: bool) -> Plan:
    """Return the plan of an object that its tag describes; DROP where no variant keeps anything."""
    if all(isinstance(plan, DropPlan) for plan in variants.values()):
        return DROP
    return TaggedUnionPlan(tag, variants, marked)
