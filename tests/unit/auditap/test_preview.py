"""`auditap redact` and `auditap explain` show what a collector with the same settings makes of captures."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result

from auditap.cli.explain import explain_command
from auditap.cli.redact import redact_command
from auditap.runtime.redacting_sink import RedactingSink
from auditap.settings import ensure_data_dir, load_or_create_key, load_settings
from gateway_tap.collector import collector_app
from redactor.pipeline.redactor import Redactor
from schemas.errors import StartupError
from schemas.metric_defs import Metrics
from tests.e2e.golden import DOCUMENT, golden_capture
from tests.unit.auditap.test_redacting_sink import Publisher
from tests.unit.redactor.documents import a_document, an_operation

NOW_MS = 1_769_192_714_749
SETTINGS = f"""
[redaction]
[[redaction.documents]]
path = "{DOCUMENT}"
envelope = "result"
container_marks = "inherit"
[redaction.headers]
actor_id = "x-principal"
[redaction.limits]
body_bytes_max = 100000
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with settings in it, in which the commands run."""
    (tmp_path / "auditap.toml").write_text(SETTINGS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def captures() -> list[dict[str, Any]]:
    made = [golden_capture(NOW_MS + number) for number in range(3)]
    for each in made:
        del each["id"]
        each["response"]["headers"]["x-principal"] = "somebody"
    made[2]["request"]["body"] = json.dumps({"name": "n" * 200_000})
    return made


def ndjson(values: list[dict[str, Any]]) -> bytes:
    return b"\n".join(json.dumps(value).encode() for value in values)


def array(values: list[dict[str, Any]]) -> bytes:
    return json.dumps(values, indent=1).encode()


def run(command: Any, *arguments: str, stdin: bytes) -> Result:
    return CliRunner().invoke(command, arguments, input=stdin)


@pytest.mark.parametrize("arguments", [(), ("--spec", str(DOCUMENT))])
@pytest.mark.parametrize("compress", [bytes, gzip.compress])
@pytest.mark.parametrize("write", [ndjson, array])
async def test_the_preview_has_the_bytes_that_the_collector_publishes(
    write: Callable[[list[dict[str, Any]]], bytes], compress: Callable[[bytes], bytes], arguments: tuple[str]
) -> None:
    settings = load_settings()
    ensure_data_dir(settings)
    publisher: Any = Publisher()
    redactor = Redactor.from_config(settings.redaction)
    app = collector_app(
        RedactingSink(lambda: redactor, publisher, Metrics()),
        identity_key=load_or_create_key(settings, "identity.key", None),
        limits=settings.intake_limits,
        tokens=None,
        metrics=Metrics(),
        clock_ms=lambda: NOW_MS,
    )
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://collector") as client:
        response = await client.post("/v1/captures", json=captures())
    assert response.json()["accepted"] == 3
    result = run(redact_command, *arguments, stdin=compress(write(captures())))
    assert result.exit_code == 0, result.stderr
    assert result.stdout_bytes.splitlines() == [each.value for each in publisher.published]
    assert json.loads(result.stdout_bytes.splitlines()[0])["actor"]["id"] == "somebody"


@pytest.mark.parametrize("write", [ndjson, array])
def test_explain_counts_the_captures_that_redact_finds(
    write: Callable[[list[dict[str, Any]]], bytes],
) -> None:
    explained = json.loads(run(explain_command, "--json", "--line", "3", stdin=write(captures())).stdout)
    assert explained["receipt"]["request"]["reason"] == "too_large"


def test_one_object_on_several_lines_is_one_capture() -> None:
    text = json.dumps(captures()[0], indent=2).encode()
    assert len(run(redact_command, stdin=text).stdout.splitlines()) == 1


@pytest.mark.parametrize(
    "changed", [{"captured_at": "yesterday"}, {"captured_at": "2026-01-23T10:00:00"}, {"id": "0" * 32}]
)
def test_a_wrong_time_or_id_is_refused_as_the_collector_does(changed: dict[str, str]) -> None:
    text = json.dumps(captures()[0] | changed).encode()
    result = run(redact_command, stdin=text)
    assert (result.exit_code, result.stderr) == (
        1,
        f"line 1: not a capture ({next(iter(changed))}: format)\n",
    )
    explained = run(explain_command, stdin=text).exception
    assert isinstance(explained, StartupError)
    assert f"{explained}\n" == result.stderr


def test_lines_that_are_refused_have_their_numbers_in_the_file() -> None:
    text = b"\n\n{broken\n" + ndjson(captures()[:1]) + b'\n{"a": "' + b"n" * 5_000_000 + b'"}\n'
    result = run(redact_command, stdin=text)
    assert [line.partition(": ")[0] for line in result.stderr.splitlines()] == ["line 3", "line 5"]
    assert len(result.stdout.splitlines()) == 1


@pytest.mark.parametrize("command", [redact_command, explain_command])
def test_captures_without_an_account_are_one_sentence(command: Any, folder: Path) -> None:
    (folder / "openapi.json").write_text(
        json.dumps(a_document({"/things": {"post": an_operation()}}, "3.1.0"))
    )
    capture = {"request": {"method": "POST", "url": "/things"}, "response": {"status": 200}}
    named = capture | {"response": {"status": 200, "headers": {"x-account-id": "acme"}}}
    result = run(command, "--spec", "openapi.json", stdin=ndjson([capture, capture, named]))
    assert result.exit_code == 0
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith(
        "There are captures without an account: their records are in no account's list"
    )
    assert run(command, "--spec", "openapi.json", stdin=ndjson([named])).stderr == ""


def test_an_excluded_operation_has_no_record_to_explain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUDITAP_REDACTION__EXCLUDED_OPERATIONS", '["notification-policies-update"]')
    result = run(explain_command, stdin=ndjson(captures()[:1]))
    assert isinstance(result.exception, StartupError)
    assert "excluded_operations" in str(result.exception)
    assert run(redact_command, stdin=ndjson(captures()[:1])).stdout == ""


def test_without_a_document_it_says_where_to_name_one(folder: Path) -> None:
    (folder / "auditap.toml").unlink()
    for command in (redact_command, explain_command):
        result = run(command, stdin=b"")
        assert "Give --spec" in str(result.exception)
