"""Sequence numbers of one run: which were assigned, which are pending, which were dropped.

Numbers count from 1. A number is pending from the beginning of its request until a collector has acknowledged the capture,
or the tap has dropped it. Numbers rise with time, unless the clock goes back far.
"""

from __future__ import annotations

import mmap
import os
import threading
import time
from collections.abc import Iterable
from enum import StrEnum
from typing import Any, Final

from .state_file import HIGHEST, HIGHEST_OFFSET, STATE_BYTES

_EPOCH_RANDOM_BITS: Final = 20
_DROPPED_RANGES_MAX: Final = 4_096  # in memory, for each cause
_DROPPED_RANGES_SENT_MAX: Final = 1_000  # in one heartbeat: the contract's bound
_CLOCK_STEP_MS_MAX: Final = 5_000  # what time synchronization corrects in one step


def new_epoch(started_ms: int) -> int:
    """Return a number for a run: seconds and random bits, below 2**53 for clients whose numbers are floats.

    The time alone would not do: worker processes with the same tap id start at the same moment, and in containers
    they even have the same process id.
    """
    drawn = int.from_bytes(os.urandom(4), "big") >> (32 - _EPOCH_RANDOM_BITS)
    return started_ms // 1000 << _EPOCH_RANDOM_BITS | drawn


class DropCause(StrEnum):
    """Why a capture was dropped, as heartbeats report it."""

    BUFFER_FULL = "buffer_full"
    COLLECTOR_AWAY = "collector_away"
    """The collector was unavailable for as long as a batch is retried."""
    REJECTED = "rejected"
    """The collector rejected the whole batch."""
    REFUSED = "refused"
    """The collector refused this line of a batch."""
    FAILED = "failed"
    """The tap itself failed."""
    CLOSING = "closing"
    """The process ended before the request did, or before the capture was sent."""
    LOST = "lost"
    """The gateway sent it to a receiver, where it did not arrive."""


class SequenceNumbers:
    """Assigns numbers, and knows what became of each. Safe for threads."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        """The run's number: sequence numbers count within it. Final once something was sent."""
        # Held for a few instructions at a time, and never while waiting for anything else.
        self._lock = threading.Lock()
        self._highest = 0
        self._latest_ms = 0
        self._pending_since_ms: dict[int, int] = {}
        self._state: bytearray | mmap.mmap = bytearray(STATE_BYTES)
        self._dropped: dict[DropCause, DroppedRanges] = {}
        self._undelivered: list[dict[str, Any]] = []
        self._times_unordered = False
        self.clock_stepped_back = False
        """Whether the clock went back far since the last heartbeat."""

    def assign(self) -> tuple[int, int]:
        """Return the next number and the present time (Unix ms). The number is pending from here on."""
        now_ms = time.time_ns() // 1_000_000
        with self._lock:
            if now_ms < self._latest_ms:
                now_ms = self._time_after_step_back(now_ms)
            self._latest_ms = now_ms
            self._highest = seq = self._highest + 1
            self._pending_since_ms[seq] = now_ms
            # A store to memory, which survives `kill -9`. Writing to a file would cost each request a system call.
            HIGHEST.pack_into(self._state, HIGHEST_OFFSET, seq)
        return seq, now_ms

    def _time_after_step_back(self, now_ms: int) -> int:
        """Return the time to go on with. A small step back is not followed; a large one is, and heartbeats report it."""
        if self._latest_ms - now_ms <= _CLOCK_STEP_MS_MAX:
            return self._latest_ms
        self._times_unordered = self.clock_stepped_back = True
        return now_ms

    def acknowledge(self, seqs: Iterable[int]) -> None:
        """End the waiting for numbers whose captures a collector has."""
        with self._lock:
            for seq in seqs:
                self._pending_since_ms.pop(seq, None)

    def drop(self, seqs: Iterable[int], cause: DropCause) -> None:
        """Count pending numbers as dropped; others are passed over."""
        with self._lock:
            for seq in seqs:
                at_ms = self._pending_since_ms.pop(seq, None)
                if at_ms is not None:
                    self._dropped.setdefault(cause, DroppedRanges()).add(seq, at_ms)

    def assign_dropped(self, count: int, cause: DropCause, from_ms: int, to_ms: int) -> None:
        """Assign numbers to pairs that passed in this time (Unix ms) and never arrived, and count them as dropped."""
        with self._lock:
            first = self._highest + 1
            self._highest += count
            HIGHEST.pack_into(self._state, HIGHEST_OFFSET, self._highest)
            dropped = self._dropped.setdefault(cause, DroppedRanges())
            dropped.add_range(first, self._highest, from_ms, to_ms)

    def drop_all(self, cause: DropCause) -> None:
        """Count every pending number as dropped."""
        with self._lock:
            pending = list(self._pending_since_ms)
        self.drop(pending, cause)

    def persist_in(self, state: mmap.mmap) -> None:
        """Keep the highest number in the memory of a state file from here on."""
        with self._lock:
            HIGHEST.pack_into(state, HIGHEST_OFFSET, self._highest)
            self._state = state

    def detach(self) -> None:
        """Stop writing to the state file. Takes no lock, because a fork may have copied it locked."""
        self._state = bytearray(STATE_BYTES)

    def heartbeat_fields(self) -> dict[str, Any]:
        """Return the fields of a heartbeat that are about numbers.

        Dropped ranges are repeated in each heartbeat until `forget_delivered` is called for them.
        """
        with self._lock:
            now_ms = time.time_ns() // 1_000_000
            if now_ms < self._latest_ms:
                now_ms = self._time_after_step_back(now_ms)
            self._latest_ms = now_ms
            self.clock_stepped_back = False
            for cause, dropped in self._dropped.items():
                room = _DROPPED_RANGES_SENT_MAX - len(self._undelivered)
                self._undelivered += dropped.pop(cause, room)
            return {
                "at_ms": now_ms,
                "highest": self._highest,
                "pending_from": next(iter(self._pending_since_ms), self._highest + 1),
                "pending_since_ms": self._earliest_pending_ms(now_ms),
                "dropped": list(self._undelivered),
            }

    def _earliest_pending_ms(self, now_ms: int) -> int:
        times = self._pending_since_ms.values()
        # The first number pending is the earliest, unless the clock went back.
        return min(now_ms, *times) if self._times_unordered and times else next(iter(times), now_ms)

    def forget_delivered(self, ranges: int) -> None:
        """Forget the first dropped ranges of the last heartbeat: the collector has them."""
        with self._lock:
            del self._undelivered[:ranges]


class DroppedRanges:
    """Dropped numbers, added in any order, as ranges with the times of their first and last request.

    Bounded: a number that would need one range more is left out, and is then a gap without a cause.
    """

    __slots__ = ("_by_first", "_by_last")

    def __init__(self) -> None:
        # A range, [first, last, from_ms, to_ms], is in both, so that its neighbours on either side find it.
        self._by_first: dict[int, list[int]] = {}
        self._by_last: dict[int, list[int]] = {}

    def add(self, seq: int, at_ms: int) -> None:
        """Add a number and the time of its request (Unix ms)."""
        self.add_range(seq, seq, at_ms, at_ms)

    def add_range(self, first: int, last: int, from_ms: int, to_ms: int) -> None:
        """Add the numbers from `first` to `last`, of which none was added before, and the time span of their requests."""
        before, after = self._by_last.pop(first - 1, None), self._by_first.pop(last + 1, None)
        if before is None and after is None and len(self._by_first) >= _DROPPED_RANGES_MAX:
            return
        if before is not None:
            first, from_ms, to_ms = before[0], min(from_ms, before[2]), max(to_ms, before[3])
        if after is not None:
            last, from_ms, to_ms = after[1], min(from_ms, after[2]), max(to_ms, after[3])
            del self._by_last[last]
        self._by_first[first] = self._by_last[last] = [first, last, from_ms, to_ms]

    def pop(self, cause: DropCause, ranges_max: int) -> list[dict[str, Any]]:
        """Remove and return at most so many ranges, in the form that heartbeats have."""
        popped = sorted(self._by_first.values())[: max(ranges_max, 0)]
        for first, last, _, _ in popped:
            del self._by_first[first], self._by_last[last]
        return [
            {"first": first, "last": last, "cause": cause, "from_ms": from_ms, "to_ms": to_ms}
            for first, last, from_ms, to_ms in popped
        ]
