"""A body's schema as a tree of positions, each with a decision: recorded or not, and by which rule.

Whether a position is recorded is read from the compiled plan, so lint and explain cannot disagree with the redactor.
Why it is so is read from the schemas that apply to the position.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from redactor.compile.applicable_schemas import ApplicableSchemas
from redactor.compile.json_types import CONTAINER_TYPES, SCALAR_TYPES
from redactor.compile.plan import DROP, DropPlan, Plan, resolved
from redactor.compile.schema_collector import collect_schemas
from redactor.compile.schema_constraints import ApplicableSchema
from redactor.openapi.document import UNTRUSTED, OpenApiDocument, Place
from redactor.openapi.marks import is_marked
from redactor.report.decisions import ITEMS, SCALAR, Decision, Outcome, Step, StepKind, denial_in, dropped
from redactor.report.plan_parts import PlanParts, keeps_presence, keeps_value

_KEYS_NOT_MARKED = "the keys of a map are data, and neither the map nor its propertyNames is marked"
_ENUMERATED = "from status 400 on, nothing is recorded of a container with an enum or const"
_OUTSIDE_ENVELOPE = "outside of the envelope property"
_DECLARED_ONLY = "of a form, only declared properties are read"
_UNREAD_FIELD = "a file, or a field in an encoding that is not read"
_NOT_BY_ALL = "not marked in every alternative that declares it"
_NO_SINGLE_TYPE = "a mark has no effect without one definite type"
_OTHER_SCHEMA = "another schema that applies to the same value does not record it"


class InheritedContext(NamedTuple):
    """What a position inherits from the container, body or parameter that it is part of."""

    forced_drop: Decision | None = None
    """Why nothing at the position or below it is recorded, whatever its marks say."""
    array_is_marked: bool = False
    outer_mark: Decision | None = None
    """A mark that applies although it is on none of the position's own schemas."""
    envelope: str | None = None
    """The only property of a response's root that is recorded (rule 12)."""
    strict: bool = False
    """Whether `enum` and `const` are enforced, because the status is 400 or above (rule 6)."""
    unread_properties: frozenset[str] | None = None
    """For the root of a form: the declared properties that are not read, such as files (rule 9)."""
    scalar_only: bool = False
    """Whether only scalars are meant, of a value that may also be a container."""


class Child(NamedTuple):
    """A part of a container and the step that leads to it."""

    step: Step
    position: Position


class SchemaTree:
    """Makes the positions of one document, each once.

    The same schemas under the same plan and context are the same Position, so a recursive schema gives a graph with
    cycles, and results can be remembered by position.
    """

    def __init__(self, document: OpenApiDocument) -> None:
        self.document = document
        self.inherits = document.config.container_marks == "inherit"
        self.plan_parts = PlanParts()
        self._positions: dict[object, Position] = {}
        self._collected: dict[object, ApplicableSchemas] = {}

    def root(self, schema: Place, plan: Plan, context: InheritedContext) -> Position:
        """Return the position of a whole body or parameter, of which `plan` decides what is recorded."""
        schemas = [ApplicableSchema(schema, grants=True)]
        root = self.position(schemas, DROP if context.forced_drop else plan, context)
        is_form = context.unread_properties is not None
        if is_form and root.is_field and keeps_value(root.plan):
            # A free-form object: JSON keeps it whole, but a form has no declared properties to read then.
            drop = dropped(9, _DECLARED_ONLY, root.pointer)
            return self.position(schemas, DROP, InheritedContext(drop))
        return root

    def position(
        self, schemas: Sequence[ApplicableSchema], plan: Plan, context: InheritedContext
    ) -> Position:
        """Return the position to which `schemas` apply, with all that they refer to."""
        dereferenced = [each.dereferenced(self.document) for each in schemas]
        identities = tuple(each.identity for each in dereferenced)
        collected = self._collected.get(identities)
        if collected is None:
            collected = self._collected[identities] = collect_schemas(self.document, dereferenced)
        return self.position_of(collected, plan, context)

    def position_of(self, collected: ApplicableSchemas, plan: Plan, context: InheritedContext) -> Position:
        """Return the position for schemas that have been collected already."""
        plan = resolved(plan)
        key = (id(collected), id(plan), context)
        position = self._positions.get(key)
        if position is None:
            # A position holds its plan and schemas, so their ids are not reused while it is known here.
            position = self._positions[key] = Position(self, collected, plan, context)
        return position


class Position:
    """A place in a JSON value: the root, a property, the elements of an array, the entries of a map.

    `children` may lead back to a position above; whoever walks the tree must remember where it has been.
    """

    def __init__(
        self, tree: SchemaTree, collected: ApplicableSchemas, plan: Plan, context: InheritedContext
    ) -> None:
        self._tree = tree
        self._collected = collected
        self._schemas = collected.flattened
        self._context = context
        self._nodes: list[dict[str, Any]] = [each.place.node for each in self._schemas]
        self._has_object_parts = self._admits("object") and any(map(_declares_object_parts, self._nodes))
        self._has_array_parts = self._admits("array") and any(map(_declares_elements, self._nodes))
        self.plan = plan
        self.pointer = self._schemas[0].place.pointer if self._schemas else ""
        self.is_field = context.scalar_only or not (self._has_object_parts or self._has_array_parts)
        """Whether it has no declared parts: a scalar, a free-form object, or a value of any type."""
        # The root of an envelope is replaced by one of its properties, so its own presence is never recorded.
        self._keeps_presence = keeps_presence(plan) and context.envelope is None
        self.keeps_itself = self._keeps_presence or keeps_value(plan)
        """Whether something is recorded for it, whatever becomes of its parts."""

    def _admits(self, type_name: str) -> bool:
        return self._collected.types is None or type_name in self._collected.types

    @property
    def kind(self) -> str:
        """Its types, such as `string` or `integer|string`; `any` if no schema names one."""
        types = self._collected.types
        if types is None:
            types = _types_named(self._nodes)
        if self._context.scalar_only:
            types &= SCALAR_TYPES
        return "|".join(sorted(types)) or "any"

    @property
    def nodes(self) -> Sequence[dict[str, Any]]:
        """The nodes of all schemas that apply to it, granting or not."""
        return self._nodes

    @property
    def marked_nodes(self) -> list[dict[str, Any]]:
        """Those of `nodes` that are marked."""
        return [node for node in self._nodes if is_marked(node)]

    @cached_property
    def children(self) -> tuple[Child, ...]:
        """Its parts in document order; last, as a part of its own, the scalar that it may be instead."""
        found: list[Child] = []
        if self._has_object_parts:
            found.extend(self._properties())
            found.extend(self._map_entries())
        if self._has_array_parts:
            found.extend(self._elements())
        if found and self._collected.types is not None and self._collected.types & SCALAR_TYPES:
            found.append(Child(SCALAR, self._as_scalar()))
        return tuple(found)

    @cached_property
    def decision(self) -> Decision:
        """What becomes of it, and by which rule."""
        return self._decide_field() if self.is_field else self._decide_container()

    @cached_property
    def keeps_below(self) -> bool:
        """Whether anything below it is recorded, the presence of a container included."""
        # Not by the children's own `keeps_below`: in a recursive schema they would ask for this one again.
        visited = {id(self)}
        waiting = [self]
        while waiting:
            for _, child in waiting.pop().children:
                if id(child) in visited or isinstance(child.plan, DropPlan):
                    continue
                if child.keeps_itself:
                    return True
                visited.add(id(child))
                waiting.append(child)
        return False

    def _decide_field(self) -> Decision:
        if keeps_value(self.plan):
            return self._grant()
        if self._keeps_presence:
            reason = "a mark on a container records its presence"
            return Decision(Outcome.PRESENCE, 3, reason, self.pointer)
        return self._forced_drop or self._missing_grant()

    def _grant(self) -> Decision:
        """Return which mark makes a field recorded."""
        mark = self._first_mark()
        pointer = self.pointer if mark is None else mark.pointer
        if "object" in (self._collected.types or ()):
            return Decision(Outcome.KEPT, 4, "a marked free-form object", pointer)
        if mark is not None:
            return Decision(Outcome.KEPT, 2, "marked", pointer)
        if self._context.array_is_marked:
            return Decision(Outcome.KEPT, 2, "its array is marked", pointer)
        return self._context.outer_mark or Decision(Outcome.KEPT, 7, "marked in its branches", pointer)

    def _missing_grant(self) -> Decision:
        """Return why a field is dropped that nothing denies."""
        has_outer_mark = self._context.array_is_marked or self._context.outer_mark is not None
        if not (self._collected.marked or has_outer_mark):
            if self.marked_nodes:
                return dropped(7, _NOT_BY_ALL, self.pointer)
            return dropped(1, "not marked", self.pointer)
        types = self._collected.types
        if types is None or not types <= SCALAR_TYPES:
            return dropped(4, _NO_SINGLE_TYPE, self.pointer)
        return dropped(7, _OTHER_SCHEMA, self.pointer)

    def _decide_container(self) -> Decision:
        if self.keeps_below and self._keeps_presence:
            return Decision(Outcome.KEPT, 3, "a mark on a container records its presence", self.pointer)
        if self.keeps_below:
            return Decision(Outcome.KEPT, 11, "something in it is recorded", self.pointer)
        if self._keeps_presence:
            reason = "a mark on a container does not reach its parts"
            return Decision(Outcome.PRESENCE, 3, reason, self.pointer)
        return self._forced_drop or self._dropped_container()

    def _dropped_container(self) -> Decision:
        """Return why a container is dropped that nothing denies."""
        if not self._collected.marked:
            return dropped(11, "nothing in it is recorded", self.pointer)
        types = self._collected.types
        if types is None or len(types) != 1:
            return dropped(4, _NO_SINGLE_TYPE, self.pointer)
        return dropped(7, _OTHER_SCHEMA, self.pointer)

    @cached_property
    def _forced_drop(self) -> Decision | None:
        """Why nothing at the position or below it is recorded, whatever its marks say."""
        return self._context.forced_drop or denial_in(self._collected) or self._enumeration()

    def _enumeration(self) -> Decision | None:
        """Return the decision for a container whose `enum` or `const` is enforced (rule 6)."""
        types = self._collected.types
        # Scalars are compared with the listed values; containers are not, so nothing of them is recorded.
        if types and types <= SCALAR_TYPES:
            return None
        if not self._context.strict or not isinstance(self.plan, DropPlan):
            return None
        for each in self._schemas:
            if {"enum", "const"} & each.place.node.keys():
                return dropped(6, _ENUMERATED, each.place.pointer)
        return None

    @cached_property
    def _undeclared_drop(self) -> Decision | None:
        """Why only declared properties can be recorded: it is the root of an envelope or of a form."""
        if self._context.envelope is not None:
            return self._forced_drop or dropped(12, _OUTSIDE_ENVELOPE, self.pointer)
        if self._context.unread_properties is not None:
            return self._forced_drop or dropped(9, _DECLARED_ONLY, self.pointer)
        return None

    @cached_property
    def _child_context(self) -> InheritedContext:
        outer_mark = None
        if self._tree.inherits:
            mark = self._first_mark()
            outer_mark = self._context.outer_mark
            if mark is not None:
                outer_mark = Decision(Outcome.KEPT, 3, "inherited from a marked container", mark.pointer)
        return InheritedContext(self._forced_drop, outer_mark=outer_mark, strict=self._context.strict)

    def _first_mark(self) -> Place | None:
        """Return the first schema whose mark counts; None if there is none."""
        for each in self._schemas:
            if each.grants and is_marked(each.place.node):
                return each.place
        return None

    def _as_scalar(self) -> Position:
        if self._undeclared_drop is not None:
            context = InheritedContext(self._undeclared_drop, scalar_only=True)
            return self._tree.position_of(self._collected, DROP, context)
        context = self._context._replace(scalar_only=True, envelope=None, unread_properties=None)
        return self._tree.position_of(self._collected, self._tree.plan_parts.of_scalar(self.plan), context)

    def _properties(self) -> Iterator[Child]:
        declaring: dict[str, list[ApplicableSchema]] = {}
        for schema in self._schemas:
            for name in _mapping(schema.place.node, "properties"):
                if name != UNTRUSTED:
                    declaring.setdefault(name, []).append(schema.subschema("properties", name))
        for name, schemas in declaring.items():
            yield Child(Step(StepKind.PROPERTY, name), self._property(name, schemas))

    def _property(self, name: str, schemas: Sequence[ApplicableSchema]) -> Position:
        # What the plan of the whole says is not enough here: the form's reader never hands this field to it.
        if name in (self._context.unread_properties or ()):
            drop = self._forced_drop or dropped(9, _UNREAD_FIELD, self.pointer)
            return self._tree.position(schemas, DROP, InheritedContext(drop))
        if self._context.envelope not in (None, name):
            return self._tree.position(schemas, DROP, InheritedContext(self._undeclared_drop))
        plan = self._tree.plan_parts.of_property(self.plan, name)
        return self._tree.position(schemas, plan, self._child_context)

    def _map_entries(self) -> Iterator[Child]:
        """Yield the entries of each pattern, then those that match no pattern."""
        schemas = [each for each in self._schemas if _describes_entries(each.place.node)]
        closed = next((each for each in schemas if not self._opens_keys(each)), None)
        listed = [pattern for each in schemas for pattern in _mapping(each.place.node, "patternProperties")]
        for pattern in dict.fromkeys(listed):
            parts = [each.subschema("patternProperties", pattern) for each in schemas]
            yield from self._entry(Step(StepKind.PATTERN, pattern), closed, parts)
        parts = [each.subschema("additionalProperties") for each in schemas]
        if schemas:
            yield from self._entry(Step(StepKind.ENTRY), closed, parts)

    def _entry(
        self, step: Step, closed: ApplicableSchema | None, parts: Sequence[ApplicableSchema]
    ) -> Iterator[Child]:
        """Yield the entries under one pattern, or under none, if any of `parts` describes them.

        `closed` is the first map whose keys are not marked.
        """
        described = [each for each in parts if isinstance(each.place.node, dict)]
        if not described:
            return
        if self._undeclared_drop is not None:
            context = InheritedContext(self._undeclared_drop)
            yield Child(step, self._tree.position(described, DROP, context))
            return
        context, plan = self._child_context, self._tree.plan_parts.of_entry(self.plan, step.text or None)
        if isinstance(plan, DropPlan) and context.forced_drop is None and closed is not None:
            drop = dropped(4, _KEYS_NOT_MARKED, closed.place.pointer)
            context = context._replace(forced_drop=drop)
        yield Child(step, self._tree.position(described, plan, context))

    def _opens_keys(self, schema: ApplicableSchema) -> bool:
        """Whether a map, or its own `propertyNames`, is marked (rule 4)."""
        is_inherited = self._tree.inherits and self._context.outer_mark is not None
        if is_inherited or is_marked(schema.place.node):
            return True
        if "propertyNames" not in schema.place.node:
            return False
        names = schema.subschema("propertyNames")
        return names.grants and collect_schemas(self._tree.document, [names]).marked

    def _elements(self) -> Iterator[Child]:
        """Yield the slots of `prefixItems`, then the elements behind them."""
        context, plan = self._child_context._replace(array_is_marked=self._collected.marked), self.plan
        if self._undeclared_drop is not None:
            context, plan = InheritedContext(self._undeclared_drop), DROP
        # Schemas may declare different numbers of slots; where one has no slot, its items apply.
        slots = max(len(_slots(node)) for node in self._nodes)
        for slot in (*range(slots), None):
            schemas = [part for each in self._schemas for part in _element_schemas(each, slot)]
            if schemas:
                step = ITEMS if slot is None else Step(StepKind.SLOT, str(slot))
                part_plan = self._tree.plan_parts.of_element(plan, slot)
                yield Child(step, self._tree.position(schemas, part_plan, context))


def _mapping(node: dict[str, Any], keyword: str) -> dict[str, Any]:
    value = node.get(keyword)
    return value if isinstance(value, dict) else {}


def _slots(node: dict[str, Any]) -> list[Any]:
    slots = node.get("prefixItems")
    return slots if isinstance(slots, list) else []


def _describes_entries(node: dict[str, Any]) -> bool:
    return bool(_mapping(node, "patternProperties")) or isinstance(node.get("additionalProperties"), dict)


def _declares_object_parts(node: dict[str, Any]) -> bool:
    return bool(_mapping(node, "properties")) or _describes_entries(node)


def _declares_elements(node: dict[str, Any]) -> bool:
    return isinstance(node.get("items"), dict) or bool(_slots(node))


def _element_schemas(schema: ApplicableSchema, slot: int | None) -> Iterator[ApplicableSchema]:
    node = schema.place.node
    if slot is not None and slot < len(_slots(node)):
        yield schema.subschema("prefixItems", slot)
    elif isinstance(node.get("items"), dict):
        yield schema.subschema("items")


def _types_named(nodes: Sequence[dict[str, Any]]) -> frozenset[str]:
    named: set[Any] = set()
    for node in nodes:
        declared = node.get("type")
        listed = declared if isinstance(declared, list) else [declared]
        named.update(each for each in listed if isinstance(each, str))
    return frozenset(named) & (SCALAR_TYPES | CONTAINER_TYPES)
