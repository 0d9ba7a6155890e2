from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from auditap.example_api.document import document_file
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
        timeout=60,
    )


def test_every_command_says_what_it_does(tmp_path: Path) -> None:
    told = auditap(tmp_path, "--help").stdout.decode()
    for command in ("up", "collect", "ingest", "serve", "redact", "replay", "migrate", "topics", "tokens"):
        assert command in told
        assert auditap(tmp_path, command, "--help").returncode == 0


def test_redact_gives_one_event_per_capture_in_order(tmp_path: Path) -> None:
    captures = [golden_capture(NOW + number) for number in range(3)]
    lines = b"\n".join(json.dumps(each).encode() for each in captures)
    ended = auditap(tmp_path, "redact", "--spec", str(DOCUMENT), "--envelope", "result", stdin=lines)
    assert ended.returncode == 0, ended.stderr
    events = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [event["id"] for event in events] == [each["id"] for each in captures]
    assert events[0]["resource"]["request"]["name"] == "Origin down"
    assert b"CANARY" not in ended.stdout


def test_redact_names_refused_lines_without_their_content(tmp_path: Path) -> None:
    lines = b'{"request": {"method": "GET", "url": ["CANARY"]}, "response": {"status": 200}}\n'
    ended = auditap(tmp_path, "redact", "--spec", str(DOCUMENT), stdin=lines)
    assert ended.returncode == 1
    assert ended.stderr == b"line 1: invalid: request.url: type\n"


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


def test_lint_reads_the_example_whose_types_are_lists_too(tmp_path: Path) -> None:
    ended = auditap(tmp_path, "lint", str(document_file()), "--json")
    assert ended.returncode in {0, 1}, ended.stderr
    assert b"ended_by_fault" not in ended.stderr
    assert json.loads(ended.stdout)


def test_a_fault_of_the_program_shows_no_values(tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text(
        "import redactor.redact\n"
        "def fail(*_arguments): raise ValueError('CANARY')\n"
        "redactor.redact.redact_lines = fail\n"
        "from auditap.cli import main\n"
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
def test_outside_the_data_folder_it_says_where_it_looked_and_what_changes_that(
    tmp_path: Path, arguments: list[str], looked_at: str
) -> None:
    (tmp_path / "captures.ndjson").touch()
    failed = auditap(tmp_path, *arguments)
    assert failed.returncode == 1
    told = failed.stderr.decode()
    assert str(tmp_path / "auditap-data" / looked_at) in told
    assert "name its folder in data_dir (AUDITAP_DATA_DIR)" in told
    assert "Traceback" not in told
    elsewhere = auditap(tmp_path, *arguments, environment={"AUDITAP_DATA_DIR": "/nowhere/else"})
    assert f"/nowhere/else/{looked_at}" in elsewhere.stderr.decode()


def test_a_token_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    told = auditap(tmp_path, "query", "--token-file", "mine.token").stderr.decode()
    assert "mine.token" in told
    assert "data_dir" not in told
