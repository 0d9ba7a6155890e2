"""Settings that no process can work with end the start in one sentence, without the value."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

import pytest

from auditap.cli.log_client import log_reader
from auditap.settings import load_settings
from schemas.errors import StartupError
from schemas.postgres_refusals import session_refusal
from tests.settings_mistakes import mistake


@pytest.fixture(autouse=True)
def _nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("servers", ["a:", "[::1]:", "[x]:1"])
def test_brokers_that_the_kafka_client_cannot_read_are_refused(servers: str) -> None:
    """They ended `collect` and `topics` with a traceback."""
    assert "kafka.bootstrap_servers is host:port,host:port" in mistake(kafka={"bootstrap_servers": servers})


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("INGEST__BOUNDS__RETENTION_DAYS", "3000000000", "give 36500 or less"),
        ("INGEST__BOUNDS__RETENTION_DAYS", "1" + "0" * 30, "give 36500 or less"),
        ("API__STATEMENT_TIMEOUT_MS", "2147483648", "give 2147483647 or less"),
        ("API__CONNECTIONS_MAX", "1000000000", "give 262143 or less"),
        ("API__REQUESTS_PER_S", "inf", "give 2147483647 or less"),
        ("ENRICH__BATCH_BUDGET_MS", "1" + "0" * 30, "give 3153600000000 or less"),
        ("KAFKA__PARTITIONS", "2147483648", "give 2147483647 or less"),
        ("KAFKA__REPLICATION_FACTOR", "32768", "give 32767 or less"),
        ("COLLECTOR__SPOOL__BYTES_MAX", "1" + "0" * 30, "give 9223372036854775807 or less"),
    ],
)
def test_a_number_that_database_or_broker_cannot_hold_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, rule: str
) -> None:
    """Such a retention ended `up` with a traceback, and `ingest` waited for ever."""
    monkeypatch.setenv(f"AUDITAP_{name}", value)
    assert mistake().endswith(f"is wrong: {rule}.")


def test_a_number_in_a_list_of_tables_has_bounds_too() -> None:
    lookup = {
        "kind": "account",
        "url": "http://127.0.0.1/{key}",
        "pointers": {"name": "/name"},
        "timeout_ms": 10**30,
    }
    assert "enrich.http_lookups.0.timeout_ms" in mistake(enrich={"http_lookups": [lookup]})


def test_records_may_be_kept_for_a_hundred_years() -> None:
    load_settings(ingest={"bounds": {"retention_days": 36_500}}, kafka={"retention_ms": 36_500 * 86_400_000})


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('data_dir = "S3CRET\\u0000"', ", line 1: the setting data_dir is wrong: it holds a NUL character."),
        (
            '[[redaction.documents]]\npath = "S3CRET\\u0000"',
            ", line 2: the setting redaction.documents.0.path is wrong: it holds a NUL character.",
        ),
        ('"a\\u0000" = 1', ": a name in it holds a NUL character."),
        (
            "data_dir = " + "[" * 5_000 + "]" * 5_000,
            ": a list or table in it is nested too deeply. Correct it.",
        ),
        (
            "data_dir = " + "[" * 100 + "]" * 100,
            ", line 1: the setting data_dir.0.0.0 is wrong: it is nested too deeply.",
        ),
        ("kafka.partitions = 1" + "0" * 5_000, ": a number in it has too many digits. Correct it."),
    ],
)
def test_a_file_with_a_value_that_no_reader_takes_is_refused(
    tmp_path: Path, text: str, sentence: str
) -> None:
    """They ended the process with a traceback, in which the value stood."""
    (tmp_path / "auditap.toml").write_text(text)
    assert mistake() == f"auditap.toml{sentence}"


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("COLLECTOR__IDENTITY_KEY", b"\xff" * 40, "collector.identity_key is wrong: it is not UTF-8"),
        ("DATA_DIR", b"\xff", "data_dir is wrong: it is not UTF-8"),
        (
            "REDACTION__DOCUMENTS",
            b'[{"path": "\\ud800"}]',
            "redaction.documents.0.path is wrong: it is not UTF-8",
        ),
        (
            "REDACTION__DOCUMENTS",
            b'[{"\\ud800": 1}]',
            "redaction.documents.0 is wrong: a name in it is not UTF-8",
        ),
        (
            "API__ORGANIZATIONS",
            b'{"a": ["\\u0000"]}',
            "api.organizations.a.0 is wrong: it holds a NUL character",
        ),
        ("REDACTION__DOCUMENTS", b"[" * 100_000, "redaction.documents is wrong: it is nested too deeply"),
        ("KAFKA", b'{"topic":' * 100_000, "kafka is wrong: it is nested too deeply"),
    ],
)
def test_a_variable_with_a_value_that_no_reader_takes_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: bytes, rule: str
) -> None:
    variable = f"AUDITAP_{name}"
    monkeypatch.setenv(variable, os.fsdecode(value))
    assert mistake() == f"Environment variable {variable}: the setting {rule}."


@pytest.mark.parametrize(
    "name", ["KAFKA__PARTITIONS", "API__REQUESTS_PER_S", "INGEST__BOUNDS__RETENTION_DAYS"]
)
@pytest.mark.parametrize("digits", [400, 4_000, 5_000])
def test_a_number_of_many_digits_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, digits: int
) -> None:
    (tmp_path / "auditap.toml").write_text(f"{name.lower().replace('__', '.')} = {'9' * digits}")
    assert "99" not in mistake()
    (tmp_path / "auditap.toml").unlink()
    monkeypatch.setenv(f"AUDITAP_{name}", "9" * digits)
    assert "99" not in mistake()


@pytest.mark.parametrize(
    "name", ["authorization", "proxy-authorization", "cookie", "set-cookie", "www-authenticate"]
)
def test_a_header_with_credentials_is_never_recorded(name: str) -> None:
    for setting, value in (("actor_id", name), ("user_agent", name), ("request_ids", ["cf-ray", name])):
        sentence = mistake(redaction={"headers": {setting: value}})
        assert f"redaction.headers.{setting} names a header that carries credentials" in sentence


@pytest.mark.parametrize("text", ["m\xfcnchen-" * 4, "token-of-a-tap token-of-a-tap"])
def test_a_token_file_holds_what_a_header_can(tmp_path: Path, text: str) -> None:
    """Regression: `auditap replay` and `auditap query` ended with a traceback."""
    file = tmp_path / "token"
    file.write_text(text)
    with pytest.raises(StartupError, match=r"token holds (a character that is not|more than one)"):
        log_reader(load_settings(), "a", "http://127.0.0.1:1", file)


@pytest.mark.parametrize("path", ["", " "])
@pytest.mark.parametrize(
    "name", ["DATA_DIR", "HEALTH_TOKEN_FILE", "COLLECTOR__SOCKET", "API__ADDRESS__TLS__KEY"]
)
def test_an_empty_path_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, path: str
) -> None:
    """`AUDITAP_DATA_DIR=` wrote keys into the working directory."""
    setting = name.lower().replace("__", ".")
    rule = f"the setting {setting} is wrong: it is empty; name a file or folder, or leave it out."
    (tmp_path / "auditap.toml").write_text(f'{setting} = "{path}"')
    assert f"auditap.toml, line 1: {rule}" in mistake()
    (tmp_path / "auditap.toml").unlink()
    monkeypatch.setenv(f"AUDITAP_{name}", path)
    assert f"Environment variable AUDITAP_{name}: {rule}" in mistake()


def test_an_empty_path_in_a_list_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUDITAP_REDACTION__DOCUMENTS", '[{"path": "a"}, {"path": ""}]')
    assert "redaction.documents.1.path is wrong: it is empty" in mistake()


@pytest.mark.parametrize(
    ("host", "rule"),
    [
        ("[::1]", "write an IPv6 address without brackets"),
        ("", "it is no IP address and no host name"),
        ("a b", "it is no IP address and no host name"),
        ("http://x", "it is no IP address and no host name"),
        ("127.0.0.1:8400", "it is no IP address and no host name"),
        ("a..b", "it is no IP address and no host name"),
        ("*", "it is no IP address and no host name"),
    ],
)
@pytest.mark.parametrize("part", ["collector", "ingest", "api", "alerting"])
def test_a_host_that_nothing_can_listen_on_is_refused(part: str, host: str, rule: str) -> None:
    """With `plain_http_allowed`, an empty one listened on all interfaces."""
    sentence = mistake(plain_http_allowed=True, **{part: {"address": {"host": host, "port": 1}}})
    assert f"{part}.address.host" in sentence
    assert rule in sentence


@pytest.mark.parametrize("host", ["::1", "fe80::1%eth0", "10.0.0.1", "localhost", "db-1.internal."])
def test_addresses_and_names_can_be_listened_on(host: str) -> None:
    load_settings(plain_http_allowed=True, api={"address": {"host": host}})


@pytest.mark.parametrize("tap", ["a" * 65, "a" * 65 + "*", "a" * 64 + "[!ab]"])
def test_a_token_for_a_tap_with_an_id_that_is_too_long_is_refused(tap: str) -> None:
    longest = "a" * 63 + "[abc]*"
    tokens = [{"sha256": "0" * 64, "taps": ["a" * 64, longest]}, {"sha256": "1" * 64, "taps": [tap]}]
    assert "collector.tokens.1.taps is wrong: list ids of taps that have at most 64" in mistake(
        collector={"tokens": tokens}
    ).replace(" (AUDITAP_COLLECTOR__TOKENS)", "")


def test_a_base_path_has_one_slash_at_a_time() -> None:
    documents = [{"path": "a.yaml", "base_paths": ["//v1"]}]
    assert "base_paths of a.yaml: begin with a slash" in mistake(redaction={"documents": documents})


def test_topics_that_kafka_takes_for_the_same_are_refused() -> None:
    kafka = {"bootstrap_servers": "k", "topic": "auditap.events", "dead_letter_topic": "auditap_events"}
    assert "are the same topic" in mistake(kafka=kafka)


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("REDACTION__DOCUMENTS", "x", 'give a list in JSON, such as [{"path": "a"}, {"path": "b"}]'),
        ("REDACTION__DOCUMENTS", "{}", 'give a list in JSON, such as [{"path": "a"}, {"path": "b"}]'),
        ("REDACTION__EXCLUDED_OPERATIONS", '{"a": 1}', 'give a list in JSON, such as ["a", "b"]'),
        ("COLLECTOR__ADDRESS__PORT", "70000", "give a number less than or equal to 65535"),
        ("KAFKA__PARTITIONS", "9" * 5_000, "give a whole number of fewer digits"),
    ],
)
def test_a_rule_is_one_plain_sentence(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, rule: str
) -> None:
    monkeypatch.setenv(f"AUDITAP_{name}", value)
    setting = name.lower().replace("__", ".")
    assert mistake() == f"Environment variable AUDITAP_{name}: the setting {setting} is wrong: {rule}."


def test_in_a_file_lists_of_tables_are_of_tables(tmp_path: Path) -> None:
    (tmp_path / "auditap.toml").write_text('redaction.documents = "x"')
    assert mistake().endswith('give a list of tables, such as [{ path = "a" }, { path = "b" }].')


def test_an_organization_has_a_name() -> None:
    sentence = "api.organizations holds an organization without a name: name it."
    assert mistake(api={"organizations": {"": ["a"]}}) == sentence


def test_a_certificate_file_that_is_none_is_called_so(tmp_path: Path) -> None:
    for text in ("x", "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n"):
        (tmp_path / "ca.pem").write_text(text)
        with pytest.raises(ssl.SSLError) as caught:
            ssl.create_default_context(cafile=tmp_path / "ca.pem")
        assert "is no PEM file" in (session_refusal(caught.value) or "")
    assert session_refusal(ssl.SSLEOFError(8, "EOF")) is None
