"""The parameters that an operation declares, with every denial on them taken into account (rules 5 and 13)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple, TypeAlias

from redactor.compile.compiler import Compiler
from redactor.compile.json_types import SCALAR_TYPES
from redactor.compile.plan import Plan, ScalarPlan
from redactor.openapi.document import OpenApiDocument, Place, is_same_json
from redactor.openapi.marks import is_denied, is_marked, may_deny
from redactor.openapi.operations import Operation

_LOCATIONS = ("path", "query", "header", "cookie")

_Key: TypeAlias = tuple[str, str]
"""A parameter's location and name."""


class Parameter(NamedTuple):
    """One declared parameter."""

    name: str
    location: str
    place: Place
    denied: bool
    """By the parameter, its schema, or a reference that leads to it."""
    marked: bool
    grants: bool = True
    """Whether its marks count: not where another declaration may be the one that holds."""
    others: tuple[Place, ...] = ()
    """The other declarations that may be the one that holds."""


class DeclaredParameters(NamedTuple):
    """An operation's parameters."""

    by_key: Mapping[_Key, Parameter]
    are_all_read: bool
    """Whether every declaration could be read. One that could not may be of any parameter."""


def parameters_of(operation: Operation, compiler: Compiler) -> list[Parameter]:
    """Return an operation's parameters in document order."""
    return list(declared_parameters(operation, compiler).by_key.values())


def declared_parameters(operation: Operation, compiler: Compiler) -> DeclaredParameters:
    """Read the parameters of path item and operation.

    Those of the operation replace those of its path item with the same name and location, but what the path item denies
    stays denied. Where a level declares a parameter several times (also beside the `$ref` of a path item), a denial on
    any of the declarations counts, and marks count only if all declarations are the same.
    """
    levels = [
        [parameter for place in places for parameter in _read_level(operation, place, compiler)]
        for places in (operation.path_items, [operation.place])
    ]
    are_all_read = all(parameter is not None for level in levels for parameter in level)
    found: dict[_Key, Parameter] = {}
    for level in levels:
        for key, declarations in _by_key(level).items():
            above = found.get(key)
            denied_above = above is not None and above.denied
            found[key] = _merged(declarations, denied_above=denied_above, are_all_read=are_all_read)
    return DeclaredParameters(found, are_all_read)


def parameter_plan(parameter: Parameter, compiler: Compiler, *, strict: bool) -> Plan | None:
    """Return what the parameter's schema and marks let through; None where it has no schema or is denied."""
    schema = parameter.place.child("schema")
    if parameter.denied or not parameter.grants or schema.node is None or "content" in parameter.place.node:
        return None
    return compiler.compile(schema, strict=strict, marked=parameter.marked, is_text=True)


def plan_of_fitting_values(parameter: Parameter, compiler: Compiler, *, strict: bool) -> ScalarPlan | None:
    """Return the plan that keeps every scalar that the parameter allows (rule 6); None where its type is uncertain."""
    declarations = (parameter.place, *parameter.others)
    if any("content" in each.node for each in declarations):
        return None
    plans = {compiler.every_scalar(each.child("schema"), strict=strict) for each in declarations}
    return plans.pop() if len(plans) == 1 else None


def _by_key(level: list[Parameter | None]) -> dict[_Key, list[Parameter]]:
    found: dict[_Key, list[Parameter]] = {}
    for parameter in level:
        if parameter is not None:
            found.setdefault((parameter.location, parameter.name), []).append(parameter)
    return found


def _merged(declarations: list[Parameter], *, denied_above: bool, are_all_read: bool) -> Parameter:
    last = declarations[-1]
    agree = all(is_same_json(each.place.node, last.place.node) for each in declarations)
    denied = denied_above or any(each.denied for each in declarations)
    others = tuple(each.place for each in declarations[:-1])
    return last._replace(denied=denied, grants=agree and are_all_read, others=others)


def _read_level(operation: Operation, level: Place, compiler: Compiler) -> Iterator[Parameter | None]:
    """Yield the parameters that a path item or an operation lists; None, with a finding, for what cannot be read."""
    listed = level.child("parameters")
    if listed.node is None:
        return
    document = operation.document
    if not isinstance(listed.node, list):
        document.findings.add(listed.pointer, "unusable_parameter")
        yield None
        return
    for index in range(len(listed.node)):
        place = listed.child(index)
        chain = document.follow(place)
        parameter = _parameter(document, chain, compiler) if chain else None
        if chain and parameter is None:
            document.findings.add(place.pointer, "unusable_parameter")
        yield parameter


def _parameter(document: OpenApiDocument, chain: tuple[Place, ...], compiler: Compiler) -> Parameter | None:
    place = chain[-1]
    name, location = place.node.get("name"), place.node.get("in")
    if not isinstance(name, str) or location not in _LOCATIONS:
        return None
    denied = any(is_denied(each.node) for each in chain) or may_deny(document, place.node.get("content"))
    # The schema is read even where that is decided already, because a fault in it becomes a finding.
    denied |= _is_denied_by_schema(document, place.child("schema"), location, compiler)
    return Parameter(name, location, place, denied, is_marked(place.node))


def _is_denied_by_schema(document: OpenApiDocument, schema: Place, location: str, compiler: Compiler) -> bool:
    if schema.node is None:
        return False
    applicable = compiler.applicable_schemas(schema)
    if applicable.denied:
        return True
    is_scalar = applicable.types is not None and applicable.types <= SCALAR_TYPES
    # A path parameter is recorded as a whole, so what is denied in a part of it denies all of it.
    return location == "path" and not is_scalar and may_deny(document, schema.node)
