"""Settings: `AUDITAP_*` environment variables before `auditap.toml`; one sentence for each mistake.

Groups nest with two underscores: `AUDITAP_KAFKA__BOOTSTRAP_SERVERS`, in the file `bootstrap_servers` below
`[kafka]`. Without Kafka the log is embedded; without Postgres so is the database, both below `data_dir`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import ipaddress
import json
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any, Final, Literal, cast

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from alerting.delivery import DeliveryLimits
from auditap.runtime.http_limits import HttpLimits
from auditap.runtime.http_server import TlsFiles
from auditap.runtime.logs import LogFormat
from auditap.settings_fields import SettingField, setting_fields, with_paths_below
from auditap.settings_file import Steps, read_settings_file
from auditap.settings_mistakes import (
    mistaken_names,
    unparsed_variables,
    unreadable_values,
    wrong_option,
    wrong_value,
)
from enricher.config import EnricherConfig
from eventlog.spool.config import SpoolBounds
from gateway_tap.limits import IntakeLimits
from ingestor.config import DAY_MS, RETENTION_DAYS_MAX, GapLedgerWaits, IngestorConfig, RetentionConfig
from log_api.config import COMMON_CONNECTIONS, ProductCategory
from redactor.config import RedactionConfig
from redactor.decode.identifiers import valid_owner_id
from schemas.constants import Constant
from schemas.errors import StartupError
from schemas.private_files import (
    KEY_CHARS_MIN,
    create_private_file,
    make_folder,
    read_secret,
    read_secret_bytes,
    read_token,
    why_unusable,
)
from schemas.urls import dsn_rule, embedded_dsn, is_host_and_port

EMBEDDED_DATABASE = "auditap"
DATA_DIR_HINT: Final = "name its folder in data_dir (AUDITAP_DATA_DIR)"
"""What to do where `auditap up` runs, with its data elsewhere."""
EVENT_BYTES_MAX = 8 * 1024 * 1024 - 1024
_EVENT_BYTES_RESERVED = 256 * 1024
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_SHA256_OF_NOTHING: Final = hashlib.sha256(b"").hexdigest()
_SECRETS = {"identity.key": "collector.identity_key", "cursor.key": "api.cursor_key"}
# What stands in the id of a tap, and what `fnmatch` reads as more than itself.
_TAP_PATTERN: Final = re.compile(r"[A-Za-z0-9*?\[][A-Za-z0-9_.:*?\[\]!-]*")
_BRACKETS_OF_PATTERN: Final = re.compile(r"\[!?\]?[^\]]*\]")
_TAP_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}")
_TAP_ID_CHARS_MAX: Final = 64
_HOST_NAME: Final = re.compile(r"[A-Za-z0-9_.-]+")
# Nothing in it ends a word of nginx's configuration.
_ORIGIN: Final = re.compile(r"https?://(?:[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?/?")
_TOPIC: Final = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,249}")
_INT4_MAX: Final = 2**31 - 1
_INT8_MAX: Final = 2**63 - 1
_NUMBERS_MAX: Final = {
    "retention_days": RETENTION_DAYS_MAX,
    # Kafka has two bytes for it.
    "replication_factor": 2**15 - 1,
    "min_insync_replicas": 2**15 - 1,
    # Postgres takes no more of each.
    "connections_max": 262_143,
    "statement_timeout_ms": _INT4_MAX,
    "timeout_ms": _INT4_MAX,
}
"""The largest value of each number whose unit does not say it."""
# What pydantic calls a name that a model or a dataclass does not have.
_UNKNOWN_NAME = {"extra_forbidden", "unexpected_keyword_argument"}


def _is_ip_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


class _Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Address(_Group):
    """Where an HTTP server listens. An address that is not loopback requires `tls`, or `plain_http_allowed`."""

    host: str = "127.0.0.1"
    """The interface's IP address or host name."""
    port: int = Field(ge=0, le=65_535)
    """The TCP port; 0 takes a free one."""
    tls: TlsFiles | None = None

    @field_validator("host")
    @classmethod
    def _that_can_be_listened_on(cls, host: str) -> str:
        if host.startswith("["):
            raise PydanticCustomError("host", "write an IPv6 address without brackets")
        if not (_is_ip_address(host) or (_HOST_NAME.fullmatch(host) and is_host_and_port(host))):
            raise PydanticCustomError(
                "host",
                "it is no IP address and no host name; write one alone, such as 127.0.0.1 or localhost",
            )
        return host

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return self.host == "localhost" or (
            _is_ip_address(self.host) and ipaddress.ip_address(self.host).is_loopback
        )


class _CollectorAddress(Address):
    """Where the collector listens for taps on other hosts. An address that is not loopback requires `tls`, or `plain_http_allowed`."""

    port: int = Field(default=8400, ge=0, le=65_535)


class _ApiAddress(Address):
    """Where the log API listens. An address that is not loopback requires `tls`, or `plain_http_allowed`."""

    port: int = Field(default=8401, ge=0, le=65_535)


class _IngestAddress(Address):
    """Where the ingestor serves its health routes `/healthz`, `/readyz` and `/metrics`."""

    port: int = Field(default=8402, ge=0, le=65_535)


class _AlertingAddress(Address):
    """Where alerting serves its health routes `/healthz`, `/readyz` and `/metrics`."""

    port: int = Field(default=8405, ge=0, le=65_535)


class _HealthAddress(Address):
    """Where the process serves its health routes `/healthz`, `/readyz` and `/metrics`, and nowhere else. Without this table
    they are on `address` (and the Unix socket).
    """


class TapToken(_Group):
    """A token for taps that send over TCP."""

    sha256: str = Field(repr=False)
    """SHA-256 of the token without a line end, in lower-case hex: `printf %s "$TOKEN" | sha256sum`. A token has at least 16
    characters."""
    taps: tuple[str, ...]
    """Tap ids that the token may send for; `*` stands for any characters, `?` for one, `[ab]` for a or b. Unless one of them is
    `*` alone, captures must name their tap (`tap.id`)."""

    @field_validator("sha256")
    @classmethod
    def _of_a_token(cls, digest: str) -> str:
        if not _SHA256.fullmatch(digest):
            raise PydanticCustomError(
                "digest",
                'give the 64 hex digits, in lower case, that `printf %s "$TOKEN" | sha256sum` prints',
            )
        if digest == _SHA256_OF_NOTHING:
            raise PydanticCustomError("empty_token", "it is the digest of an empty token; make a token first")
        return digest

    @field_validator("taps")
    @classmethod
    def _of_possible_ids(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        if not patterns or not all(map(_TAP_PATTERN.fullmatch, patterns)):
            raise PydanticCustomError(
                "tap_pattern",
                "list the ids of taps, such as web-1, or patterns, such as web-*; an id is of letters, digits and _ . : -,"
                " and begins with one of the first two",
            )
        if any(_id_chars_min(each) > _TAP_ID_CHARS_MAX for each in patterns):
            raise PydanticCustomError(
                "tap_pattern", "list ids of taps that have at most 64 characters; no tap has a longer one"
            )
        return patterns


def _id_chars_min(pattern: str) -> int:
    """Return the length of the shortest id that a pattern matches."""
    return len(_BRACKETS_OF_PATTERN.sub("?", pattern).replace("*", ""))


class ReceiverSettings(_Group):
    """A socket for a gateway that sends pairs by itself, in a format of its own, or a file that it writes; see docs/gateways."""

    format: Literal["caddy", "envoy", "haproxy"]
    """Which gateway sends."""
    socket: Path | None = None
    """Path of the Unix socket (mode 0660) that the gateway connects to."""
    file: Path | None = None
    """For `caddy`, in place of a socket: path of the file that it writes, on a tmpfs."""
    tap_id: str
    """The name of this gateway among the taps, one for each receiver."""

    @property
    def path(self) -> Path:
        """Return the path of the socket or file."""
        return self.file or self.socket or Path()

    @model_validator(mode="after")
    def _with_one_place(self) -> ReceiverSettings:
        needed, other = ("file", "socket") if self.format == "caddy" else ("socket", "file")
        if getattr(self, needed) is None or getattr(self, other) is not None:
            raise PydanticCustomError(
                "receiver", f"with format {self.format}, write {needed} and not {other}"
            )
        return self

    @field_validator("tap_id")
    @classmethod
    def _that_taps_may_have(cls, tap_id: str) -> str:
        if not _TAP_ID.fullmatch(tap_id):
            raise PydanticCustomError(
                "tap_id", "write 1 to 64 letters, digits and _ . : - that begin with one of the first two"
            )
        return tap_id


class CollectorSettings(_Group):
    """The collector: a Unix socket for taps on this host, and TCP with tokens."""

    address: _CollectorAddress = _CollectorAddress()
    health_address: _HealthAddress | None = None
    socket: Path | None = None
    """Path of the Unix socket (mode 0660). Default: `collector.sock` in `data_dir`."""
    workers: int = Field(default=1, ge=1, le=64)
    """Processes of `auditap collect` that share its listeners, one for each core to use; more than one needs Kafka. Limits of
    connections, and of requests and bytes in flight, are of each of them; the bound of the spool is of all. `auditap up` has one."""
    tokens: tuple[TapToken, ...] = ()
    receivers: tuple[ReceiverSettings, ...] = ()
    identity_key: SecretStr | None = None
    """Key that event ids are derived with where a tap gives none: at least 32 characters, the same for all collectors.
    Default: generated and kept in `data_dir`."""
    limits: IntakeLimits = IntakeLimits()
    durability: Literal["kafka", "spool"] = "kafka"
    """When a capture counts as accepted. `kafka`: once Kafka acknowledged it; while Kafka is away, taps get 503.
    `spool`: while Kafka is away, once the redacted event is fsynced to this host's disk; published when Kafka is back."""
    spool_dir: Path | None = None
    """Folder of the spool, one for all collectors of a host. Default: `spool` in `data_dir`."""
    spool: SpoolBounds = SpoolBounds()

    @field_validator("receivers")
    @classmethod
    def _that_are_apart(cls, receivers: tuple[ReceiverSettings, ...]) -> tuple[ReceiverSettings, ...]:
        for name, values in (
            ("socket or file", {each.path for each in receivers}),
            ("tap_id", {each.tap_id for each in receivers}),
        ):
            if len(values) < len(receivers):
                raise PydanticCustomError("receivers", f"give each receiver a {name} of its own")
        return receivers

    # Between two heartbeats on the event log, by whose time taps' leases expire: as often as taps send theirs.
    report_interval_ms: Constant[int] = 5_000
    # Between two looks for changed OpenAPI documents. A look costs a few calls of `stat`, and nobody waits for less.
    reload_interval_ms: Constant[int] = 5_000


class KafkaSettings(_Group):
    """Kafka as the event log between collectors and ingestors."""

    bootstrap_servers: str = ""
    """Brokers to begin with, as `host:port,host:port`. Empty: the log is embedded."""
    topic: str = "auditap.events"
    """Topic of redacted events."""
    dead_letter_topic: str = "auditap.dead-letters"
    """Topic that dead letters are published to, beside the database. Empty: none."""
    group: str = "auditap-ingest"
    """Consumer group of the ingestors."""
    partitions: int = Field(default=8, ge=1)
    """Partitions of each topic that `auditap topics` creates."""
    replication_factor: int = Field(default=3, ge=1)
    """Replicas of each topic that `auditap topics` creates."""
    min_insync_replicas: int = Field(default=2, ge=1)
    """`min.insync.replicas` of each topic that `auditap topics` creates."""
    retention_ms: int = Field(default=7 * 86_400_000, ge=1)
    """Milliseconds that Kafka keeps events; longer than any outage of the ingestors."""
    publish_deadline_ms: int = Field(default=10_000, ge=1)
    """Milliseconds after which a batch that Kafka has not acknowledged is refused, or spooled."""
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    """How to connect: with TLS (`SSL`), with a login (`SASL_…`), or both."""
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    """How to log in, with `SASL_…`."""
    sasl_username: str | None = None
    """User name, with `SASL_…`."""
    sasl_password: SecretStr | None = None
    """Password, with `SASL_…`."""
    ca_file: Path | None = None
    """PEM file of the authority that signed the brokers' certificates. Default: the system's authorities."""
    certificate_file: Path | None = None
    """PEM file of the client certificate, where the brokers ask for one."""
    key_file: Path | None = None
    """PEM file of the client certificate's private key."""


class PostgresSettings(_Group):
    """The database: a DSN for each role, of which a process needs its own alone. With none of them it is embedded."""

    writer_dsn: SecretStr | None = None
    """DSN of the role `auditap_writer`, for `ingest`."""
    reader_dsn: SecretStr | None = None
    """DSN of the role `auditap_reader`, for `serve`."""
    admin_dsn: SecretStr | None = None
    """DSN of the owner, for `migrate`, `tokens`, `alerts` and `rules test`; also for `retention` and `dead-letters`
    where they have no DSN of their own."""
    maintainer_dsn: SecretStr | None = None
    """DSN of the role `auditap_maintainer`, which drops expired partitions, for `ingest` and `retention`. Without it
    `ingest` drops nothing."""
    alerting_dsn: SecretStr | None = None
    """DSN of the role `auditap_alerting`, for `alerting`."""
    operator_dsn: SecretStr | None = None
    """DSN of the role `auditap_operator`, for `dead-letters`, `completeness taps` and `completeness retire`. Default: `admin_dsn`."""
    writer_password: SecretStr | None = None
    """Password that `migrate` gives to the role `auditap_writer`."""
    reader_password: SecretStr | None = None
    """Password that `migrate` gives to the role `auditap_reader`."""
    maintainer_password: SecretStr | None = None
    """Password that `migrate` gives to the role `auditap_maintainer`."""
    alerting_password: SecretStr | None = None
    """Password that `migrate` gives to the role `auditap_alerting`."""
    operator_password: SecretStr | None = None
    """Password that `migrate` gives to the role `auditap_operator`."""
    partition_interval: Literal["hour", "day", "month"] = "day"
    """Time that one partition of the records covers. Stored by the first `migrate`; it cannot change afterwards."""

    # One for each batch in flight, one for the enrichment backfill and one for the other periodic tasks.
    connections_max: Constant[int] = 6
    # After which a statement of the ingestor or of alerting is given up and retried. A full batch takes far less than a
    # second, so only a server that hangs takes as long.
    command_timeout_ms: Constant[int] = 30_000


class IngestSettings(_Group):
    """The ingestor, which stores events as records."""

    address: _IngestAddress = _IngestAddress()
    bounds: IngestorConfig = IngestorConfig()
    retention: Constant[RetentionConfig] = RetentionConfig()
    gap_ledger: GapLedgerWaits = GapLedgerWaits()

    # The pause of the enrichment backfill after a pass over all partial records: names are looked up again at most as often.
    backfill_interval_ms: Constant[int] = 5_000
    # Between two counts of gaps and of unresolved dead letters. Prometheus scrapes about as often.
    gauge_interval_ms: Constant[int] = 15_000
    # The share of time that the enrichment backfill may work while there is work. Measured: at a half, ingest keeps its rate.
    backfill_share_max: Constant[float] = 0.5


class AlertingSettings(_Group):
    """Alerting: rules evaluated on the event log, alerts, and their delivery."""

    address: _AlertingAddress = _AlertingAddress()
    rules: Path | None = None
    """File of rules, reloaded when it changes. Default: the shipped rules."""
    group: str = "auditap-alerting"
    """Consumer group, and the name that positions are stored under."""

    delivery: Constant[DeliveryLimits] = DeliveryLimits()


class ReadAuditSettings(_Group):
    """Records of who reads the log: the log API's own requests, captured by a tap."""

    collector: str = ""
    """Collector to send them to: `unix:/path`, `http://127.0.0.1:port` (another host requires `plain_http_allowed`) or
    `https://host:port`. Empty: none."""
    token_file: Path | None = None
    """File that holds the tap's token, one line of at least 16 characters; required over TCP."""

    tap_id: Constant[str] = "log-api"
    # As much as the middleware's own default. Beyond it captures are dropped and counted, and no query waits.
    queue_bytes_max: Constant[int] = 16 << 20


class ApiSettings(_Group):
    """The log API, which serves records."""

    address: _ApiAddress = _ApiAddress()
    health_address: _HealthAddress | None = None
    prefix: str = "/client/v4"
    """Path before all routes."""
    connections_max: int = Field(default=8, gt=COMMON_CONNECTIONS)
    """Database connections of one process: two for tokens, the watermark and readiness, and those that all tokens' queries share."""
    statement_timeout_ms: int = Field(default=10_000, ge=1)
    """Milliseconds that a statement, or the search for the first record of a page, may take."""
    cursor_key: SecretStr | None = None
    """Key that authenticates cursors: at least 32 characters, the same for all processes of the log API.
    Default: generated and kept in `data_dir`."""
    requests_per_s: float = Field(default=50, gt=0)
    """Requests per second of one token, unless the token has a rate of its own."""
    requests_burst: int = Field(default=200, ge=1)
    """Requests that a token may send at once after a pause."""
    organizations: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """The accounts of each organization: `{ organization = ["account", …] }`."""
    product_categories: dict[str, ProductCategory] = Field(default_factory=dict)
    keep_unknown_values: bool = False
    """Whether records show values that not every client accepts: of `actor.context` and `actor.type` (`api`,
    `delegated_service`), an `actor.email` that is no address, and numbers such as `1e400`. Strict clients reject a page that
    holds one."""
    read_audit: ReadAuditSettings = ReadAuditSettings()

    # Each holds a page of records in memory and, at times, a database connection: four for each of `connections_max`.
    streams_max: Constant[int] = 32
    # A second is soon enough for a person who watches, and one cheap query for each tail.
    tail_interval_ms: Constant[int] = 1_000


class _Environment(EnvSettingsSource):
    """The environment, with lists and tables in JSON wherever they stand."""

    def __call__(self) -> dict[str, Any]:
        return cast("dict[str, Any]", _with_json(super().__call__(), Settings))


def _with_json(value: Any, group: type | None) -> Any:
    """Return raw values with the JSON in them parsed. `group`: the settings that they are; None for names of the operator's own."""
    if isinstance(value, dict):
        fields = {} if group is None else {field.name: field for field in setting_fields(group)}
        return {name: _member_with_json(each, fields.get(name)) for name, each in value.items()}
    if isinstance(value, str) and value[:1] in {"[", "{"}:
        try:
            return json.loads(value)
        except ValueError:
            pass
        raise SettingsError("not JSON")
    return value


def _member_with_json(value: Any, field: SettingField | None) -> Any:
    """Return the same for one setting; `field` is None for a name of the operator's own."""
    if field is None or field.repeated:
        return _with_json(value, None)
    return value if field.is_text else _with_json(value, field.group)


def _authority(origin: str) -> str:
    return origin.partition("://")[2].rstrip("/")


class UpSettings(_Group):
    """What `auditap up` runs beside the pipeline. Without documents of your own, that is an example API with traffic."""

    upstream: str | None = None
    """Address of your service, such as `http://127.0.0.1:3000`: a gateway with a tap runs in front of it."""
    gateway_port: int = Field(default=8408, ge=1, le=65_535)
    """TCP port of that gateway, on 127.0.0.1."""
    example_port: int = Field(default=8403, ge=1, le=65_535)
    """TCP port of the example API."""
    directory_port: int = Field(default=8404, ge=1, le=65_535)
    """TCP port of the example's directory, which the enricher looks names up in."""
    traffic_per_s: float = Field(default=4, gt=0, le=1_000)
    """Requests per second sent to the example API."""
    alerting: bool = True
    """Whether alerting runs beside the pipeline."""

    @field_validator("upstream")
    @classmethod
    def _that_is_an_origin(cls, upstream: str | None) -> str | None:
        if upstream is not None and not (
            _ORIGIN.fullmatch(upstream) and is_host_and_port(_authority(upstream))
        ):
            raise PydanticCustomError(
                "upstream", "write scheme, host and port alone, such as http://127.0.0.1:3000"
            )
        return upstream and upstream.rstrip("/")

    # More alerts than this would scroll the greeting away; `auditap alerts list` shows all.
    alert_lines_per_minute: Constant[int] = 10


class Settings(BaseSettings):
    """Settings of every process."""

    model_config = SettingsConfigDict(
        env_prefix="AUDITAP_", env_nested_delimiter="__", frozen=True, extra="forbid", toml_file=None
    )

    data_dir: Path = Path("auditap-data")
    """Folder for sockets, generated keys, and the embedded log and database."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe level that is logged."""
    log_format: LogFormat = "auto"
    """`console` for people, `json` for machines, `auto` by whether standard error is a terminal."""
    plain_http_allowed: bool = False
    """Whether an address that is not loopback may do without `tls`, and the read audit and `auditap replay` may send to one
    by http: only where a mesh or a proxy of this host encrypts."""
    health_token_file: Path | None = None
    """File that holds the bearer token which `/healthz`, `/readyz` and `/metrics` of every process ask for: one line of at least
    16 characters. Default: none."""
    http: HttpLimits = HttpLimits()
    redaction: RedactionConfig = RedactionConfig()
    collector: CollectorSettings = CollectorSettings()
    kafka: KafkaSettings = KafkaSettings()
    postgres: PostgresSettings = PostgresSettings()
    ingest: IngestSettings = IngestSettings()
    enrich: EnricherConfig = EnricherConfig()
    api: ApiSettings = ApiSettings()
    alerting: AlertingSettings = AlertingSettings()
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
        file = read_settings_file()
        return (
            init_settings,
            _Environment(settings_cls),
            InitSettingsSource(
                settings_cls,
                init_kwargs=with_paths_below(file.path.parent, settings_cls, file.values) if file else {},
            ),
        )

    @property
    def collector_socket(self) -> Path:
        """The collector's Unix socket."""
        return self.collector.socket or self.data_dir / "collector.sock"

    @property
    def spool_dir(self) -> Path:
        """The folder of the collectors' spool."""
        return self.collector.spool_dir or self.data_dir / "spool"

    @property
    def intake_limits(self) -> IntakeLimits:
        """The collector's limits. A capture may be so long that it holds two bodies of the longest kind, encoded."""
        limits = self.collector.limits
        longest = max(limits.line_bytes_max, 4 * self.redaction.limits.body_bytes_max)
        return dataclasses.replace(limits, line_bytes_max=longest)

    @property
    def embedded_log(self) -> bool:
        """Whether the log is the embedded one."""
        return not self.kafka.bootstrap_servers

    @property
    def embedded_postgres(self) -> bool:
        """Whether the database is the embedded one."""
        return not any((self.postgres.writer_dsn, self.postgres.reader_dsn, self.postgres.admin_dsn))


def load_settings(options: Mapping[str, str] | None = None, /, **overrides: Any) -> Settings:
    """Return the settings. Raises StartupError with one sentence for each mistake, none of which holds a value.

    `options`: the command's option by the setting that it overrides, such as `--upstream` by `up.upstream`.
    """
    file = read_settings_file()

    def wrong(steps: Steps, kind: str, message: str) -> str:
        option = (options or {}).get(".".join(map(str, steps)))
        return (
            wrong_option(option, kind, message)
            if option
            else wrong_value(Settings, file, steps, kind, message)
        )

    if unreadable := list(unreadable_values(Settings, file)):
        raise StartupError("\n".join(unreadable))
    mistakes = list(mistaken_names(Settings, file))
    try:
        settings = Settings(**overrides)
    except ValidationError as error:
        mistakes += [
            wrong(found["loc"], found["type"], found["msg"])
            # Without the input, which may be a secret.
            for found in error.errors(include_input=False)
            if not (mistakes and found["type"] in _UNKNOWN_NAME)
        ]
    except SettingsError:
        # What begins as JSON and is none has a sentence already.
        mistakes = mistakes or list(unparsed_variables(Settings))
    else:
        mistakes += _unusable(settings, wrong)
        if not mistakes:
            _check_together(settings)
            return settings
    raise StartupError("\n".join(mistakes))


def _unusable(group: Any, wrong: Callable[[Steps, str, str], str], path: Steps = ()) -> Iterator[str]:
    """Yield a sentence for each value that no setting means anything by: numbers out of their bounds, and empty secrets.

    `wrong` makes it of the steps to a setting, no type, and a rule.
    """
    for name, value in _members(group):
        steps = (*path, name)
        if isinstance(value, SecretStr):
            if rule := _secret_rule(str(name), value.get_secret_value()):
                yield wrong(steps, "", rule)
        elif isinstance(value, int | float):
            if rule := _number_rule(str(name), value):
                yield wrong(steps, "", rule)
        else:
            yield from _unusable(value, wrong, steps)


def _number_rule(name: str, number: float) -> str | None:
    """Return what a number has to be, and is not; None if nothing is wrong with it."""
    if name.endswith("_share_max"):
        return None if 0 <= number <= 1 else "It is a share; set it to a number from 0 to 1"
    least = 1 if name == "retention_days" else 0
    most = _NUMBERS_MAX.get(name) or _most_of_unit(name)
    # This way round, what is not a number (`nan`) is refused.
    if not number >= least:
        return f"Give {least} or more"
    return f"Give {most} or less" if number > most else None


def _most_of_unit(name: str) -> int:
    if "bytes" in name:
        return _INT8_MAX
    return RETENTION_DAYS_MAX * DAY_MS if name.endswith("_ms") else _INT4_MAX


def _secret_rule(name: str, secret: str) -> str | None:
    """Return what a secret has to be, and is not; None if nothing is wrong with it."""
    if not secret.strip():
        return "It is empty; give a value or leave it out"
    rule = dsn_rule(secret) if name.endswith("_dsn") else None
    return rule and f"It cannot be read; {rule}"


def _members(group: Any) -> Iterable[tuple[int | str, Any]]:
    if isinstance(group, tuple):
        return enumerate(group)
    if isinstance(group, BaseModel):
        return iter(group)
    if dataclasses.is_dataclass(group) and not isinstance(group, type):
        return [(each.name, getattr(group, each.name)) for each in dataclasses.fields(group)]
    return ()


def _check_together(settings: Settings) -> None:
    brokers = [each.strip() for each in settings.kafka.bootstrap_servers.split(",")]
    if brokers != [""] and not all(map(_is_broker, brokers)):
        raise StartupError(
            "kafka.bootstrap_servers is host:port,host:port and nothing else, an IPv6 address in brackets: give a login by"
            " kafka.sasl_username and kafka.sasl_password."
        )
    _check_names(settings)
    _check_distinct(settings)
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
    for part in ("collector", "api"):
        group = getattr(settings, part)
        if group.health_address is not None:
            require_distinct(
                {f"{part}.address": group.address, f"{part}.health_address": group.health_address}
            )
    for setting, address in (
        ("collector.address", settings.collector.address),
        ("ingest.address", settings.ingest.address),
        ("api.address", settings.api.address),
        ("alerting.address", settings.alerting.address),
        ("collector.health_address", settings.collector.health_address),
        ("api.health_address", settings.api.health_address),
    ):
        if not (address is None or address.is_loopback or address.tls or settings.plain_http_allowed):
            raise StartupError(
                f"{setting}.host is not loopback: set {setting}.tls (certificate and key), or listen on 127.0.0.1;"
                " where a mesh encrypts, set plain_http_allowed."
            )


def _is_broker(text: str) -> bool:
    # A DSN may leave out the host, and the port after its colon.
    return text[:1] not in {"", ":"} and text[-1] != ":" and is_host_and_port(text)


def _check_names(settings: Settings) -> None:
    """Refuse names that nothing can have: of topics, consumer groups and accounts."""
    kafka = settings.kafka
    topics = {"topic": kafka.topic}
    if kafka.dead_letter_topic:
        topics["dead_letter_topic"] = kafka.dead_letter_topic
    for setting, topic in topics.items():
        if not _TOPIC.fullmatch(topic):
            raise StartupError(
                f"kafka.{setting} cannot be a topic's name: write up to 249 letters, digits and . _ -, such as auditap.events."
            )
    for setting, group in (("kafka.group", kafka.group), ("alerting.group", settings.alerting.group)):
        if not group.strip():
            raise StartupError(f"{setting} is empty: name a consumer group, or leave it out.")
    for organization, accounts in settings.api.organizations.items():
        if not organization.strip():
            raise StartupError("api.organizations holds an organization without a name: name it.")
        if not accounts or any(valid_owner_id(each) != each for each in accounts):
            raise StartupError(
                f"api.organizations.{organization} holds no account, or an id that no account has (empty, `-`, with blanks"
                " around it): list the ids of accounts."
            )


def _check_distinct(settings: Settings) -> None:
    digests = [each.sha256 for each in settings.collector.tokens]
    if len(set(digests)) < len(digests):
        raise StartupError("collector.tokens holds one sha256 twice: list all taps of a token in one entry.")
    topics = {each.replace(".", "_") for each in (settings.kafka.topic, settings.kafka.dead_letter_topic)}
    if not settings.embedded_log and len(topics) == 1:
        raise StartupError(
            "kafka.topic and kafka.dead_letter_topic are the same topic, for which Kafka also takes two names that differ in"
            " `.` and `_` alone: name two."
        )
    if settings.kafka.group == settings.alerting.group:
        raise StartupError(
            "kafka.group and alerting.group are the same consumer group, of which each would read only a part: name two."
        )


def require_distinct(addresses: Mapping[str, Address]) -> None:
    """Raise StartupError, naming both settings, where two listeners of one process would have the same address."""
    for (one, first), (other, second) in combinations(addresses.items(), 2):
        if first.port == second.port != 0 and _overlap(first.host, second.host):
            raise StartupError(
                f"{one} and {other} both have the port {first.port}: give each listener a port of its own."
            )


def _overlap(one: str, other: str) -> bool:
    hosts = {host.replace("localhost", "127.0.0.1") for host in (one, other)}
    if len(hosts) == 1 or "::" in hosts:
        return True
    return "0.0.0.0" in hosts and not any(":" in host for host in hosts)  # noqa: S104  compared alone


def ensure_data_dir(settings: Settings) -> Path:
    """Return `data_dir`, made where it is missing: passable for taps on their way to the socket, nothing more.

    Raises StartupError where it cannot be made.
    """
    try:
        if not settings.data_dir.exists():
            make_folder(settings.data_dir, 0o751)
        if settings.data_dir.is_dir():
            return settings.data_dir
        reason = "it is not a folder"
    except OSError as error:
        reason = error.strerror or "unknown"
    raise StartupError(
        f"The folder data_dir ({settings.data_dir}) cannot be used ({reason}): choose another."
    )


def required_dsn(
    settings: Settings, name: Literal["writer_dsn", "reader_dsn", "alerting_dsn", "admin_dsn"]
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
        password = read_secret(folder / "passwords" / "postgres", "put it back or choose another data_dir")
        port = int((folder / "port").read_text())
    except (OSError, ValueError):
        raise StartupError(
            f"There is no embedded Postgres to be used in {folder.absolute()}: start it with `auditap up`, {DATA_DIR_HINT}, or"
            " set postgres.admin_dsn (AUDITAP_POSTGRES__ADMIN_DSN)."
        ) from None
    return embedded_dsn(folder, "postgres", password, port, EMBEDDED_DATABASE)


def health_token(settings: Settings) -> str | None:
    """Return the token that the health routes ask for; None if they ask for none. Raises StartupError."""
    return token_in(settings.health_token_file, "health_token_file", "the token of the health routes")


def token_in(file: Path | None, setting: str, what: str) -> str | None:
    """Return the bearer token in a file; None if none is set. `what`: what belongs there. Raises StartupError."""
    if file is None:
        return None
    remedy = f"write {what} into it, or correct {setting}"
    try:
        return read_token(file, remedy)
    except FileNotFoundError:
        raise StartupError(f"{setting} names {file}, which does not exist: {remedy}.") from None


def load_or_create_key(settings: Settings, name: str, given: SecretStr | None) -> bytes:
    """Return a key of at least 32 bytes: the one given, else the one kept in `data_dir` (0600), made at first.

    Raises StartupError where the one given or kept is too short.
    """
    if given is not None:
        key = given.get_secret_value().encode()
        if wrong := why_unusable(key, KEY_CHARS_MIN):
            raise StartupError(f"The setting {_SECRETS[name]} {wrong}: give a key of random characters.")
        return key
    path = settings.data_dir / name
    remedy = "put back the key that was there, or remove the file, so that the next start makes a new key"
    try:
        if not path.exists():
            create_private_file(path, secrets.token_urlsafe(32))
        return read_secret_bytes(path, remedy, chars_min=KEY_CHARS_MIN)
    except OSError as error:
        raise StartupError(
            f"{path} cannot be written ({error.strerror}): make the folder or set data_dir."
        ) from None
