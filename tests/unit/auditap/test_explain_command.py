from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from auditap.explain_command import explain_command
from schemas.errors import RefusedCapture, StartupError
from tests.e2e.golden import DOCUMENT, golden_capture

SPEC = ("--spec", str(DOCUMENT), "--envelope", "result")
OPERATION = "notification-policies-update"


def explain(*arguments: str, stdin: str | None = None, columns: int = 200, term: str = "dumb") -> Result:
    environment = {"COLUMNS": str(columns), "NO_COLOR": "1", "TERM": term}
    return CliRunner().invoke(explain_command, [*SPEC, *arguments], input=stdin, env=environment)


def capture(**request: Any) -> str:
    pair = golden_capture(1_769_192_714_749)
    return json.dumps(pair | {"request": pair["request"] | request})


def test_a_capture_on_standard_input_is_told_as_a_tree_without_its_values() -> None:
    result = explain(stdin=capture())
    assert result.exit_code == 0, result.output
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    for part in (
        "● alert_type string 1 rule 2 marked …/schema/properties/alert_type",
        "○ description string rule 1 not marked …/schema/properties/description",
        "● {account_id} rule 13 its name is that of an id",
    ):
        assert any(part in line for line in lines), part
    assert "receipt: request 6 scalars, response 1 scalars" in result.stdout
    for value in ("CANARY", "Origin down", "health_check", "alex@example.com", "Mozilla", "1f0c2b7d"):
        assert value not in result.stdout


@pytest.mark.parametrize("name", [OPERATION, "PUT /accounts/{account_id}/alerting/v3/policies/{policy_id}"])
def test_an_operation_alone_is_told_by_id_or_path(name: str) -> None:
    result = explain("--operation", name)
    assert result.exit_code == 0, result.output
    assert OPERATION in result.stdout
    assert "alert_type" in result.stdout
    assert "receipt" not in result.stdout


def test_only_what_is_kept_can_be_shown() -> None:
    shown = explain("--kept", stdin=capture()).stdout
    assert "alert_type" in shown
    assert "description" not in shown
    assert "○" not in shown


def test_json_holds_the_same(tmp_path: Path) -> None:
    (tmp_path / "capture.json").write_text(json.dumps(json.loads(capture()), indent=2))
    told = json.loads(explain("--json", str(tmp_path / "capture.json")).stdout)
    assert told["match"]["operations"] == [OPERATION]
    assert told["receipt"]["request"] == {"kept": 6}
    request = next(each for each in told["bodies"] if each["side"] == "request")
    assert request["tree"]["kept"] == 6
    assert "CANARY" not in json.dumps(told)


def test_a_line_of_several_captures_can_be_chosen() -> None:
    lines = f"{capture()}\n{capture(method='DELETE')}\n"
    assert OPERATION in explain(stdin=lines).stdout
    assert OPERATION not in explain("--line", "2", stdin=lines).stdout
    missing = explain("--line", "3", stdin=lines)
    assert isinstance(missing.exception, StartupError)


def test_what_is_no_capture_is_refused_without_its_content() -> None:
    result = explain(stdin='{"request": {"method": "GET", "url": ["CANARY"]}, "response": {"status": 200}}')
    assert isinstance(result.exception, RefusedCapture)
    assert str(result.exception) == "invalid: request.url: type"
    assert "CANARY" not in result.output


def test_an_operation_that_is_not_there_is_one_sentence() -> None:
    result = explain("--operation", "none")
    assert isinstance(result.exception, StartupError)


def test_no_line_is_cut_however_narrow_the_output_is() -> None:
    wide, narrow = (explain("--operation", OPERATION, columns=columns) for columns in (400, 40))
    assert narrow.stdout == wide.stdout
    assert max(map(len, wide.stdout.splitlines())) > 100


def test_on_a_terminal_lines_go_on_below(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # which makes a terminal of what is none
    wide, narrow = (
        click.unstyle(explain("--operation", OPERATION, columns=columns, term="xterm").stdout)
        for columns in (400, 60)
    )
    assert max(map(len, narrow.splitlines())) <= 60
    assert _words(narrow) == _words(wide)


def _words(output: str) -> list[str]:
    """Return the letters of an output in order, without the lines of the tree and what separates them."""
    return [letter for letter in output if letter.isalnum()]
