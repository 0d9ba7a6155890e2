"""How the path of a matched operation is recorded: the plan of each segment of its template (rule 13)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import re2

from redactor.compile.compiler import Compiler
from redactor.compile.parameters import (
    Parameter,
    declared_parameters,
    parameter_plan,
    plan_of_fitting_values,
)
from redactor.compile.plan import ScalarPlan
from redactor.compile.text_values import fits_text
from redactor.decode.url import encode_segment
from redactor.openapi.document import Place
from redactor.openapi.operations import LITERAL, Operation, Segment
from redactor.openapi.pattern import Pattern

_KEPT_NAME_ENDINGS = ("id", "uuid", "identifier", "tag")


@dataclass(frozen=True, slots=True)
class PathSegmentPlan:
    """How one segment is recorded: as the value that stood there, or as the template's text."""

    text: str
    """The template's text."""
    rank: int
    plans: tuple[ScalarPlan | None, ...]
    """What is kept of each of the segment's variables; None for nothing."""
    patterns: tuple[Pattern, ...]
    """For a partly literal segment, what it matches: its first variables as long as possible, then as short as possible."""

    @property
    def keeps_nothing(self) -> bool:
        return None in self.plans

    @property
    def keeps_every_value(self) -> bool:
        """Whether every value is kept: a path holds text, so a plain string schema takes any."""
        return all(plan is not None and _keeps_any_text(plan) for plan in self.plans)

    def keeps(self, value: str) -> bool:
        """Whether the decoded value may stand in the recorded path."""
        if self.keeps_every_value:
            return True
        if self.keeps_nothing:
            return False
        texts = self._variables_in(value)
        return texts is not None and all(map(_fits, self.plans, texts))

    def value_in(self, segment: str) -> str | None:
        """Return the value of the only variable in a partly literal segment."""
        texts = self._variables_in(segment) if len(self.plans) == 1 else None
        return texts[0] if texts else None

    def _variables_in(self, segment: str) -> tuple[str, ...] | None:
        """Return the text of each variable; None where it is uncertain which text belongs to which."""
        if not self.patterns:
            return (segment,)
        found = [pattern.search(segment) for pattern in self.patterns]
        readings = {None if each is None else each.groups() for each in found}
        return readings.pop() if len(readings) == 1 else None


def _keeps_any_text(plan: ScalarPlan) -> bool:
    return plan.allowed_values is None and str in plan.types


def _fits(plan: ScalarPlan | None, text: str) -> bool:
    return plan is not None and fits_text(plan, text)


def path_segments(
    operation: Operation, compiler: Compiler, names_kept: Collection[str], *, strict: bool
) -> tuple[PathSegmentPlan, ...]:
    """Compile the segments of an operation's path. `names_kept` are the variables that the configuration keeps.

    What a parameter denies, and the type of its values, hold for every variable of its name, however it is capitalized.
    """
    declared = declared_parameters(operation, compiler)
    in_path = [each for (location, _), each in declared.by_key.items() if location == "path"]

    def plan_of(name: str) -> ScalarPlan | None:
        if operation.path_denied:
            return None
        # A declaration that cannot be read may be a denial of this one.
        by_ending = declared.are_all_read and name.lower().endswith(_KEPT_NAME_ENDINGS)
        is_kept_by_name = by_ending or name in names_kept
        return _variable_plan(name, in_path, compiler, strict=strict, is_kept_by_name=is_kept_by_name)

    def compiled(segment: Segment) -> PathSegmentPlan:
        plans = tuple(map(plan_of, segment.names))
        return PathSegmentPlan(segment.text, segment.rank, plans, _patterns(segment))

    return tuple(map(compiled, operation.segments))


def _variable_plan(
    name: str, in_path: Sequence[Parameter], compiler: Compiler, *, strict: bool, is_kept_by_name: bool
) -> ScalarPlan | None:
    """Return what is kept of a variable by what is declared of its name, however it is capitalized; None for nothing."""
    parameters = [each for each in in_path if each.name.lower() == name.lower()]
    if any(each.denied for each in parameters):
        return None
    if is_kept_by_name:
        return _plan_by_name(parameters, compiler, strict=strict)
    return _plan_by_mark([each for each in parameters if each.name == name], compiler, strict=strict)


def _patterns(segment: Segment) -> tuple[Pattern, ...]:
    if segment.pattern is None:
        return ()
    return segment.pattern, re2.compile(segment.pattern.pattern.replace("(.+)", "(.+?)"))


def _plan_by_name(parameters: Sequence[Parameter], compiler: Compiler, *, strict: bool) -> ScalarPlan | None:
    """Return the plan of a variable that is kept by its name: every value that its declaration allows."""
    if not parameters:
        return compiler.every_scalar(Place(None, ""), strict=strict)
    plans = {plan_of_fitting_values(each, compiler, strict=strict) for each in parameters}
    return plans.pop() if len(plans) == 1 else None


def _plan_by_mark(parameters: Sequence[Parameter], compiler: Compiler, *, strict: bool) -> ScalarPlan | None:
    plan = parameter_plan(parameters[0], compiler, strict=strict) if parameters else None
    return plan if isinstance(plan, ScalarPlan) else None


def record_path(operations: Sequence[Sequence[PathSegmentPlan]], values: Sequence[str]) -> str:
    """Return the path as all matched operations let it be recorded.

    `operations` holds each operation's segments, `values` the decoded segments of the request. A value that one of the
    operations does not keep stands as that operation's template text.
    """
    parts: list[str] = []
    for position, value in enumerate(values):
        segments = [each[position] for each in operations]
        refusing = [segment for segment in segments if not segment.keeps(value)]
        literals = [segment for segment in segments if segment.rank == LITERAL]
        if refusing:
            parts.append(refusing[0].text)
        else:
            parts.append(literals[0].text if literals else encode_segment(value))
    return "/" + "/".join(parts)
