"""`auditap init` writes settings that auditap can start with."""

from __future__ import annotations

import hashlib
import re
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from auditap.cli.init import _GATEWAYS, init_command
from auditap.settings import load_settings
from schemas.errors import StartupError

PAGES = Path(__file__).parents[3] / "docs" / "gateways"


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def init(*arguments: str) -> str:
    result = CliRunner().invoke(init_command, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("gateway", _GATEWAYS)
def test_the_settings_can_be_loaded_and_have_what_the_gateway_needs(gateway: str, tmp_path: Path) -> None:
    (tmp_path / "openapi.yaml").write_text("openapi: 3.1.0\ninfo: {title: t, version: '1'}\npaths: {}\n")
    output = init(gateway)
    settings = load_settings()
    assert [document.path.name for document in settings.redaction.documents] == ["openapi.yaml"]
    assert len(settings.collector.receivers) == _GATEWAYS[gateway].receives
    if _GATEWAYS[gateway].needs_token:
        token = Path("tap.token")
        assert token.stat().st_mode & 0o077 == 0
        [known] = settings.collector.tokens
        assert known.sha256 == hashlib.sha256(token.read_text().strip().encode()).hexdigest()
        assert token.read_text().strip() not in output
    for text in (output, Path("auditap.toml").read_text()):
        pages = re.findall(r"docs/\S+\.md", text)
        assert pages
        assert all((PAGES.parents[1] / page).exists() for page in pages)


@pytest.mark.parametrize("gateway", [name for name, each in _GATEWAYS.items() if each.folder])
def test_what_the_gateway_loads_is_written_beside_them_with_the_paths_of_this_folder(gateway: str) -> None:
    init(gateway)
    texts = [path.read_text() for path in Path(_GATEWAYS[gateway].folder).rglob("*") if path.is_file()]
    assert texts
    # What nobody but the operator knows, and comments that speak of such places.
    left = {name for text in texts for name in re.findall(r"\$\{([A-Z_0-9]+)\}", text)}
    assert left <= {"RESPONSE_PATHS", "NAME"}
    assert any(str(Path.cwd()) in text for text in texts) or gateway == "caddy"


@pytest.mark.parametrize("gateway", [name for name, each in _GATEWAYS.items() if each.folder])
def test_it_says_how_to_start_what_it_wrote(gateway: str) -> None:
    output = init(gateway)
    [line] = [line for line in output.splitlines() if "Start the gateway" in line]
    named = re.findall(r"[\w/]+\.(?:conf|yml|yaml|cfg)|[\w/]+Caddyfile", line.partition(": ")[2])
    assert all((Path(gateway) / Path(name).name).is_file() for name in named)
    assert named
    assert f"docs/gateways/{gateway}.md" in output


def test_the_help_names_every_gateway() -> None:
    described = " ".join(CliRunner().invoke(init_command, ["--help"]).output.split())
    assert all(f" {gateway}" in described for gateway in _GATEWAYS)


def test_files_keep_their_folders() -> None:
    init("traefik")
    plugin = Path("traefik/plugins-local/src/auditap")
    assert {".traefik.yml", "auditap.go", "go.mod"} <= {entry.name for entry in plugin.iterdir()}


def test_what_is_commented_out_is_right_as_well(tmp_path: Path) -> None:
    init("haproxy")
    lines = Path("auditap.toml").read_text().splitlines()
    known = [line.removeprefix("# ") if " = " in line or line.startswith("# [") else line for line in lines]
    Path("auditap.toml").write_text("\n".join(known))
    tomllib.loads(Path("auditap.toml").read_text())
    assert load_settings().kafka.bootstrap_servers


@pytest.mark.parametrize("gateway", ["haproxy", "kong"])
def test_nothing_is_overwritten_nor_written_beside_what_is_there(gateway: str) -> None:
    Path("auditap.toml").write_text("# mine\n")
    with pytest.raises(StartupError, match="is there already"):
        init(gateway)
    assert Path("auditap.toml").read_text() == "# mine\n"
    assert [path.name for path in Path().iterdir()] == ["auditap.toml"]


def test_nothing_is_written_where_the_gateways_files_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "auditap_gateways", None)
    with pytest.raises(StartupError, match="install auditap again"):
        init("traefik")
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("name", ['a "b"\nx = 1', "a\\b", "ü\x7f\t.yaml"])
def test_the_name_of_a_document_is_quoted(name: str) -> None:
    init("kong", "--spec", name)
    [document] = tomllib.loads(Path("auditap.toml").read_text())["redaction"]["documents"]
    assert document["path"] == name
