"""Forms read as the objects that their schema describes, before a plan keeps what is marked of them (rule 9)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from redactor.compile.form_encoding import FormEncoding
from redactor.compile.plan import (
    DROP,
    DROPPED,
    AllOfPlan,
    ArrayPlan,
    FreeFormPlan,
    Kept,
    Kind,
    ObjectPlan,
    Plan,
    ScalarPlan,
    TaggedUnionPlan,
    TypeSwitchPlan,
    close_gaps,
)
from redactor.compile.text_values import read_text
from redactor.decode.json import BLANKS, Json, Unusable, read_json
from redactor.decode.multipart import FormPart
from redactor.pipeline.deep_fields import FieldNode, deciding, read_deep, read_tagged, text_of

_DELIMITERS = frozenset(",|;")


class FormReader:
    """Reads the parts of one form as the JSON object that a plan expects. Fields that no plan keeps are not read."""

    def __init__(self, parts: Iterable[FormPart], encoding: FormEncoding, depth_max: int) -> None:
        self._encoding = encoding
        self._depth_max = depth_max
        self._parts: dict[str, list[FormPart]] = {}
        self._deep: dict[str, FieldNode] = {}
        for part in parts:
            self._parts.setdefault(part.name, []).append(part)
            name = part.name.partition("[")[0]
            if name != part.name and name in encoding.deep:
                self._deep.setdefault(name, FieldNode()).add(part, depth_max)

    def read(self, plan: Plan) -> dict[str, Json]:
        """Return the object, with every field that the plan might keep; of several plans, one that each might keep."""
        if isinstance(plan, AllOfPlan):
            first, *others = map(self.read, plan.plans)
            return {name: value for name, value in first.items() if all(name in each for each in others)}
        plan = deciding(plan)
        if isinstance(plan, TypeSwitchPlan):
            return self.read(plan.as_object)
        if isinstance(plan, TaggedUnionPlan):
            return self._tagged(plan)
        if not isinstance(plan, ObjectPlan):
            return {}
        values = ((name, self._field(name, part)) for name, part in plan.properties.items())
        return {name: value for name, value in values if value is not DROPPED}

    def _tagged(self, plan: TaggedUnionPlan) -> dict[str, Json]:
        """Return the object as the variant that its tag selects; empty where the tag's text may select several."""
        parts = self._parts.get(plan.tag, ())
        text = text_of(parts[0]) if len(parts) == 1 else None
        tree = DROPPED if text is None else read_tagged(plan, text, self.read)
        return tree if type(tree) is dict else {}

    def _field(self, name: str, plan: Plan) -> Kept:
        parts = self._parts.get(name, [])
        if name in self._encoding.dropped:
            return DROPPED
        if name in self._encoding.deep:
            node = self._deep.get(name, FieldNode())
            node.parts = parts
            return read_deep(node, plan)
        delimiter = self._encoding.delimiters.get(name)
        if delimiter is not None:
            return _delimited(deciding(plan), parts, delimiter)
        return self._by_schema(deciding(plan), parts, as_json=name in self._encoding.as_json)

    def _by_schema(self, plan: Plan, parts: Sequence[FormPart], *, as_json: bool) -> Kept:
        if isinstance(plan, TypeSwitchPlan) and len(parts) == 1:
            return self._json_once(plan, parts[0]) if as_json else self._text_once(plan, parts[0])
        if isinstance(plan, TypeSwitchPlan):
            plan = deciding(plan.as_array)  # nothing else stands several times
            if not isinstance(plan, ArrayPlan):
                return DROPPED
        if isinstance(plan, ArrayPlan) and parts:
            return self._elements(plan, parts, as_json=as_json)
        return self._value(plan, parts[0], as_json=as_json) if len(parts) == 1 else DROPPED

    def _json_once(self, plan: TypeSwitchPlan, part: FormPart) -> Kept:
        """Return the JSON value of a field that stands once, unless it may be the only element of a list."""
        value = self._value(plan, part, as_json=True)
        return value if type(value) is list or Kind.ARRAY not in plan.described else DROPPED

    def _text_once(self, plan: TypeSwitchPlan, part: FormPart) -> Kept:
        """Return what a field that stands once may mean: a scalar, the only element of a list, or an object as JSON.

        It is kept only if nothing that it may mean would be dropped. As an object it shows no more than as a string. A
        text that does not begin as a JSON object does is none.
        """
        as_array = deciding(plan.as_array)
        if plan.described == {Kind.ARRAY} and isinstance(as_array, ArrayPlan):
            return self._elements(as_array, [part], as_json=False)
        described = plan.described
        if not part.content.lstrip(BLANKS).startswith(b"{"):
            described -= {Kind.OBJECT}
        if described >= {Kind.ARRAY, Kind.OBJECT}:
            return DROPPED
        scalars = [
            self._value(each, part, as_json=False) if isinstance(each, ScalarPlan) else DROPPED
            for each in _scalars_meant(plan, described)
        ]
        if DROPPED in scalars:
            return DROPPED
        if Kind.OBJECT in described:
            return self._value(deciding(plan.as_object), part, as_json=False)
        return scalars[0] if scalars else DROPPED

    def _elements(self, plan: ArrayPlan, parts: Sequence[FormPart], *, as_json: bool) -> Kept:
        """Return a list with an element for each field, none where nothing of them is kept: only they show the list."""
        elements = [
            self._value(deciding(plan.plan_at(index)), part, as_json=as_json)
            for index, part in enumerate(parts)
        ]
        if as_json and len(elements) == 1 and type(elements[0]) is list:
            return elements[0]
        kept = [
            each if each is not DROPPED and plan.plan_at(index).keep(each) is not DROPPED else DROPPED
            for index, each in enumerate(elements)
        ]
        return close_gaps(kept, len(plan.slots), marked=False)

    def _value(self, plan: Plan, part: FormPart, *, as_json: bool) -> Kept:
        """Return one part's value: JSON where the document says so or the schema is a container, else text."""
        if as_json or isinstance(plan, ObjectPlan | FreeFormPlan | TaggedUnionPlan | ArrayPlan):
            try:
                return read_json(part.content, self._depth_max)
            except Unusable:
                return DROPPED
        text = text_of(part)
        return read_text(plan, text) if isinstance(plan, ScalarPlan) and text is not None else DROPPED


def _scalars_meant(plan: TypeSwitchPlan, described: frozenset[Kind]) -> Iterator[Plan]:
    """Yield the plans for a text as a scalar: on its own, and as the only element of a list."""
    if Kind.SCALAR in described:
        yield deciding(plan.as_scalar)
    if Kind.ARRAY in described:
        as_array = deciding(plan.as_array)
        yield deciding(as_array.plan_at(0)) if isinstance(as_array, ArrayPlan) else DROP


def _delimited(plan: Plan, parts: Sequence[FormPart], delimiter: str) -> Kept:
    """Return a list of scalars that stands in one field; a scalar as it is. With another delimiter it is uncertain."""
    text = text_of(parts[0]) if len(parts) == 1 else None
    if text is None:
        return DROPPED
    if isinstance(plan, ScalarPlan):
        return read_text(plan, text)
    if not isinstance(plan, ArrayPlan) or (_DELIMITERS - {delimiter}) & set(text):
        return DROPPED
    plans = [deciding(plan.plan_at(index)) for index in range(text.count(delimiter) + 1)]
    if not any(isinstance(each, ScalarPlan) for each in plans):
        return DROPPED
    elements = [
        read_text(each, value) if isinstance(each, ScalarPlan) else DROPPED
        for each, value in zip(plans, text.split(delimiter), strict=True)
    ]
    return close_gaps(elements, len(plan.slots), marked=True)
