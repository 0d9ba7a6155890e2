from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from auditap.cli.main import cli
from gateway_tap.replay import RefusedLine, ReplayReport
from schemas.errors import StartupError
from tests.gateway_formats.encoders import har, mitmproxy
from tests.gateway_formats.pairs import PAIRS

DOCUMENT = {
    "openapi": "3.1.0",
    "paths": {
        "/orders/{id}": {
            "post": {
                "operationId": "ship",
                "requestBody": {
                    "content": {
                        "application/json": {
                            "schema": {
                                "type": "object",
                                "properties": {"status": {"type": "string", "x-auditable": True}},
                            }
                        }
                    }
                },
                "responses": {"200": {"description": "done"}},
            }
        }
    },
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with files of traffic, in which the commands run."""
    (tmp_path / "openapi.json").write_text(json.dumps(DOCUMENT))
    blocked = json.loads(har(PAIRS[0]))
    blocked["response"]["status"] = 0
    entries = [har(PAIRS[0]), json.dumps(blocked).encode(), b'{"c4n4ry": 1}']
    (tmp_path / "traffic.har").write_bytes(b'{"log": {"entries": [' + b",".join(entries) + b"]}}")
    (tmp_path / "traffic.mitm").write_bytes(mitmproxy(PAIRS[0]))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str, stdin: bytes = b"") -> Result:
    return CliRunner().invoke(cli, arguments, input=stdin)


def test_captures_are_printed_for_redact_and_explain() -> None:
    printed = run("import", "--to-captures", "traffic.har", "traffic.mitm")
    assert printed.exit_code == 1
    assert (
        printed.stderr
        == "entry 3: not a capture (startedDateTime: required)\n2 captures, 1 refused, 1 skipped\n"
    )
    assert len(printed.stdout.splitlines()) == 2
    redacted = run("redact", "--spec", "openapi.json", stdin=printed.stdout_bytes)
    assert redacted.exit_code == 0
    assert redacted.stdout.count('"status":"shipped"') == 2
    assert "4111" not in redacted.stdout
    explained = run("explain", "--spec", "openapi.json", stdin=printed.stdout_bytes)
    assert explained.exit_code == 0


@pytest.mark.parametrize("file", ["traffic.har", "traffic.mitm"])
@pytest.mark.parametrize(
    "command",
    [
        ["redact", "--spec", "openapi.json"],
        ["explain", "--spec", "openapi.json"],
        ["replay", "--to", "http://127.0.0.1:1"],
    ],
    ids=lambda command: command[0],
)
def test_a_command_for_captures_says_what_to_do_with_such_a_file(command: list[str], file: str) -> None:
    result = run(*command, file)
    assert isinstance(result.exception, StartupError)
    assert "auditap import --to-captures" in str(result.exception)
    assert "\n" not in str(result.exception)


def test_a_file_of_captures_is_replayed_and_not_imported(folder: Path) -> None:
    (folder / "captures.ndjson").write_text(
        '{"request": {"method": "GET", "url": "/"}, "response": {"status": 200}}\n'
    )
    result = run("import", "captures.ndjson", "--to", "http://127.0.0.1:1")
    assert isinstance(result.exception, StartupError)
    assert "auditap replay" in str(result.exception)


def test_a_report_is_for_each_file(monkeypatch: pytest.MonkeyPatch) -> None:
    async def importing(file: Path, collector: str, **_: object) -> ReplayReport:
        assert collector == "http://127.0.0.1:1"
        refused = [RefusedLine(3, "invalid", "a")] if file.suffix == ".har" else []
        return ReplayReport(accepted=5, refused=len(refused), refusals=refused, skipped=2)

    monkeypatch.setattr("auditap.cli.import_files.import_file", importing)
    shown = run("import", "traffic.har", "traffic.mitm", "--to", "http://127.0.0.1:1")
    assert shown.exit_code == 1
    assert shown.stdout.splitlines() == [
        "traffic.har: 5 accepted, 1 refused, 2 skipped, 0 batches sent again",
        "traffic.mitm: 5 accepted, 0 refused, 2 skipped, 0 batches sent again",
    ]
    assert "  entry 3: not a capture (a)" in shown.stderr.splitlines()
    printed = run("import", "traffic.mitm", "--to", "http://127.0.0.1:1", "--json")
    assert printed.exit_code == 0
    [line] = printed.stdout.splitlines()
    report = json.loads(line)
    assert (report["file"], report["accepted"], report["skipped"]) == ("traffic.mitm", 5, 2)
