"""Compile the modules that a pair passes through: `python deploy/compile.py INTO`, from the project's folder.

INTO is a folder that holds copies of the packages `redactor` and `schemas`; the compiled modules are put beside their
sources there, and are what Python then imports. Needs mypyc, which `requirements-dev.txt` brings, a C compiler and
Python's headers. The sources stay the definition: the same tests run on both (`make test-compiled`).

Two modules of the pipeline are not compiled. Tests inherit from the class in `redactor.py`, and nothing written in Python
can inherit from a class that mypyc compiled. The msgspec structs of `stages.py` and `kept_body.py` are C already.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PACKAGES = ("redactor", "schemas")
MODULES = (
    *(
        "redactor/pipeline/pipeline.py",
        "redactor/pipeline/headers.py",
        "redactor/pipeline/routing.py",
        "redactor/pipeline/uris.py",
        "redactor/pipeline/bodies.py",
        "redactor/pipeline/typed_bodies.py",
        "redactor/pipeline/typed_parts.py",
        "redactor/pipeline/events.py",
        "redactor/pipeline/event_template.py",
        "redactor/pipeline/resolved_operation.py",
        "redactor/openapi/route_automaton.py",
    ),
    *(
        "redactor/compile/path_plan.py",
        "redactor/compile/query_plan.py",
        "redactor/compile/text_values.py",
        "redactor/compile/derived_fields.py",
        "redactor/decode/headers.py",
    ),
    *("redactor/openapi/routes.py", "redactor/decode/url.py", "schemas/identity.py"),
)
_SECONDS_MAX = 1_800


def compile_into(folder: Path, root: Path) -> None:
    """Compile the modules of the project in `root` and put what comes of it into `folder`.

    Raises FileNotFoundError where `folder` holds no copies of the packages, CalledProcessError where compiling fails.
    """
    for module in MODULES:
        if (folder / module).read_bytes() != (root / module).read_bytes():
            raise FileNotFoundError(f"{folder / module} is not a copy of this project's")
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        for package in PACKAGES:
            shutil.copytree(root / package, scratch / package, ignore=shutil.ignore_patterns("__pycache__"))
        # Not named pyproject.toml, which setuptools would take for its own.
        shutil.copyfile(root / "pyproject.toml", scratch / "mypy.toml")
        subprocess.run(
            [Path(sys.executable).with_name("mypyc"), "--config-file", "mypy.toml", *MODULES],
            cwd=scratch,
            check=True,
            timeout=_SECONDS_MAX,
        )
        built = [
            *scratch.glob("*.so"),
            *(each for package in PACKAGES for each in scratch.glob(f"{package}/**/*.so")),
        ]
        for each in built:
            shutil.copyfile(each, folder / each.relative_to(scratch))


if __name__ == "__main__":
    compile_into(Path(sys.argv[1]), Path(__file__).resolve().parents[1])
