"""What commands say that work on the database, on a real Postgres, when they may not or cannot."""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from typing import NoReturn

import pytest
from click.testing import CliRunner, Result

from auditap.cli.administration import current_user
from auditap.cli.completeness import completeness_command
from auditap.database.connection import administrator
from schemas.errors import AuditapError, StartupError
from tests.audit_database import AuditDatabase

RETIRE = ("retire", "gone", "--by", "ana", "--reason", "switched off")


def _sentence(result: Result) -> str:
    """Return what the command line would print, with exit code 1."""
    assert isinstance(result.exception, AuditapError), result.exception
    return str(result.exception)


@pytest.fixture
def settings_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AUDITAP_POSTGRES__ADMIN_DSN", "postgresql://nobody@127.0.0.1:1/none")


@pytest.mark.usefixtures("settings_folder")
def test_an_operators_dsn_that_is_wrong_is_called_so(
    audit_database: AuditDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = audit_database.operator_dsn.replace("auditap_operator", "nobody_at_all")
    monkeypatch.setenv("AUDITAP_POSTGRES__OPERATOR_DSN", wrong)
    sentence = _sentence(CliRunner().invoke(completeness_command, RETIRE))
    assert sentence.startswith("Postgres refuses the operator's login")
    monkeypatch.setenv("AUDITAP_POSTGRES__OPERATOR_DSN", "http://127.0.0.1")
    assert "administrator" not in _sentence(CliRunner().invoke(completeness_command, RETIRE))


@pytest.mark.usefixtures("settings_folder")
def test_a_login_that_may_not_retire_gets_a_sentence(
    audit_database: AuditDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUDITAP_POSTGRES__OPERATOR_DSN", audit_database.reader_dsn)
    sentence = _sentence(CliRunner().invoke(completeness_command, RETIRE))
    assert sentence == (
        "Postgres lets the operator's login in, but not do this: postgres.operator_dsn has to name auditap_operator."
    )


@pytest.mark.usefixtures("settings_folder")
def test_a_database_that_is_not_migrated_gets_a_sentence(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUDITAP_POSTGRES__ADMIN_DSN", database)
    assert "auditap migrate" in _sentence(CliRunner().invoke(completeness_command, RETIRE))


@pytest.mark.parametrize(
    "statement",
    ["SELECT auditap.no_such_function(1)", "TABLE auditap.no_such_table", "SELECT no_such_column"],
)
async def test_an_older_schema_gets_a_sentence(audit_database: AuditDatabase, statement: str) -> None:
    with pytest.raises(StartupError, match="auditap migrate"):
        async with administrator(audit_database.admin_dsn) as connection:
            await connection.execute(statement)


@pytest.mark.parametrize("option", ["--by", "--reason"])
def test_texts_that_are_too_long_are_refused(option: str) -> None:
    refused = CliRunner().invoke(completeness_command, [*RETIRE, option, "w" * 2_001])
    assert (refused.exit_code, "characters at most" in refused.output) == (2, True)


def test_a_user_without_a_name_is_its_uid(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_entry(uid: int) -> NoReturn:
        raise KeyError(uid)

    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", no_entry)
    assert current_user() == str(os.getuid())
