"""The path variables and query parameters of an operation, and which of them are recorded (rule 13).

Styles interact: whether a query parameter can be recorded depends on the others. So the recorder is tried with
sample values instead of judging the declarations a second time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from redactor.compile.parameters import Parameter, parameters_of
from redactor.decode.url import QueryPair, encode_segment
from redactor.openapi.marks import is_denied, is_marked
from redactor.openapi.operations import LITERAL
from redactor.report.decisions import Decision, Outcome, Step, StepKind, denial_reason, dropped, path_text
from redactor.report.operation_fields import SAMPLE_TEXT, OperationFields, Side
from redactor.report.schema_tree import InheritedContext, Position

# One of these has the type of any scalar.
_SAMPLE_TEXTS = (SAMPLE_TEXT, "1", "1.5", "true")
_AMBIGUOUS_STYLE = "its style does not determine which pairs of the query belong to it"


class ParameterField(NamedTuple):
    """A variable of the path, or a scalar of a query parameter."""

    side: Side
    path: str
    kind: str
    decision: Decision
    nodes: tuple[Mapping[str, Any], ...]
    """The nodes of the document that apply to it: the parameter and its schemas."""
    pair: str = ""
    """For a query: the name of the pair that holds it."""
    inner: str | None = None
    """For a property of an object in one pair (`filter=name,x`): the name before its value."""


def parameter_fields(operation: OperationFields) -> Iterator[ParameterField]:
    """Yield the variables of an operation's path, then the declared scalars of its query, in document order."""
    declared = parameters_of(operation.operation, operation.document_fields.compiler)
    by_name = {each.name: each for each in declared if each.location == "path"}
    for index in range(len(operation.operation.segments)):
        yield from _path_variables(operation, index, by_name)
    for parameter in declared:
        if parameter.location == "query":
            yield from _query_fields(operation, parameter)


def _path_variables(
    operation: OperationFields, index: int, declared: Mapping[str, Parameter]
) -> Iterator[ParameterField]:
    segment = operation.operation.segments[index]
    if segment.rank == LITERAL:
        return
    is_kept = _keeps_segment(operation, index)
    for name in segment.names:
        parameter = declared.get(name)
        decision = _variable_decision(operation, name, parameter, is_kept=is_kept)
        nodes = () if parameter is None else _nodes_of(parameter)
        yield ParameterField(Side.PATH, f"{{{name}}}", "string", decision, nodes)


def _keeps_segment(operation: OperationFields, index: int) -> bool:
    """Whether any value of a segment is recorded."""
    # The base path is not part of the recorded path, so any text will do.
    base = [""] * operation.base_length
    for text in _SAMPLE_TEXTS:
        path = operation.sample_path()
        path[index] = path[index].replace(SAMPLE_TEXT, text)
        recorded = operation.resolved.path(base + path, strict=False).text.split("/")[1:]
        if recorded[index] == encode_segment(path[index]):
            return True
    return False


def _variable_decision(
    operation: OperationFields, name: str, parameter: Parameter | None, *, is_kept: bool
) -> Decision:
    operation_pointer = operation.operation.place.pointer
    pointer = operation_pointer if parameter is None else parameter.place.pointer
    if is_kept:
        return Decision(Outcome.KEPT, 13, _reason_to_keep(operation, name, parameter) or "marked", pointer)
    if parameter is not None and parameter.denied:
        return dropped(5, "the parameter is denied", pointer)
    if operation.operation.path_denied:
        return dropped(5, "the operation's path is denied", operation_pointer)
    reason = _reason_to_keep(operation, name, parameter)
    if reason is None:
        return dropped(13, "neither marked nor named like an id", pointer)
    return dropped(
        13, f"{reason}, but its type, or another variable in the segment, lets no value be recorded", pointer
    )


def _reason_to_keep(operation: OperationFields, name: str, parameter: Parameter | None) -> str | None:
    """Return why a variable's values may be recorded as far as its type allows; None where they may not."""
    if name in operation.document_fields.config.path_parameters_kept:
        return "configured"
    if name.lower().endswith(("id", "uuid", "identifier", "tag")):
        return "named like an id"
    is_marked_somewhere = parameter is not None and any(map(is_marked, _nodes_of(parameter)))
    return "marked" if is_marked_somewhere else None


def _nodes_of(parameter: Parameter) -> tuple[Mapping[str, Any], ...]:
    schema = parameter.place.node.get("schema")
    return (parameter.place.node, schema) if isinstance(schema, dict) else (parameter.place.node,)


def _query_fields(operation: OperationFields, parameter: Parameter) -> Iterator[ParameterField]:
    schema = parameter.place.child("schema")
    if not isinstance(schema.node, dict):
        decision = dropped(13, "it has no schema of its own", parameter.place.pointer)
        nodes = (parameter.place.node,)
        yield ParameterField(Side.QUERY, parameter.name, "any", decision, nodes, parameter.name)
        return
    context = InheritedContext(_forced_drop(operation, parameter), outer_mark=_own_mark(parameter))
    root = operation.document_fields.parameter_root(schema, context, marked=parameter.marked)
    for steps, position in _scalars(root):
        decision = position.decision
        if decision.outcome is not Outcome.DROPPED and not _is_recorded(operation, parameter, steps):
            decision = dropped(13, _AMBIGUOUS_STYLE, parameter.place.pointer)
        path = path_text((Step(StepKind.PROPERTY, parameter.name), *steps))
        pair, inner = _names_in_query(parameter, steps)
        nodes = (parameter.place.node, *position.nodes)
        yield ParameterField(Side.QUERY, path, position.kind, decision, nodes, pair, inner)


def _forced_drop(operation: OperationFields, parameter: Parameter) -> Decision | None:
    pointer = parameter.place.pointer
    if operation.resolved.is_opted_out:
        reason = "the operation, or one that matches the same URLs, is denied"
        return dropped(5, reason, operation.operation.place.pointer)
    if is_denied(parameter.place.node):
        return dropped(5, denial_reason(parameter.place.node), pointer)
    if parameter.denied:
        return dropped(5, "the parameter is denied", pointer)
    if "content" in parameter.place.node:
        return dropped(13, "it is described by content instead of a style", pointer)
    return None


def _own_mark(parameter: Parameter) -> Decision | None:
    if not is_marked(parameter.place.node):
        return None
    return Decision(Outcome.KEPT, 13, "the parameter is marked", parameter.place.pointer)


def _scalars(root: Position) -> Iterator[tuple[tuple[Step, ...], Position]]:
    """Yield what a query can hold: the value, its elements or its properties. No style reaches deeper."""
    if root.is_field:
        yield (), root
    for step, child in root.children:
        yield (step,), child


def _is_recorded(operation: OperationFields, parameter: Parameter, steps: tuple[Step, ...]) -> bool:
    """Whether anything is recorded of a query that holds only a value at these steps."""
    segments = [""] * operation.base_length + operation.sample_path()
    path = operation.resolved.path(segments, strict=False)
    pair, inner = _names_in_query(parameter, steps)
    for text in _SAMPLE_TEXTS:
        value = text if inner is None else f"{inner},{text}"
        # The recorded URI has a query only if something of the sample was recorded.
        if "?" in operation.resolved.uri(path, {pair: [QueryPair(value, value)]}, strict=False):
            return True
    return False


def _names_in_query(parameter: Parameter, steps: tuple[Step, ...]) -> tuple[str, str | None]:
    """Return the name of the pair that holds the value at these steps, and the name within the pair, if any.

    The styles are those of OpenAPI: `deepObject` writes `filter[name]=x`, an exploded `form` object `name=x`, and one
    that is not exploded `filter=name,x`.
    """
    name = parameter.name
    if not steps or steps[0].kind is not StepKind.PROPERTY:
        return name, None
    inner = steps[0].text
    style = parameter.place.node.get("style", "form")
    if style == "deepObject":
        return f"{name}[{inner}]", None
    explodes = parameter.place.node.get("explode", style == "form") is True
    return (inner, None) if explodes else (name, inner)
