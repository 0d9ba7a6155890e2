"""Turns on the processor: work on many records goes on for a moment at a time, fairly among all who have such work.

The event loop runs one thing at a time. A page of a thousand records that is made in one go keeps every other request waiting, and
in `auditap up` every capture.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from log_api.fair_shares import FairQueue, Requester

_T = TypeVar("_T")
_R = TypeVar("_R")
_TURN_S = 0.001
_RECORDS_AT_ONCE = 16
# No bound: whoever waits for a turn has a connection or a stream, and those are bounded.
_WAITING_MAX = 1 << 32


def cpu_queue() -> FairQueue:
    """Return a queue of which `CpuTurns` take turns, one at a time."""
    return FairQueue(1, _WAITING_MAX, wait_s=None)


@dataclass(frozen=True, slots=True)
class CpuTurns:
    """The turns of one requester."""

    queue: FairQueue
    requester: Requester

    async def results(
        self, records: Sequence[_T], work: Callable[[Sequence[_T]], _R], at_once: int = _RECORDS_AT_ONCE
    ) -> AsyncIterator[list[_R]]:
        """Yield, after each turn, what `work` returned for at most `at_once` records at a time. All come once, in order."""
        done = 0
        while done < len(records):
            results: list[_R] = []
            async with self.queue.slot(self.requester):
                until_s = time.perf_counter() + _TURN_S
                while not results or (done < len(records) and time.perf_counter() < until_s):
                    results.append(work(records[done : done + at_once]))
                    done += at_once
                # Kept until whatever else is ready has gone on: without an `await`, nobody would ever find it taken.
                await asyncio.sleep(0)
            yield results
