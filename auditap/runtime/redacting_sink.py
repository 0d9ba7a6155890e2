"""What the collector's endpoints hand their captures to: redact, then publish."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence

import structlog

from auditap.runtime.lifecycle import clock_ms
from eventlog.ports import EventPublisher
from gateway_tap.ports import IdentifiedCapture
from gateway_tap.turns import in_turns
from redactor.pipeline.redactor import Redactor
from schemas.capture import Capture, TapPosition
from schemas.errors import NotDurable
from schemas.event import EncodedEvent
from schemas.heartbeat import (
    REPORT_VERSION,
    SEQ_MAX,
    UNRECORDED_RANGES_MAX,
    DroppedRange,
    Heartbeat,
    TapEpoch,
    TapReport,
    UnrecordedNumbers,
    contiguous_ranges,
    encode_report,
)
from schemas.identity import new_id
from schemas.metric_defs import Metrics

log = structlog.get_logger("redacting_sink")
_REFUSED = "refused"


class RedactingSink:
    """A `CaptureSink` that publishes redacted events and sequence numbers, and nothing else."""

    def __init__(
        self,
        redactor: Callable[[], Redactor],
        publisher: EventPublisher,
        metrics: Metrics,
        fetch_keys: Callable[[Capture], Awaitable[None]] | None = None,
    ) -> None:
        """`redactor` returns the redactor in use. It is called once a batch, so that one redactor handles all of it.

        `fetch_keys` is called with each capture before it is redacted, where issuers of tokens are configured.
        """
        self._redactor = redactor
        self._fetch_keys = fetch_keys
        self._publisher = publisher
        self._metrics = metrics
        # Of this run: another run's reports may still be in a spool.
        self._id = secrets.token_hex(16)

    async def accept(
        self, captures: Sequence[IdentifiedCapture], received_ms: int, refused: Sequence[TapPosition] = ()
    ) -> None:
        """See `CaptureSink.accept`."""
        events = []
        excluded: list[TapPosition] = []
        redactor = self._redactor()
        async for event_id, capture in in_turns(captures):
            if self._fetch_keys is not None:
                await self._fetch_keys(capture)
            value = redactor.redact(capture, event_id)
            if value is None:
                self._metrics.captures_excluded.inc()
                if capture.tap is not None:
                    excluded.append(capture.tap)
            else:
                events.append(EncodedEvent(event_id, value, received_ms))
        if excluded or refused:
            counts = _unrecorded(excluded, refused, received_ms)
            events += [self._encoded(received_ms, count=count) for count in counts]
        with self._metrics.publish_duration_seconds.time():
            await self._publisher.publish(events)

    async def report(self, heartbeats: Sequence[Heartbeat], received_ms: int) -> None:
        """See `CaptureSink.report`."""
        await self._publisher.publish([self._encoded(received_ms, heartbeat=each) for each in heartbeats])

    async def keep_reporting(self, interval_ms: int) -> None:
        """Publish an empty report every `interval_ms` milliseconds until cancelled.

        The ingestor judges taps' leases by the times of the reports that it reads, so they expire even if no tap reports.
        """
        while True:
            now_ms = clock_ms()
            try:
                await self._publisher.publish([self._encoded(now_ms)])
            except NotDurable as error:
                log.debug("report_deferred", cause=str(error))
            await asyncio.sleep(interval_ms / 1000)

    def _encoded(
        self, received_ms: int, *, heartbeat: Heartbeat | None = None, count: UnrecordedNumbers | None = None
    ) -> EncodedEvent:
        report = TapReport(REPORT_VERSION, heartbeat, count, self._id)
        return EncodedEvent(new_id(received_ms), encode_report(report), received_ms)


def _unrecorded(
    excluded: Iterable[TapPosition], refused: Iterable[TapPosition], received_ms: int
) -> list[UnrecordedNumbers]:
    """Return the sequence numbers that will have no record, in counts of bounded size."""
    counts = [UnrecordedNumbers(tap, excluded=pairs) for tap, pairs in _ranges_by_tap(excluded)]
    for tap, pairs in _ranges_by_tap(refused):
        dropped = tuple(DroppedRange(*pair, _REFUSED, received_ms, received_ms) for pair in pairs)
        counts.append(UnrecordedNumbers(tap, dropped=dropped))
    return counts


def _ranges_by_tap(
    positions: Iterable[TapPosition],
) -> Iterator[tuple[TapEpoch, tuple[tuple[int, int], ...]]]:
    """Yield the ranges of sequence numbers of each tap and epoch, at most UNRECORDED_RANGES_MAX at a time."""
    numbers: dict[TapEpoch, list[int]] = {}
    for tap in positions:
        if tap.epoch is not None and tap.seq is not None and 1 <= tap.seq <= SEQ_MAX:
            numbers.setdefault(TapEpoch(tap.id, tap.epoch), []).append(tap.seq)
    for epoch, seqs in numbers.items():
        pairs = tuple(contiguous_ranges(sorted(seqs)))
        for first in range(0, len(pairs), UNRECORDED_RANGES_MAX):
            yield epoch, pairs[first : first + UNRECORDED_RANGES_MAX]
