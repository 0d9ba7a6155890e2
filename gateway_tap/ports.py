"""What the collector hands captures and heartbeats to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from schemas.capture import Capture, TapPosition
from schemas.heartbeat import Heartbeat


class IdentifiedCapture(NamedTuple):
    """A capture and its id (32 hex digits), which stays the same whenever the capture is sent again."""

    id: str
    capture: Capture

    def __repr__(self) -> str:
        return f"IdentifiedCapture({self.id})"


class CaptureSink(Protocol):
    """Redacts and publishes."""

    async def accept(
        self, captures: Sequence[IdentifiedCapture], received_ms: int, refused: Sequence[TapPosition] = ()
    ) -> None:
        """Return only after every capture is durable as a redacted event, or is excluded by configuration.

        `received_ms` is the time of receipt (Unix ms). The sequence numbers of excluded captures, and those in
        `refused`, are made durable too, so that they are not taken for gaps.

        Raises NotDurable: then the whole batch counts as not accepted. Never raises because of what a capture holds.
        """

    async def report(self, heartbeats: Sequence[Heartbeat], received_ms: int) -> None:
        """Return only after every heartbeat is durable. Raises NotDurable."""
