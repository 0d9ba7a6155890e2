"""Which query parameters are recorded, and how: their marked values, split by style and encoded anew (rule 13)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

from redactor.compile.compiler import Compiler
from redactor.compile.parameters import Parameter, parameter_plan, parameters_of
from redactor.compile.plan import ArrayPlan, ObjectPlan, Plan, ScalarPlan, TypeSwitchPlan, resolved
from redactor.compile.text_values import fits_text
from redactor.decode.url import QueryPair, encode_query
from redactor.openapi.operations import Operation

_FOREIGN_TO_SCALARS = ";"  # some servers split pairs there
_DELIMITERS = frozenset(",|;")
_DELIMITER = re.compile("[,|;]")
_DELIMITER_OF_STYLE = {"form": ",", "spaceDelimited": " ", "pipeDelimited": "|"}


class QueryParameterPlan(Protocol):
    """How one declared query parameter, or one property of an exploded one, is recorded."""

    def record(self, pairs: Mapping[str, Sequence[QueryPair]]) -> Iterable[str]:
        """Yield the encoded `name=value` texts that are kept. `pairs` holds the query's pairs by decoded name."""
        ...


@dataclass(frozen=True, slots=True)
class ScalarParameter:
    """A scalar. It is dropped where it stands more than once or holds a delimiter of pairs."""

    name: str
    plan: ScalarPlan

    def record(self, pairs: Mapping[str, Sequence[QueryPair]]) -> Iterable[str]:
        found = pairs.get(self.name, ())
        value = found[0].value if len(found) == 1 else None
        if value is not None and _FOREIGN_TO_SCALARS not in value and fits_text(self.plan, value):
            yield _pair(self.name, value)


@dataclass(frozen=True, slots=True)
class ExplodedArray:
    """An array with a pair for each element. An element that might be read as several is dropped."""

    name: str
    plan: ScalarPlan
    pairs_min: int = 1
    """With fewer pairs nothing is recorded: the parameter may be no array."""

    def record(self, pairs: Mapping[str, Sequence[QueryPair]]) -> Iterable[str]:
        found = pairs.get(self.name, ())
        if len(found) < self.pairs_min:
            return
        # The same value may stand in a query many thousand times.
        known: dict[str, str | None] = {}
        for value in (pair.value for pair in found):
            if value is not None and value not in known:
                fits = _DELIMITER.search(value) is None and fits_text(self.plan, value)
                known[value] = _pair(self.name, value) if fits else None
            text = None if value is None else known[value]
            if text is not None:
                yield text


@dataclass(frozen=True, slots=True)
class DelimitedArray:
    """An array with all elements in one pair, between delimiters. Elements that do not fit are left out."""

    name: str
    plan: ScalarPlan
    delimiter: str

    def record(self, pairs: Mapping[str, Sequence[QueryPair]]) -> Iterable[str]:
        elements = _split(pairs.get(self.name, ()), self.delimiter)
        known = {each: encode_query(each) for each in set(elements) if fits_text(self.plan, each)}
        kept = [known[each] for each in elements if each in known]
        if kept:
            yield f"{encode_query(self.name)}={encode_query(self.delimiter).join(kept)}"


@dataclass(frozen=True, slots=True)
class DelimitedObject:
    """An object with all names and values in one pair, alternating. A property that stands twice is dropped."""

    name: str
    plans: Mapping[str, ScalarPlan]

    def record(self, pairs: Mapping[str, Sequence[QueryPair]]) -> Iterable[str]:
        parts = _split(pairs.get(self.name, ()), ",")
        names, values = parts[::2], parts[1::2]
        if len(names) != len(values):
            return
        value_of = dict(zip(names, values, strict=True))
        times = Counter(names)
        kept = [
            f"{encode_query(name)},{encode_query(value_of[name])}"
            for name, plan in self.plans.items()
            if times[name] == 1 and fits_text(plan, value_of[name])
        ]
        if kept:
            yield f"{encode_query(self.name)}={','.join(kept)}"


def _split(found: Sequence[QueryPair], delimiter: str) -> list[str]:
    """Return the elements of a parameter's only pair; none where it is uncertain how a server splits it."""
    raw, value = found[0] if len(found) == 1 else ("", None)
    if value is None or (_DELIMITERS - {delimiter}) & set(value):
        return []
    # An encoded comma is data to one server and a delimiter to the next.
    is_uncertain = delimiter == "," and raw.count(",") != value.count(",")
    return [] if is_uncertain else value.split(delimiter)


def _pair(name: str, value: str) -> str:
    return f"{encode_query(name)}={encode_query(value)}"


class _Style(NamedTuple):
    """How a parameter is serialized."""

    name: str
    explode: bool

    @classmethod
    def of(cls, node: Mapping[str, Any]) -> _Style:
        name = node.get("style", "form")
        return cls(str(name), node.get("explode", name == "form") is True)


def query_parameters(
    operation: Operation, compiler: Compiler, *, strict: bool
) -> tuple[QueryParameterPlan, ...]:
    """Compile the query parameters of which something may be recorded, in document order.

    A pair that may belong to several parameters is recorded for none of them.
    """
    if operation.denied:
        return ()
    declared = [each for each in parameters_of(operation, compiler) if each.location == "query"]
    claims = _claims(declared, compiler)
    found: list[QueryParameterPlan] = []
    for parameter in declared:
        plan = parameter_plan(parameter, compiler, strict=strict)
        if plan is not None:
            found.extend(_plans_of(parameter, plan, claims))
    return tuple(found)


def _claims(declared: Sequence[Parameter], compiler: Compiler) -> Counter[str]:
    """Count the parameters that a pair of each name may belong to."""
    claims = Counter(name for each in declared for name in _names_claimed(each, compiler))
    for deep in declared:
        if _Style.of(deep.place.node).name == "deepObject":
            claims.update(each.name for each in declared if each.name.startswith(f"{deep.name}["))
    return claims


def _names_claimed(parameter: Parameter, compiler: Compiler) -> Iterator[str]:
    """Yield the names of the pairs that may belong to a parameter: its own, and those of an exploded object."""
    yield parameter.name
    schema = parameter.place.child("schema")
    style = _Style.of(parameter.place.node)
    is_deep = style.name == "deepObject"
    if schema.node is None or not (is_deep or style == ("form", True)):
        return
    properties = {
        name
        for each in compiler.applicable_schemas(schema).schemas
        for name in each.place.node.get("properties", ())
    }
    names = {f"{parameter.name}[{name}]" for name in properties} if is_deep else properties
    yield from names - {parameter.name}


def _plans_of(parameter: Parameter, plan: Plan, claims: Mapping[str, int]) -> Iterator[QueryParameterPlan]:
    name, style = parameter.name, _Style.of(parameter.place.node)
    is_claimed_once = claims[name] == 1
    if isinstance(plan, ScalarPlan) and is_claimed_once:
        yield ScalarParameter(name, plan)
    elif isinstance(plan, ArrayPlan) and is_claimed_once:
        yield from _array_plans(name, style, plan)
    elif isinstance(plan, ObjectPlan):
        yield from _object_plans(name, style, plan, claims)
    elif isinstance(plan, TypeSwitchPlan):
        yield from _plans_of_several_types(parameter, style, plan, claims)


def _plans_of_several_types(
    parameter: Parameter, style: _Style, plan: TypeSwitchPlan, claims: Mapping[str, int]
) -> Iterator[QueryParameterPlan]:
    """Yield the plans of what shows by its pairs that it is an array or an object: one pair of the name may be either."""
    name, as_array, as_object = parameter.name, resolved(plan.as_array), resolved(plan.as_object)
    if isinstance(as_array, ArrayPlan) and claims[name] == 1:
        for each in _array_plans(name, style, as_array):
            if isinstance(each, ExplodedArray):
                yield replace(each, pairs_min=2)
    if isinstance(as_object, ObjectPlan):
        yield from _object_plans(name, style, as_object, {**claims, name: 0})


def _array_plans(name: str, style: _Style, plan: ArrayPlan) -> Iterator[QueryParameterPlan]:
    if plan.slots or not isinstance(plan.items, ScalarPlan) or style.name not in _DELIMITER_OF_STYLE:
        return
    if style.explode:
        yield ExplodedArray(name, plan.items)
    else:
        yield DelimitedArray(name, plan.items, _DELIMITER_OF_STYLE[style.name])


def _object_plans(
    name: str, style: _Style, plan: ObjectPlan, claims: Mapping[str, int]
) -> Iterator[QueryParameterPlan]:
    """Yield the plans of an object's marked scalar properties; nothing else of an object is read from a query."""
    plans = {each: part for each, part in plan.properties.items() if isinstance(part, ScalarPlan)}
    if style == ("form", False):
        if claims.get(name) == 1:
            yield DelimitedObject(name, plans)
        return
    if style.name == "deepObject":
        plans = {f"{name}[{each}]": part for each, part in plans.items()}
    elif style.name != "form":
        return
    for pair_name, part in plans.items():
        if claims.get(pair_name) == 1:
            yield ScalarParameter(pair_name, part)
