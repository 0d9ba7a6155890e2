"""Rules follow their file; a file that cannot be used changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from alerting.rules_file import RulesFile
from schemas.errors import StartupError
from schemas.metric_defs import Metrics

GOOD = "rules:\n  - {name: one, title: One, severity: low, when: {action.type: view}}\n"


def outcome(metrics: Metrics, name: str) -> float:
    return metrics.registry.get_sample_value("auditap_alert_rules_loaded_total", {"outcome": name}) or 0


def poll_twice(rules: RulesFile) -> None:
    """Poll until the present content counts as stable."""
    rules.poll()
    rules.poll()


def test_a_refused_file_leaves_the_old_rules_in_force(tmp_path: Path) -> None:
    path, metrics = tmp_path / "rules.yaml", Metrics()
    path.write_text(GOOD)
    rules = RulesFile(path, metrics, 1)
    path.write_text(GOOD.replace("low", "loud"))
    poll_twice(rules)
    poll_twice(rules)
    assert [rule.name for rule in rules.current().rules] == ["one"]
    assert outcome(metrics, "refused") == 1
    path.write_text(GOOD.replace("one", "two"))
    poll_twice(rules)
    assert [rule.name for rule in rules.current().rules] == ["two"]
    assert outcome(metrics, "loaded") == 1
    path.unlink()
    poll_twice(rules)
    assert [rule.name for rule in rules.current().rules] == ["two"]
    path.write_text(GOOD)
    poll_twice(rules)
    assert [rule.name for rule in rules.current().rules] == ["one"]


def test_half_a_file_is_not_loaded(tmp_path: Path) -> None:
    path, metrics = tmp_path / "rules.yaml", Metrics()
    two = GOOD + GOOD.replace("rules:\n", "").replace("one", "two")
    path.write_text(two)
    rules = RulesFile(path, metrics, 1)
    changed = two.replace("low", "high")
    # What is written so far is a valid file with one rule.
    path.write_text(changed[: changed.index("  - {name: two")])
    rules.poll()
    path.write_text(changed)
    rules.poll()
    assert [rule.severity for rule in rules.current().rules] == ["low", "low"]
    rules.poll()
    assert [rule.severity for rule in rules.current().rules] == ["high", "high"]
    assert (outcome(metrics, "loaded"), outcome(metrics, "refused")) == (1, 0)


def test_a_file_with_its_old_content_again_changes_nothing(tmp_path: Path) -> None:
    path, metrics = tmp_path / "rules.yaml", Metrics()
    path.write_text(GOOD)
    rules = RulesFile(path, metrics, 1)
    path.write_text("rules: [")
    rules.poll()
    path.write_text(GOOD)
    poll_twice(rules)
    assert (outcome(metrics, "loaded"), outcome(metrics, "refused")) == (0, 0)


@pytest.mark.parametrize("text", [None, "rules: ["])
def test_an_unusable_file_ends_the_start_with_one_sentence(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "rules.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(StartupError) as ended:
        RulesFile(path, Metrics(), 1)
    assert str(ended.value).count("\n") == 0
    assert "rules.yaml" in str(ended.value)


def test_the_shipped_rules_are_the_default() -> None:
    assert "failures-by-one-actor" in {each.name for each in RulesFile(None, Metrics(), 1).current().rules}
