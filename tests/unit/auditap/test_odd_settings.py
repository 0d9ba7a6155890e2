"""Settings that no process can work with end the start in one sentence, without the value."""

from __future__ import annotations

from pathlib import Path

import pytest

from auditap.settings import load_settings
from schemas.errors import StartupError


@pytest.fixture(autouse=True)
def _nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def mistake(**overrides: object) -> str:
    with pytest.raises(StartupError) as caught:
        load_settings(**overrides)
    return str(caught.value)


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
