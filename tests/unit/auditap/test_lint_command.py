from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from auditap.cli.lint import CLEAN, FOUND, UNUSABLE, lint_command
from tests.unit.redactor.documents import a_document, an_operation
from tests.unit.redactor.schemas import MARKED, TEXT, Node, an_object

OFF_COLOUR = {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}


def lint(folder: Path, *arguments: str) -> Result:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return CliRunner().invoke(lint_command, list(arguments), env=OFF_COLOUR)


def written(folder: Path, schema: Node, name: str = "api.json") -> str:
    document = a_document({"/accounts/{account_id}/dogs": {"post": an_operation(schema)}})
    (folder / name).write_text(json.dumps(document, indent=2))
    return name


def test_a_document_without_errors_exits_with_0_and_shows_coverage(tmp_path: Path) -> None:
    result = lint(tmp_path, written(tmp_path, an_object(name=MARKED, note=TEXT)))
    assert result.exit_code == CLEAN, result.output
    assert "1 operation, 1 with bodies that auditap reads" in result.stdout
    assert "50.0 %" in result.stdout
    assert "dogs" in result.stdout
    assert "0 errors, 0 warnings, 0 notes" in result.stdout
    assert lint(tmp_path, "api.json", "--fail-under", "50").exit_code == CLEAN


@pytest.mark.parametrize(
    ("arguments", "exit_code"),
    [
        ([], FOUND),
        (["--fail-on", "never"], CLEAN),
        (["--fail-on", "never", "--fail-under", "66"], CLEAN),
        (["--fail-on", "never", "--fail-under", "67"], FOUND),
        (["--fail-on", "note"], FOUND),
        (["--fail-on", "never", "--fail-under", "75"], FOUND),
    ],
)
def test_findings_and_thresholds_determine_the_exit_code(
    tmp_path: Path, arguments: list[str], exit_code: int
) -> None:
    spec = written(tmp_path, an_object(password=MARKED, name=MARKED, note=TEXT))
    result = lint(tmp_path, spec, *arguments)
    assert result.exit_code == exit_code, result.output
    assert "error secret_recorded (1)" in result.stdout
    assert ("less than 67 %" in result.stdout) == ("67" in arguments)


def test_a_warning_fails_only_with_fail_on_warning(tmp_path: Path) -> None:
    spec = written(tmp_path, an_object(key=MARKED))
    assert lint(tmp_path, spec).exit_code == CLEAN
    assert lint(tmp_path, spec, "--fail-on", "warning").exit_code == FOUND


@pytest.mark.parametrize(
    ("files", "arguments", "sentence"),
    [
        ({"api.json": "{"}, ["api.json"], "not well-formed JSON"),
        ({"api.json": "{}"}, ["api.json"], "must say openapi"),
        ({}, ["api.json"], "does not exist"),
        ({"i.yaml": "{}"}, ["good.json", "--ignore-file", "i.yaml"], "list named ignore"),
        ({"i.yaml": "a: [\nb: }"}, ["good.json", "--ignore-file", "i.yaml"], "line 2: it is not valid YAML"),
        ({"i.toml": "a = 1\nb"}, ["good.json", "--ignore-file", "i.toml"], "it is not valid TOML"),
        ({"old.json": "{}"}, ["good.json", "--baseline", "old.json"], "must say openapi"),
        ({}, ["good.json", "--sarif", "none/here.sarif"], "cannot be written"),
        ({}, ["good.json", "--fail-under", "101"], "fail-under"),
    ],
)
def test_an_invalid_file_or_option_exits_with_2_and_one_sentence(
    tmp_path: Path, files: dict[str, str], arguments: list[str], sentence: str
) -> None:
    written(tmp_path, an_object(name=MARKED), "good.json")
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    result = lint(tmp_path, *arguments)
    assert result.exit_code == UNUSABLE
    assert sentence in result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)


def test_json_output_is_only_the_report(tmp_path: Path) -> None:
    result = lint(tmp_path, written(tmp_path, an_object(password=MARKED)), "--json")
    report = json.loads(result.stdout)
    assert (result.exit_code, report["exit_code"]) == (FOUND, FOUND)
    assert [each["code"] for each in report["findings"]] == ["secret_recorded"]
    assert report["coverage"]["percent"] == 100.0


def test_sarif_has_the_line_and_the_path_from_the_working_directory(tmp_path: Path) -> None:
    (tmp_path / "specs").mkdir()
    spec = f"specs/{written(tmp_path / 'specs', an_object(password=MARKED))}"
    assert lint(tmp_path, spec, "--sarif", "out.sarif").exit_code == FOUND
    (result,) = json.loads((tmp_path / "out.sarif").read_text())["runs"][0]["results"]
    place = result["locations"][0]["physicalLocation"]
    assert place["artifactLocation"]["uri"] == spec
    line = (tmp_path / spec).read_text().splitlines()[place["region"]["startLine"] - 1]
    assert line.strip().startswith('"password"')


def test_the_ignore_file_suppresses_a_finding(tmp_path: Path) -> None:
    spec = written(tmp_path, an_object(password=MARKED))
    entry = "code: secret_recorded\n    location: '*/properties/password'\n    reason: A label."
    (tmp_path / "ignore.yaml").write_text(f"ignore:\n  - {entry}\n")
    result = lint(tmp_path, spec, "--ignore-file", "ignore.yaml")
    assert result.exit_code == CLEAN, result.output
    assert "1 ignored with reasons" in result.stdout


def test_a_baseline_reports_newly_exposed_fields(tmp_path: Path) -> None:
    old = written(tmp_path, an_object(name=MARKED, note=TEXT), "old.json")
    new = written(tmp_path, an_object(name=MARKED, note=MARKED), "new.json")
    result = lint(tmp_path, new, "--baseline", old, "--fail-on", "warning")
    assert result.exit_code == FOUND
    assert "POST /accounts/{account_id}/dogs: request application/json: note" in result.stdout
    assert lint(tmp_path, old, "--baseline", new, "--fail-on", "warning").exit_code == CLEAN


def test_rows_and_examples_limit_the_output(tmp_path: Path) -> None:
    paths: dict[str, Any] = {
        f"/p{number}": {"post": an_operation(an_object(key=MARKED), operationId=f"op{number}")}
        for number in range(30)
    }
    (tmp_path / "api.json").write_text(json.dumps(a_document(paths)))
    few = lint(tmp_path, "api.json").stdout
    assert "10 more; --rows 0 shows all" in few
    assert "… 27 more" in few
    everything = lint(tmp_path, "api.json", "--rows", "0", "--examples", "100", "--by", "operation").stdout
    assert "more" not in everything
    assert "POST /p29" in everything


def test_markup_and_control_characters_of_the_document_are_escaped(tmp_path: Path) -> None:
    spec = written(tmp_path, an_object(**{"[red]password\x1b[2J": MARKED}))
    shown = lint(tmp_path, spec).stdout
    assert "[red]password\ufffd[2J is recorded" in shown
    assert "\x1b" not in shown
