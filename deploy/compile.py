"""Compile the modules that a pair passes through: `python deploy/compile.py INTO`, from the project's folder.

INTO is a folder that holds copies of the packages `redactor` and `schemas`; the compiled modules are put beside their
sources there, and are what Python then imports. Needs mypyc, which `requirements-dev.txt` brings, a C compiler and
Python's headers. `redact.py` is not among them: nothing written in Python can inherit from a class compiled so. The sources stay the definition: the same tests run on both (`make test-compiled`).
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
        "redactor/fast_path.py",
        "redactor/fast_headers.py",
        "redactor/fast_routes.py",
        "redactor/typed_bodies.py",
    ),
    *("redactor/assemble.py", "redactor/bodies.py", "redactor/governing.py"),
    *("redactor/parameters.py", "redactor/texts.py", "redactor/derive.py", "redactor/headers.py"),
    *("redactor/routes.py", "redactor/url.py", "schemas/identity.py"),
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
            *(each for package in PACKAGES for each in scratch.glob(f"{package}/*.so")),
        ]
        for each in built:
            shutil.copyfile(each, folder / each.relative_to(scratch))


if __name__ == "__main__":
    compile_into(Path(sys.argv[1]), Path(__file__).resolve().parents[1])
