"""Settings: `AUDITAP_*` environment variables before `auditap.toml`; one sentence for each mistake.

Groups nest with two underscores: `AUDITAP_KAFKA__BOOTSTRAP_SERVERS`, in the file `bootstrap_servers` below
`[kafka]`. Without Kafka the log is embedded; without Postgres so is the database, both below `data_dir`.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import json
import os
import secrets
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from auditap.http_server import TlsFiles
from auditap.logs import LogFormat
from enricher.config import EnricherConfig
from gateway_tap.intake import IntakeLimits
from ingestor.config import CompletenessWaits, IngestorConfig, RetentionConfig
from log_api.config import ProductCategory
from redactor.config import RedactionConfig, SpoolBounds
from schemas.errors import StartupError
from watcher.deliver import DeliveryLimits
from watcher.watch import WatchLimits

CONFIG_FILE_VARIABLE = "AUDITAP_CONFIG"
EMBEDDED_DATABASE = "auditap"
ANOTHER_FOLDER: Final = "name its folder in data_dir (AUDITAP_DATA_DIR)"
"""What to do where `auditap up` runs, with its data elsewhere."""
_DEFAULT_CONFIG_FILE = "auditap.toml"
EVENT_BYTES_MAX = 8 * 1024 * 1024 - 1024
_EVENT_BYTES_RESERVED = 256 * 1024
_SECRETS = {"identity.key": "collector.identity_key", "cursor.key": "api.cursor_key"}
_PLAIN_RULES = {
    "missing": "it is needed here",
    "tuple_type": "give a list",
    "dataclass_type": "give a table with its settings",
    "model_type": "give a table with its settings",
    "dict_type": "give a table",
}
_NOT_SETTINGS = (CONFIG_FILE_VARIABLE, "AUDITAP_TEST_", "AUDITAP_REAL_SPECS")


class _Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Address(_Group):
    """Where an HTTP server listens. Off loopback it needs `tls`."""

    host: str = "127.0.0.1"
    port: int = Field(ge=0, le=65_535)
    tls: TlsFiles | None = None

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


class _CollectorAddress(Address):
    port: int = Field(default=8400, ge=0, le=65_535)


class _ApiAddress(Address):
    port: int = Field(default=8401, ge=0, le=65_535)


class _IngestAddress(Address):
    port: int = Field(default=8402, ge=0, le=65_535)


class TapToken(_Group):
    """A token of taps that send over TCP: its SHA-256 in hex, and the tap ids it may speak for (`*` matches)."""

    sha256: str = Field(pattern="^[0-9a-f]{64}$", repr=False)
    taps: tuple[str, ...]


class CollectorSettings(_Group):
    """The collector: a Unix socket for taps on this host, and TCP with tokens."""

    address: _CollectorAddress = _CollectorAddress()
    socket: Path | None = None
    """The Unix socket (0660); by default `collector.sock` in `data_dir`."""
    tokens: tuple[TapToken, ...] = ()
    identity_key: SecretStr | None = None
    """At least 32 characters, the same for all collectors: what derived ids are made with. By default kept in
    `data_dir`."""
    limits: IntakeLimits = IntakeLimits()
    durability: Literal["kafka", "spool"] = "kafka"
    """What makes a capture accepted where the log is Kafka. `kafka`: its acknowledgement; while it is away, 503.
    `spool`: while it is away, redacted events are fsynced to this host's disk, and published when it is back."""
    spool_dir: Path | None = None
    """The spool's folder, one for all collectors of a host; by default `spool` in `data_dir`."""
    spool: SpoolBounds = SpoolBounds()
    report_interval_ms: int = Field(default=5_000, ge=10)
    """How often a collector says on the log that it is there; taps' leases run out by the time that this tells."""
    reload_interval_ms: int = Field(default=5_000, ge=0)
    """How often changed documents are looked for; one is taken up when it has kept still for as long. 0: never."""


class KafkaSettings(_Group):
    """Kafka as the log between collectors and ingestors."""

    bootstrap_servers: str = ""
    """Empty: the embedded log."""
    topic: str = "auditap.events"
    dead_letter_topic: str = "auditap.dead-letters"
    """Where the ingestor publishes what it buries, beside the database. Empty: nowhere."""
    group: str = "auditap-ingest"
    partitions: int = Field(default=8, ge=1)
    replication_factor: int = Field(default=3, ge=1)
    min_insync_replicas: int = Field(default=2, ge=1)
    retention_ms: int = Field(default=7 * 86_400_000, ge=1)
    publish_deadline_ms: int = Field(default=10_000, ge=1)
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    sasl_username: str | None = None
    sasl_password: SecretStr | None = None
    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None


class PostgresSettings(_Group):
    """The database, one DSN for each role; a process needs its own alone. With none of them it is embedded."""

    writer_dsn: SecretStr | None = None
    reader_dsn: SecretStr | None = None
    admin_dsn: SecretStr | None = None
    """Used by `migrate`, `tokens`, `alerts` and `rules test`; also by `retention` and `dead-letters` where
    they have no DSN of their own."""
    maintainer_dsn: SecretStr | None = None
    """Drops what is older than the retention, in `ingest` and `retention`; without it `ingest` drops nothing."""
    watcher_dsn: SecretStr | None = None
    operator_dsn: SecretStr | None = None
    """Looks at dead letters, tries them again and lets them go, in `dead-letters`; without it `admin_dsn` does."""
    writer_password: SecretStr | None = None
    """Given to the role `auditap_writer` by `migrate`, where it is set."""
    reader_password: SecretStr | None = None
    """Given to the role `auditap_reader` by `migrate`, where it is set."""
    maintainer_password: SecretStr | None = None
    """Given to the role `auditap_maintainer` by `migrate`, where it is set."""
    watcher_password: SecretStr | None = None
    """Given to the role `auditap_watcher` by `migrate`, where it is set."""
    operator_password: SecretStr | None = None
    """Given to the role `auditap_operator` by `migrate`, where it is set."""
    partition_interval: Literal["hour", "day", "month"] = "day"
    """How the log is divided; recorded by the first `migrate`, and the same from then on."""
    connections_max: int = Field(default=6, ge=1)
    command_timeout_ms: int = Field(default=30_000, ge=1)


class IngestSettings(_Group):
    """The ingestor and its operators' address."""

    address: _IngestAddress = _IngestAddress()
    bounds: IngestorConfig = IngestorConfig()
    retention: RetentionConfig = RetentionConfig()
    completion_interval_ms: int = Field(default=5_000, ge=1)
    """How long completing partial records rests when it has been through all of them."""
    completion_records_max: int = Field(default=5_000, ge=1)
    """Partial records looked at in one transaction."""
    completion_share_max: float = Field(default=0.5, gt=0, le=1)
    """The part of the time that completion may work while there is work; the rest is ingest's."""
    partitions_ahead_days: int = Field(default=3, ge=1, le=300)
    completeness: CompletenessWaits = CompletenessWaits()
    completeness_interval_ms: int = Field(default=15_000, ge=1)
    """How often gaps are counted and what is known of old taps is forgotten."""
    open_letters_interval_ms: int = Field(default=15_000, ge=1)
    """How often open dead letters are counted."""


class _WatchAddress(Address):
    port: int = Field(default=8405, ge=0, le=65_535)


class WatchSettings(_Group):
    """The watcher: rules, alerts, and whom it tells."""

    address: _WatchAddress = _WatchAddress()
    rules: Path | None = None
    """The file of rules; without one the shipped rules are in force."""
    rules_poll_ms: int = Field(default=2_000, ge=1)
    """How often the file is looked at."""
    group: str = "auditap-watch"
    """The consumer group, and the name that positions are kept under."""
    limits: WatchLimits = WatchLimits()
    delivery: DeliveryLimits = DeliveryLimits()
    connections_max: int = Field(default=4, ge=1)
    marks_days: int = Field(default=35, ge=31)
    """How long it is known which records a window counted; longer than any rule looks back."""
    memories_days: int = Field(default=90, ge=1)
    """After so many days that nothing asked for it, what a rule remembers is forgotten."""
    trends_days: int = Field(default=550, ge=1)
    """How long the counts of hours are kept."""
    panes_days: int = Field(default=35, ge=1)
    """How long the counts of ten minutes are kept, of which windows that hop are made."""


class ReadAuditSettings(_Group):
    """How reading the log becomes records of the log: captures of the log API's own requests."""

    collector: str = ""
    """The collector that they go to: `unix:/path`, `http://127.0.0.1:port` or `https://host:port`; empty: nowhere."""
    token_file: Path | None = None
    """Holds the tap's token; needed over TCP."""
    tap_id: str = "log-api"
    queue_bytes_max: int = Field(default=16 << 20, ge=1)
    """Captures in memory; beyond it they are dropped and counted, and no query waits."""


class ApiSettings(_Group):
    """The log API."""

    address: _ApiAddress = _ApiAddress()
    prefix: str = "/client/v4"
    connections_max: int = Field(default=8, ge=1)
    statement_timeout_ms: int = Field(default=10_000, ge=1)
    """How long a page is looked for that holds nothing yet."""
    page_time_ms: int = Field(default=2_000, ge=1)
    """A page that holds something ends, with a cursor, once finding more takes longer than this."""
    cursor_key: SecretStr | None = None
    """At least 32 characters, the same for all API processes. By default kept in `data_dir`."""
    requests_per_s: float = Field(default=50, gt=0)
    """What one token may ask, unless it was made with a rate of its own."""
    requests_burst: int = Field(default=200, ge=1)
    """How many requests a token may send at once after a pause."""
    streams_max: int = Field(default=32, ge=1)
    """Exports and tails under way at a time, in one process."""
    tail_interval_ms: int = Field(default=1_000, ge=1)
    """How often a tail looks for new records."""
    tail_lookback_ms: int = Field(default=30_000, ge=1)
    """Records that arrive later than this after their action are left to the list."""
    organizations: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """The accounts of each organization, by its id."""
    product_categories: dict[str, ProductCategory] = Field(default_factory=dict)
    """Products under one name, for the filter `product_category`: `{ label, products = { value = label } }`."""
    read_audit: ReadAuditSettings = ReadAuditSettings()


class _Environment(EnvSettingsSource):
    """The environment, with lists and tables in JSON wherever they stand."""

    def __call__(self) -> dict[str, Any]:
        return {name: _with_json(value) for name, value in super().__call__().items()}


def _with_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _with_json(each) for name, each in value.items()}
    if isinstance(value, str) and value[:1] in {"[", "{"}:
        try:
            return json.loads(value)
        except ValueError:
            pass
        raise SettingsError("not JSON")
    return value


class UpSettings(_Group):
    """What `auditap up` runs beside the pipeline where no documents are configured."""

    example_port: int = Field(default=8403, ge=1, le=65_535)
    """The example API behind the tap."""
    directory_port: int = Field(default=8404, ge=1, le=65_535)
    """The example's directory, which the enricher asks for names."""
    traffic_per_s: float = Field(default=4, gt=0, le=1_000)
    watch: bool = True
    """Whether the watcher runs beside the pipeline."""
    alert_lines_per_minute: int = Field(default=10, ge=0)
    """How many alerts are shown on the terminal; `auditap alerts list` has all."""


class Settings(BaseSettings):
    """Everything an operator can set."""

    model_config = SettingsConfigDict(
        env_prefix="AUDITAP_", env_nested_delimiter="__", frozen=True, extra="forbid", toml_file=None
    )

    data_dir: Path = Path("auditap-data")
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: LogFormat = "auto"
    redaction: RedactionConfig = RedactionConfig()
    collector: CollectorSettings = CollectorSettings()
    kafka: KafkaSettings = KafkaSettings()
    postgres: PostgresSettings = PostgresSettings()
    ingest: IngestSettings = IngestSettings()
    enrich: EnricherConfig = EnricherConfig()
    api: ApiSettings = ApiSettings()
    watch: WatchSettings = WatchSettings()
    up: UpSettings = UpSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take arguments before the environment before the file."""
        file = config_file()
        sources: tuple[PydanticBaseSettingsSource, ...] = (init_settings, _Environment(settings_cls))
        return sources if file is None else (*sources, TomlConfigSettingsSource(settings_cls, file))

    @property
    def collector_socket(self) -> Path:
        """The collector's Unix socket."""
        return self.collector.socket or self.data_dir / "collector.sock"

    @property
    def spool_dir(self) -> Path:
        """The folder of the collectors' spool."""
        return self.collector.spool_dir or self.data_dir / "spool"

    @property
    def embedded_log(self) -> bool:
        """Whether the log is the embedded one."""
        return not self.kafka.bootstrap_servers

    @property
    def embedded_postgres(self) -> bool:
        """Whether the database is the embedded one."""
        return not any((self.postgres.writer_dsn, self.postgres.reader_dsn, self.postgres.admin_dsn))


def config_file() -> Path | None:
    """Return the settings file: what `AUDITAP_CONFIG` names, else `auditap.toml` here if there is one."""
    named = os.environ.get(CONFIG_FILE_VARIABLE)
    if named:
        return Path(named)
    return Path(_DEFAULT_CONFIG_FILE) if Path(_DEFAULT_CONFIG_FILE).is_file() else None


def load_settings(**overrides: Any) -> Settings:
    """Return the settings. Raises StartupError with one sentence for each mistake, none of which holds a value."""
    file = config_file()
    if file is not None and not file.is_file():
        raise StartupError(f"{CONFIG_FILE_VARIABLE} names {file}, which is no file: correct it or unset it.")
    mistakes = _unknown_variables()
    try:
        settings = Settings(**overrides)
    except ValidationError as error:
        mistakes += [
            _sentence(found["loc"], found["type"], found["msg"])
            for found in error.errors(include_input=False)
        ]
    except SettingsError:
        mistakes.append(
            "A variable that begins with [ or { is not JSON: correct it, or set the members of a group one by one."
        )
    except tomllib.TOMLDecodeError:
        mistakes.append(f"{file} is not TOML: correct its syntax.")
    else:
        if not mistakes:
            _check_together(settings)
            return settings
    raise StartupError("\n".join(mistakes))


def _unknown_variables() -> list[str]:
    """Return a sentence for each variable that looks like a setting and names no group of ours."""
    known = {name.upper() for name in Settings.model_fields}
    return [
        f"There is no setting {name}: correct its name or unset it."
        for name in sorted(os.environ)
        if name.startswith("AUDITAP_")
        and not name.startswith(_NOT_SETTINGS)
        and name.removeprefix("AUDITAP_").split("__")[0] not in known
    ]


def _sentence(path: tuple[int | str, ...], kind: str, message: str) -> str:
    name = ".".join(str(step) for step in path)
    if kind in {"extra_forbidden", "unexpected_keyword_argument"}:
        return f"There is no setting {name}: correct its name or remove it."
    # What stands in a list has no variable of its own.
    depth = next((depth for depth, step in enumerate(path) if isinstance(step, int)), len(path))
    variable = "AUDITAP_" + "__".join(str(step).upper() for step in path[:depth])
    rule = _PLAIN_RULES.get(kind) or message[0].lower() + message[1:]
    return f"The setting {name} ({variable}) is wrong: {rule}."


def _negative(group: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield a sentence for each bound below nothing; no setting means anything by a negative number."""
    for name, value in _members(group):
        steps = (*path, name)
        if isinstance(value, int | float) and (value < 0 or (name == "retention_days" and value < 1)):
            least = "1 or more" if name == "retention_days" else "0 or more"
            yield _sentence(steps, "", f"Give {least}")
        else:
            yield from _negative(value, steps)


def _members(group: Any) -> Iterable[tuple[str, Any]]:
    if isinstance(group, BaseModel):
        return iter(group)
    if dataclasses.is_dataclass(group) and not isinstance(group, type):
        return [(each.name, getattr(group, each.name)) for each in dataclasses.fields(group)]
    return ()


def _check_together(settings: Settings) -> None:
    if mistakes := list(_negative(settings)):
        raise StartupError("\n".join(mistakes))
    limits = settings.redaction.limits
    # Kept bodies are never longer than they were, and everything else of an event is bounded far below the reserve.
    if 2 * limits.body_bytes_max + limits.uri_bytes_max + _EVENT_BYTES_RESERVED > EVENT_BYTES_MAX:
        raise StartupError(
            "redaction.limits.body_bytes_max is too large for events to fit the log: set it to 4000000 or less."
        )
    if settings.collector.durability == "spool" and settings.embedded_log:
        raise StartupError(
            "collector.durability is spool and there is no Kafka: set kafka.bootstrap_servers, or leave it out"
            " (the embedded log is on disk by itself)."
        )
    for name, address in (
        ("collector", settings.collector.address),
        ("ingest", settings.ingest.address),
        ("api", settings.api.address),
        ("watch", settings.watch.address),
    ):
        if not address.is_loopback and address.tls is None:
            raise StartupError(
                f"{name}.address.host is not loopback: set {name}.address.tls (certificate and key), or listen on 127.0.0.1."
            )


def made_data_dir(settings: Settings) -> Path:
    """Return `data_dir`, made where it is missing: passable for taps on their way to the socket, nothing more.

    Raises StartupError where it cannot be made.
    """
    try:
        if not settings.data_dir.exists():
            settings.data_dir.mkdir(parents=True)
            settings.data_dir.chmod(0o751)
        if settings.data_dir.is_dir():
            return settings.data_dir
        reason = "it is not a folder"
    except OSError as error:
        reason = error.strerror or "unknown"
    raise StartupError(
        f"The folder data_dir ({settings.data_dir}) cannot be used ({reason}): choose another."
    )


def required_dsn(
    settings: Settings, name: Literal["writer_dsn", "reader_dsn", "watcher_dsn", "admin_dsn"]
) -> str:
    """Return a DSN that a process cannot do without. Raises StartupError where it is not set."""
    dsn: SecretStr | None = getattr(settings.postgres, name)
    if dsn is None:
        raise StartupError(
            f"Set postgres.{name} (AUDITAP_POSTGRES__{name.upper()}), or start everything embedded with `auditap up`."
        )
    return dsn.get_secret_value()


def admin_dsn(settings: Settings) -> str:
    """Return the administrator's DSN: the one set, else that of the embedded Postgres while `auditap up` runs.

    Raises StartupError where there is neither.
    """
    if not settings.embedded_postgres:
        return required_dsn(settings, "admin_dsn")
    folder = settings.data_dir / "postgres"
    try:
        password = (folder / "passwords" / "postgres").read_text()
        port = (folder / "port").read_text()
    except OSError:
        raise StartupError(
            f"There is no embedded Postgres to be used in {folder.absolute()}: start it with `auditap up`, {ANOTHER_FOLDER}, or"
            " set postgres.admin_dsn (AUDITAP_POSTGRES__ADMIN_DSN)."
        ) from None
    return f"postgresql://postgres:{password}@127.0.0.1:{port}/{EMBEDDED_DATABASE}?sslmode=disable"


def kept_secret(settings: Settings, name: str, given: SecretStr | None) -> bytes:
    """Return a key of at least 32 bytes: the one given, else the one kept in `data_dir` (0600), made at first.

    Raises StartupError where the given one is too short.
    """
    if given is not None:
        key = given.get_secret_value().encode()
        if len(key) < 32:
            raise StartupError(f"The setting {_SECRETS[name]} must have at least 32 characters.")
        return key
    path = settings.data_dir / name
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(32))
    except FileExistsError:
        pass
    except OSError as error:
        raise StartupError(
            f"{path} cannot be written ({error.strerror}): make the folder or set data_dir."
        ) from None
    return path.read_bytes()
