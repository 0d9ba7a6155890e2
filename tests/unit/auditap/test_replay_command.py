from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from auditap.cli.main import cli
from gateway_tap.replay import RefusedLine, ReplayReport
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
    assert str(CliRunner().invoke(cli, arguments).exception) == "empty.ndjson holds no captures"


def test_a_report_is_in_words_and_in_the_right_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusals = [RefusedLine(3, "malformed", ""), RefusedLine(4, "invalid", "request.url: type")]
    first = ReplayReport(2, 2, refusals, 1, 1, 1, 1, 1, 1)
    second = ReplayReport(2, 2, refusals, 1, 0, 2, 1, 2, 1)
    monkeypatch.chdir(tmp_path)
    Path("captures.ndjson").touch()
    shown = []
    for report in (first, second):

        async def replaying(*_: object, report: ReplayReport = report, **__: object) -> ReplayReport:
            return report

        monkeypatch.setattr("auditap.cli.replay.replay", replaying)
        shown.append(CliRunner().invoke(cli, ["replay", "captures.ndjson", "--to", "http://127.0.0.1:1"]))
    assert [each.stdout for each in shown] == [
        "2 accepted, 2 refused, 1 batch sent again\n",
        "2 accepted, 2 refused, 0 batches sent again\n",
    ]
    one, many = ("\n".join(each.stderr.splitlines()) for each in shown)
    assert "  line 3: not JSON\n  line 4: not a capture (request.url: type)\n" in one
    assert "1 capture has unknown fields" in one
    assert "Sent again, 1 capture becomes a second record." in one
    assert "2 captures have unknown fields" in many
    assert "Sent again, 2 captures become second records." in many


def test_what_a_collector_says_is_printed_without_control_characters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever answers at the address could have moved the cursor, and written over the report."""
    report = ReplayReport(refused=1, refusals=[RefusedLine(7, "mal\x1b[2Jformed", "a\u009b1A\nb")])

    async def refusing(*_: object, **__: object) -> ReplayReport:
        return report

    monkeypatch.setattr("auditap.cli.replay.replay", refusing)
    monkeypatch.chdir(tmp_path)
    Path("captures.ndjson").touch()
    result = CliRunner().invoke(cli, ["replay", "captures.ndjson", "--to", "http://127.0.0.1:1"])
    assert result.stderr.splitlines()[-1] == "  line 7: mal\ufffd[2Jformed (a\ufffd1A\ufffdb)"
