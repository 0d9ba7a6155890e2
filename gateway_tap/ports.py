"""The collector's port to what stands behind it. Its docstring is a contract."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from schemas.capture import Capture


class IdentifiedCapture(NamedTuple):
    """A capture and the id that it keeps on every retry (32 hex digits)."""

    id: str
    capture: Capture

    def __repr__(self) -> str:
        return f"IdentifiedCapture({self.id})"


class CaptureSink(Protocol):
    """Redaction and publishing, as the collector sees them."""

    async def accept(self, captures: Sequence[IdentifiedCapture], received_ms: int) -> None:
        """Return only after the event of every capture is durable, or its operation is excluded.

        Raises NotDurable for the whole batch otherwise. Never raises because of what a capture holds.
        """
