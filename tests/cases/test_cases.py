"""The cases, where AUDITAP_CASES names their folder; and that the tests exist which show the same without it."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.cases.case import Bench, Case
from tests.cases.table import CASES

_TESTS = Path(__file__).parent.parent


def named(case: Case) -> str:
    return case.folder


@pytest.fixture
def folder() -> Path:
    """The folder of cases; without one the test is skipped."""
    found = os.environ.get("AUDITAP_CASES")
    if not found:
        pytest.skip("AUDITAP_CASES names no folder of cases")
    return Path(found)


@pytest.mark.parametrize("case", CASES, ids=named)
async def test_a_case_is_as_expected(
    case: Case, folder: Path, tmp_path: Path, postgres: str, kafka_bootstrap: str
) -> None:
    assert await case.see(Bench(folder / case.folder, tmp_path, postgres, kafka_bootstrap)) == case.expected


def test_every_folder_is_a_case(folder: Path) -> None:
    assert {each.name for each in folder.iterdir() if each.is_dir()} == {case.folder for case in CASES}


@pytest.mark.parametrize("case", CASES, ids=named)
def test_a_case_has_tests_with_inputs_of_their_own(case: Case) -> None:
    assert case.tests
    for test in case.tests:
        file, _, function = test.partition("::")
        assert re.search(rf"def {function}\(", (_TESTS / file).read_text()), test
