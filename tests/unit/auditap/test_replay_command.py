from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from auditap.cli.main import cli
from schemas.errors import StartupError


def test_where_a_mesh_encrypts_captures_may_go_to_another_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.ndjson").touch()
    arguments = ["replay", "empty.ndjson", "--to", "http://collector:8400"]
    refused = CliRunner().invoke(cli, arguments)
    assert isinstance(refused.exception, StartupError)
    assert "where a mesh encrypts, set plain_http_allowed" in str(refused.exception)
    monkeypatch.setenv("AUDITAP_PLAIN_HTTP_ALLOWED", "true")
    assert CliRunner().invoke(cli, arguments).stdout == "0 accepted, 0 refused, 0 batches sent again\n"
