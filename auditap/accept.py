"""Redact, then publish: what stands behind the collector's endpoint."""

from __future__ import annotations

from collections.abc import Sequence

from gateway_tap.ports import IdentifiedCapture
from redactor.ports import EventPublisher
from redactor.redact import Redactor
from schemas.event import EncodedEvent
from schemas.metric_defs import Metrics


class RedactingSink:
    """`CaptureSink`: only redacted events go on from here."""

    def __init__(self, redactor: Redactor, publisher: EventPublisher, metrics: Metrics) -> None:
        self._redactor = redactor
        self._publisher = publisher
        self._metrics = metrics

    async def accept(self, captures: Sequence[IdentifiedCapture], received_ms: int) -> None:
        """See `CaptureSink.accept`."""
        events = []
        for event_id, capture in captures:
            value = self._redactor.redact(capture, event_id)
            if value is None:
                self._metrics.captures_excluded.inc()
            else:
                events.append(EncodedEvent(event_id, value, received_ms))
        with self._metrics.publish_seconds.time():
            await self._publisher.publish(events)
