"""How several workers share a run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_TESTS_EACH = 20
_CONFTEST = """
from tests.conftest import pytest_xdist_make_scheduler
"""
_TESTS = f"""
import os, pathlib, pytest

@pytest.mark.parametrize("number", range({_TESTS_EACH}))
def test_where(number):
    file = pathlib.Path(__file__)
    with (file.parent / f"{{file.stem}}.workers").open("a") as workers:
        workers.write(os.environ["PYTEST_XDIST_WORKER"] + " ")
"""


@pytest.mark.processes
def test_a_worker_gets_whole_files_and_one_gets_all_fault_tests(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "conftest.py").write_text(_CONFTEST)
    for folder in ("tests/faults", "tests/unit"):
        (tmp_path / folder).mkdir(parents=True)
        for name in ("test_one", "test_two"):
            (tmp_path / folder / f"{name}.py").write_text(_TESTS)
    command = [sys.executable, "-m", "pytest", "-q", "-n", "3", "--import-mode=importlib", "."]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        command, cwd=tmp_path, env={**environment, "PYTHONPATH": str(_ROOT)}, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout.decode()
    workers = defaultdict[str, set[str]](set)
    for file in tmp_path.glob("tests/*/*.workers"):
        ran = file.read_text().split()
        assert len(ran) == _TESTS_EACH
        workers["faults" if file.parent.name == "faults" else file.stem].update(ran)
    assert [len(each) for each in workers.values()] == [1, 1, 1]
