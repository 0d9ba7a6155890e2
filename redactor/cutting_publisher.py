"""Events that the log does not take whole, without their bodies."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from redactor.ports import EventPublisher
from schemas.errors import EventsTooLarge, NotDurable
from schemas.event import EncodedEvent, cut_event
from schemas.metric_defs import Metrics

log = structlog.get_logger("publisher")


class CuttingPublisher:
    """`EventPublisher` that never refuses an event for its size: what is too large for the log is published without its
    bodies, says so (`AuditEvent.cut`), and is buried by the ingestor as `too_large`.
    """

    def __init__(self, log_publisher: EventPublisher, metrics: Metrics) -> None:
        self._log = log_publisher
        self._metrics = metrics

    async def start(self) -> None:
        """See `EventPublisher.start`."""
        await self._log.start()

    async def publish(self, events: Sequence[EncodedEvent]) -> None:
        """Return once every event, or what the log takes of it, is durable. Raises NotDurable."""
        while True:
            try:
                return await self._log.publish(events)
            except EventsTooLarge as refused:
                too_large = refused.ids
            # Each round makes an event smaller, or ends.
            events = [self._cut(event) if event.id in too_large else event for event in events]

    async def ready(self) -> bool:
        """See `EventPublisher.ready`."""
        return await self._log.ready()

    async def stop(self) -> None:
        """See `EventPublisher.stop`."""
        await self._log.stop()

    def _cut(self, event: EncodedEvent) -> EncodedEvent:
        value = cut_event(event.value)
        if value is None:
            raise NotDurable("the log does not even take an event of the smallest size")
        self._metrics.events_cut.inc()
        log.warning("event_cut", size_bytes=len(event.value))
        return event._replace(value=value)
