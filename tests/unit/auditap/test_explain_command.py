from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from auditap.cli.explain import explain_command
from schemas.errors import StartupError
from tests.e2e.golden import DOCUMENT, golden_capture
from tests.ports import free_port
from tests.signed_tokens import AUDIENCE, ISSUER, jwk, jwks, token

SPEC = ("--spec", str(DOCUMENT), "--envelope", "result")
OPERATION = "notification-policies-update"


def explain(*arguments: str, stdin: str | None = None, columns: int = 200, term: str = "dumb") -> Result:
    environment = {"COLUMNS": str(columns), "NO_COLOR": "1", "TERM": term}
    return CliRunner().invoke(explain_command, [*SPEC, *arguments], input=stdin, env=environment)


def capture(**request: Any) -> str:
    pair = golden_capture(1_769_192_714_749)
    return json.dumps(pair | {"request": pair["request"] | request})


def test_a_capture_from_standard_input_is_shown_as_a_tree_without_values() -> None:
    result = explain(stdin=capture())
    assert result.exit_code == 0, result.output
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    for part in (
        "● alert_type string 1 rule 2 marked …/schema/properties/alert_type",
        "○ description string rule 1 not marked …/schema/properties/description",
        "● {account_id} rule 13 named like an id",
    ):
        assert any(part in line for line in lines), part
    assert "receipt: request 6 scalars, response 1 scalar" in result.stdout
    for value in ("CANARY", "Origin down", "health_check", "alex@example.com", "Mozilla", "1f0c2b7d"):
        assert value not in result.stdout


@pytest.mark.parametrize("name", [OPERATION, "PUT /accounts/{account_id}/alerting/v3/policies/{policy_id}"])
def test_an_operation_is_found_by_id_or_path(name: str) -> None:
    result = explain("--operation", name)
    assert result.exit_code == 0, result.output
    assert OPERATION in result.stdout
    assert "alert_type" in result.stdout
    assert "receipt" not in result.stdout


def test_kept_shows_only_what_is_recorded() -> None:
    shown = explain("--kept", stdin=capture()).stdout
    assert "alert_type" in shown
    assert "description" not in shown
    assert "○" not in shown


def test_json_output_has_the_same_content(tmp_path: Path) -> None:
    (tmp_path / "capture.json").write_text(json.dumps(json.loads(capture()), indent=2))
    explanation = json.loads(explain("--json", str(tmp_path / "capture.json")).stdout)
    assert explanation["match"]["operations"] == [OPERATION]
    assert explanation["receipt"]["request"] == {"kept": 6}
    request = next(each for each in explanation["bodies"] if each["side"] == "request")
    assert request["tree"]["kept"] == 6
    assert "CANARY" not in json.dumps(explanation)


def test_a_capture_says_where_account_and_actor_come_from_without_them() -> None:
    shown = explain(stdin=capture()).stdout
    assert "account: from the path\n" in shown
    assert (
        "actor: id from the response header x-actor-id, email from the response header x-actor-email" in shown
    )
    path = f"/client/v4/accounts/{'x' * 257}/alerting/v3/policies/1"
    refused = explain(stdin=capture(url=path)).stdout
    assert "account: none; refused: account.id\n" in refused
    assert "in the path alone, because it is no valid account.id" in refused
    assert "account:" not in explain("--operation", OPERATION).stdout


def test_line_selects_a_capture() -> None:
    lines = f"{capture()}\n{capture(method='DELETE')}\n"
    assert OPERATION in explain(stdin=lines).stdout
    assert explain("--line", "2", stdin=lines).stdout.startswith("DELETE no operation")
    missing = explain("--line", "3", stdin=lines)
    assert isinstance(missing.exception, StartupError)


def test_an_invalid_capture_is_refused_without_its_content() -> None:
    result = explain(stdin='{"request": {"method": "GET", "url": ["CANARY"]}, "response": {"status": 200}}')
    assert isinstance(result.exception, StartupError)
    assert str(result.exception) == "line 1: not a capture (request.url: type)"
    assert "CANARY" not in result.output


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("# CANARY\n", "line 1: not JSON"),
        ('{"request": {"method": "CANARY', "line 1: not JSON"),
        ("[\n" + '{"a": "CANARY"},\n', "the input is not JSON: it ends inside its array"),
        ("[]", "the input holds no captures"),
        ("", "the input holds no captures"),
    ],
)
def test_what_is_no_file_of_captures_is_explained_without_its_content(text: str, sentence: str) -> None:
    result = explain(stdin=text)
    assert isinstance(result.exception, StartupError)
    assert str(result.exception) == sentence


def test_an_unknown_operation_is_an_error() -> None:
    result = explain("--operation", "none")
    assert isinstance(result.exception, StartupError)


def test_no_line_is_cut_in_narrow_output() -> None:
    wide, narrow = (explain("--operation", OPERATION, columns=columns) for columns in (400, 40))
    assert narrow.stdout == wide.stdout
    assert max(map(len, wide.stdout.splitlines())) > 100


def test_long_lines_wrap_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then treats any output as a terminal
    wide, narrow = (
        click.unstyle(explain("--operation", OPERATION, columns=columns, term="xterm").stdout)
        for columns in (400, 60)
    )
    assert max(map(len, narrow.splitlines())) <= 60
    assert _words(narrow) == _words(wide)


def _words(output: str) -> list[str]:
    """Return the letters of an output in order, without the lines and indentation of the tree."""
    return [letter for letter in output if letter.isalnum()]


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        (
            {"azp": "CANARY-app"},
            "token: verified, of a user, client from the claim azp of https://login.example.com/",
        ),
        ({"email": 7}, "token: verified, of a user"),
        ({"exp": 1}, "token: not verified: expired"),
        (None, "token: none"),
    ],
)
def test_a_capture_says_what_became_of_its_token(
    changed: dict[str, Any] | None, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "jwks.json").write_bytes(jwks(jwk("rsa-1")))
    issuer = {
        "issuer": ISSUER,
        "audiences": [AUDIENCE],
        "headers": ["authorization"],
        "jwks_file": str(tmp_path / "jwks.json"),
    }
    monkeypatch.setenv("AUDITAP_REDACTION__ISSUERS", json.dumps([issuer]))
    headers = {} if changed is None else {"authorization": f"Bearer {token(**changed)}"}
    shown = explain(stdin=capture(headers=headers)).stdout
    assert line in shown.splitlines()
    by_token = changed is not None and "exp" not in changed
    assert (f"actor: id from the claim sub of {ISSUER}" in shown) is by_token
    assert ("refused: actor.email" in shown) is (line == "token: verified, of a user")
    assert "CANARY" not in shown
    assert "u-1" not in shown


def test_keys_that_cannot_be_fetched_are_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"http://127.0.0.1:{free_port()}/jwks"
    issuer = {"issuer": ISSUER, "audiences": [AUDIENCE], "headers": ["authorization"], "jwks_url": url}
    monkeypatch.setenv("AUDITAP_REDACTION__ISSUERS", json.dumps([issuer]))
    result = explain(stdin=capture(headers={"authorization": f"Bearer {token()}"}))
    assert "token: not verified: no_keys" in result.stdout.splitlines()
    assert f"The keys of {ISSUER} cannot be fetched: none of its tokens is verified." in result.stderr
