"""A unique token in every value of a pair: those that may not leave do not, those that must do."""

from __future__ import annotations

import json
import os
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from tests.canary.marking import mark
from tests.canary.pairs import operations_of
from tests.canary.tally import Tally, run

FUZZING = os.environ.get("HYPOTHESIS_PROFILE") == "fuzz"
SEEDS = range(1, 9) if FUZZING else range(1, 2)
# The example is small, so that it takes several runs to meet what one run over a large document meets.
EXAMPLE_SEEDS = range(1, 25) if FUZZING else range(1, 4)


class RealDocument(NamedTuple):
    """A document of AUDITAP_REAL_SPECS. Eight seeds make more than 10,000 pairs of each."""

    name: str
    operations: int
    is_marked_at_random: bool = False
    sampled: int = 1
    """Of how many operations a short run takes one."""

    def __str__(self) -> str:
        return self.name + ("-marked-at-random" if self.is_marked_at_random else "")


DOCUMENTS = [
    RealDocument("cloudflare-auditable", 2_745),
    RealDocument("cloudflare-2024", 1_535, is_marked_at_random=True),
    RealDocument("stripe-all-marked", 594, sampled=6),
    RealDocument("stripe-all-marked", 594, is_marked_at_random=True, sampled=6),
]


def real(folder: Path, name: str) -> dict[str, Any]:
    root: dict[str, Any] = json.loads((folder / f"{name}.openapi.json").read_text())
    return root


def example() -> dict[str, Any]:
    root: dict[str, Any] = yaml.safe_load(files("auditap_example").joinpath("openapi.yaml").read_text())
    return root


def check(tally: Tally, operations: int) -> None:
    """Hold a run to its promise; nothing of it may be empty."""
    counted = f"{tally.pairs} pairs, {tally.secrets.total()} values that must not leave"
    print(f"\n{counted}, {len(tally.leaked)} of them left")  # noqa: T201  the figures of a long run
    assert tally.leaked == []
    assert tally.lost == []
    assert tally.miscounted == []
    assert tally.operations == operations
    assert tally.secrets.total() > 10 * tally.pairs
    for rule in ("2: marked", "13: a path parameter recorded by name or mark", "14: a listed header"):
        assert tally.shown[rule] > 0, rule


@pytest.mark.parametrize("seed", EXAMPLE_SEEDS)
def test_no_token_leaves_the_example(seed: int) -> None:
    root = example()
    check(run(root, operations_of(root), seed=seed), 29)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_no_token_leaves_a_real_document(real_specs: Path, document: RealDocument, seed: int) -> None:
    root = real(real_specs, document.name)
    if document.is_marked_at_random:
        mark(root, seed)
    step = 1 if FUZZING else document.sampled
    check(run(root, operations_of(root)[::step], seed=seed), len(range(0, document.operations, step)))


def test_what_a_wrong_reading_of_the_rules_lets_out_is_found() -> None:
    """The apparatus itself: marks that reach into containers are no leak by configuration, but by these rules."""
    root = example()
    root["components"]["schemas"] = {
        name: schema | {"x-auditable": True} if isinstance(schema, dict) else schema
        for name, schema in root["components"]["schemas"].items()
    }
    operations = operations_of(root)
    strict = run(root, operations, seed=1)
    assert strict.leaked == []
    loose = run(root, operations, seed=1, container_marks="inherit")
    assert len(loose.leaked) > 100
    assert loose.miscounted
