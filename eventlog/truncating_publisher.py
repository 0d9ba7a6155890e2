"""Publishing an event without its bodies if the log does not take it whole."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from eventlog.ports import EventPublisher
from schemas.errors import EventsTooLarge, NotDurable
from schemas.event import EncodedEvent, truncate_event
from schemas.metric_defs import Metrics

log = structlog.get_logger("publisher")


class TruncatingPublisher:
    """`EventPublisher` that refuses no event for its size.

    An event too large for the log is published without its bodies and with the size and digest of the whole
    (`AuditEvent.cut`). The ingestor dead-letters it as `too_large`.
    """

    def __init__(self, log_publisher: EventPublisher, metrics: Metrics) -> None:
        self._log = log_publisher
        self._metrics = metrics

    async def start(self) -> None:
        """See `EventPublisher.start`."""
        await self._log.start()

    async def publish(self, events: Sequence[EncodedEvent]) -> None:
        """Return once every event is durable, whole or truncated. Raises NotDurable."""
        while True:
            try:
                return await self._log.publish(events)
            except EventsTooLarge as refused:
                too_large = refused.ids
            # Each pass makes an event smaller, or raises.
            events = [self._truncated(event) if event.id in too_large else event for event in events]

    async def ready(self) -> bool:
        """See `EventPublisher.ready`."""
        return await self._log.ready()

    async def stop(self) -> None:
        """See `EventPublisher.stop`."""
        await self._log.stop()

    def _truncated(self, event: EncodedEvent) -> EncodedEvent:
        value = truncate_event(event.value)
        if value is None:
            raise NotDurable("the log does not take even an event without its bodies")
        self._metrics.events_truncated.inc()
        log.warning("event_truncated", size_bytes=len(event.value))
        return event._replace(value=value)
