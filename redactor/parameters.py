"""Which path and query parameters are recorded, and how: compiled from an operation's declarations (rule 13)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from redactor.branches import SCALAR_KINDS, is_denied, is_marked
from redactor.compiler import Compiler
from redactor.document import LoadedDocument, Place
from redactor.operations import LITERAL, TEMPLATED, Operation, Segment
from redactor.plan import Array, Object, Pattern, Plan, Scalar
from redactor.said import can_deny
from redactor.texts import fits_text
from redactor.url import QueryPair, encode_query, encode_segment

_LOCATIONS = ("path", "query", "header", "cookie")
_NAMES_KEPT = ("id", "uuid", "identifier", "tag")
_FOREIGN_TO_SCALARS = ";"
_DELIMITERS = frozenset(",|;")
_DELIMITER = re.compile("[,|;]")
_DELIMITER_OF_STYLE = {"form": ",", "spaceDelimited": " ", "pipeDelimited": "|"}


class Parameter(NamedTuple):
    """A declared parameter, denials on it, its schema and the references to it taken in."""

    name: str
    location: str
    place: Place
    denied: bool
    marked: bool
    grants: bool = True
    """Whether its marks count: not where another declaration of it may be the one that holds."""


def parameters_of(operation: Operation, compiler: Compiler) -> list[Parameter]:
    """Return an operation's parameters in document order; its own replace those of its path by name and place.

    What the path says is denied stays denied. Of declarations that cannot both hold (twice in one list, or beside the
    `$ref` of a path item) all deny, and none grants but what they say alike.
    """
    return list(_declared(operation, compiler).parameters.values())


class _Declared(NamedTuple):
    """An operation's parameters by place and name."""

    parameters: Mapping[tuple[str, str], Parameter]
    are_all_read: bool
    """Whether none is missing: one that cannot be read may be any of them."""


def _declared(operation: Operation, compiler: Compiler) -> _Declared:
    found: dict[tuple[str, str], Parameter] = {}
    levels = [
        [each for place in places for each in _listed(operation, place, compiler)]
        for places in (operation.path_items, [operation.place])
    ]
    are_all_read = all(each is not None for level in levels for each in level)
    for level in levels:
        rivals: dict[tuple[str, str], list[Parameter]] = {}
        for each in filter(None, level):
            rivals.setdefault((each.location, each.name), []).append(each)
        for key, several in rivals.items():
            denied = any(each.denied for each in several) or (key in found and found[key].denied)
            agree = all(each.place.node == several[0].place.node for each in several)
            found[key] = several[-1]._replace(denied=denied, grants=agree and are_all_read)
    return _Declared(found, are_all_read)


def _listed(operation: Operation, level: Place, compiler: Compiler) -> list[Parameter | None]:
    """Return the parameters that a path item or an operation lists; None for what cannot be read as one."""
    listed = level.child("parameters")
    if listed.node is None:
        return []
    if not isinstance(listed.node, list):
        operation.document.findings.add(listed.pointer, "unusable_parameter")
        return [None]
    found: list[Parameter | None] = []
    for index in range(len(listed.node)):
        chain = operation.document.follow(listed.child(index))
        found.append(_parameter(operation.document, chain, compiler) if chain else None)
        if chain and found[-1] is None:
            operation.document.findings.add(listed.child(index).pointer, "unusable_parameter")
    return found


def _parameter(document: LoadedDocument, chain: tuple[Place, ...], compiler: Compiler) -> Parameter | None:
    node = chain[-1].node
    name, location = node.get("name"), node.get("in")
    if not isinstance(name, str) or location not in _LOCATIONS:
        return None
    schema = chain[-1].child("schema")
    denied = any(is_denied(each.node) for each in chain) or can_deny(document, node.get("content"))
    if schema.node is not None:
        voices = compiler.voices(schema)
        # A path's value stands as a whole: what is denied in a part of it is denied of all.
        is_whole = location == "path" and not (voices.kinds is not None and voices.kinds <= SCALAR_KINDS)
        denied = denied or voices.denied or (is_whole and can_deny(document, schema.node))
    return Parameter(name, location, chain[-1], denied, is_marked(node))


def _plan_of(parameter: Parameter, compiler: Compiler, *, strict: bool) -> Plan | None:
    """Return what the parameter's schema and marks let through; None where it has no schema or is denied."""
    schema = parameter.place.child("schema")
    if parameter.denied or not parameter.grants or schema.node is None or "content" in parameter.place.node:
        return None
    return compiler.compile(schema, strict=strict, marked=parameter.marked)


@dataclass(frozen=True, slots=True)
class PathSegment:
    """How one segment of a template is recorded: as its template's text, or as the value that stood there."""

    text: str
    rank: int
    names: tuple[str, ...]
    by_name: bool
    """Kept by its variables' names or by configuration, whatever the value."""
    plan: Scalar | None
    """Else kept where it is marked and the value fits."""
    pattern: Pattern | None

    def keeps(self, value: str) -> bool:
        """Tell whether the value may stand in the recorded path."""
        if self.rank == LITERAL or self.by_name:
            return True
        return self.plan is not None and fits_text(self.plan, value)

    def value_in(self, segment: str) -> str | None:
        """Return the value of a partly literal segment's only variable."""
        found = self.pattern.search(segment) if self.pattern is not None and len(self.names) == 1 else None
        return None if found is None else str(found[1])


def path_segments(
    operation: Operation, compiler: Compiler, names_kept: Collection[str], *, strict: bool
) -> tuple[PathSegment, ...]:
    """Return how each segment of an operation's path is recorded."""
    parameters, are_all_read = _declared(operation, compiler)
    declared = {name: each for (location, name), each in parameters.items() if location == "path"}
    denied = {name.lower() for name, each in declared.items() if each.denied}

    def compiled(segment: Segment) -> PathSegment:
        by_name = not operation.path_denied and all(
            ((are_all_read and name.lower().endswith(_NAMES_KEPT)) or name in names_kept)
            and name.lower() not in denied
            for name in segment.names
        )
        plan = None
        if segment.rank == TEMPLATED and segment.names[0] in declared and not operation.path_denied:
            found = _plan_of(declared[segment.names[0]], compiler, strict=strict)
            plan = found if isinstance(found, Scalar) else None
        return PathSegment(segment.text, segment.rank, segment.names, by_name, plan, segment.pattern)

    return tuple(map(compiled, operation.segments))


def record_path(governing: Sequence[Sequence[PathSegment]], values: Sequence[str]) -> str:
    """Return the path as all governing operations let it be recorded; templates stand as the first has them."""
    parts: list[str] = []
    for position, value in enumerate(values):
        mine = [segments[position] for segments in governing]
        if all(segment.keeps(value) for segment in mine):
            literal = next((segment.text for segment in mine if segment.rank == LITERAL), None)
            parts.append(encode_segment(value) if literal is None else literal)
        else:
            parts.append(next(segment.text for segment in mine if not segment.keeps(value)))
    return "/" + "/".join(parts)


class QueryParameter(Protocol):
    """How one declared query parameter is recorded."""

    def record(self, pairs: Mapping[str, Sequence[QueryPair]]) -> Iterable[str]:
        """Yield the `name=value` texts that are kept of it."""
        ...


@dataclass(frozen=True, slots=True)
class ScalarParameter:
    """A scalar: it must stand once, and hold no delimiter of pairs."""

    name: str
    plan: Scalar

    def record(self, pairs: Mapping[str, Sequence[QueryPair]]) -> Iterable[str]:
        """Yield the pair if its value fits."""
        found = pairs.get(self.name, ())
        value = found[0].value if len(found) == 1 else None
        if value is not None and _FOREIGN_TO_SCALARS not in value and fits_text(self.plan, value):
            yield _pair(self.name, value)


@dataclass(frozen=True, slots=True)
class ExplodedArray:
    """An array whose elements stand as a pair each."""

    name: str
    plan: Scalar

    def record(self, pairs: Mapping[str, Sequence[QueryPair]]) -> Iterable[str]:
        """Yield the pairs that fit, each judged by itself; one that might be read as several is left out."""
        # A value may stand there many thousand times.
        known: dict[str, str | None] = {}
        for value in (pair.value for pair in pairs.get(self.name, ())):
            if value is not None and value not in known:
                fits = _DELIMITER.search(value) is None and fits_text(self.plan, value)
                known[value] = _pair(self.name, value) if fits else None
            text = None if value is None else known[value]
            if text is not None:
                yield text


@dataclass(frozen=True, slots=True)
class DelimitedArray:
    """An array whose elements stand in one pair, between delimiters."""

    name: str
    plan: Scalar
    delimiter: str

    def record(self, pairs: Mapping[str, Sequence[QueryPair]]) -> Iterable[str]:
        """Yield one pair with the elements that fit."""
        elements = _split(pairs.get(self.name, ()), self.delimiter)
        known = {each: encode_query(each) for each in set(elements) if fits_text(self.plan, each)}
        kept = [known[each] for each in elements if each in known]
        if kept:
            yield f"{encode_query(self.name)}={encode_query(self.delimiter).join(kept)}"


@dataclass(frozen=True, slots=True)
class DelimitedObject:
    """An object whose names and values stand in one pair, in turn, between commas."""

    name: str
    plans: Mapping[str, Scalar]

    def record(self, pairs: Mapping[str, Sequence[QueryPair]]) -> Iterable[str]:
        """Yield one pair with the declared properties that fit, each given once."""
        parts = _split(pairs.get(self.name, ()), ",")
        names, values = parts[::2], parts[1::2]
        if len(names) != len(values):
            return
        given = dict(zip(names, values, strict=True))
        times = Counter(names)
        kept = [
            f"{encode_query(name)},{encode_query(given[name])}"
            for name, plan in self.plans.items()
            if times[name] == 1 and fits_text(plan, given[name])
        ]
        if kept:
            yield f"{encode_query(self.name)}={','.join(kept)}"


def _split(found: Sequence[QueryPair], delimiter: str) -> list[str]:
    """Return the elements of the one pair; none where other delimiters leave in doubt how it is read."""
    raw, value = found[0] if len(found) == 1 else ("", None)
    if value is None or (_DELIMITERS - {delimiter}) & set(value):
        return []
    # An encoded comma is data to one server and a delimiter to the next.
    doubtful = delimiter == "," and raw.count(",") != value.count(",")
    return [] if doubtful else value.split(delimiter)


def _pair(name: str, value: str) -> str:
    return f"{encode_query(name)}={encode_query(value)}"


def query_parameters(operation: Operation, compiler: Compiler, *, strict: bool) -> tuple[QueryParameter, ...]:
    """Return how each query parameter is recorded that has anything to record, in document order."""
    if operation.denied:
        return ()
    declared = [each for each in parameters_of(operation, compiler) if each.location == "query"]
    claims = Counter(name for each in declared for name in _names_claimed(each, compiler))
    for deep in (each for each in declared if _style(each.place.node)[0] == "deepObject"):
        claims.update(each.name for each in declared if each.name.startswith(f"{deep.name}["))
    found: list[QueryParameter] = []
    for each in declared:
        plan = _plan_of(each, compiler, strict=strict)
        if isinstance(plan, Scalar) and claims[each.name] == 1:
            found.append(ScalarParameter(each.name, plan))
        elif isinstance(plan, Array) and claims[each.name] == 1:
            found.extend(_array_parameter(each.name, each.place.node, plan))
        elif isinstance(plan, Object):
            found.extend(_object_parameters(each.name, each.place.node, plan, claims))
    return tuple(found)


def _names_claimed(parameter: Parameter, compiler: Compiler) -> Iterator[str]:
    """Yield the names of the pairs that may belong to a parameter. What several claim is kept for none."""
    yield parameter.name
    schema = parameter.place.child("schema")
    style, explode = _style(parameter.place.node)
    is_deep = style == "deepObject"
    if schema.node is None or not (is_deep or (style, explode) == ("form", True)):
        return
    properties = {
        name for branch in compiler.voices(schema).all for name in branch.place.node.get("properties", ())
    }
    names = {f"{parameter.name}[{name}]" for name in properties} if is_deep else properties
    yield from names - {parameter.name}


def _style(node: Mapping[str, Any]) -> tuple[str, bool]:
    style = node.get("style", "form")
    return str(style), node.get("explode", style == "form") is True


def _array_parameter(name: str, node: Mapping[str, Any], plan: Array) -> Iterator[QueryParameter]:
    style, explode = _style(node)
    if plan.slots or not isinstance(plan.items, Scalar) or style not in _DELIMITER_OF_STYLE:
        return
    if explode:
        yield ExplodedArray(name, plan.items)
    else:
        yield DelimitedArray(name, plan.items, _DELIMITER_OF_STYLE[style])


def _object_parameters(
    name: str, node: Mapping[str, Any], plan: Object, claims: Mapping[str, int]
) -> Iterator[QueryParameter]:
    style, explode = _style(node)
    plans = {each: part for each, part in plan.properties.items() if isinstance(part, Scalar)}
    if style == "deepObject":
        named = {f"{name}[{each}]": part for each, part in plans.items()}
        yield from (ScalarParameter(each, part) for each, part in named.items() if claims.get(each) == 1)
    elif style == "form" and explode:
        yield from (ScalarParameter(each, part) for each, part in plans.items() if claims.get(each) == 1)
    elif style == "form" and claims.get(name) == 1:
        yield DelimitedObject(name, plans)
