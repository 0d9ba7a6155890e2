"""The watcher: events → records → what rules make of them, kept with how far the log is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, TypeVar

import stamina
import structlog
from cachetools import TTLCache

from schemas.errors import BuriedEvent, RetryableError
from schemas.heartbeat import REPORT_PREFIX
from schemas.metric_defs import Metrics
from schemas.record import Record
from watcher.engine import Alert, Sighting, judge, needed, sightings
from watcher.ports import (
    HOUR_MS,
    TREND_WIDTHS_MS,
    Advance,
    EventBuilder,
    Lane,
    Overtaken,
    Trend,
    WatchStore,
    Work,
)
from watcher.rules import RuleSet

log = structlog.get_logger("watcher")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class WatchLimits:
    """Bounds of the watcher; every one is a setting."""

    batch_events_max: int = 2_000
    """Events judged in one transaction at most."""
    batch_wait_ms: int = 200
    """How long a batch waits to be full."""
    lateness_ms_max: int = 3_600_000
    """Records that were received later than this after their action count in no window."""
    familiar_max: int = 100_000
    """What of tokens and the like is held in memory to be no news, at most."""
    familiar_ms: int = 12 * HOUR_MS
    retry_wait_ms_initial: int = 100
    retry_wait_ms_max: int = 5_000


class LoggedEvent(NamedTuple):
    """One event as it was read. `received_ms`: when the collector took it (Unix ms)."""

    offset: int
    received_ms: int
    value: bytes


class Watcher:
    """Watches lanes of a log. Whatever is given to it again changes nothing.

    `rules`: those of now. `on_alerts`: called with what is new, after it is durable.
    """

    def __init__(
        self,
        *,
        store: WatchStore,
        build: EventBuilder,
        rules: Callable[[], RuleSet],
        limits: WatchLimits,
        metrics: Metrics,
        clock_ms: Callable[[], int],
        on_alerts: Callable[[Sequence[Alert]], None] = lambda _alerts: None,
    ) -> None:
        self._store = store
        self._build = build
        self._rules = rules
        self._limits = limits
        self._metrics = metrics
        self._clock_ms = clock_ms
        self._on_alerts = on_alerts
        self._positions: dict[Lane, int] = {}
        self._familiar: TTLCache[Hashable, bool] = TTLCache(limits.familiar_max, limits.familiar_ms / 1000)
        self._familiar_of = ""

    async def positions(self, lanes: Iterable[Lane]) -> Mapping[Lane, int]:
        """Return from where on lanes are to be read, as far as that is known. Waits for the store."""
        unknown = [lane for lane in lanes if lane not in self._positions]
        if unknown:
            self._positions |= await self._retrying(lambda: self._store.positions(unknown))
        return self._positions

    def forget(self) -> None:
        """Begin anew: which lanes are ours has changed, and others may have read on."""
        self._positions.clear()

    async def watch(self, events: Mapping[Lane, Sequence[LoggedEvent]]) -> None:
        """Return once everything that follows from the events is durable. Waits for the store without end.

        A lane's events come in the order of their offsets; what is before its position is passed over.
        """
        while True:
            positions = await self.positions(events)
            fresh = {
                lane: [event for event in found if event.offset >= positions.get(lane, 0)]
                for lane, found in events.items()
            }
            fresh = {lane: found for lane, found in fresh.items() if found}
            if not fresh:
                return
            try:
                await self._settle(fresh, positions)
            except Overtaken:
                log.info("overtaken", lanes=len(fresh))
                self.forget()
                continue
            return

    async def _settle(
        self, events: Mapping[Lane, Sequence[LoggedEvent]], positions: Mapping[Lane, int]
    ) -> None:
        rules = self._rules()
        if rules.digest != self._familiar_of:
            # What was no news to other rules may be to these.
            self._familiar.clear()
            self._familiar_of = rules.digest
        # By time: what a rule remembers comes before what it raises, as far as one batch reaches.
        records = sorted(self._records(events), key=lambda record: record.id)
        found = [one for record in records for one in self._sightings(rules, record)]
        advances = {
            lane: Advance(positions.get(lane, found_[0].offset), found_[-1].offset + 1)
            for lane, found_ in events.items()
        }
        work = Work(needed(found), partial(judge, found), _trends(records), advances)
        fresh = await self._retrying(lambda: self._store.settle(work))
        self._positions |= {lane: step.next_offset for lane, step in advances.items()}
        for each in found:
            if each.familiar is not None:
                self._familiar[each.familiar] = True
        self._told(fresh, events)

    def _records(self, events: Mapping[Lane, Sequence[LoggedEvent]]) -> list[Record]:
        records = []
        passed_over: Counter[str] = Counter()
        for event in (event for found in events.values() for event in found):
            if event.value.startswith(REPORT_PREFIX):
                continue
            try:
                records.append(self._build(event.value, event.received_ms))
            except BuriedEvent as buried:
                # The ingestor buries it; there will be no record to alert of.
                passed_over[str(buried.reason)] += 1
            except Exception as fault:  # noqa: BLE001  one event must not stop the watch
                log.error("event_not_built", fault=type(fault).__name__)
                passed_over["fault"] += 1
        for reason, count in passed_over.items():
            self._metrics.watch_passed_over.labels(reason).inc(count)
        self._metrics.watch_events.inc(sum(map(len, events.values())))
        return records

    def _sightings(self, rules: RuleSet, record: Record) -> Sequence[Sighting]:
        try:
            found = sightings(rules, record, self._familiar)
        except Exception as fault:  # noqa: BLE001  one record must not stop the watch
            log.error("record_not_judged", fault=type(fault).__name__)
            self._metrics.watch_passed_over.labels("fault").inc()
            return ()
        if found and record.received_ms - (record.id.int >> 80) > self._limits.lateness_ms_max:
            counted = [each for each in found if each.rule.counts]
            self._metrics.watch_late.inc(len(counted))
            return [each for each in found if not each.rule.counts]
        return found

    def _told(self, fresh: Sequence[Alert], events: Mapping[Lane, Sequence[LoggedEvent]]) -> None:
        now_ms = self._clock_ms()
        newest = max(found[-1].received_ms for found in events.values())
        self._metrics.watch_behind_seconds.set(max(now_ms - newest, 0) / 1000)
        for alert in fresh:
            self._metrics.alerts_raised.labels(alert.severity).inc()
            self._metrics.alert_seconds.observe(max(now_ms - (alert.record.id.int >> 80), 0) / 1000)
        if fresh:
            self._on_alerts(fresh)

    async def _retrying(self, step: Callable[[], Awaitable[_T]]) -> _T:
        async for attempt in stamina.retry_context(
            on=RetryableError,
            attempts=None,
            timeout=None,
            wait_initial=self._limits.retry_wait_ms_initial / 1000,
            wait_max=self._limits.retry_wait_ms_max / 1000,
        ):
            with attempt:
                if attempt.num > 1:
                    log.warning("retrying", part="store", attempt=attempt.num)
                return await step()
        raise AssertionError("unreachable: retried without end")


def _trends(records: Sequence[Record]) -> Mapping[Trend, int]:
    return Counter(
        Trend(
            (at_ms := record.id.int >> 80) - at_ms % width_ms,
            width_ms,
            record.account_id,
            record.actor_id,
            record.resource_product,
            record.action_type,
            record.action_result,
        )
        for record in records
        for width_ms in TREND_WIDTHS_MS
    )
