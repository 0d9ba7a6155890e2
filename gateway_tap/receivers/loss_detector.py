"""Which pairs a gateway sent and the receiver never saw, by a counter of the gateway's own.

A gateway numbers the pairs that it sends from 1, within an epoch: a number that stands for one process or thread of it. Threads
overtake one another, so a missing number is waited for before it counts as lost.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from typing import Final, NamedTuple

_MAGIC: Final = b"auditapg"
# The magic, and when a pair was last seen (Unix ms). Then one counter a slot: its epoch and its highest number.
_HEAD: Final = struct.Struct("<8sQ")
_SLOT: Final = struct.Struct("<QQ")
PAGE_BYTES: Final = 4096
_COUNTERS_MAX: Final = (PAGE_BYTES - _HEAD.size) // _SLOT.size
_LATE_MS_MAX: Final = 2_000
"""How long a missing number is waited for."""
_RANGES_MAX: Final = 1_000
_JUMP_MAX: Final = 1_000_000
"""A counter that jumps further is not the one that was seen before."""


class Loss(NamedTuple):
    """Pairs that passed the gateway in this time (Unix ms, both ends inclusive) and did not arrive."""

    pairs: int
    from_ms: int
    to_ms: int


@dataclass
class _Missing:
    first: int
    last: int
    from_ms: int
    noticed_ms: int


@dataclass
class _Counter:
    slot: int
    highest: int
    seen_ms: int


class LossDetector:
    """Watches a gateway's counters. `page` is memory of PAGE_BYTES that may outlive the process: the next run goes on there.

    A counter that is new to a page in use began while no receiver ran, so all its numbers up to the first one seen are
    missing. On a new page, a counter may be of any age, and nothing is known of its earlier numbers.
    """

    def __init__(self, page: bytearray | mmap.mmap) -> None:
        self._page = page
        self._counters: dict[int, _Counter] = {}
        self._missing: dict[int, list[_Missing]] = {}
        magic, seen_ms = _HEAD.unpack_from(page)
        self.seen_ms: int | None = seen_ms if magic == _MAGIC else None
        """When an earlier run saw the last pair (Unix ms); None if there was none."""
        if self.seen_ms is not None:
            self._restore(self.seen_ms)

    def _restore(self, seen_ms: int) -> None:
        for slot in range(_COUNTERS_MAX):
            epoch, highest = _SLOT.unpack_from(self._page, _HEAD.size + slot * _SLOT.size)
            if highest:
                self._counters[epoch] = _Counter(slot, highest, seen_ms)

    def watch(self, now_ms: int) -> None:
        """Note that the receiver runs: what is missing from an earlier time was not lost in this one."""
        _HEAD.pack_into(self._page, 0, _MAGIC, now_ms)

    def observe(self, epoch: int, seq: int, now_ms: int) -> None:
        """Note that this number of a counter has arrived."""
        counter = self._counters.get(epoch) or self._begin(epoch, seq, now_ms)
        if seq > counter.highest:
            if seq - counter.highest > _JUMP_MAX:
                counter.highest = seq - 1
            if seq > counter.highest + 1:
                missing = _Missing(counter.highest + 1, seq - 1, counter.seen_ms, now_ms)
                self._missing.setdefault(epoch, []).append(missing)
            counter.highest = seq
            _SLOT.pack_into(self._page, _HEAD.size + counter.slot * _SLOT.size, epoch, seq)
        elif epoch in self._missing:
            self._found(epoch, seq)
        counter.seen_ms = now_ms

    def _begin(self, epoch: int, seq: int, now_ms: int) -> _Counter:
        if len(self._counters) < _COUNTERS_MAX:
            slot = len(self._counters)
        else:
            oldest = min(self._counters, key=lambda each: self._counters[each].seen_ms)
            slot = self._counters.pop(oldest).slot
        # On a page in use, the gateway has started since.
        before, since_ms = (seq - 1, now_ms) if self.seen_ms is None else (0, self.seen_ms)
        counter = self._counters[epoch] = _Counter(slot, before, since_ms)
        return counter

    def _found(self, epoch: int, seq: int) -> None:
        ranges = self._missing[epoch]
        for index, each in enumerate(ranges):
            if each.first <= seq <= each.last:
                below = _Missing(each.first, seq - 1, each.from_ms, each.noticed_ms)
                above = _Missing(seq + 1, each.last, each.from_ms, each.noticed_ms)
                ranges[index : index + 1] = [part for part in (below, above) if part.first <= part.last]
                break
        if not ranges:
            del self._missing[epoch]

    def losses(self, now_ms: int, *, all_missing: bool = False) -> list[Loss]:
        """Return, once each, what has been missing for too long; with `all_missing`, everything that is missing."""
        found: list[Loss] = []
        for epoch, ranges in list(self._missing.items()):
            overflow = len(ranges) - _RANGES_MAX
            late = []
            for index, each in enumerate(ranges):
                is_late = now_ms - each.noticed_ms > _LATE_MS_MAX
                if all_missing or is_late or index < overflow:
                    late.append(each)
            found += [Loss(each.last - each.first + 1, each.from_ms, each.noticed_ms) for each in late]
            left = [each for each in ranges if each not in late]
            if left:
                self._missing[epoch] = left
            else:
                del self._missing[epoch]
        return found
