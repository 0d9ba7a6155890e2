"""Which scalars of a path and a query are recorded, found out by trying: the recorder itself is asked (rule 13)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from redactor.branches import is_denied, is_marked
from redactor.decisions import Decision, Step, StepKind, Verdict, denial_words, dropped, path_text
from redactor.operations import LITERAL
from redactor.parameters import Parameter, parameters_of
from redactor.schema_tree import Around, Position
from redactor.surface import ANY_TEXT, OperationSurface, Side
from redactor.url import QueryPair, encode_segment

_TEXTS_TRIED = (ANY_TEXT, "1", "1.5", "true")
_NOT_TOLD_APART = "its style leaves in doubt which pairs are its own"


class ParameterLeaf(NamedTuple):
    """A variable of the path, or a scalar of a query parameter."""

    side: Side
    path: str
    kind: str
    decision: Decision
    nodes: tuple[Mapping[str, Any], ...]
    """What of the document speaks about it."""
    pair: str = ""
    """For a query: the name of the pair that holds it."""
    inner: str | None = None
    """For an object within one pair: the name in front of its value."""


def parameter_leaves(surface: OperationSurface) -> Iterator[ParameterLeaf]:
    """Yield the variables of an operation's path, then the declared scalars of its query, in document order."""
    declared = parameters_of(surface.operation, surface.surface.compiler)
    by_name = {each.name: each for each in declared if each.location == "path"}
    for index in range(len(surface.operation.segments)):
        yield from _variables(surface, index, by_name)
    for parameter in declared:
        if parameter.location == "query":
            yield from _query_leaves(surface, parameter)


def _variables(
    surface: OperationSurface, index: int, declared: Mapping[str, Parameter]
) -> Iterator[ParameterLeaf]:
    segment = surface.operation.segments[index]
    if segment.rank == LITERAL:
        return
    kept = _keeps_segment(surface, index)
    for name in segment.names:
        parameter = declared.get(name)
        nodes = () if parameter is None else _nodes_of(parameter)
        pointer = surface.operation.place.pointer if parameter is None else parameter.place.pointer
        decision = _variable_decision(surface, name, parameter, kept=kept, pointer=pointer)
        yield ParameterLeaf(Side.PATH, f"{{{name}}}", "string", decision, nodes)


def _keeps_segment(surface: OperationSurface, index: int) -> bool:
    """Tell whether some value at a segment is recorded."""
    base = [""] * surface.base_length
    for text in _TEXTS_TRIED:
        tried = surface.tried_path()
        tried[index] = tried[index].replace(ANY_TEXT, text)
        recorded = surface.governing.path(base + tried, strict=False).text.split("/")[1:]
        if recorded[index] == encode_segment(tried[index]):
            return True
    return False


def _variable_decision(
    surface: OperationSurface, name: str, parameter: Parameter | None, *, kept: bool, pointer: str
) -> Decision:
    if not kept:
        if parameter is not None and parameter.denied:
            return dropped(5, "the parameter is denied", pointer)
        if surface.operation.path_denied:
            return dropped(5, "the operation's path is denied", surface.operation.place.pointer)
        return dropped(13, "neither marked nor named as an id", pointer)
    if name in surface.surface.config.path_parameters_kept:
        return Decision(Verdict.KEPT, 13, "configured", pointer)
    if name.lower().endswith(("id", "uuid", "identifier", "tag")):
        return Decision(Verdict.KEPT, 13, "its name is that of an id", pointer)
    return Decision(Verdict.KEPT, 13, "marked", pointer)


def _nodes_of(parameter: Parameter) -> tuple[Mapping[str, Any], ...]:
    schema = parameter.place.node.get("schema")
    return (parameter.place.node, schema) if isinstance(schema, dict) else (parameter.place.node,)


def _query_leaves(surface: OperationSurface, parameter: Parameter) -> Iterator[ParameterLeaf]:
    schema = parameter.place.child("schema")
    if not isinstance(schema.node, dict):
        decision = dropped(13, "it has no schema of its own", parameter.place.pointer)
        nodes = (parameter.place.node,)
        yield ParameterLeaf(Side.QUERY, parameter.name, "any", decision, nodes, parameter.name)
        return
    around = Around(_closed(surface, parameter), marked_outside=_own_mark(parameter))
    root = surface.surface.parameter_root(schema, around, marked=parameter.marked)
    for steps, leaf in _scalars(root):
        decision = leaf.decision
        if decision.verdict is not Verdict.DROPPED and not _is_recorded(surface, parameter, steps):
            decision = dropped(13, _NOT_TOLD_APART, parameter.place.pointer)
        path = path_text((Step(StepKind.PROPERTY, parameter.name), *steps))
        pair, inner = _named(parameter, steps)
        nodes = (parameter.place.node, *leaf.nodes)
        yield ParameterLeaf(Side.QUERY, path, leaf.kind, decision, nodes, pair, inner)


def _closed(surface: OperationSurface, parameter: Parameter) -> Decision | None:
    operation = surface.operation
    pointer = parameter.place.pointer
    if surface.governing.is_opted_out:
        return dropped(
            5, "the operation, or one that always ties with it, is denied", operation.place.pointer
        )
    if is_denied(parameter.place.node):
        return dropped(5, denial_words(parameter.place.node), pointer)
    if parameter.denied:
        return dropped(5, "the parameter is denied", pointer)
    if "content" in parameter.place.node:
        return dropped(13, "it is described by content, not by a style", pointer)
    return None


def _own_mark(parameter: Parameter) -> Decision | None:
    if not is_marked(parameter.place.node):
        return None
    return Decision(Verdict.KEPT, 13, "the parameter is marked", parameter.place.pointer)


def _scalars(root: Position) -> Iterator[tuple[tuple[Step, ...], Position]]:
    """Yield what may stand in a query: the value, its elements or its properties; nothing deeper has a form."""
    if root.is_leaf:
        yield (), root
    for step, child in root.children:
        yield (step,), child


def _is_recorded(surface: OperationSurface, parameter: Parameter, steps: tuple[Step, ...]) -> bool:
    """Tell whether the recorder writes any of the query that holds a value at these steps alone."""
    path = surface.governing.path([""] * surface.base_length + surface.tried_path(), strict=False)
    pair, inner = _named(parameter, steps)
    for text in _TEXTS_TRIED:
        value = text if inner is None else f"{inner},{text}"
        if "?" in surface.governing.uri(path, {pair: [QueryPair(value, value)]}, strict=False):
            return True
    return False


def _named(parameter: Parameter, steps: tuple[Step, ...]) -> tuple[str, str | None]:
    """Return the pair's name that holds what the steps lead to, and the name within its value, if any."""
    name = parameter.name
    if not steps or steps[0].kind is not StepKind.PROPERTY:
        return name, None
    inner = steps[0].text
    style = parameter.place.node.get("style", "form")
    if style == "deepObject":
        return f"{name}[{inner}]", None
    explodes = parameter.place.node.get("explode", style == "form") is True
    return (inner, None) if explodes else (name, inner)
