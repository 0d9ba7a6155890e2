"""The redactor's port to the log of events. Its docstring is a contract."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from schemas.event import EncodedEvent


class EventPublisher(Protocol):
    """Where events go: Kafka or the embedded log."""

    async def start(self) -> None:
        """Connect. Raises RetryableError while the log is away, StartupError where waiting cannot help."""

    async def publish(self, events: Sequence[EncodedEvent]) -> None:
        """Return only after every event is durable; an empty batch returns at once.

        Raises NotDurable, within a bounded time, where that is not certain: none may then be called accepted,
        and publishing all of them again is right (they may end up in the log twice, with the same id). Raises
        EventsTooLarge, which names them, where there are events that the log will never take; whether the others are
        durable is not certain then, and publishing those again is right.
        """

    async def ready(self) -> bool:
        """Return whether publishing is likely to succeed now."""

    async def stop(self) -> None:
        """Wait a bounded time for what is under way, then let go."""
