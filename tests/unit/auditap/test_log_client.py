"""How `auditap query` and `auditap tail` parse their arguments."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import msgspec
import pytest
from click.testing import CliRunner

from auditap.cli import tail
from auditap.cli.log_client import (
    LogReader,
    log_reader,
    parse_filters,
    request_cells,
    table_cells,
    time_range,
)
from auditap.cli.query import query_command
from auditap.settings import Settings, load_settings
from log_api.config import LogApiConfig
from log_api.contract import contract_document
from schemas.errors import RetryableError, StartupError
from schemas.event import Exchange, RawRequest
from schemas.http_requests import http_request

_NO_FILTERS = {"since", "before", "direction", "limit", "cursor"}


def _documented() -> list[str]:
    document = contract_document(LogApiConfig(cursor_key=b"k" * 32))
    [listing] = [
        operation
        for item in document["paths"].values()
        for operation in item.values()
        if isinstance(operation, dict) and operation.get("operationId") == "listAuditLogs"
    ]
    named = [
        document["components"]["parameters"][each["$ref"].rsplit("/")[-1]] for each in listing["parameters"]
    ]
    return [each["name"] for each in named if each["in"] == "query" and each["name"] not in _NO_FILTERS]


@pytest.mark.parametrize("name", _documented())
@pytest.mark.parametrize("spelling", ["{}", "{}[]"])
def test_every_filter_of_the_list_is_accepted(name: str, spelling: str) -> None:
    argument = spelling.format(name)
    assert parse_filters([f"{argument}=x=y"]) == [(argument, "x=y")]


def test_a_filter_is_negated_in_brackets_too() -> None:
    assert parse_filters(["actor_id[not]=a"]) == [("actor_id[not]", "a")]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("action_typ=delete", "did you mean action_type?"),
        ("action_type.nt=delete", "There is no filter action_type.nt"),
        ("zzz=1", "there are account_name"),
        ("action_type", "name=value"),
        ("=delete", "name=value"),
    ],
)
def test_an_unknown_filter_is_rejected(argument: str, message: str) -> None:
    with pytest.raises(click.UsageError) as refused:
        parse_filters([argument])
    assert message in refused.value.message


def test_an_account_is_one_segment_of_the_url(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("a-token-of-the-log-api")
    reader = log_reader(load_settings(), "arn:aws:iam::1:user/ana", "http://api.example", token)
    assert reader.url == "http://api.example/accounts/arn%3Aaws%3Aiam%3A%3A1%3Auser%2Fana/logs/audit"


def test_the_token_of_the_environment_is_used_unless_a_file_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "api.token").write_text("token-of-auditap-up")
    (tmp_path / "given").write_text("token-in-a-given-file")
    monkeypatch.setenv("AUDITAP_TOKEN", "token-of-the-environment\n")
    settings = load_settings(data_dir=tmp_path)
    presented = [log_reader(settings, "a", None, file).headers for file in (None, tmp_path / "given")]
    tokens = ["token-of-the-environment", "token-in-a-given-file"]
    assert presented == [{"Authorization": f"Bearer {token}"} for token in tokens]


@pytest.mark.parametrize("token", ["", "short", "sixteen-characters\nX-Auth-Email: a", "sixteen-charäcters"])
def test_what_is_no_token_in_the_environment_is_refused(monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    monkeypatch.setenv("AUDITAP_TOKEN", token)
    with pytest.raises(StartupError, match="AUDITAP_TOKEN holds no whole token") as refused:
        log_reader(load_settings(), "a", None, None)
    assert token[:5] not in str(refused.value) or not token


@pytest.mark.parametrize(
    ("since", "before", "warning"),
    [
        ("2026-01-02", "2026-01-01", "--since is not earlier than --before"),
        ("1h", "2h", "--since is not earlier than --before"),
        ("2999-01-01", "2999-01-02", "--since is in the future"),
        ("2999-01-01", "now", "--since is not earlier than --before"),
        ("24h", "now", ""),
        ("2026-01-01T00:00:00+02:00", "2999-01-01", ""),
    ],
)
def test_a_range_without_records_is_warned_of(
    capsys: pytest.CaptureFixture[str], since: str, before: str, warning: str
) -> None:
    time_range(since, before)
    assert capsys.readouterr().err.startswith(warning) if warning else not capsys.readouterr().err


@pytest.mark.parametrize(
    ("since", "before", "option"), [("yesterday", "now", "--since"), ("7d", "tomorrow", "--before")]
)
def test_what_is_no_time_is_refused_with_the_ways_to_write_one(since: str, before: str, option: str) -> None:
    with pytest.raises(click.UsageError, match=f"^{option} is no time: .* 7d"):
        time_range(since, before)


@pytest.mark.parametrize("content", ["", "short"])
def test_a_token_file_without_a_whole_token_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "api.token").write_text(content)
    with pytest.raises(StartupError, match=r"api\.token (is empty|has fewer than 16 characters)"):
        log_reader(Settings(data_dir=tmp_path), "a", None, None)


def test_a_body_with_a_number_out_of_range_is_no_part_of_its_row() -> None:
    record = (
        b'{"action":{"time":"2026-01-02T03:04:05.006Z","type":"update","result":"failure"},"actor":{"id":"ana"},'
        b'"resource":{"product":"dns","type":"records","id":"r1","request":{"n":1e400}}}'
    )
    cells = [cell.plain for cell in table_cells(record)]
    assert cells == ["2026-01-02T03:04:05.006Z", "update failed", "ana", "dns/records r1", ""]


def test_who_is_no_address_is_in_its_row_all_the_same() -> None:
    record = (
        b'{"action":{"time":"2026-01-02T03:04:05.006Z","type":"view","result":"success"},"actor":{"id":"u1"},'
        rb'"resource":{},"auditap":{"actor_email":"CORP\\alice","receipt":{"n":1e400}}}'
    )
    assert table_cells(record)[2].plain == r"CORP\alice"


LINE = http_request(
    "019be973000d70008000000000000001",
    RawRequest("ray-1", "GET", 404, "/things/1", "curl"),
    Exchange("api.example.com", 12, 812),
    user="ana\u202e@example.com",
    client_ip="203.0.113.9",
)


def cells_of(line: dict[str, Any]) -> list[str]:
    return [cell.plain for cell in request_cells(msgspec.json.encode(line))]


def test_a_request_is_a_row_without_what_a_terminal_would_interpret() -> None:
    assert cells_of(LINE) == [
        "2026-01-23T06:03:06.637Z",
        "ana\N{REPLACEMENT CHARACTER}@example.com",
        *("GET", "api.example.com", "/things/1", "404", "812", "12"),
    ]
    nothing = http_request("0" * 32, RawRequest(), None, user=None, client_ip=None)
    assert cells_of(nothing) == ["1970-01-01T00:00:00.000Z", *[""] * 7]
    assert cells_of({**LINE, "EdgeResponseBytes": 0, "EdgeEndTimestamp": LINE["EdgeStartTimestamp"]})[
        -2:
    ] == [
        "0",
        "0",
    ]


@pytest.mark.parametrize("knows", [True, False])
def test_query_says_which_setting_records_what_its_requests_lack(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, knows: bool
) -> None:
    lacking = {**LINE, "ClientRequestHost": None, "EdgeResponseBytes": None, "EdgeEndTimestamp": None}
    page = {"result": [LINE if knows else lacking, lacking], "result_info": {}}
    asked: list[str] = []

    def get(_client: object, url: str, _query: object = ()) -> bytes:
        asked.append(url)
        return msgspec.json.encode(page)

    monkeypatch.setattr("auditap.cli.log_client._get", get)
    monkeypatch.setattr("auditap.cli.query.is_interactive", lambda *, as_json: not as_json)
    monkeypatch.setenv("AUDITAP_TOKEN", "atp_" + "x" * 32)
    monkeypatch.setenv("AUDITAP_DATA_DIR", str(tmp_path))
    shown = CliRunner().invoke(query_command, ["--requests", "--account", "a", "raw_method=GET"])
    assert shown.exit_code == 0, shown.output
    assert asked[0].endswith("/accounts/a/logs/requests")
    assert ("redaction.exchange_facts_kept = true" in shown.stderr) is not knows
    assert "404" in shown.stdout
    as_json = CliRunner().invoke(query_command, ["--requests", "--account", "a", "--json"])
    assert [msgspec.json.decode(line) for line in as_json.stdout.splitlines()] == page["result"]
    assert as_json.stderr == ""


def test_tail_waits_as_long_as_the_log_api_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    slept_s: list[float] = []
    asked = iter([None, 7.0, 1e9])

    def events(*_arguments: object) -> Iterator[tuple[str, bytes]]:
        yield "1", b"{}"
        raise RetryableError("busy", asked_to_wait_s=next(asked))

    monkeypatch.setattr(tail, "_events", events)
    monkeypatch.setattr(tail, "time", SimpleNamespace(sleep=slept_s.append))
    followed = tail._followed(LogReader("http://127.0.0.1", {}), [])
    assert next(followed) == b"{}"
    with pytest.raises(RuntimeError):
        next(followed)
    assert slept_s == [1.0, 7.0, 300.0]
