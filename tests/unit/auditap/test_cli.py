from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner

from auditap.cli.main import COMMANDS, cli
from auditap_example.document import document_file
from tests.e2e.golden import DOCUMENT, golden_capture

NOW = 1_769_192_714_749


def auditap(
    folder: Path, *arguments: str, stdin: bytes = b"", environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "auditap", *arguments],
        cwd=folder,
        input=stdin,
        capture_output=True,
        env={"PATH": "/usr/bin:/bin", **(environment or {})},
        check=False,
        timeout=300,
    )


def test_help_lists_every_command_with_the_first_steps_first() -> None:
    shown = CliRunner().invoke(cli, ["--help"]).output
    listed = re.findall(r"^  ([a-z][a-z-]+)  +[A-Z]", shown, re.MULTILINE)
    assert listed[:4] == ["up", "init", "query", "tail"]
    assert listed == [name for section in COMMANDS.values() for name in section]


@pytest.mark.processes
def test_a_misspelt_command_is_answered_with_the_nearest(tmp_path: Path) -> None:
    ended = auditap(tmp_path, "colect")
    assert ended.returncode == 2
    assert b"No such command 'colect'. Did you mean collect?" in ended.stderr


@pytest.mark.parametrize("name", [name for section in COMMANDS.values() for name in section])
def test_every_command_loads_under_its_name(name: str) -> None:
    shown = CliRunner().invoke(cli, [name, "--help"], prog_name="auditap")
    assert shown.exit_code == 0
    assert shown.output.startswith(f"Usage: auditap {name} ")


@pytest.mark.processes
def test_the_shell_completes_commands_and_imports_none() -> None:
    code = (
        "import sys\n"
        "from click.shell_completion import BashComplete\n"
        "from auditap.cli.main import cli\n"
        "shell = BashComplete(cli, {}, 'auditap', '_AUDITAP_COMPLETE')\n"
        "print(*(each.value for each in shell.get_completions([], 're')))\n"
        "print(*(each.value for each in shell.get_completions([], '--v')))\n"
        "print(*sys.modules, file=sys.stderr)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert ended.stdout.split() == [b"redact", b"replay", b"retention", b"--version"]
    assert not {b"auditap.cli.redact", b"pydantic", b"rich"} & set(ended.stderr.split())


@pytest.mark.processes
def test_help_imports_no_command_and_no_library_but_click() -> None:
    code = (
        "import sys\n"
        "from auditap.cli.main import cli\n"
        "cli.main(['--help'], standalone_mode=False)\n"
        "print(*sys.modules, file=sys.stderr)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    imported = set(ended.stderr.decode().split())
    ours = {name for name in imported if name.partition(".")[0] in {"auditap", "schemas"}}
    assert ours == {
        "auditap",
        "auditap.cli",
        "auditap.cli.lazy_group",
        "auditap.cli.main",
        "auditap.runtime",
        "auditap.runtime.exception_hooks",
        "schemas",
        "schemas.errors",
    }
    heavy = {"asyncio", "importlib.metadata", "msgspec", "pydantic", "rich", "structlog", "uvloop"}
    assert not imported & heavy


@pytest.mark.processes
def test_a_fault_while_a_command_is_imported_shows_no_values(tmp_path: Path) -> None:
    broken = tmp_path / "redactor"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise ValueError('CANARY')")
    ended = auditap(tmp_path, "redact", "--help", environment={"PYTHONPATH": str(tmp_path)})
    assert ended.returncode == 1
    assert b"uncaught_exception" in ended.stderr
    assert b"CANARY" not in ended.stderr


@pytest.mark.processes
def test_redact_gives_one_event_per_capture_in_order(tmp_path: Path) -> None:
    captures = [golden_capture(NOW + number) for number in range(3)]
    lines = b"\n".join(json.dumps(each).encode() for each in captures)
    ended = auditap(tmp_path, "redact", "--spec", str(DOCUMENT), "--envelope", "result", stdin=lines)
    assert ended.returncode == 0, ended.stderr
    events = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [event["id"] for event in events] == [each["id"] for each in captures]
    assert events[0]["resource"]["request"]["name"] == "Origin down"
    assert b"CANARY" not in ended.stdout


@pytest.mark.processes
def test_redact_names_refused_lines_without_their_content(tmp_path: Path) -> None:
    lines = b'{"request": {"method": "GET", "url": ["CANARY"]}, "response": {"status": 200}}\n'
    ended = auditap(tmp_path, "redact", "--spec", str(DOCUMENT), stdin=lines)
    assert ended.returncode == 1
    assert ended.stderr == b"line 1: not a capture (request.url: type)\n"


@pytest.mark.processes
@pytest.mark.parametrize(
    ("arguments", "environment", "sentence"),
    [
        (["collect"], {"AUDITAP_KAFKA__PARTITIONS": "x"}, "AUDITAP_KAFKA__PARTITIONS"),
        (["collect"], {"AUDITAP_REDACTION__DOCUMENTS": '[{"path": "none.yaml"}]'}, "none.yaml"),
        (["ingest"], {}, "AUDITAP_POSTGRES__WRITER_DSN"),
        (["serve"], {}, "AUDITAP_POSTGRES__READER_DSN"),
        (["tokens", "list"], {}, "AUDITAP_POSTGRES__ADMIN_DSN"),
        (
            ["migrate"],
            {"AUDITAP_POSTGRES__ADMIN_DSN": "postgresql://a@127.0.0.1:1/b"},
            "Postgres does not answer",
        ),
        (["topics"], {}, "AUDITAP_KAFKA__BOOTSTRAP_SERVERS"),
        (["redact", "--spec", "none.yaml"], {}, "none.yaml"),
        (["replay", "none.ndjson"], {}, "none.ndjson"),
    ],
)
def test_what_is_wrong_at_the_start_is_one_sentence_and_a_failure(
    tmp_path: Path, arguments: list[str], environment: dict[str, str], sentence: str
) -> None:
    ended = auditap(tmp_path, *arguments, environment=environment)
    assert ended.returncode in {1, 2}
    assert sentence in ended.stderr.decode()
    assert "Traceback" not in ended.stderr.decode()


@pytest.mark.processes
def test_lint_finds_no_more_than_notes_in_the_example(tmp_path: Path) -> None:
    ended = auditap(tmp_path, "lint", str(document_file()), "--json")
    assert ended.returncode == 0, ended.stderr
    assert {each["level"] for each in json.loads(ended.stdout)["findings"]} == {"note"}


@pytest.mark.processes
def test_a_fault_of_the_program_shows_no_values(tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text(
        "import redactor.pipeline.redactor\n"
        "def fail(*_arguments): raise ValueError('CANARY')\n"
        "redactor.pipeline.redactor.redact_lines = fail\n"
        "from auditap.cli.main import main\n"
        "main()\n"
    )
    ended = subprocess.run(
        [sys.executable, str(broken), "redact", "--spec", str(DOCUMENT)],
        input=b"",
        capture_output=True,
        check=False,
    )
    assert ended.returncode == 1
    assert b"ValueError" in ended.stderr
    assert b"CANARY" not in ended.stderr


@pytest.mark.processes
@pytest.mark.parametrize(
    ("arguments", "looked_at"),
    [
        (["tokens", "list"], "postgres"),
        (["dead-letters", "list"], "postgres"),
        (["query"], "api.token"),
        (["completeness"], "api.token"),
        (["replay", "captures.ndjson"], "collector.sock"),
    ],
)
def test_outside_the_data_folder_the_error_names_the_searched_path_and_the_option(
    tmp_path: Path, arguments: list[str], looked_at: str
) -> None:
    (tmp_path / "captures.ndjson").touch()
    failed = auditap(tmp_path, *arguments)
    assert failed.returncode == 1
    stderr = failed.stderr.decode()
    assert str(tmp_path / "auditap-data" / looked_at) in stderr
    assert "name its folder in data_dir (AUDITAP_DATA_DIR)" in stderr
    assert "Traceback" not in stderr
    elsewhere = auditap(tmp_path, *arguments, environment={"AUDITAP_DATA_DIR": "/nowhere/else"})
    assert f"/nowhere/else/{looked_at}" in elsewhere.stderr.decode()


@pytest.mark.processes
def test_a_token_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    stderr = auditap(tmp_path, "query", "--token-file", "mine.token").stderr.decode()
    assert "mine.token" in stderr
    assert "data_dir" not in stderr


@pytest.mark.processes
@pytest.mark.parametrize(
    ("arguments", "environment", "sentence"),
    [
        (["--workers", "0"], {}, b"The option --workers is wrong"),
        ([], {"AUDITAP_COLLECTOR__WORKERS": "65"}, b"AUDITAP_COLLECTOR__WORKERS"),
        (["--workers", "2"], {}, b"there is no Kafka"),
    ],
)
def test_numbers_of_workers_that_cannot_be_are_answered_with_one_sentence(
    tmp_path: Path, arguments: list[str], environment: Mapping[str, str], sentence: bytes
) -> None:
    ended = auditap(tmp_path, "collect", *arguments, environment=environment)
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert line.startswith(b"auditap: ")
    assert sentence in line
    assert not list(tmp_path.iterdir())
