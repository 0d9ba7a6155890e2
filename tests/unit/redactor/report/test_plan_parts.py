from __future__ import annotations

from typing import Any

from redactor.compile.plan import ScalarPlan
from redactor.report.plan_parts import PlanParts, keeps_presence, keeps_value


def test_a_scalar_that_can_only_be_null_is_not_kept() -> None:
    assert not keeps_value(ScalarPlan(frozenset({str}), 128, frozenset()))
    assert keeps_value(ScalarPlan(frozenset({str}), 128, frozenset({'"a'})))


class UnknownPlan:
    """A plan of a type that PlanParts does not know."""

    def keep(self, value: Any) -> Any:
        if type(value) is list:
            return [self.keep(each) for each in value]
        kept = value.get("kept", value) if type(value) is dict else value
        return {"kept": kept} if type(value) is dict and "kept" in value else value


def test_a_plan_of_unknown_type_is_probed() -> None:
    parts = PlanParts()
    plan = UnknownPlan()
    assert keeps_value(parts.of_property(plan, "kept"))
    assert parts.of_property(plan, "kept") is parts.of_property(plan, "kept")
    assert keeps_value(parts.of_element(plan, None))
    assert keeps_value(parts.of_element(plan, 2))
    assert keeps_presence(plan)
