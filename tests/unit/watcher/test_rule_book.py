"""Rules follow their file; a wrong one changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from schemas.errors import StartupError
from schemas.metric_defs import Metrics
from watcher.rule_book import RuleBook

GOOD = "rules:\n  - {name: one, title: One, severity: low, when: {action.type: view}}\n"


def outcome(metrics: Metrics, name: str) -> float:
    return metrics.registry.get_sample_value("auditap_rules_loaded_total", {"outcome": name}) or 0


def look(book: RuleBook) -> None:
    """Look until what is there has been there for a while."""
    book.look()
    book.look()


def test_a_wrong_file_is_refused_and_the_old_rules_stay(tmp_path: Path) -> None:
    path, metrics = tmp_path / "rules.yaml", Metrics()
    path.write_text(GOOD)
    book = RuleBook(path, metrics, 1)
    path.write_text(GOOD.replace("low", "loud"))
    look(book)
    look(book)
    assert [rule.name for rule in book.current().rules] == ["one"]
    assert outcome(metrics, "refused") == 1
    path.write_text(GOOD.replace("one", "two"))
    look(book)
    assert [rule.name for rule in book.current().rules] == ["two"]
    assert outcome(metrics, "taken") == 1
    path.unlink()
    look(book)
    assert [rule.name for rule in book.current().rules] == ["two"]
    path.write_text(GOOD)
    look(book)
    assert [rule.name for rule in book.current().rules] == ["one"]


def test_half_a_file_is_not_taken_over(tmp_path: Path) -> None:
    path, metrics = tmp_path / "rules.yaml", Metrics()
    two = GOOD + GOOD.replace("rules:\n", "").replace("one", "two")
    path.write_text(two)
    book = RuleBook(path, metrics, 1)
    changed = two.replace("low", "high")
    # Its writer has come to the end of the first rule, which is a file of rules, too.
    path.write_text(changed[: changed.index("  - {name: two")])
    book.look()
    path.write_text(changed)
    book.look()
    assert [rule.severity for rule in book.current().rules] == ["low", "low"]
    book.look()
    assert [rule.severity for rule in book.current().rules] == ["high", "high"]
    assert (outcome(metrics, "taken"), outcome(metrics, "refused")) == (1, 0)


def test_a_file_that_comes_back_as_it_was_changes_nothing(tmp_path: Path) -> None:
    path, metrics = tmp_path / "rules.yaml", Metrics()
    path.write_text(GOOD)
    book = RuleBook(path, metrics, 1)
    path.write_text("rules: [")
    book.look()
    path.write_text(GOOD)
    look(book)
    assert (outcome(metrics, "taken"), outcome(metrics, "refused")) == (0, 0)


@pytest.mark.parametrize("text", [None, "rules: ["])
def test_a_wrong_file_ends_the_start_with_one_sentence(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "rules.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(StartupError) as ended:
        RuleBook(path, Metrics(), 1)
    assert str(ended.value).count("\n") == 0
    assert "rules.yaml" in str(ended.value)


def test_without_a_file_the_shipped_rules_are_in_force() -> None:
    assert len(RuleBook(None, Metrics(), 1).current().rules) >= 10
