"""The table of metrics: what it registers, and the page that is made from it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from schemas.metric_defs import Command, Metrics, definitions
from schemas.metrics_page import markdown

PAGE = Path(__file__).parents[3] / "docs" / "metrics.md"


def test_the_page_matches_the_table() -> None:
    assert PAGE.read_text() == markdown(), "python -m schemas.metrics_page > docs/metrics.md"


def test_every_definition_is_registered_under_its_attribute() -> None:
    metrics = Metrics()
    assert {family.name for family in metrics.registry.collect()} == {each.name for each in definitions()}
    assert all(isinstance(getattr(metrics, each.attribute), each.kind) for each in definitions())


@pytest.mark.parametrize("command", get_args(Command))
def test_a_command_exposes_what_the_page_names_for_it(command: Command) -> None:
    metrics = Metrics(command)
    named = {
        name.removesuffix("_total")
        for name, commands in re.findall(
            r"^\| `(\w+)` \| \w+ \| ([\w, ]+) \|", PAGE.read_text(), re.MULTILINE
        )
        if command in commands.split(", ")
    }
    assert {family.name for family in metrics.registry.collect()} == named
    # What a command shares with another one may still count.
    assert all(isinstance(getattr(metrics, each.attribute), each.kind) for each in definitions())


def test_two_registries_share_no_value() -> None:
    first, second = Metrics(), Metrics()
    first.records_stored.inc()
    assert second.registry.get_sample_value("auditap_records_stored_total") == 0


def test_names_follow_the_conventions() -> None:
    for each in definitions():
        assert re.fullmatch(r"[a-z][a-z_]*[a-z]", each.name)
        assert not each.name.endswith("_total"), "the client appends it"
        assert each.meaning.endswith(".")
