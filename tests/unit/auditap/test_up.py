"""`auditap up` and its parts: what one of them may do to the others."""

from __future__ import annotations

import asyncio
import io
import socket
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

from auditap.cli.main import cli
from auditap.database.connection import administrator
from auditap.database.tokens import create_token
from auditap.runtime import up
from auditap.runtime.embedded_log import event_log
from auditap.runtime.example import with_example
from auditap.runtime.up_greeting import Greeting, _findings_line
from auditap.settings import Settings, load_settings
from eventlog.embedded.log import EmbeddedLog
from gateway_tap.unix_socket import bind_unix_socket
from log_api.ports import Permission
from redactor.report.findings import Level
from schemas.errors import StartupError
from tests.audit_database import migrated

_FAILURES = 2


class FailingAlerting:
    """Alerting that fails as soon as it runs; from its second start on, its rules cannot be used for a while."""

    made = 0
    ran = 0

    def __init__(
        self, _settings: Settings, _log: EmbeddedLog, _print_payload: Callable[[Mapping[str, Any]], None]
    ) -> None:
        FailingAlerting.made += 1
        if 1 < FailingAlerting.made <= 1 + _FAILURES:
            raise StartupError("The rules cannot be used.")

    async def run(self, stop: asyncio.Event) -> None:
        FailingAlerting.ran += 1
        if FailingAlerting.ran == 1:
            raise RuntimeError
        await stop.wait()


async def test_a_second_one_in_the_same_folder_says_so(tmp_path: Path) -> None:
    listener = bind_unix_socket(tmp_path / "collector.sock")
    settings = load_settings(data_dir=tmp_path)
    with pytest.raises(StartupError, match=r"runs in .* already.*\(AUDITAP_DATA_DIR\)") as refused:
        await up.up(settings, asyncio.Event(), Console(quiet=True))
    assert str(tmp_path) in str(refused.value)
    assert not (tmp_path / "postgres").exists()
    listener.close()


def test_a_mistake_in_an_option_names_the_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments in (["up", "--upstream", "127.0.0.1:3000"], ["collect", "--workers", "-1"]):
        refused = CliRunner().invoke(cli, arguments).exception
        assert isinstance(refused, StartupError)
        assert str(refused).startswith(f"The option {arguments[1]} is wrong: ")


@pytest.mark.parametrize(
    ("errors", "warnings", "line"),
    [
        (1, 0, "The OpenAPI document has 1 error: auditap lint a.json"),
        (2, 1, "The OpenAPI document has 2 errors and 1 warning: auditap lint a.json"),
        (0, 0, "None"),
    ],
)
def test_the_line_about_findings_is_in_the_right_number(errors: int, warnings: int, line: str) -> None:
    levels = [Level.ERROR] * errors + [Level.WARNING] * warnings
    report: Any = SimpleNamespace(findings=[SimpleNamespace(level=level) for level in levels])
    assert str(_findings_line(report, Path("a.json"))) == line


async def test_alerting_whose_rules_have_become_unusable_does_not_end_the_pipeline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(data_dir=tmp_path)
    monkeypatch.setattr(up, "AlertingProcess", FailingAlerting)
    monkeypatch.setattr(up, "_ALERTING_RESTART_S", 0)
    stop = asyncio.Event()
    alerting = asyncio.create_task(
        up._alerting_beside(settings, event_log(settings), Console(quiet=True))(stop)
    )
    while not alerting.done() and FailingAlerting.ran < 2:
        await asyncio.sleep(0)
    stop.set()
    await alerting
    assert FailingAlerting.made == 2 + _FAILURES


@pytest.mark.parametrize(
    ("permissions", "days_left", "is_kept"),
    [
        (list(Permission), 30, True),
        (list(Permission), 0, False),
        # The token of a version that had fewer.
        ([each for each in Permission if each is not Permission.ACCESS_LOGS], 30, False),
    ],
)
async def test_a_token_is_kept_only_if_it_may_all_that_a_new_one_may(
    tmp_path: Path, database: str, permissions: list[str], days_left: int, is_kept: bool
) -> None:
    audit = await migrated(database)
    path = tmp_path / "api.token"
    expires_at = datetime.now(UTC) + timedelta(days=days_left, hours=1)
    async with administrator(audit.admin_dsn) as connection:
        _, earlier = await create_token(connection, "auditap up", None, permissions, expires_at)
        path.write_text(earlier)
        token = await up._api_token(connection, path)
        assert (token == earlier) is is_kept
        assert path.read_text() == token
        assert await up._api_token(connection, path) == token


def test_a_tap_token_that_was_written_halfway_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tap.token").touch()
    with pytest.raises(StartupError, match=r"tap\.token is empty: remove it"):
        up._with_tap_token(Settings(data_dir=tmp_path))


def test_the_tap_token_stays_the_same(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    assert up._with_tap_token(settings).collector.tokens == up._with_tap_token(settings).collector.tokens


def test_the_example_has_rules_for_its_resources_unless_others_are_set() -> None:
    settings = Settings()
    chosen = settings.alerting.model_copy(update={"rules": Path("own.yaml")})
    rules = [
        with_example(each).alerting.rules
        for each in (settings, settings.model_copy(update={"alerting": chosen}))
    ]
    assert [each and each.name for each in rules] == ["cloudflare_rules.yaml", "own.yaml"]


def test_the_greeting_shows_where_the_health_routes_are(tmp_path: Path) -> None:
    settings = load_settings(
        data_dir=tmp_path,
        collector={"health_address": {"port": 8406}},
        api={"health_address": {"port": 8407}},
    )
    shown = io.StringIO()
    Greeting(Console(file=shown, width=200), settings, has_example=False).show()
    assert "http://127.0.0.1:8406/metrics" in shown.getvalue()
    assert "http://127.0.0.1:8407/metrics" in shown.getvalue()


@pytest.mark.parametrize("alerting", [True, False])
def test_the_greeting_names_the_alerts_only_if_there_are_any(tmp_path: Path, alerting: bool) -> None:
    settings = load_settings(data_dir=tmp_path, up={"alerting": alerting})
    shown = io.StringIO()
    Greeting(Console(file=shown, width=200), settings, has_example=False).show()
    assert ("auditap alerts list" in shown.getvalue()) == alerting
    assert "auditap tail" in shown.getvalue()


async def test_two_parts_on_one_port_are_a_mistake_in_the_settings(tmp_path: Path) -> None:
    settings = load_settings(
        data_dir=tmp_path / "data",
        collector={"address": {"port": 8499}},
        ingest={"address": {"port": 8499}},
    )
    with pytest.raises(
        StartupError, match=r"^collector\.address and ingest\.address both have the port 8499: "
    ):
        await up.up(settings, asyncio.Event(), Console())
    assert not (tmp_path / "data").exists()


async def test_a_port_that_another_program_has_is_named_with_its_setting(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        settings = load_settings(
            data_dir=tmp_path / "data",
            redaction={"documents": [{"path": "none.yaml"}]},
            collector={"address": {"port": 0}},
            ingest={"address": {"port": 0}},
            api={"address": {"port": 0}, "health_address": {"port": port}},
            up={"alerting": False},
        )
        with pytest.raises(
            StartupError, match=r"by api\.health_address\.port \(AUDITAP_API__HEALTH_ADDRESS__PORT\)\.$"
        ):
            await up.up(settings, asyncio.Event(), Console())
