"""The faults that `make mutants` puts in stay possible as the code changes; the runner lists those that no test sees."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutants.faults import FAULTS, Change, Fault
from tests.mutants.run import ROOT, CannotBeMadeError, changed, copy_code, failures, put_in, take_out


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_can_be_made(fault: Fault, tmp_path: Path) -> None:
    texts = {change.module: (ROOT / change.module).read_text() for change in fault.changes}
    for change in fault.changes:
        texts[change.module] = changed(texts[change.module], change)
    for module, text in texts.items():
        assert compile(text, module, "exec")
        assert text != (ROOT / module).read_text()
    for test in fault.tests:
        assert (ROOT / test.partition("::")[0]).exists()


def test_there_are_faults_in_all_that_decides() -> None:
    assert len(FAULTS) >= 20
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)
    modules = {change.module for fault in FAULTS for change in fault.changes}
    assert {
        *(
            "redactor/compile/schema_collector.py",
            "redactor/compile/compiler.py",
            "redactor/compile/plan.py",
        ),
        *("redactor/openapi/routes.py", "redactor/decode/json.py"),
    } <= modules


def test_a_change_must_find_its_place() -> None:
    with pytest.raises(CannotBeMadeError):
        changed("a b a", Change("m.py", "a", "c"))
    with pytest.raises(CannotBeMadeError):
        changed("a b a", Change("m.py", "d", "c"))


@pytest.mark.processes
def test_tests_run_on_the_changed_copy_alone(tmp_path: Path) -> None:
    tests = ["tests/unit/redactor/test_rule_12_envelope.py"]
    copy_code(tmp_path)
    assert failures(tests, tmp_path) == []
    fault = next(fault for fault in FAULTS if "envelope" in fault.name)
    put_in(fault, tmp_path)
    assert failures(tests, tmp_path)
    take_out(fault, tmp_path)
    assert (tmp_path / "redactor/pipeline/bodies.py").read_text() == (
        ROOT / "redactor/pipeline/bodies.py"
    ).read_text()
