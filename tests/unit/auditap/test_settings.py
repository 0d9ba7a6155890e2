from __future__ import annotations

from pathlib import Path

import pytest

from auditap.settings import Settings, admin_dsn, kept_secret, load_settings, required_dsn
from auditap.settings_reference import settings_reference
from schemas.errors import StartupError

SECRET = "S3CRETvalue"


@pytest.fixture(autouse=True)
def _nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def mistake(**overrides: object) -> str:
    with pytest.raises(StartupError) as caught:
        load_settings(**overrides)
    return str(caught.value)


def test_without_settings_everything_is_embedded_and_on_loopback() -> None:
    settings = load_settings()
    assert settings.embedded_log
    assert settings.embedded_postgres
    for address in (settings.collector.address, settings.api.address, settings.ingest.address):
        assert address.is_loopback
    assert settings.collector_socket == Path("auditap-data/collector.sock")


def test_the_environment_goes_before_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "auditap.toml").write_text('[kafka]\npartitions = 3\nbootstrap_servers = "k:9092"\n')
    monkeypatch.setenv("AUDITAP_KAFKA__PARTITIONS", "5")
    settings = load_settings()
    assert (settings.kafka.partitions, settings.kafka.bootstrap_servers) == (5, "k:9092")
    assert not settings.embedded_log


def test_the_parts_own_bounds_are_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "auditap.toml").write_text(
        '[redaction]\ndocuments = [{path = "a.yaml", envelope = "result"}]\n[redaction.limits]\ndepth_max = 9\n'
        '[[enrich.look_ups]]\nkind = "account"\nurl = "http://127.0.0.1/{key}"\npointers = {name = "/name"}\n'
    )
    monkeypatch.setenv("AUDITAP_INGEST__BOUNDS__BATCH_EVENTS_MAX", "77")
    settings = load_settings()
    assert settings.ingest.bounds.batch_events_max == 77
    assert settings.redaction.documents[0].envelope == "result"
    assert settings.redaction.limits.depth_max == 9
    assert settings.enrich.look_ups[0].kind == "account"


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        (
            "AUDITAP_KAFKA__PARTITIONS",
            SECRET,
            "The setting kafka.partitions (AUDITAP_KAFKA__PARTITIONS) is wrong",
        ),
        ("AUDITAP_KAFKA__PARTITIONS", "0", "greater than or equal to 1"),
        ("AUDITAP_KAFKA__PRTITIONS", SECRET, "There is no setting kafka.prtitions"),
        ("AUDITAP_NOPE", SECRET, "There is no setting AUDITAP_NOPE"),
        ("AUDITAP_KAFKA", "{" + SECRET, "is not JSON"),
        ("AUDITAP_LOG_LEVEL", SECRET, "log_level"),
        ("AUDITAP_COLLECTOR__ADDRESS__HOST", "0.0.0.0", "collector.address.host is not loopback"),  # noqa: S104
        ("AUDITAP_REDACTION__LIMITS__DEPTH_MAX", "0", "depth_max must be at least 1"),
        (
            "AUDITAP_CONFIG",
            "/nowhere/auditap.toml",
            "AUDITAP_CONFIG names /nowhere/auditap.toml, which is no file",
        ),
    ],
)
def test_a_mistake_is_told_in_a_sentence_without_its_value(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, sentence: str
) -> None:
    monkeypatch.setenv(variable, value)
    told = mistake()
    assert sentence in told
    assert SECRET not in told
    assert told.endswith(".")


def test_every_mistake_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUDITAP_KAFKA__PARTITIONS", "x")
    monkeypatch.setenv("AUDITAP_API__CONNECTIONS_MAX", "0")
    monkeypatch.setenv("AUDITAP_NOPE", "1")
    assert len(mistake().splitlines()) == 3


def test_a_file_that_is_no_toml_is_told(tmp_path: Path) -> None:
    (tmp_path / "auditap.toml").write_text(f"{SECRET} = = 1")
    assert mistake() == "auditap.toml is not TOML: correct its syntax."


def test_secrets_are_in_no_repr(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "POSTGRES__WRITER_DSN",
        "POSTGRES__ADMIN_DSN",
        "POSTGRES__WRITER_PASSWORD",
        "KAFKA__SASL_PASSWORD",
        "COLLECTOR__IDENTITY_KEY",
        "API__CURSOR_KEY",
    ):
        monkeypatch.setenv(f"AUDITAP_{name}", SECRET)
    settings = load_settings()
    assert SECRET not in f"{settings!r} {settings} {settings.model_dump_json()}"


def test_a_kept_secret_stays_the_same_and_is_private(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    first = kept_secret(settings, "identity.key", None)
    assert len(first) >= 32
    assert kept_secret(settings, "identity.key", None) == first
    assert (tmp_path / "identity.key").stat().st_mode & 0o777 == 0o600


def test_a_secret_that_is_too_short_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUDITAP_COLLECTOR__IDENTITY_KEY", SECRET)
    settings = load_settings()
    with pytest.raises(StartupError, match="at least 32 characters") as caught:
        kept_secret(settings, "identity.key", settings.collector.identity_key)
    assert SECRET not in str(caught.value)


def test_a_process_says_which_address_it_lacks() -> None:
    with pytest.raises(StartupError, match="AUDITAP_POSTGRES__WRITER_DSN"):
        required_dsn(load_settings(), "writer_dsn")
    with pytest.raises(StartupError, match="auditap up"):
        admin_dsn(load_settings())


def _numbers() -> list[str]:
    return [
        each.variable
        for each in settings_reference()
        if each.variable and each.default.replace(".", "", 1).isdecimal()
    ]


@pytest.mark.parametrize("variable", _numbers())
def test_no_setting_takes_a_negative_number(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "-1")
    # Some parts have a sentence of their own for it.
    assert variable.rpartition("__")[2].lower() in mistake()


def test_nothing_is_kept_for_no_days_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUDITAP_INGEST__BOUNDS__RETENTION_DAYS", "0")
    assert mistake().endswith("is wrong: give 1 or more.")
