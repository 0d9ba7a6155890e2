"""The image carries every package of the wheel: one that is left out would be missed only when a container starts."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml

from auditap.database.roles import ROLES

_ROOT = Path(__file__).parents[2]


def test_the_image_is_built_from_every_package() -> None:
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text())
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    lines = (_ROOT / "deploy" / "Dockerfile").read_text().splitlines()
    assert [name for name in packages if f"COPY {name} {name}" not in lines] == []


def test_the_image_can_run_alerting() -> None:
    held = (_ROOT / "requirements-image.txt").read_text()
    assert "\nfaust-streaming==" in held
    # What the other lock holds is the same there: both are made of one resolution.
    pinned = _pinned((_ROOT / "requirements.txt").read_text())
    assert {
        name: version for name, version in _pinned(held).items() if pinned.get(name, version) != version
    } == {}


def test_compose_starts_every_part_with_every_password_that_migrate_gives() -> None:
    compose = yaml.safe_load((_ROOT / "deploy" / "compose.yaml").read_text())
    services = compose["services"]
    started = {service["command"][0] for service in services.values() if "command" in service}
    assert {"migrate", "topics", "collect", "ingest", "serve", "alerting"} <= started
    given = services["migrate"]["environment"]
    example = (_ROOT / "deploy" / "example.env").read_text().splitlines()
    for role in ROLES:
        name = role.removeprefix("auditap_").upper()
        assert f"AUDITAP_POSTGRES__{name}_PASSWORD" in given
        assert f"{name}_PASSWORD=" in example


def _pinned(text: str) -> dict[str, str]:
    return dict(re.findall(r"(?m)^([a-z0-9][a-z0-9._-]*)(?:\[[^]]*\])?==(\S+)", text))
