"""The collector's port to what stands behind it. Its docstring is a contract."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from schemas.capture import Capture, TapPosition
from schemas.heartbeat import Heartbeat


class IdentifiedCapture(NamedTuple):
    """A capture and the id that it keeps on every retry (32 hex digits)."""

    id: str
    capture: Capture

    def __repr__(self) -> str:
        return f"IdentifiedCapture({self.id})"


class CaptureSink(Protocol):
    """Redaction and publishing, as the collector sees them."""

    async def accept(
        self,
        captures: Sequence[IdentifiedCapture],
        received_ms: int,
        refused: Sequence[TapPosition] = (),
    ) -> None:
        """Return only after the event of every capture is durable, or its operation is excluded; with them, where in
        their taps' counts captures stood that were excluded or `refused` (as far as their lines tell).

        Raises NotDurable for the whole batch otherwise. Never raises because of what a capture holds.
        """

    async def report(self, heartbeats: Sequence[Heartbeat], received_ms: int) -> None:
        """Return only after every heartbeat is durable. Raises NotDurable otherwise."""
