"""Alerting's main loop body: events → records → evaluation, stored together with how far the log is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import stamina
import structlog
from cachetools import TTLCache

from alerting.engine import Alert, RuleMatch, evaluate, match_rules, required_state
from alerting.ports import (
    HOUR_MS,
    TREND_WIDTHS_MS,
    Advance,
    AlertStore,
    EventBuilder,
    PositionConflict,
    TrendBucket,
    UnitOfWork,
)
from alerting.rules import RuleSet
from eventlog.ports import LoggedEvent, Partition
from schemas.errors import RetryableError, UnprocessableEvent
from schemas.heartbeat import REPORT_PREFIX
from schemas.metric_defs import Metrics
from schemas.record import Record

log = structlog.get_logger("alerting")
_Result = TypeVar("_Result")
# Repeat keys in memory: a few hundred bytes each. They expire, so that the store can refresh `seen_at` every day.
_REPEATS_MAX = 100_000
_REPEATS_S = 12 * HOUR_MS / 1000
# A store that is away is retried without end: skipping a batch would lose its alerts.
_RETRY_WAIT_S_INITIAL = 0.1
_RETRY_WAIT_S_MAX = 5


@dataclass(frozen=True, slots=True)
class AlertingLimits:
    """Bounds of alerting."""

    batch_events_max: int = 2_000
    """Most events evaluated in one transaction."""
    batch_wait_ms: int = 200
    """How long a batch waits to be full."""
    lateness_ms_max: int = 3_600_000
    """A record received later than this after its action counts in no window."""


class AlertProcessor:
    """Evaluates the events of partitions. Processing an event again changes nothing.

    `rules` returns the rules in force.
    """

    def __init__(
        self,
        *,
        store: AlertStore,
        build: EventBuilder,
        rules: Callable[[], RuleSet],
        limits: AlertingLimits,
        metrics: Metrics,
        clock_ms: Callable[[], int],
    ) -> None:
        self._store = store
        self._build = build
        self._rules = rules
        self._limits = limits
        self._metrics = metrics
        self._clock_ms = clock_ms
        self._positions: dict[Partition, int] = {}
        self._stored_repeats: TTLCache[Hashable, bool] = TTLCache(_REPEATS_MAX, _REPEATS_S)
        self._repeats_of_rules = ""

    async def positions(self, partitions: Iterable[Partition]) -> Mapping[Partition, int]:
        """Return the next offset of each partition that has a stored position. Retries until the store answers."""
        unknown = [partition for partition in partitions if partition not in self._positions]
        if unknown:
            self._positions |= await self._retrying(lambda: self._store.positions(unknown))
        return self._positions

    async def begin_log(self, log_name: str, log_id: str) -> None:
        """Forget all positions; those that an older release stored, without a log's id, are of this log from now on.

        Retries until the store answers.
        """
        self.reset()
        if log_id:
            await self._retrying(lambda: self._store.adopt_positions(log_name, log_id))

    def reset(self) -> None:
        """Forget all positions: the assignment has changed, and another process may have read on."""
        self._positions.clear()

    async def process(self, events: Mapping[Partition, Sequence[LoggedEvent]]) -> None:
        """Return once everything that follows from the events is durable. Retries until the store answers.

        The events of a partition are in the order of their offsets; those before its position are skipped.
        """
        while True:
            positions = await self.positions(events)
            fresh = _from_positions(events, positions)
            if not fresh:
                return
            try:
                await self._commit(fresh, positions)
            except PositionConflict:
                log.info("position_conflict", partitions=len(fresh))
                self.reset()
            else:
                return

    async def _commit(
        self, events: Mapping[Partition, Sequence[LoggedEvent]], positions: Mapping[Partition, int]
    ) -> None:
        rules = self._rules()
        if rules.digest != self._repeats_of_rules:
            # What changes nothing by one set of rules may change something by another.
            self._stored_repeats.clear()
            self._repeats_of_rules = rules.digest
        # In the order of time: within a batch, values are learned before the records that ask for them.
        records = sorted(self._records(events), key=lambda record: record.id)
        matches = [match for record in records for match in self._matches(rules, record)]
        advances = {
            partition: Advance(positions.get(partition, batch[0].offset), batch[-1].offset + 1)
            for partition, batch in events.items()
        }
        work = UnitOfWork(
            required_state(matches), partial(evaluate, matches), _trend_counts(records), advances
        )
        alerts = await self._retrying(lambda: self._store.commit(work))
        self._positions |= {partition: step.next_offset for partition, step in advances.items()}
        # After the commit: what was not stored must not be skipped the next time.
        for match in matches:
            if match.repeat_key is not None:
                self._stored_repeats[match.repeat_key] = True
        self._report(alerts, events)

    def _records(self, events: Mapping[Partition, Sequence[LoggedEvent]]) -> list[Record]:
        records = []
        skipped: Counter[str] = Counter()
        for event in (event for batch in events.values() for event in batch):
            if event.value.startswith(REPORT_PREFIX):
                continue
            try:
                records.append(self._build(event.value, event.received_ms))
            except UnprocessableEvent as unprocessable:
                # The ingestor dead-letters it: there will be no record to raise an alert for.
                skipped[str(unprocessable.reason)] += 1
            except Exception as fault:  # noqa: BLE001  one event must not stop all others
                log.error("event_not_built", fault=type(fault).__name__)
                skipped["fault"] += 1
        for reason, count in skipped.items():
            self._metrics.alerting_events_skipped.labels(reason).inc(count)
        self._metrics.alerting_events.inc(sum(map(len, events.values())))
        return records

    def _matches(self, rules: RuleSet, record: Record) -> Sequence[RuleMatch]:
        try:
            matches = match_rules(rules, record, self._stored_repeats)
        except Exception as fault:  # noqa: BLE001  one record must not stop all others
            log.error("record_not_evaluated", fault=type(fault).__name__)
            self._metrics.alerting_events_skipped.labels("fault").inc()
            return ()
        if matches and record.received_ms - (record.id.int >> 80) > self._limits.lateness_ms_max:
            in_time = [match for match in matches if not match.rule.counts]
            self._metrics.alerting_late_matches.inc(len(matches) - len(in_time))
            return in_time
        return matches

    def _report(self, alerts: Sequence[Alert], events: Mapping[Partition, Sequence[LoggedEvent]]) -> None:
        now_ms = self._clock_ms()
        newest_ms = max(batch[-1].received_ms for batch in events.values())
        self._metrics.alerting_lag_seconds.set(max(now_ms - newest_ms, 0) / 1000)
        for alert in alerts:
            self._metrics.alerts_raised.labels(alert.severity).inc()
            self._metrics.alert_delay_seconds.observe(max(now_ms - (alert.record.id.int >> 80), 0) / 1000)

    async def _retrying(self, step: Callable[[], Awaitable[_Result]]) -> _Result:
        async for attempt in stamina.retry_context(
            on=RetryableError,
            attempts=None,
            timeout=None,
            wait_initial=_RETRY_WAIT_S_INITIAL,
            wait_max=_RETRY_WAIT_S_MAX,
        ):
            with attempt:
                if attempt.num > 1:
                    log.warning("retrying", part="store", attempt=attempt.num)
                return await step()
        raise AssertionError("unreachable: retried without end")


def _from_positions(
    events: Mapping[Partition, Sequence[LoggedEvent]], positions: Mapping[Partition, int]
) -> Mapping[Partition, Sequence[LoggedEvent]]:
    fresh = {}
    for partition, batch in events.items():
        position = positions.get(partition, 0)
        remaining = [event for event in batch if event.offset >= position]
        if remaining:
            fresh[partition] = remaining
    return fresh


def _trend_counts(records: Sequence[Record]) -> Mapping[TrendBucket, int]:
    counts: Counter[TrendBucket] = Counter()
    for record in records:
        at_ms = record.id.int >> 80
        for width_ms in TREND_WIDTHS_MS:
            bucket = TrendBucket(
                at_ms - at_ms % width_ms,
                width_ms,
                record.account_id,
                record.actor_id,
                record.resource_product,
                record.action_type,
                record.action_result,
            )
            counts[bucket] += 1
    return counts
