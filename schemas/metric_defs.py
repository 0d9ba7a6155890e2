"""Every metric as one table: name, type, commands, meaning, labels. docs/metrics.md is made from it.

Names follow the Prometheus conventions: the unit is the suffix, and the client appends `_total` to counters. No label ever
holds a value taken from traffic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Generic, Literal, Self, TypeVar, overload

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase

MetricType = TypeVar("MetricType", bound=MetricWrapperBase)
Command = Literal["collect", "ingest", "serve", "alerting"]
_COLLECT: Final[tuple[Command, ...]] = ("collect",)
_INGEST: Final[tuple[Command, ...]] = ("ingest",)
_SERVE: Final[tuple[Command, ...]] = ("serve",)
_ALERTING: Final[tuple[Command, ...]] = ("alerting",)
_EVERY = (*_COLLECT, *_INGEST, *_SERVE, *_ALERTING)


class MetricDef(Generic[MetricType]):
    """One row of the table: a descriptor, so that `metrics.<attribute>` has the metric's own type.

    The attribute's name, after `auditap_`, is the metric's. `commands`: the `auditap` commands that expose it. `labels`:
    names of labels. `largest_of_workers`: where several processes share a page, it shows the largest of their values and not the
    sum. `options`: what else the constructor of the type takes.
    """

    def __init__(
        self,
        kind: type[MetricType],
        commands: Sequence[Command],
        meaning: str,
        labels: Sequence[str] = (),
        *,
        largest_of_workers: bool = False,
        **options: Any,
    ) -> None:
        self.kind = kind
        self.commands = tuple(commands)
        self.meaning = meaning
        self.labels = tuple(labels)
        self.largest_of_workers = largest_of_workers
        self._options: Mapping[str, Any] = options
        self.name = self.attribute = ""

    def __set_name__(self, _owner: type, attribute: str) -> None:
        self.attribute = attribute
        self.name = f"auditap_{attribute}"

    @overload
    def __get__(self, metrics: None, _owner: type) -> Self: ...

    @overload
    def __get__(self, metrics: Metrics, _owner: type) -> MetricType: ...

    def __get__(self, metrics: Metrics | None, _owner: type) -> Self | MetricType:
        # Reached on the class alone: an instance holds the metric itself under the same name.
        if metrics is None:
            return self
        raise AttributeError(self.attribute)

    def create(self, registry: CollectorRegistry | None) -> MetricType:
        """Return the metric, registered if a registry is given."""
        return self.kind(self.name, self.meaning, self.labels, registry=registry, **self._options)


class Metrics:
    """The metrics of one `auditap` command in a registry of their own, built once by the wiring and handed to the parts.

    The registry has only what the command exposes: a 0 of another part would be taken for its state. None: every metric.
    """

    def __init__(self, command: Command | None = None) -> None:
        self.registry = CollectorRegistry()
        for definition in definitions():
            exposed = command is None or command in definition.commands
            self.__dict__[definition.attribute] = definition.create(self.registry if exposed else None)

    # Captures and their events.
    captures_accepted = MetricDef(Counter, _COLLECT, "Captures whose events are durable.")
    captures_refused = MetricDef(Counter, _COLLECT, "Lines that are no captures, by reason.", ["reason"])
    captures_with_unknown_fields = MetricDef(
        Counter,
        _COLLECT,
        "Captures with unknown fields, which are ignored: a mistake in a tap, or a newer contract.",
    )
    captures_excluded = MetricDef(
        Counter, _COLLECT, "Captures of operations that the configuration excludes."
    )
    captures_unavailable = MetricDef(
        Counter, _COLLECT, "Captures answered with 503 because their events could not be made durable."
    )
    intake_busy = MetricDef(
        Counter,
        _COLLECT,
        "Requests answered with 503 because too much is in flight, by bound: requests, bytes; requests_share, bytes_share of one"
        " token, or of one user on the Unix socket.",
        ["bound"],
    )
    captures_dropped_by_taps = MetricDef(
        Counter,
        _COLLECT,
        "Captures that taps dropped, as the header `Auditap-Dropped` of their batches reports; the ASGI middleware sends it. What"
        " heartbeats report as dropped is in `auditap_captures_missing`.",
    )
    heartbeats_accepted = MetricDef(Counter, _COLLECT, "Heartbeats of taps that are durable.")
    redaction_failures = MetricDef(
        Counter, _COLLECT, "Pairs recorded without bodies and query because redacting them failed."
    )
    captures_unmatched = MetricDef(
        Counter,
        _COLLECT,
        "Captures that match no operation as they are written, by reason. `altered`: whether one was found by reading them leniently.",
        ["reason", "altered"],
    )
    captures_without_account = MetricDef(
        Counter,
        _COLLECT,
        "Captures of an operation for which neither path nor response names an account, or a zone to find it by.",
    )
    identifiers_refused = MetricDef(
        Counter,
        _COLLECT,
        "Fields of events for which a header, the path, a token or the tap gave what is refused, whether or not something else fills them.",
        ["field"],
    )
    identity_tokens = MetricDef(
        Counter,
        _COLLECT,
        "Requests with a signed token, where issuers are configured, by outcome: verified, or the receipt's reason why not. "
        "A request with a verified token and another one counts under both.",
        ["outcome"],
    )
    signing_key_fetches = MetricDef(
        Counter,
        _COLLECT,
        "Fetches of issuers' public keys (JWKS), by outcome: fetched, failed.",
        ["outcome"],
    )
    signing_keys_stale = MetricDef(
        Gauge,
        _COLLECT,
        "Issuers whose public keys could not be fetched lately: older ones are used, after a day none.",
        largest_of_workers=True,
    )
    openapi_documents_reloaded = MetricDef(
        Counter, _COLLECT, "Changed OpenAPI documents reloaded while running."
    )
    openapi_documents_refused = MetricDef(
        Counter, _COLLECT, "Changed OpenAPI documents that cannot be used; the ones before stay in force."
    )
    publish_duration_seconds = MetricDef(Histogram, _COLLECT, "Time until a batch of events is durable.")
    events_truncated = MetricDef(
        Counter,
        _COLLECT,
        "Events published without their bodies because they exceed what the log accepts; they are dead-lettered.",
    )

    # The processes of a collector (`collector.workers`).
    collector_workers = MetricDef(Gauge, _COLLECT, "Processes of this collector that take captures.")
    collector_workers_restarted = MetricDef(
        Counter,
        _COLLECT,
        "Workers started again because they had ended. What one had counted in its last second is missing in the sums.",
    )

    # The spool (`collector.durability = spool`).
    spool_events_written = MetricDef(Counter, _COLLECT, "Events spooled because Kafka was away.")
    spool_events_drained = MetricDef(Counter, _COLLECT, "Spooled events that Kafka has acknowledged.")
    spool_files_adopted = MetricDef(
        Counter, _COLLECT, "Spool files of crashed processes that this process took over."
    )
    spool_files_damaged = MetricDef(Counter, _COLLECT, "Spool files set aside because they cannot be read.")
    spool_events = MetricDef(Gauge, _COLLECT, "Events in the spool files that this process holds.")
    spool_bytes = MetricDef(Gauge, _COLLECT, "Size of the events in the spool.")
    spool_oldest_event_age_seconds = MetricDef(
        Gauge, _COLLECT, "Age of the oldest event in the spool; 0 if it is empty.", largest_of_workers=True
    )

    # Reading the log and storing records.
    events_consumed = MetricDef(Counter, _INGEST, "Events read from the log.")
    reports_consumed = MetricDef(
        Counter, _INGEST, "Heartbeats of taps and counts of collectors read from the log."
    )
    offsets_passed_over = MetricDef(
        Counter,
        _INGEST,
        "Offsets without an event that the log has not deleted, such as markers of transactions.",
    )
    records_stored = MetricDef(Counter, _INGEST, "Records new in the store.")
    records_repeated = MetricDef(Counter, _INGEST, "Events whose record was stored already.")
    dead_letters = MetricDef(Counter, _INGEST, "Events dead-lettered, by reason.", ["reason"])
    dead_letters_unresolved = MetricDef(
        Gauge, _INGEST, "Unresolved dead letters, by reason; counted up to 100,000 of each.", ["reason"]
    )
    ingest_halted = MetricDef(
        Gauge,
        _INGEST,
        "1 while ingest has stopped because nearly all events are malformed; a restart ends it.",
    )
    ingest_clocks_apart = MetricDef(
        Gauge,
        _INGEST,
        "1 while ingest waits because this host's clock and the database's are more than five minutes apart.",
    )
    store_retries = MetricDef(
        Counter, _INGEST, "Steps retried because the store or the log was away, or the clocks were apart."
    )
    store_duration_seconds = MetricDef(Histogram, _INGEST, "Time to store one batch, retries included.")
    batches_in_flight = MetricDef(Gauge, _INGEST, "Batches fetched and not yet stored.")
    partitions_assigned = MetricDef(
        Gauge, (*_INGEST, *_ALERTING), "Partitions of the log that this process reads."
    )

    # Enrichment, completeness and retention.
    lookups = MetricDef(
        Counter,
        _INGEST,
        "Lookups by kind and outcome: hit, negative_hit, refresh, limited, found, absent, failed.",
        ["kind", "outcome"],
    )
    lookup_breaker_open = MetricDef(
        Gauge, _INGEST, "1 while the circuit breaker of a kind's service is open.", ["kind"]
    )
    records_backfilled = MetricDef(
        Counter, _INGEST, "Partial records that the enrichment backfill completed, by state.", ["state"]
    )
    gaps_open = MetricDef(Gauge, _INGEST, "Ranges of captures that are missing.")
    captures_missing = MetricDef(
        Gauge,
        _INGEST,
        "Captures with a sequence number that are neither stored nor dead-lettered, dropped ones included.",
    )
    taps = MetricDef(
        Gauge,
        _INGEST,
        "Epochs of taps by state: alive; expired, also killed and lost; of these surplus, retired. And unnumbered: taps without sequence numbers.",
        ["state"],
    )
    partitions_dropped = MetricDef(
        Counter, _INGEST, "Database partitions dropped because they are older than the retention."
    )
    retention_refused = MetricDef(
        Gauge,
        _INGEST,
        "1 while retention drops nothing because clocks and receipts disagree, or because too much has expired at once.",
    )

    # The log API.
    log_api_requests = MetricDef(
        Counter, _SERVE, "Requests to the log API, by route and status.", ["route", "status"]
    )
    log_api_request_duration_seconds = MetricDef(
        Histogram, _SERVE, "Time to answer a request to the log API, by route.", ["route"]
    )
    log_api_refused = MetricDef(
        Counter,
        _SERVE,
        "Requests to the log API that were refused so that others get theirs, by why: `rate` (429, the token's rate limit), `share`"
        " (429, the token has its share of connections, streams or memory), `full` (503, others have all).",
        ["reason"],
    )
    log_api_connections_in_use = MetricDef(
        Gauge, _SERVE, "Database connections of the log API that tokens' queries use now."
    )
    log_api_requests_waiting = MetricDef(
        Gauge, _SERVE, "Requests to the log API that wait for their turn on a connection."
    )
    log_api_connection_wait_seconds = MetricDef(
        Histogram, _SERVE, "Time that a query waited for its turn on a connection, turns not given included."
    )
    log_api_scans_paused = MetricDef(
        Counter, _SERVE, "How often a scan gave its connection to another token between two statements."
    )
    log_api_streams = MetricDef(Gauge, _SERVE, "Exports and tails under way.")
    log_api_token_lookups = MetricDef(
        Counter,
        _SERVE,
        "Tokens that were looked up in the database, by result: `found`, or `unknown` (also revoked ones).",
        ["result"],
    )

    # The HTTP servers of every process.
    http_connections = MetricDef(Gauge, _EVERY, "Connections, by listener: tcp, unix, health.", ["listener"])
    http_connections_refused = MetricDef(
        Counter,
        _EVERY,
        "Connections closed as soon as they came because none of those before waits for a request, by listener and limit:"
        " connections_max, connections_per_address_max, descriptors.",
        ["listener", "reason"],
    )
    http_connections_ended = MetricDef(
        Counter,
        _EVERY,
        "Connections that the server ended, by listener and reason: displaced, headers_bytes, headers, target_bytes, head_time,"
        " body_time, idle_time, write_time, tls_handshake, pipelined, small_chunks, invalid.",
        ["listener", "reason"],
    )

    # Alerting.
    alerting_events = MetricDef(Counter, _ALERTING, "Events evaluated.")
    alerting_events_skipped = MetricDef(
        Counter,
        _ALERTING,
        "Events that were not evaluated, by reason; removed: the log no longer held them.",
        ["reason"],
    )
    alerting_late_matches = MetricDef(
        Counter, _ALERTING, "Rule matches not counted in a window because their record arrived too late."
    )
    alerting_lag_seconds = MetricDef(Gauge, _ALERTING, "Age of the newest event that is evaluated.")
    alerting_lag_events = MetricDef(Gauge, _ALERTING, "Events of the log that are not evaluated yet.")
    alert_rules_loaded = MetricDef(
        Counter, _ALERTING, "Changed rules files, by outcome: loaded, refused.", ["outcome"]
    )
    alerts_raised = MetricDef(Counter, _ALERTING, "New alerts, by severity.", ["severity"])
    alert_delay_seconds = MetricDef(
        Histogram,
        _ALERTING,
        "Time from an action to its alert.",
        buckets=(0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3600),
    )
    alert_deliveries = MetricDef(
        Counter, _ALERTING, "Delivery attempts, by outcome: delivered, postponed, retried, dead.", ["outcome"]
    )


def definitions() -> list[MetricDef[Any]]:
    """Return all metrics, in the order in which docs/metrics.md lists them."""
    return [definition for definition in vars(Metrics).values() if isinstance(definition, MetricDef)]
