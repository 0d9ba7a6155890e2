"""From schemas to plans: every decision about marks, denials and types is made here, once per schema position.

A position is identified by its constraints and its context. Positions form a graph, because schemas refer to themselves
and to one another. A position is expanded once, whichever schema leads to it first, and its plan refers to those of its
parts. When all that a schema leads to is expanded, the plans are finished: what keeps nothing is left out of them.

Whatever bounds the work counts what a position, or a schema with all that it leads to, costs by itself. So neither the
order of compiling nor what was compiled before changes a plan.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from redactor.compile.applicable_schemas import ApplicableSchemas, Choice
from redactor.compile.container_parts import ObjectParts, PropertyConstraints, element_constraints
from redactor.compile.effective_marks import EffectiveMarks, Mark, effective_marks
from redactor.compile.json_types import NULL, SCALAR_TYPES, declared_types
from redactor.compile.key_patterns import KeyPatterns
from redactor.compile.maps import MapSchema, PropertyNames, is_closed, is_free_form, is_map
from redactor.compile.plan import (
    DROP,
    TOO_COMPLEX,
    FreeFormPlan,
    Kind,
    MapEntryPlans,
    Plan,
    ScalarPlan,
)
from redactor.compile.plan_graph import (
    Position,
    array_plan,
    finish,
    object_plan,
    steps_of,
    tagged_union_plan,
    type_switch_plan,
)
from redactor.compile.schema_collector import collect_schemas
from redactor.compile.schema_constraints import ApplicableSchema, SchemaConstraints, normalized
from redactor.compile.tagged_unions import Tag, TagFinder
from redactor.config import Limits
from redactor.decode.json import JsonInteger, JsonNumber
from redactor.openapi.document import OpenApiDocument, Place
from redactor.openapi.marks import is_marked, may_deny

_POSITION_STEPS_MAX = 200_000
"""What one position may take. One that takes more is dropped alone."""
_SCHEMA_STEPS_MAX = 1_000_000
"""What a schema may take with all that it leads to, about half a minute. One that takes more is dropped as a whole."""
_SCALARS_OR_NULL = SCALAR_TYPES | NULL
_COMPOSING = frozenset(
    {
        "$ref",
        "allOf",
        "oneOf",
        "anyOf",
        "not",
        "if",
        "then",
        "else",
        "dependentSchemas",
        "dependencies",
        "discriminator",
    }
)
_TYPES_OF_KIND = {
    Kind.OBJECT: frozenset({"object"}),
    Kind.ARRAY: frozenset({"array"}),
    Kind.SCALAR: SCALAR_TYPES,
}
_PYTHON_TYPES: dict[str, type] = {
    "string": str,
    "boolean": bool,
    "integer": JsonInteger,
    "number": JsonNumber,
}


class CompileContext(NamedTuple):
    """What a schema position inherits from where it stands."""

    strict: bool
    """The status is 400 or above: `enum` and `const` are enforced (rule 6)."""
    marked: bool = False
    """A mark outside: a parameter's own, or a container's where `container_marks: inherit` is configured (rule 3)."""
    in_marked_array: bool = False
    """The position is an element of an array of scalars whose mark covers it (rule 2)."""
    uses_tags: bool = True
    """Whether a tag may select alternatives here: not where another plan may still drop the tag (rule 7)."""
    uses_tags_below: bool = True
    is_text: bool = False
    """The value may stand in a form or a URL, whose text does not show its JSON type."""


class _TooComplexError(Exception):
    """A schema takes more work than any that people write."""


class Compiler:
    """Compiles the schemas of one document. Positions that were compiled before are reused."""

    def __init__(self, document: OpenApiDocument, limits: Limits) -> None:
        self._document = document
        self._limits = limits
        self._inherits_marks = document.config.container_marks == "inherit"
        self._positions: dict[object, Position[CompileContext]] = {}
        self._scalars: dict[object, tuple[Plan, int]] = {}
        self._distinct_scalars: dict[Plan, Plan] = {}
        self._collected: dict[object, ApplicableSchemas] = {}
        self._may_deny: dict[int, bool] = {}
        self._parts = ObjectParts(document, self._spend)
        self._tags = TagFinder(document, self._collect)
        self._children: list[Position[CompileContext]] = []
        self._steps = 0
        self.steps = 0
        """What all positions together took."""

    def compile(
        self,
        schema: Place,
        *,
        strict: bool,
        marked: bool = False,
        tags: bool = True,
        root_tags: bool = True,
        is_text: bool = False,
    ) -> Plan:
        """Return the plan for values that `schema` describes; TOO_COMPLEX, with a finding, where it exceeds a bound.

        `strict` says that the status is 400 or above (rule 6), `marked` that a mark stands outside of the schema.
        Without `tags`, no property selects alternatives; without `root_tags`, none of the root's own does. `is_text` says
        that values may be read from a form or a URL: the plan then holds every kind of value that a text may mean.
        """
        context = CompileContext(
            strict, marked, uses_tags=tags and root_tags, uses_tags_below=tags, is_text=is_text
        )
        constraints = normalized(self._document, SchemaConstraints((ApplicableSchema(schema, grants=True),)))
        root = self._position((constraints.key, context), constraints, context)
        if not (root.is_complete or root.is_too_complex):
            root.is_too_complex = not self._complete(root)
        if root.is_too_complex:
            self._document.findings.add(schema.pointer, "too_complex")
            return TOO_COMPLEX
        return root.reference.target

    def applicable_schemas(self, schema: Place) -> ApplicableSchemas:
        """Return all schemas that apply to the values that `schema` describes."""
        return collect_schemas(self._document, [ApplicableSchema(schema, grants=True)])

    def every_scalar(self, schema: Place, *, strict: bool) -> ScalarPlan:
        """Return the plan that keeps every scalar of the types of `schema`, marked or not; of no schema or type, any.

        With `strict`, only those that its `enum` and `const` list, if it has any (rule 6).
        """
        if schema.node is None:
            return self._scalars_of(SCALAR_TYPES, None)
        applicable = self.applicable_schemas(schema)
        types = SCALAR_TYPES if applicable.types is None else applicable.types & SCALAR_TYPES
        return self._scalars_of(types, applicable if strict else None)

    def forget(self) -> None:
        """Forget what only compiling further schemas would need. Those are then compiled from the beginning."""
        self._positions.clear()
        self._scalars.clear()
        self._collected.clear()
        self._parts.forget()

    def _complete(self, root: Position[CompileContext]) -> bool:
        """Expand all that a position leads to, and finish the plans; False where that exceeds the bound."""
        found: dict[int, Position[CompileContext]] = {}
        pending = [root]
        steps = 0
        while pending:
            position = pending.pop()
            if position.is_complete or id(position) in found:
                continue
            found[id(position)] = position
            if position.draft is None:
                self._expand(position)
            steps += position.steps
            if steps > _SCHEMA_STEPS_MAX:
                return False
            # A stack returns the last first, and findings should come in document order.
            pending.extend(reversed(position.children))
        finish(found.values())
        # Parts that were complete before count as well. Together with all others they are mostly within the bound.
        return self.steps <= _SCHEMA_STEPS_MAX or steps_of(root, _SCHEMA_STEPS_MAX) is not None

    def _expand(self, position: Position[CompileContext]) -> None:
        """Compile a position by itself: its plan refers to those of its parts."""
        self._steps = 0
        self._children = []
        try:
            draft = self._compile(self._collect(position.constraints), position.context)
        except _TooComplexError:
            draft = self._too_complex(position.constraints)
        position.expanded(draft, self._children, self._steps)
        self.steps += self._steps

    def _too_complex(self, constraints: SchemaConstraints) -> Plan:
        first = next(constraints.all_schemas, None)
        if first is not None:
            self._document.findings.add(first.place.pointer, "too_complex")
        self._children = []
        return TOO_COMPLEX

    def _spend(self, steps: int) -> None:
        self._steps += steps
        if self._steps > _POSITION_STEPS_MAX:
            raise _TooComplexError

    def _collect(self, constraints: SchemaConstraints) -> ApplicableSchemas:
        # Those of scalars are collected again: they are most of all, and the cheapest.
        key = None if _is_plain_scalar(constraints) else constraints.key
        known = self._collected.get(key)
        if known is None:
            known = collect_schemas(self._document, constraints.schemas, constraints.choices)
            if key is not None:
                self._collected[key] = known
        # What is known already costs the same, or the bounds would depend on what was compiled before.
        self._spend(known.visited)
        if known.is_too_complex:
            raise _TooComplexError
        return known

    def _plan(self, constraints: SchemaConstraints, context: CompileContext) -> Plan:
        """Return the plan of a scalar, or a reference to the plan of a position that may have parts."""
        self._spend(constraints.size)
        constraints = normalized(self._document, constraints)
        if _is_plain_scalar(constraints):
            return self._scalar(constraints, context)
        position = self._position((constraints.key, context), constraints, context)
        self._children.append(position)
        return position.reference

    def _scalar(self, constraints: SchemaConstraints, context: CompileContext) -> Plan:
        """Return the plan of a position without parts. Only a list of values makes `strict` matter there."""
        strict = context.strict and any(_has_list(each.place.node) for each in constraints.all_schemas)
        context = context._replace(strict=strict, uses_tags=True, uses_tags_below=True, is_text=False)
        key = constraints.key, context
        known = self._scalars.get(key)
        if known is None:
            before = self._steps
            plan = self._compile(self._collect(constraints), context)
            # One object for all equal plans: a large document has few distinct ones, and readers are cached by their identity.
            known = self._distinct_scalars.setdefault(plan, plan), self._steps - before
            self._scalars[key] = known
        else:
            self._spend(known[1])
        return known[0]

    def _position(
        self, key: object, constraints: SchemaConstraints, context: CompileContext
    ) -> Position[CompileContext]:
        found = self._positions.get(key)
        if found is None:
            found = self._positions[key] = Position(constraints, context)
        return found

    def _compile(self, applicable: ApplicableSchemas, context: CompileContext) -> Plan:
        """Compile one position: as an object, an array and a scalar, as far as its schemas describe them (rule 7)."""
        if applicable.denied:
            return DROP
        marks = _effective_marks(applicable, context)
        as_scalar = self._scalar_plan(applicable, marks, context)
        described = _described_kinds(applicable) if context.is_text else frozenset()
        if context.strict and _lists_containers(applicable):
            return type_switch_plan(DROP, DROP, as_scalar, keeps_null=True, described=described)
        as_object = self._object_plan(applicable, marks, context) if applicable.describes("object") else DROP
        as_array = self._array_plan(applicable, marks, context) if applicable.describes("array") else DROP
        return type_switch_plan(
            as_object, as_array, as_scalar, keeps_null=marks.keeps_null, described=described
        )

    def _scalar_plan(
        self, applicable: ApplicableSchemas, marks: EffectiveMarks, context: CompileContext
    ) -> Plan:
        """Keep marked scalars of their types; for errors, only the values that `enum` and `const` list (rule 6)."""
        if marks.scalar_types is None:
            return DROP
        return self._scalars_of(marks.scalar_types, applicable if context.strict else None)

    def _scalars_of(self, names: frozenset[str], listing: ApplicableSchemas | None) -> ScalarPlan:
        """Return the plan that keeps scalars of these types, and of them only those that `listing` lists, if it does."""
        types = frozenset(_PYTHON_TYPES[each] for each in names)
        chars_max = self._limits.number_chars_max
        if listing is None:
            return ScalarPlan(types, chars_max)
        lists = {each: listing.listed_values(each) for each in names}
        unrestricted = frozenset(_PYTHON_TYPES[each] for each, values in lists.items() if values is None)
        if unrestricted == types:
            return ScalarPlan(types, chars_max)
        allowed = frozenset[str]().union(*(values or () for values in lists.values()))
        return ScalarPlan(types, chars_max, allowed, unrestricted)

    def _object_plan(
        self,
        applicable: ApplicableSchemas,
        marks: EffectiveMarks,
        context: CompileContext,
        declared_by_any: frozenset[str] | None = None,
    ) -> Plan:
        """Keep the marked parts of an object; a mark on it shows its presence, and no more of its properties (rule 3).

        A marked free-form object is kept whole. Undeclared keys are kept if the map or its `propertyNames` is marked
        (rule 4). `declared_by_any`: the properties that these schemas and excluded alternatives declare, if there are any.
        """
        names = PropertyNames(self._document, applicable)
        if names.denied:
            return DROP
        if marks.on_object is Mark.TYPED and is_free_form(applicable.schemas):
            return self._free_form_plan()
        marked = marks.on_object is not Mark.NONE
        declared = _declared_names(applicable)
        if declared_by_any is None:
            declared_by_any = frozenset(declared)
        properties = self._parts.properties(applicable, declared)
        if context.uses_tags:
            union = self._tagged_union_plan(applicable, properties, context, declared_by_any, marked=marked)
            if union is not None:
                return union
        below = self._below(context, marked=marked)
        plans = self._property_plans(declared, properties.by_name, below)
        maps = [schema for schema in applicable.schemas if is_map(schema)]
        are_open = not (maps and is_closed(applicable))
        are_open = are_open and all(self._opens_keys(each, names, context, marked=marked) for each in maps)
        entries = self._map_entry_plans(applicable, maps, below) if are_open else ()
        return object_plan(plans, declared_by_any, entries, marked=marked)

    def _opens_keys(
        self, schema: ApplicableSchema, names: PropertyNames, context: CompileContext, *, marked: bool
    ) -> bool:
        """Whether a map's own mark lets its keys be kept; a mark beside it, or on a parameter, does not (rule 4)."""
        is_inherited = self._inherits_marks and context.marked
        return names.are_marked_in(schema) or (marked and (is_inherited or is_marked(schema.place.node)))

    def _free_form_plan(self) -> FreeFormPlan:
        limits = self._limits
        return FreeFormPlan(limits.free_form_bytes_max, limits.free_form_depth_max, limits.number_chars_max)

    def _property_plans(
        self, declared: Sequence[str], by_name: Mapping[str, SchemaConstraints], below: CompileContext
    ) -> dict[str, Plan]:
        plans: dict[str, Plan] = {}
        for name in declared:
            constraints = by_name.get(name)
            if constraints is not None and self._is_declared(constraints):
                plans[name] = self._plan(constraints, below)
        return plans

    def _is_declared(self, constraints: SchemaConstraints) -> bool:
        """Whether a property is described or denied. One that `not` or the like merely mentions is neither."""
        if constraints.choices or any(schema.describes for schema in constraints.schemas):
            return True
        return bool(constraints.schemas) and self._collect(constraints).denied

    def _tagged_union_plan(
        self,
        applicable: ApplicableSchemas,
        properties: PropertyConstraints,
        context: CompileContext,
        declared_by_any: frozenset[str],
        *,
        marked: bool,
    ) -> Plan | None:
        """Return the plan of an object whose tag selects the alternatives of one of its choices; None without a tag."""
        below = self._below(context, marked=marked)

        def is_kept(name: str) -> bool:
            constraints = normalized(self._document, properties.by_name[name])
            schemas = self._collect(constraints)
            is_scalar = not (schemas.describes("object") or schemas.describes("array"))
            return (
                is_scalar and not schemas.denied and _effective_marks(schemas, below).scalar_types is not None
            )

        for index, choice in enumerate(applicable.choices):
            objects = [
                (alternative, by_name)
                for alternative, by_name in properties.by_alternative[index]
                if _counts_for_objects(choice.alternatives[alternative])
            ]
            if len(objects) < 2:
                continue
            indices = [alternative for alternative, _ in objects]
            tag = self._tags.find(choice, indices, [by_name for _, by_name in objects], is_kept)
            if tag is not None:
                return self._union_of_variants(
                    applicable, index, tag, context, declared_by_any, marked=marked
                )
        return None

    def _union_of_variants(
        self,
        applicable: ApplicableSchemas,
        index: int,
        tag: Tag,
        context: CompileContext,
        declared_by_any: frozenset[str],
        *,
        marked: bool,
    ) -> Plan:
        """Compile the object once for each set of alternatives that a value of the tag selects."""
        choice = applicable.choices[index]
        denying = self._denying(choice)
        # An alternative that does not describe the object stays possible, whatever the tag says.
        silent = [each for each, schemas in enumerate(choice.alternatives) if not schemas.describes()]
        plans: dict[tuple[int, ...], Plan] = {}
        for selected in dict.fromkeys(tag.selected.values()):
            excluded = [schema for alternative, schema in denying if alternative not in selected]
            variant = applicable.with_alternatives(index, [*selected, *silent], excluded, tag.name)
            self._spend(len(variant.schemas))
            marks = _effective_marks(variant, context)
            plans[selected] = self._object_plan(variant, marks, context, declared_by_any)
        variants = {text: plans[selected] for text, selected in tag.selected.items()}
        return tagged_union_plan(tag.name, variants, marked=marked)

    def _denying(self, choice: Choice) -> list[tuple[int, ApplicableSchema]]:
        """Return the schemas of alternatives in which a denial stands: it counts even where another one is selected."""
        found = []
        for index, alternative in enumerate(choice.alternatives):
            for schema in alternative.schemas:
                node = schema.place.node
                if id(node) not in self._may_deny:
                    self._may_deny[id(node)] = may_deny(self._document, node)
                self._spend(1)
                if self._may_deny[id(node)]:
                    found.append((index, schema))
        return found

    def _map_entry_plans(
        self, applicable: ApplicableSchemas, schemas: Sequence[ApplicableSchema], below: CompileContext
    ) -> tuple[MapEntryPlans, ...]:
        """Compile what the maps among an object's schemas say; nothing where one denies all undeclared keys (rule 4)."""
        maps = [self._parts.map_of(each) for each in schemas]
        if any(each.denies_undeclared for each in maps) or self._parts.has_map_of_other_type(applicable):
            return ()
        if sum(len(each.schemas) for each in maps) > 1:
            # An entry may have to pass several plans, and one may drop the tag that another keeps. So no tag may decide.
            below = below._replace(uses_tags=False, uses_tags_below=False)
        return tuple(self._entry_plans_of(each, below) for each in maps if each.schemas)

    def _entry_plans_of(self, map_schema: MapSchema, below: CompileContext) -> MapEntryPlans:
        plans = tuple(self._plan(SchemaConstraints((schema,)), below) for _, schema in map_schema.patterns)
        additional: Plan | None = DROP if map_schema.forbids_others else None
        if map_schema.additional is not None:
            additional = self._plan(SchemaConstraints((map_schema.additional,)), below)
        return MapEntryPlans(KeyPatterns([pattern for pattern, _ in map_schema.patterns]), plans, additional)

    def _array_plan(
        self, applicable: ApplicableSchemas, marks: EffectiveMarks, context: CompileContext
    ) -> Plan:
        """Keep the marked elements of an array. A mark on an array of scalars covers them (rule 2).

        On an array of anything else a mark shows its presence (rule 3). Without `items` it grants nothing (rule 4).
        """
        if not _has_readable_items(applicable, self._document):
            return DROP
        marked = marks.on_array is not Mark.NONE
        slot_count = max(len(schema.place.node.get("prefixItems", ())) for schema in applicable.schemas)
        self._spend(slot_count * len(applicable.schemas))
        elements = [element_constraints(applicable, slot) for slot in (*range(slot_count), None)]
        covers_elements = marks.on_array is Mark.TYPED and all(map(self._is_scalar, elements))
        below = self._below(context, marked=marked)._replace(in_marked_array=covers_elements)
        *slots, items = [self._plan(each, below) for each in elements]
        return array_plan(slots, items, marked=marked)

    def _is_scalar(self, constraints: SchemaConstraints) -> bool:
        """Whether an element can be nothing but a scalar, or nothing describes it."""
        candidates = self._collect(constraints).candidates
        return all(each.is_scalar for each in candidates if each.is_described)

    def _below(self, context: CompileContext, *, marked: bool) -> CompileContext:
        return CompileContext(
            context.strict,
            marked=self._inherits_marks and (context.marked or marked),
            uses_tags=context.uses_tags_below,
            uses_tags_below=context.uses_tags_below,
            is_text=context.is_text,
        )


def _described_kinds(applicable: ApplicableSchemas) -> frozenset[Kind]:
    candidates = [each for each in applicable.candidates if each.is_described and each.types != NULL]
    return frozenset(
        kind for kind, types in _TYPES_OF_KIND.items() if any(each.counts_for(types) for each in candidates)
    )


def _counts_for_objects(alternative: ApplicableSchemas) -> bool:
    """Whether an alternative that says something of an object's properties describes it, or none that can be valid."""
    return alternative.describes("object") or not alternative.admits("object")


def _is_plain_scalar(constraints: SchemaConstraints) -> bool:
    """Whether each schema names scalar types and composes no others, so that the position has no parts."""
    return all(_names_scalars_alone(schema.place.node) for schema in constraints.all_schemas)


def _has_list(node: Any) -> bool:
    return "enum" in node or "const" in node


def _names_scalars_alone(node: Any) -> bool:
    if not isinstance(node, dict) or "type" not in node or not _COMPOSING.isdisjoint(node):
        return False
    return declared_types(node["type"]) <= _SCALARS_OR_NULL


def _effective_marks(applicable: ApplicableSchemas, context: CompileContext) -> EffectiveMarks:
    outside = Mark.NONE
    if context.marked:
        # Outside of a choice, a mark counts as one on a container unless every alternative is scalar (rule 7).
        outside = Mark.UNTYPED if applicable.has_choice else Mark.TYPED
    return effective_marks(applicable.candidates, outside=outside, in_marked_array=context.in_marked_array)


def _declared_names(applicable: ApplicableSchemas) -> list[str]:
    """Return the names of all declared properties, in document order."""
    names: dict[str, None] = {}
    for schema in applicable.schemas:
        names.update(dict.fromkeys(schema.place.node.get("properties", ())))
    return list(names)


def _lists_containers(applicable: ApplicableSchemas) -> bool:
    """Whether `enum` or `const` applies to values that may be objects or arrays: those cannot be compared."""
    if not (applicable.describes("object") or applicable.describes("array")):
        return False
    if any("enum" in node or "const" in node for node in applicable.granting):
        return True
    return any(_lists_containers(each) for choice in applicable.choices for each in choice.alternatives)


def _has_readable_items(applicable: ApplicableSchemas, document: OpenApiDocument) -> bool:
    """Whether some schema that grants describes the elements, and it is certain which schema describes which element."""
    granting = [schema.place.node for schema in applicable.schemas if schema.grants]
    if not any("items" in node or "prefixItems" in node for node in granting):
        return False
    return all(_is_readable_array(schema.place.node, document) for schema in applicable.schemas)


def _is_readable_array(node: Mapping[str, Any], document: OpenApiDocument) -> bool:
    # OpenAPI 3.0 knows no `prefixItems`.
    if "prefixItems" not in node:
        return isinstance(node.get("items", {}), dict | bool)
    return not document.is_3_0 and isinstance(node["prefixItems"], list)
