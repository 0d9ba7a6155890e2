from __future__ import annotations

from pathlib import Path

import pytest

from eventlog.kafka.client import client_security
from schemas.errors import StartupError


def _security(ca_file: Path, certificate_file: Path | None = None, key_file: Path | None = None) -> None:
    client_security(
        protocol="SSL",
        sasl_mechanism="PLAIN",
        sasl_username=None,
        sasl_password=None,
        ca_file=ca_file,
        certificate_file=certificate_file,
        key_file=key_file,
    )


def test_a_tls_file_that_cannot_be_used_is_named_with_its_setting(tmp_path: Path) -> None:
    with pytest.raises(
        StartupError, match=r"^kafka\.ca_file names .*/none\.pem, which cannot be read: correct it\.$"
    ):
        _security(tmp_path / "none.pem")
    no_pem = tmp_path / "some.pem"
    no_pem.write_text("no PEM")
    with pytest.raises(StartupError, match=r"no PEM files, .* correct kafka\.ca_file \(.*/some\.pem\)\.$"):
        _security(no_pem)
