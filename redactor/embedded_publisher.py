"""Events into the embedded log."""

from __future__ import annotations

from collections.abc import Sequence

from redactor.event_log import EventLog
from schemas.event import EncodedEvent


class EmbeddedPublisher:
    """`EventPublisher` on an event log: on disk before `publish` returns. Whoever made the log closes it."""

    def __init__(self, log: EventLog) -> None:
        self._log = log

    async def start(self) -> None:
        """Open the log if it is not open. Raises RetryableError, StartupError."""
        await self._log.open()

    async def publish(self, events: Sequence[EncodedEvent]) -> None:
        """Return once every event is on disk. Raises NotDurable, and PermanentError for what could never fit."""
        await self._log.append(events)

    async def ready(self) -> bool:
        """Return whether the log is open and has room."""
        return self._log.ready()

    async def stop(self) -> None:
        """Wait for what is being written."""
        await self._log.settle()
