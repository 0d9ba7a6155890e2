"""Redact, then publish: what stands behind the collector's endpoints."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence

import structlog

from auditap.waiting import clock_ms
from gateway_tap.ports import IdentifiedCapture
from redactor.ports import EventPublisher
from redactor.redact import Redactor
from schemas.capture import TapPosition
from schemas.errors import NotDurable
from schemas.event import EncodedEvent
from schemas.heartbeat import (
    COUNT_RANGES_MAX,
    NUMBER_MAX,
    REPORT_VERSION,
    CollectorCount,
    DroppedRange,
    Heartbeat,
    TapEpoch,
    TapReport,
    encode_report,
    ranges,
)
from schemas.identity import new_id
from schemas.metric_defs import Metrics

log = structlog.get_logger("accept")
_REFUSED = "refused"


class RedactingSink:
    """`CaptureSink`: only redacted events, and numbers, go on from here."""

    def __init__(self, redactor: Callable[[], Redactor], publisher: EventPublisher, metrics: Metrics) -> None:
        """`redactor` returns the one that decides now; a batch is redacted by one of them."""
        self._redactor = redactor
        self._publisher = publisher
        self._metrics = metrics

    async def accept(
        self,
        captures: Sequence[IdentifiedCapture],
        received_ms: int,
        refused: Sequence[TapPosition] = (),
    ) -> None:
        """See `CaptureSink.accept`."""
        events = []
        excluded: list[TapPosition] = []
        redactor = self._redactor()
        for event_id, capture in captures:
            value = redactor.redact(capture, event_id)
            if value is None:
                self._metrics.captures_excluded.inc()
                if capture.tap is not None:
                    excluded.append(capture.tap)
            else:
                events.append(EncodedEvent(event_id, value, received_ms))
        if excluded or refused:
            events += _counted(excluded, refused, received_ms)
        with self._metrics.publish_seconds.time():
            await self._publisher.publish(events)

    async def report(self, heartbeats: Sequence[Heartbeat], received_ms: int) -> None:
        """See `CaptureSink.report`."""
        reports = [TapReport(REPORT_VERSION, heartbeat=heartbeat) for heartbeat in heartbeats]
        await self._publisher.publish([_encoded(each, received_ms) for each in reports])

    async def keep_reporting(self, interval_ms: int) -> None:
        """Say on the log again and again that a collector is there: by that, taps' leases run out."""
        while True:
            now_ms = clock_ms()
            try:
                await self._publisher.publish([_encoded(TapReport(REPORT_VERSION), now_ms)])
            except NotDurable as away:
                log.debug("report_deferred", cause=str(away))
            await asyncio.sleep(interval_ms / 1000)


def _counted(
    excluded: Iterable[TapPosition], refused: Iterable[TapPosition], received_ms: int
) -> list[EncodedEvent]:
    """Return the reports of numbers that become no record."""
    reports = [CollectorCount(tap, excluded=pairs) for tap, pairs in _ranges_by_tap(excluded)] + [
        CollectorCount(
            tap, dropped=tuple(DroppedRange(*pair, _REFUSED, received_ms, received_ms) for pair in pairs)
        )
        for tap, pairs in _ranges_by_tap(refused)
    ]
    return [_encoded(TapReport(REPORT_VERSION, count=each), received_ms) for each in reports]


def _ranges_by_tap(
    positions: Iterable[TapPosition],
) -> Iterator[tuple[TapEpoch, tuple[tuple[int, int], ...]]]:
    """Yield each start of a tap with ranges of its numbers, as many as one report takes at a time."""
    numbers: dict[TapEpoch, list[int]] = {}
    for tap in positions:
        if tap.epoch is not None and tap.seq is not None and 1 <= tap.seq <= NUMBER_MAX:
            numbers.setdefault(TapEpoch(tap.id, tap.epoch), []).append(tap.seq)
    for start, theirs in numbers.items():
        pairs = tuple(ranges(sorted(theirs)))
        for first in range(0, len(pairs), COUNT_RANGES_MAX):
            yield start, pairs[first : first + COUNT_RANGES_MAX]


def _encoded(report: TapReport, received_ms: int) -> EncodedEvent:
    return EncodedEvent(new_id(received_ms), encode_report(report), received_ms)
