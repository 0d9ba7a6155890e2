from __future__ import annotations

from pathlib import Path

import pytest
from starlette.applications import Starlette

from auditap.runtime.read_audit import with_read_audit
from auditap.settings import ApiSettings, ReadAuditSettings, Settings
from schemas.errors import StartupError


def settings_for(collector: str, folder: Path, *, plain_http_allowed: bool = False) -> Settings:
    token_file = folder / "tap.token"
    token_file.write_text("s3cret-of-the-tap")
    api = ApiSettings(read_audit=ReadAuditSettings(collector=collector, token_file=token_file))
    return Settings(api=api, plain_http_allowed=plain_http_allowed)


def test_a_wrong_collector_is_reported_without_the_password_in_it(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=r"api\.read_audit cannot be used: collector must be") as caught:
        with_read_audit(Starlette(), settings_for("https://log-api:hunter2", tmp_path), tmp_path)
    assert "hunter2" not in str(caught.value)


def test_where_a_mesh_encrypts_reads_are_sent_to_a_collector_on_another_host(tmp_path: Path) -> None:
    """The setting lets the collector listen there, and the tap refused to send to it."""
    collector = "http://collector:8400"
    with pytest.raises(StartupError, match="must be https unless it is on loopback"):
        with_read_audit(Starlette(), settings_for(collector, tmp_path), tmp_path)
    with_read_audit(Starlette(), settings_for(collector, tmp_path, plain_http_allowed=True), tmp_path).close()


def test_over_tcp_reads_are_sent_with_a_token(tmp_path: Path) -> None:
    """Without one the log API served, and the collector refused all of its captures."""
    api = ApiSettings(read_audit=ReadAuditSettings(collector="http://127.0.0.1:1"))
    with pytest.raises(StartupError, match=r"api\.read_audit\.token_file is required"):
        with_read_audit(Starlette(), Settings(api=api), tmp_path)
