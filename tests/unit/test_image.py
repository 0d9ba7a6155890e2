"""The image carries every package of the wheel: one that is left out would be missed only when a container starts."""

from __future__ import annotations

import tomllib
from pathlib import Path

_ROOT = Path(__file__).parents[2]


def test_the_image_is_built_from_every_package() -> None:
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text())
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    lines = (_ROOT / "deploy" / "Dockerfile").read_text().splitlines()
    assert [name for name in packages if f"COPY {name} {name}" not in lines] == []
