from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from auditap.settings import Settings, admin_dsn, load_or_create_key, load_settings, required_dsn
from auditap.settings_reference import settings_reference
from schemas.errors import StartupError
from tests.settings_mistakes import mistake

SECRET = "S3CRETvalue"


@pytest.fixture(autouse=True)
def _nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


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
        '[redaction]\ndocuments = [{path = "a.yaml", envelope = "result"}]\n[redaction.limits]\nbody_bytes_max = 9\n'
        '[[enrich.http_lookups]]\nkind = "account"\nurl = "http://127.0.0.1/{key}"\npointers = {name = "/name"}\n'
    )
    monkeypatch.setenv("AUDITAP_INGEST__BOUNDS__BATCH_EVENTS_MAX", "77")
    settings = load_settings()
    assert settings.ingest.bounds.batch_events_max == 77
    assert settings.redaction.documents[0].envelope == "result"
    assert settings.redaction.limits.body_bytes_max == 9
    assert settings.enrich.http_lookups[0].kind == "account"


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        (
            "AUDITAP_INGEST__GAP_LEDGER__WATERMARK_HOLD_MS",
            "86400001",
            "watermark_hold_ms of the gap ledger must be from 60000 to 86400000.",
        ),
        (
            "AUDITAP_KAFKA__PARTITIONS",
            SECRET,
            "Environment variable AUDITAP_KAFKA__PARTITIONS: the setting kafka.partitions is wrong",
        ),
        ("AUDITAP_KAFKA__PARTITIONS", "0", "greater than or equal to 1"),
        (
            "AUDITAP_KAFKA__PRTITIONS",
            SECRET,
            "Environment variable AUDITAP_KAFKA__PRTITIONS is no setting. Did you mean AUDITAP_KAFKA__PARTITIONS?",
        ),
        ("AUDITAP_NOPE", SECRET, "AUDITAP_NOPE: there is no setting nope. Correct its name or remove it."),
        (
            "AUDITAP_DATA_DIR__X",
            SECRET,
            "Environment variable AUDITAP_DATA_DIR__X is no setting. Did you mean AUDITAP_DATA_DIR?",
        ),
        (
            "AUDITAP_KAFKA__TOPIC__X__Y",
            SECRET,
            "Environment variable AUDITAP_KAFKA__TOPIC__X__Y is no setting. Did you mean AUDITAP_KAFKA__TOPIC?",
        ),
        (
            "AUDITAP_DATA_DIR",
            f'{{"x": "{SECRET}"}}',
            "AUDITAP_DATA_DIR: the setting data_dir is wrong: give a path.",
        ),
        ("AUDITAP_KAFKA", "{" + SECRET, "Environment variable AUDITAP_KAFKA: this is not JSON"),
        (
            "AUDITAP_KAFKA",
            SECRET,
            "AUDITAP_KAFKA: kafka is a group of settings. Set each by a variable of its own, such as AUDITAP_KAFKA__BOOTSTRAP_SERVERS.",
        ),
        ("AUDITAP_COLLECTOR", "", "such as AUDITAP_COLLECTOR__SOCKET."),
        ("AUDITAP_COLLECTOR__ADDRESS", SECRET, "such as AUDITAP_COLLECTOR__ADDRESS__HOST."),
        (
            "AUDITAP_REDACTION__EXCLUDED_OPERATIONS",
            SECRET,
            'AUDITAP_REDACTION__EXCLUDED_OPERATIONS: the setting redaction.excluded_operations is wrong: give a list in JSON, such as ["a", "b"].',
        ),
        (
            "AUDITAP_REDACTION__DOCUMENTS",
            SECRET,
            "the setting redaction.documents is wrong: give a list in JSON",
        ),
        ("AUDITAP_COLLECTOR__TOKENS", SECRET, "the setting collector.tokens is wrong: give a list in JSON"),
        ("AUDITAP_API__ORGANIZATIONS", SECRET, "api.organizations is wrong: give an object in JSON"),
        ("AUDITAP_API__ORGANIZATIONS__ACME", SECRET, "api.organizations.acme is wrong: give a list in JSON"),
        (
            "AUDITAP_API__PRODUCT_CATEGORIES",
            SECRET,
            "api.product_categories is wrong: give an object in JSON",
        ),
        (
            "AUDITAP_COLLECTOR__TOKENS",
            f'[{{"sha256": "{SECRET}", "taps": ["*"]}}]',
            "collector.tokens.0.sha256 is wrong: give the 64 hex digits, in lower case, that `printf %s",
        ),
        ("AUDITAP_INGEST__BOUNDS__MALFORMED_SHARE_MAX", "1.5", "set it to a number from 0 to 1"),
        ("AUDITAP_INGEST__BOUNDS__MALFORMED_SHARE_MAX", "nan", "set it to a number from 0 to 1"),
        ("AUDITAP_LOG_LEVEL", SECRET, "log_level"),
        ("AUDITAP_COLLECTOR__ADDRESS__HOST", "0.0.0.0", "collector.address.host is not loopback"),  # noqa: S104
        ("AUDITAP_HTTP__CONNECTIONS_MAX", "0", "greater than or equal to 1"),
        ("AUDITAP_HTTP__CONNECTIONS_PER_ADDRESS_MAX", "0", "greater than or equal to 1"),
        (
            "AUDITAP_API__HEALTH_ADDRESS",
            '{"host": "0.0.0.0", "port": 8407}',
            "api.health_address.host is not loopback: set api.health_address.tls",
        ),
        (
            "AUDITAP_COLLECTOR__HEALTH_ADDRESS",
            '{"host": "0.0.0.0", "port": 8406}',
            "collector.health_address.host is not loopback",
        ),
        ("AUDITAP_COLLECTOR__HEALTH_ADDRESS__HOST", "127.0.0.1", "collector.health_address.port"),
        ("AUDITAP_REDACTION__LIMITS__BODY_BYTES_MAX", "0", "body_bytes_max must be at least 1"),
        (
            "AUDITAP_CONFIG",
            "/nowhere/auditap.toml",
            "AUDITAP_CONFIG names /nowhere/auditap.toml, which is not a file",
        ),
    ],
)
def test_a_mistake_is_reported_in_a_sentence_without_its_value(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, sentence: str
) -> None:
    monkeypatch.setenv(variable, value)
    message = mistake()
    assert sentence in message
    assert SECRET not in message
    assert message.endswith((".", "?"))


@pytest.mark.parametrize("wrong", ["nope", 5, 1.5, ["a"], [1], {"a": "b"}, {"a": 1}, True, None])
def test_no_mistake_speaks_of_python(wrong: object) -> None:
    """Regression: `input should be a valid frozenset`."""
    sentences = []
    for entry in settings_reference():
        try:
            load_settings(**_only(entry.name, wrong))
        except StartupError as refused:
            sentences.append(str(refused).lower())
    assert sentences
    pythons = ("frozenset", "tuple", "dict", "mapping", "class", "parse", "input should be a valid")
    assert [each for each in sentences if any(word in each for word in pythons)] == []


def _only(name: str, value: object) -> dict[str, object]:
    """Return the raw settings in which one setting stands alone."""
    for step in reversed(name.split(".")):
        value = {step.removesuffix("[]"): [value] if step.endswith("[]") else value}
    assert isinstance(value, dict)
    return value


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"collector": {"health_address": {"port": 8400}}},
            "collector.address and collector.health_address both have the port 8400",
        ),
        (
            {"api": {"address": {"host": "localhost"}, "health_address": {"port": 8401}}},
            "api.address and api.health_address both have the port 8401",
        ),
    ],
)
def test_two_listeners_of_a_process_have_two_ports(settings: dict[str, object], sentence: str) -> None:
    assert sentence in mistake(**settings)


def test_listeners_may_share_a_port_on_other_interfaces() -> None:
    load_settings(collector={"health_address": {"host": "::1", "port": 8400}})
    load_settings(collector={"address": {"port": 0}, "health_address": {"port": 0}})
    everywhere = {"address": {"host": "0.0.0.0", "port": 1}, "health_address": {"port": 1}}  # noqa: S104
    assert "both have the port 1" in mistake(collector=everywhere, plain_http_allowed=True)


def test_the_names_in_a_table_of_names_are_the_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUDITAP_API__ORGANIZATIONS__ACME", '["a"]')
    assert load_settings().api.organizations == {"acme": ("a",)}


PATHS = """
data_dir = "data"
[[redaction.documents]]
path = "api/openapi.yaml"
[[redaction.documents]]
path = "/etc/openapi.yaml"
[collector]
socket = "run/collector.sock"
[api.address.tls]
certificate = "api.pem"
key = "../api.key"
[kafka]
topic = "not-a-path"
"""


def test_paths_in_a_file_are_relative_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "auditap.toml").write_text(PATHS)
    monkeypatch.setenv("AUDITAP_CONFIG", str(tmp_path / "auditap.toml"))
    monkeypatch.setenv("AUDITAP_KAFKA__CA_FILE", "ca.pem")
    settings = load_settings()
    documents = [each.path for each in settings.redaction.documents]
    assert documents == [tmp_path / "api/openapi.yaml", Path("/etc/openapi.yaml")]
    assert settings.data_dir == tmp_path / "data"
    assert settings.collector.socket == tmp_path / "run/collector.sock"
    tls = settings.api.address.tls
    assert tls is not None
    assert (tls.certificate, tls.key) == (tmp_path / "api.pem", tmp_path / "../api.key")
    assert (settings.kafka.topic, settings.kafka.ca_file) == ("not-a-path", Path("ca.pem"))
    # In the working directory, paths stay as they are written.
    monkeypatch.delenv("AUDITAP_CONFIG")
    monkeypatch.chdir(tmp_path)
    assert load_settings().redaction.documents[0].path == Path("api/openapi.yaml")


def test_a_mesh_may_encrypt_in_place_of_the_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUDITAP_API__ADDRESS__HOST", "0.0.0.0")  # noqa: S104
    assert "where a mesh encrypts, set plain_http_allowed" in mistake()
    monkeypatch.setenv("AUDITAP_PLAIN_HTTP_ALLOWED", "true")
    assert load_settings().api.address.tls is None


def test_a_capture_may_hold_two_of_the_longest_bodies() -> None:
    assert load_settings().intake_limits.line_bytes_max == 4 << 20
    longer = load_settings(redaction={"limits": {"body_bytes_max": 2 << 20}})
    assert longer.intake_limits.line_bytes_max == 8 << 20
    shorter = load_settings(redaction={"limits": {"body_bytes_max": 1_000}})
    assert shorter.intake_limits.line_bytes_max == 4 << 20


def test_every_mistake_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUDITAP_KAFKA__PARTITIONS", "x")
    monkeypatch.setenv("AUDITAP_API__CONNECTIONS_MAX", "0")
    monkeypatch.setenv("AUDITAP_NOPE", "1")
    assert len(mistake().splitlines()) == 3


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "auditap.toml").write_text("data_dir = 'elsewhere'", encoding="utf-8-sig")
    assert load_settings().data_dir == Path("elsewhere")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (f"a = 1\n{SECRET} = = 1", "auditap.toml, line 2, column 15: this is not TOML. Correct its syntax."),
        (f'a = "{SECRET}', "auditap.toml, at its end: this is not TOML. Correct its syntax."),
        ("\xe9", "auditap.toml is not UTF-8: save it in that encoding."),
    ],
)
def test_a_file_that_is_not_toml_is_named_with_the_place(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "auditap.toml").write_text(text, encoding="latin-1")
    assert mistake() == sentence


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "[kafka]\n\nbotstrap_servers = 'x'",
            "line 3: there is no setting kafka.botstrap_servers. Did you mean kafka.bootstrap_servers?",
        ),
        (
            "[enrich]\npostgres_lookups = [{ key_column = 'id' }]",
            "line 2: enrich.postgres_lookups.0.key_column is a constant that no setting changes. Remove it.",
        ),
        ("[kafak]\n", "line 1: there is no setting kafak. Did you mean kafka?"),
        (
            "[ingest]\nretention_days = 3",
            "line 2: there is no setting ingest.retention_days. Did you mean ingest.bounds.retention_days?",
        ),
        (
            "[redaction]\ndocuments = [{ pth = 'a' }]",
            "line 2: there is no setting redaction.documents.0.pth. Did you mean redaction.documents.0.path?",
        ),
        (
            "[[enrich.http_lookups]]\nkind = 'zone'\n[[enrich.http_lookups]]\n[enrich.http_lookups.cache]\nttl = 1",
            "line 5: there is no setting enrich.http_lookups.1.cache.ttl. Did you mean enrich.http_lookups.1.cache.ttl_ms?",
        ),
        (
            "[api.product_categories.a]\nlabl = 'x'",
            "line 2: there is no setting api.product_categories.a.labl. Did you mean api.product_categories.a.label?",
        ),
        ("[kafka]\npartitions = 0 # few", "line 2: the setting kafka.partitions is wrong: "),
        (
            "[redaction]\ndocuments = [{}]",
            "line 2: the setting redaction.documents.0.path is wrong: it is required.",
        ),
        (
            "[ingest.bounds]\nretention_days = 0",
            "line 2: the setting ingest.bounds.retention_days is wrong: give 1 or more.",
        ),
        ("kafka.partitions = 0", "line 1: the setting kafka.partitions is wrong: "),
    ],
)
def test_a_mistake_in_the_file_is_reported_with_its_line(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "auditap.toml").write_text(text)
    assert f"auditap.toml, {sentence}" in mistake()


@pytest.mark.parametrize(
    ("variable", "name"),
    [
        ("AUDITAP_INGEST__BOUNDS__COMMIT_INTERVAL_MS", "ingest.bounds.commit_interval_ms"),
        ("AUDITAP_COLLECTOR__REPORT_INTERVAL_MS", "collector.report_interval_ms"),
        ("AUDITAP_ALERTING__DELIVERY__TIMEOUT_MS", "alerting.delivery"),
    ],
)
def test_a_constant_is_no_setting(variable: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "1")
    assert (
        mistake()
        == f"Environment variable {variable}: {name} is a constant that no setting changes. Remove it."
    )
    monkeypatch.delenv(variable)
    limits = load_settings(ingest={"bounds": {"commit_interval_ms": 1}}).ingest.bounds
    assert limits.commit_interval_ms == 1


@pytest.mark.parametrize("text", ["[ab", "{ab", '{"a": 1}', "[1]"])
def test_a_text_or_secret_may_begin_as_json_does(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("AUDITAP_KAFKA__SASL_PASSWORD", text)
    monkeypatch.setenv("AUDITAP_POSTGRES__WRITER_PASSWORD", text)
    monkeypatch.setenv("AUDITAP_KAFKA__BOOTSTRAP_SERVERS", "[::1]:9092")
    settings = load_settings()
    for secret in (settings.kafka.sasl_password, settings.postgres.writer_password):
        assert secret is not None
        assert secret.get_secret_value() == text
    assert settings.kafka.bootstrap_servers == "[::1]:9092"


def test_secrets_are_in_no_repr(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "POSTGRES__WRITER_DSN",
        "POSTGRES__ADMIN_DSN",
        "POSTGRES__WRITER_PASSWORD",
        "KAFKA__SASL_PASSWORD",
        "COLLECTOR__IDENTITY_KEY",
        "API__CURSOR_KEY",
    ):
        text = f"postgresql://auditap:{SECRET}@db/auditap" if name.endswith("_DSN") else SECRET
        monkeypatch.setenv(f"AUDITAP_{name}", text)
    settings = load_settings()
    assert SECRET not in f"{settings!r} {settings} {settings.model_dump_json()}"


def test_a_kept_secret_stays_the_same_and_is_private(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    first = load_or_create_key(settings, "identity.key", None)
    assert len(first) >= 32
    assert load_or_create_key(settings, "identity.key", None) == first
    assert (tmp_path / "identity.key").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("given", [SECRET, f"{SECRET}{' ' * 40}x"])
def test_a_secret_that_is_too_short_is_refused(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("AUDITAP_COLLECTOR__IDENTITY_KEY", given)
    settings = load_settings()
    with pytest.raises(StartupError, match="has fewer than 32 characters") as caught:
        load_or_create_key(settings, "identity.key", settings.collector.identity_key)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("name", ["identity.key", "cursor.key"])
@pytest.mark.parametrize("left", ["", "\n", "\0" * 43, "x" * 31])
def test_a_kept_secret_that_was_written_halfway_is_refused(tmp_path: Path, name: str, left: str) -> None:
    (tmp_path / name).write_text(left)
    with pytest.raises(
        StartupError, match=r"(is empty|has fewer than 32 characters): put back the key"
    ) as caught:
        load_or_create_key(Settings(data_dir=tmp_path), name, None)
    assert str(tmp_path / name) in str(caught.value)
    assert (tmp_path / name).read_text() == left


def test_white_space_around_a_kept_key_stays_part_of_it(tmp_path: Path) -> None:
    (tmp_path / "identity.key").write_text("k" * 32 + "\n")
    assert load_or_create_key(Settings(data_dir=tmp_path), "identity.key", None) == b"k" * 32 + b"\n"


@pytest.mark.parametrize(
    "name", ["KAFKA__SASL_PASSWORD", "POSTGRES__WRITER_PASSWORD", "POSTGRES__READER_DSN", "API__CURSOR_KEY"]
)
@pytest.mark.parametrize("text", ["", " "])
def test_an_empty_secret_is_no_secret(monkeypatch: pytest.MonkeyPatch, name: str, text: str) -> None:
    monkeypatch.setenv(f"AUDITAP_{name}", text)
    assert f"AUDITAP_{name}" in mistake()
    assert "it is empty" in mistake()


def test_the_digest_of_an_empty_token_is_refused() -> None:
    nothing = hashlib.sha256(b"").hexdigest()
    sentence = mistake(collector={"tokens": [{"sha256": nothing, "taps": ["*"]}]})
    assert "it is the digest of an empty token" in sentence
    assert nothing not in sentence


@pytest.mark.parametrize("taps", [[], [""], ["web 1"], ["-web"], ["web-1,web-2"], ["/web/*"]])
def test_a_pattern_that_no_tap_can_match_is_refused(taps: list[str]) -> None:
    sentence = mistake(
        collector={"tokens": [{"sha256": "0" * 64, "taps": ["web-1"]}, {"sha256": "1" * 64, "taps": taps}]}
    )
    assert "collector.tokens.1.taps" in sentence
    assert "list the ids of taps, such as web-1, or patterns, such as web-*" in sentence


def test_the_taps_of_a_token_may_be_patterns() -> None:
    taps = ("*", "web-*", "eu.web_1:8", "web-[ab]?")
    [token] = load_settings(collector={"tokens": [{"sha256": "0" * 64, "taps": taps}]}).collector.tokens
    assert token.taps == taps


def test_a_token_is_listed_once() -> None:
    token = {"sha256": "0" * 64, "taps": ["web-1"]}
    assert "collector.tokens holds one sha256 twice" in mistake(collector={"tokens": [token, token]})


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"kafka": {"topic": ""}}, "kafka.topic cannot be a topic's name"),
        ({"kafka": {"topic": "audit events"}}, "kafka.topic cannot be a topic's name"),
        ({"kafka": {"dead_letter_topic": ".."}}, "kafka.dead_letter_topic cannot be a topic's name"),
        ({"kafka": {"group": ""}}, "kafka.group is empty"),
        ({"alerting": {"group": " "}}, "alerting.group is empty"),
        (
            {"api": {"organizations": {"acme": [""]}}},
            "api.organizations.acme holds no account, or an id that no account has",
        ),
        ({"api": {"organizations": {"acme": ["a", " b"]}}}, "api.organizations.acme holds no account"),
        ({"api": {"organizations": {"acme": ["-"]}}}, "api.organizations.acme holds no account"),
        ({"api": {"organizations": {"acme": []}}}, "api.organizations.acme holds no account"),
    ],
)
def test_a_name_that_nothing_can_have_is_refused(settings: dict[str, object], sentence: str) -> None:
    assert sentence in mistake(**settings)


@pytest.mark.parametrize(
    "servers",
    [
        "kafka:nope",
        "a b:9092",
        ":9092",
        ",",
        "kafka:0",
        "kafka:65536",
        "a,,b",
        "me@kafka:1",
        "kafka/x",
        "::1",
    ],
)
def test_brokers_that_no_client_can_reach_are_refused(servers: str) -> None:
    """`kafka:nope` ended in a traceback, `kafka:65536` in waiting."""
    assert "kafka.bootstrap_servers is host:port,host:port and nothing else" in mistake(
        kafka={"bootstrap_servers": servers}
    )


@pytest.mark.parametrize("servers", ["kafka", "kafka-1:9092, kafka-2:9093", "[::1]:9092", "10.0.0.1:9092"])
def test_brokers_are_hosts_and_ports(servers: str) -> None:
    assert load_settings(kafka={"bootstrap_servers": servers}).kafka.bootstrap_servers == servers


def test_no_dead_letter_topic_is_a_setting() -> None:
    assert load_settings(kafka={"dead_letter_topic": ""}).kafka.dead_letter_topic == ""


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"kafka": {"bootstrap_servers": "k:9092", "dead_letter_topic": "auditap.events"}},
            "are the same topic",
        ),
        ({"alerting": {"group": "auditap-ingest"}}, "are the same consumer group"),
    ],
)
def test_what_has_to_differ_is_refused_where_it_is_the_same(
    settings: dict[str, object], sentence: str
) -> None:
    assert sentence in mistake(**settings)


@pytest.mark.parametrize(
    ("documents", "sentence"),
    [
        (
            {"hosts": ["https://api.internal"]},
            "redaction.documents[].hosts of b.yaml: write a host name alone, such as",
        ),
        ({"base_paths": ["api"]}, "redaction.documents[].base_paths of b.yaml: begin with a slash"),
    ],
)
def test_a_document_whose_hosts_or_paths_no_request_can_have_is_named(
    documents: dict[str, object], sentence: str
) -> None:
    assert sentence in mistake(redaction={"documents": [{"path": "a.yaml"}, {"path": "b.yaml", **documents}]})


def test_a_postgres_password_that_was_written_halfway_is_refused(tmp_path: Path) -> None:
    passwords = tmp_path / "postgres" / "passwords"
    passwords.mkdir(parents=True)
    (passwords / "postgres").touch()
    (tmp_path / "postgres" / "port").write_text("5432")
    with pytest.raises(StartupError, match="postgres is empty: put it back"):
        admin_dsn(Settings(data_dir=tmp_path))


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
