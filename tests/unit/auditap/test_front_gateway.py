"""The gateway of `auditap up`: what it refuses at start."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from auditap.cli.up import up_command
from auditap.runtime import front_gateway
from auditap.runtime.front_gateway import FrontGateway
from auditap.settings import load_settings
from schemas.errors import StartupError
from tests.settings_mistakes import mistake


@pytest.mark.parametrize(
    "upstream",
    [
        "127.0.0.1:3000",
        "http://",
        "http://127.0.0.1:3000/path",
        "http://user@127.0.0.1:3000",
        "http://127.0.0.1:99999",
        "http://127.0.0.1:3000;",
        "http://a b",
        "ftp://127.0.0.1",
        "http://127.0.0.1:3000\n",
    ],
)
def test_an_upstream_is_an_origin_and_nothing_else(upstream: str) -> None:
    said = mistake(up={"upstream": upstream})
    assert "write scheme, host and port alone" in said


@pytest.mark.parametrize(
    "upstream", ["http://127.0.0.1:3000", "https://api.example.com", "http://[::1]:3000/"]
)
def test_origins_are_taken(upstream: str) -> None:
    assert load_settings(up={"upstream": upstream}).up.upstream == upstream.rstrip("/")


def test_without_nginx_the_start_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(front_gateway, "find_spec", lambda _name: None)
    settings = load_settings(data_dir=tmp_path, up={"upstream": "http://127.0.0.1:3000"})
    with pytest.raises(StartupError, match=r"pip install 'auditap\[gateway\]'"):
        FrontGateway(settings)


def test_without_a_document_the_start_asks_for_one(tmp_path: Path) -> None:
    # A gateway in front of a service, and nothing that says what of it is recorded.
    with CliRunner().isolated_filesystem(temp_dir=tmp_path):
        ended = CliRunner().invoke(up_command, ["--upstream", "http://127.0.0.1:3000"])
    assert isinstance(ended.exception, StartupError)
    assert "Give --spec" in str(ended.exception)
