"""`EventPublisher` to the embedded log."""

from __future__ import annotations

from collections.abc import Sequence

from eventlog.embedded.log import EmbeddedLog
from schemas.event import EncodedEvent


class EmbeddedPublisher:
    """`EventPublisher` to an embedded log: on disk before `publish` returns. The owner of the log closes it."""

    def __init__(self, log: EmbeddedLog) -> None:
        self._log = log

    async def start(self) -> None:
        """Open the log if necessary. Raises RetryableError, StartupError."""
        await self._log.open()

    async def publish(self, events: Sequence[EncodedEvent]) -> None:
        """Return once every event is on disk. Raises NotDurable, and PermanentError for a batch that can never fit."""
        await self._log.append(events)

    async def ready(self) -> bool:
        """Return whether the log is open and has room."""
        return self._log.ready()

    async def stop(self) -> None:
        """Wait until no write is under way."""
        await self._log.flush()
