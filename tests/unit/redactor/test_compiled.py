"""What `deploy/compile.py` compiles is there, and is what the tests run on where the environment asks for it."""

from __future__ import annotations

import runpy
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.compiled import IS_COMPILED

ROOT = Path(__file__).parents[3]
PROGRAM = runpy.run_path(str(ROOT / "deploy" / "compile.py"))


@pytest.mark.parametrize("module", PROGRAM["MODULES"])
def test_each_module_is_read_from_where_it_should_be(module: str) -> None:
    found = find_spec(module.removesuffix(".py").replace("/", "."))
    assert found is not None
    assert found.origin is not None
    if IS_COMPILED:
        assert found.origin.endswith(".so")
    else:
        assert Path(found.origin).name == Path(module).name


def test_what_is_no_copy_of_these_sources_is_left_alone(tmp_path: Path) -> None:
    for module in PROGRAM["MODULES"]:
        (tmp_path / module).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / module).write_bytes((ROOT / module).read_bytes())
    (tmp_path / PROGRAM["MODULES"][-1]).write_text("changed = True\n")
    with pytest.raises(FileNotFoundError):
        PROGRAM["compile_into"](tmp_path, ROOT)
    assert not list(tmp_path.rglob("*.so"))
