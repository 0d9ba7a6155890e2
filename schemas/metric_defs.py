"""Every metric, one line of meaning each. No label ever holds a value taken from traffic.

`Metrics` is built once per process by the wiring and handed to the parts.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class Metrics:
    """The process's metrics in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._count_collector(self.registry)
        self._count_spool(self.registry)
        self._count_ingestor(self.registry)
        self._count_account(self.registry)
        self._count_log_api(self.registry)
        self._count_watcher(self.registry)

    def _count_collector(self, registry: CollectorRegistry) -> None:
        """What a collector takes and publishes."""
        self.captures_accepted = Counter(
            "auditap_captures_accepted", "Captures whose events are durable.", registry=registry
        )
        self.captures_refused = Counter(
            "auditap_captures_refused", "Lines that are no captures.", ["reason"], registry=registry
        )
        self.captures_with_unknown_fields = Counter(
            "auditap_captures_with_unknown_fields",
            "Captures with fields that no capture has, which are passed over: a tap's mistake, or of a newer contract.",
            registry=registry,
        )
        self.captures_excluded = Counter(
            "auditap_captures_excluded",
            "Captures of operations excluded by configuration.",
            registry=registry,
        )
        self.captures_unavailable = Counter(
            "auditap_captures_unavailable", "Captures answered with 503: not durable.", registry=registry
        )
        self.captures_dropped_by_taps = Counter(
            "auditap_captures_dropped_by_taps", "Pairs that taps report as dropped.", registry=registry
        )
        self.heartbeats_accepted = Counter(
            "auditap_heartbeats_accepted", "Heartbeats of taps that are durable.", registry=registry
        )
        self.redact_failures = Counter(
            "auditap_redact_failures", "Pairs recorded bare because redacting them failed.", registry=registry
        )
        self.documents_reloaded = Counter(
            "auditap_documents_reloaded",
            "Changed OpenAPI documents taken up while running.",
            registry=registry,
        )
        self.documents_refused = Counter(
            "auditap_documents_refused",
            "Changed OpenAPI documents not taken up: one cannot be used, those before it go on.",
            registry=registry,
        )
        self.publish_seconds = Histogram(
            "auditap_publish_seconds", "Time until a batch of events is durable.", registry=registry
        )
        self.events_cut = Counter(
            "auditap_events_cut",
            "Events published without their bodies, to be buried, because the log does not take them whole.",
            registry=registry,
        )

    def _count_spool(self, registry: CollectorRegistry) -> None:
        """What stands in a spool."""
        self.spool_written = Counter(
            "auditap_spool_written", "Events spooled because Kafka was away.", registry=registry
        )
        self.spool_drained = Counter(
            "auditap_spool_drained", "Spooled events that Kafka has acknowledged.", registry=registry
        )
        self.spool_adopted = Counter(
            "auditap_spool_adopted", "Spool files of ended processes taken over.", registry=registry
        )
        self.spool_damaged = Counter(
            "auditap_spool_damaged", "Spool files set aside because they cannot be read.", registry=registry
        )
        self.spool_events = Gauge(
            "auditap_spool_events", "Events in the spool files that this process holds.", registry=registry
        )
        self.spool_bytes = Gauge("auditap_spool_bytes", "Size of these events.", registry=registry)
        self.spool_oldest_seconds = Gauge(
            "auditap_spool_oldest_seconds",
            "Age of the oldest of these events; 0: there is none.",
            registry=registry,
        )

    def _count_ingestor(self, registry: CollectorRegistry) -> None:
        """What an ingestor reads and stores."""
        self.events_consumed = Counter(
            "auditap_events_consumed", "Events read from the log.", registry=registry
        )
        self.reports_consumed = Counter(
            "auditap_reports_consumed",
            "Heartbeats of taps and counts of collectors read from the log.",
            registry=registry,
        )
        self.records_stored = Counter(
            "auditap_records_stored", "Records new in the store.", registry=registry
        )
        self.records_repeated = Counter(
            "auditap_records_repeated", "Events whose record was there already.", registry=registry
        )
        self.dead_letters = Counter(
            "auditap_dead_letters", "Events buried, by reason.", ["reason"], registry=registry
        )
        self.dead_letters_open = Gauge(
            "auditap_dead_letters_open",
            "Dead letters that nobody has decided about, by reason; counted up to 100,000 of each.",
            ["reason"],
            registry=registry,
        )
        self.store_retries = Counter(
            "auditap_store_retries", "Batches tried again because the store was away.", registry=registry
        )
        self.store_seconds = Histogram(
            "auditap_store_seconds", "Time to store one batch, retries included.", registry=registry
        )
        self.batches_in_flight = Gauge(
            "auditap_batches_in_flight", "Batches fetched and not yet stored.", registry=registry
        )
        self.partitions_assigned = Gauge(
            "auditap_partitions_assigned", "Partitions this process reads.", registry=registry
        )

    def _count_account(self, registry: CollectorRegistry) -> None:
        """Names, what is there beside what there should be, and retention."""
        self.lookups = Counter(
            "auditap_lookups",
            "Look-ups by kind and outcome: hit, negative_hit, refresh, limited, found, absent, failed.",
            ["kind", "outcome"],
            registry=registry,
        )
        self.lookup_breaker_open = Gauge(
            "auditap_lookup_breaker_open",
            "1 while a kind's service is left alone because it does not answer.",
            ["kind"],
            registry=registry,
        )
        self.records_completed = Counter(
            "auditap_records_completed", "Partial records completed later.", ["state"], registry=registry
        )
        self.gaps_open = Gauge(
            "auditap_gaps_open", "Ranges of captures that are not there.", registry=registry
        )
        self.captures_missing = Gauge(
            "auditap_captures_missing",
            "Captures that taps numbered and that are neither stored nor buried.",
            registry=registry,
        )
        self.taps = Gauge(
            "auditap_taps",
            "Taps by what is known of them: alive, expired, unnumbered.",
            ["state"],
            registry=registry,
        )
        self.partitions_dropped = Counter(
            "auditap_partitions_dropped",
            "Partitions dropped because they are older than the retention.",
            registry=registry,
        )

    def _count_log_api(self, registry: CollectorRegistry) -> None:
        """What is asked of the log."""
        self.queries = Counter(
            "auditap_queries",
            "Requests to the log API by route and status.",
            ["route", "status"],
            registry=registry,
        )
        self.query_seconds = Histogram(
            "auditap_query_seconds", "Time to answer a request to the log API.", ["route"], registry=registry
        )

    def _count_watcher(self, registry: CollectorRegistry) -> None:
        """What a watcher reads and raises."""
        self.watch_events = Counter(
            "auditap_watch_events", "Events that the watcher has judged.", registry=registry
        )
        self.watch_passed_over = Counter(
            "auditap_watch_passed_over",
            "Events of which there is no record to judge, by reason; removed: the log did not hold them any more.",
            ["reason"],
            registry=registry,
        )
        self.watch_late = Counter(
            "auditap_watch_late", "Times a record was too late to count in a window.", registry=registry
        )
        self.watch_behind_seconds = Gauge(
            "auditap_watch_behind_seconds", "Age of the newest event that is judged.", registry=registry
        )
        self.watch_lag_events = Gauge(
            "auditap_watch_lag_events", "Events of the log that are not judged yet.", registry=registry
        )
        self.rules_loaded = Counter(
            "auditap_rules_loaded",
            "Times the file of rules was read: taken or refused.",
            ["outcome"],
            registry=registry,
        )
        self.alerts_raised = Counter(
            "auditap_alerts_raised", "Alerts that are new, by severity.", ["severity"], registry=registry
        )
        self.alert_seconds = Histogram(
            "auditap_alert_seconds",
            "Time from an action to its alert.",
            registry=registry,
            buckets=(0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3600),
        )
        self.alert_deliveries = Counter(
            "auditap_alert_deliveries",
            "Deliveries of alerts by how they went: delivered, retried, dead.",
            ["outcome"],
            registry=registry,
        )
