"""Which of the processes that accept from the same sockets takes a connection: one that has fewest.

Taps keep few connections for long, so chance would leave some processes without any. The kernel wakes all that wait for a
connection; those that have more than another leave it to that one for a moment. A process with two more than another ends
a connection with its response, so that the client connects again: after a restart, others have all of them.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from typing import Final

_SLOT_BYTES: Final = 8
_ABSENT: Final = 2**62
"""The count of a process that accepts nothing: nobody leaves a connection to it."""
_SHED_EVERY_S: Final = 0.5


class ConnectionCounts:
    """How many connections to one listener each of some processes has, in memory that all of them map. Each writes its own count alone."""

    def __init__(self, descriptor: int, processes: int) -> None:
        """Map the memory of `descriptor`, which `new` has made."""
        self.descriptor = descriptor
        self._memory = mmap.mmap(descriptor, processes * _SLOT_BYTES)
        self.counts = memoryview(self._memory).cast("q")

    @classmethod
    def new(cls, processes: int) -> ConnectionCounts:
        """Return counts of so many processes, none of which accepts yet."""
        descriptor = _new_memory()
        os.truncate(descriptor, processes * _SLOT_BYTES)
        made = cls(descriptor, processes)
        for index in range(processes):
            made.remove(index)
        return made

    def remove(self, index: int) -> None:
        """Note that a process accepts nothing."""
        self.counts[index] = _ABSENT


class ConnectionShare:
    """The share of one process, `index`, in the connections to sockets that several accept from."""

    def __init__(self, counts: ConnectionCounts, index: int) -> None:
        self._counts = counts.counts
        self._index = index
        self._shed_s = 0.0

    def begin(self) -> None:
        """Note that this process accepts connections, and has none."""
        self._counts[self._index] = 0

    def add(self, change: int) -> None:
        """Note that this process has so many connections more, or fewer."""
        self._counts[self._index] += change

    @property
    def is_ours(self) -> bool:
        """Whether no process has fewer connections than this one."""
        return self._counts[self._index] <= min(self._counts)

    def sheds_one(self, now_s: float) -> bool:
        """Whether this process should give up a connection now: it has at least two more than another, and gave up none lately.

        `now_s`: the loop's time.
        """
        if self._counts[self._index] < min(self._counts) + 2 or now_s < self._shed_s + _SHED_EVERY_S:
            return False
        self._shed_s = now_s
        return True


def _new_memory() -> int:
    """Return the descriptor of a new file in memory; where there is none, of a temporary one that no folder names."""
    make = getattr(os, "memfd_create", None)
    if make is not None:
        # A collector may have no folder to write to but its own, and no room on the disk.
        return int(make("auditap-connections"))
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
