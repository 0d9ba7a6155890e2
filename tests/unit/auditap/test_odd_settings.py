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
