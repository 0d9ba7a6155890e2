"""The tap of a receiver under test, and what a collector has of it."""

from __future__ import annotations

import asyncio

from auditap_tap.sequence import DropCause
from gateway_tap.receivers.received_tap import ReceivedTap
from schemas.capture import Capture
from tests.gateways.collected import Collected


class Received:
    """A tap, the collector that it sends to, and what has come out once the tap is closed."""

    def __init__(self, tap: ReceivedTap, collected: Collected) -> None:
        self.tap = tap
        self.collected = collected

    async def captures(self) -> list[Capture]:
        await asyncio.to_thread(self.tap.close)
        return [each.capture for each in self.collected.sink.accepted]

    def drops(self) -> dict[DropCause, int]:
        """Return how many numbers were dropped, by cause."""
        ranges = {
            (each.cause, each.first, each.last)
            for beat in self.collected.sink.heartbeats
            for each in beat.dropped
        }
        counts: dict[DropCause, int] = {}
        for cause, first, last in ranges:
            counts[DropCause(cause)] = counts.get(DropCause(cause), 0) + last - first + 1
        return counts
