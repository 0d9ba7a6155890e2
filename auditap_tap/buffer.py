"""The pairs that wait for the sender."""

from __future__ import annotations

import threading
from collections import deque
from typing import NamedTuple, Protocol


class QueuedPair(Protocol):
    """A pair that waits. `size_bytes` is what the buffer has reserved for it, set by `PairBuffer.put`."""

    seq: int
    size_bytes: int

    def body_bytes(self) -> int:
        """Return the bytes of its bodies, which are reserved already."""

    def size_without_bodies(self) -> int:
        """Return about how many bytes the rest of it takes."""

    def encode(self, tap_id: str, epoch: int) -> bytes:
        """Return the pair as one line of NDJSON, a capture, line end included."""


class TapStats(NamedTuple):
    """Pairs counted since the tap's run began: every one captured is accepted, refused or dropped in the end.

    `failed` counts the tap's own failures, which no user of the service noticed.
    """

    captured: int = 0
    accepted: int = 0
    refused: int = 0
    dropped: int = 0
    failed: int = 0


class PairBuffer:
    """A queue bounded in bytes, and the counts of a run. The bound covers bodies being copied and batches being sent.

    The application's threads put, and never wait; the sender's thread gets.
    """

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._pairs: deque[QueuedPair] = deque()
        # Held for a few instructions at a time, and never while waiting for anything else.
        self._lock = threading.Lock()
        self._captured = self._accepted = self._refused = self._dropped = self._failed = 0
        self._drops_reported = 0
        self._closed = False
        self.filled = threading.Event()
        """Set when there is something to send."""

    def reserve(self, size_bytes: int) -> bool:
        """Reserve so many bytes, and return whether they fit."""
        with self._lock:
            if self._bytes + size_bytes > self._bytes_max:
                return False
            self._bytes += size_bytes
            return True

    def release(self, size_bytes: int) -> None:
        """Give reserved bytes back."""
        with self._lock:
            self._bytes -= size_bytes

    def put(self, pair: QueuedPair) -> bool:
        """Queue the pair, or drop and count it. Return whether it was queued."""
        body_bytes = pair.body_bytes()
        own_bytes = pair.size_without_bodies()
        with self._lock:
            self._captured += 1
            queued = not self._closed and self._bytes + own_bytes <= self._bytes_max
            if not queued:
                self._bytes -= body_bytes
                self._dropped += 1
            else:
                self._bytes += own_bytes
                pair.size_bytes = own_bytes + body_bytes
                self._pairs.append(pair)
        # Asking costs less than setting, and most requests find it set.
        if not self.filled.is_set():
            self.filled.set()
        return queued

    def get(self) -> QueuedPair | None:
        """Return the oldest pair, whose bytes stay reserved until they are released; None if there is none."""
        # Needs no lock: popping from a deque is atomic, and one thread alone gets pairs.
        return self._pairs.popleft() if self._pairs else None

    def close(self) -> None:
        """Queue nothing from here on, and drop and count what is left."""
        with self._lock:
            self._closed = True
            self._dropped += len(self._pairs)
            self._pairs.clear()

    def count_dropped(self, pairs: int) -> None:
        with self._lock:
            self._dropped += pairs

    def count_failed(self) -> None:
        with self._lock:
            self._failed += 1

    def count_sent(self, accepted: int, refused: int, drops_reported: int) -> None:
        with self._lock:
            self._accepted += accepted
            self._refused += refused
            self._drops_reported += drops_reported

    def drops_to_report(self) -> int:
        """Return how many drops no collector has acknowledged yet."""
        with self._lock:
            return self._dropped - self._drops_reported

    def stats(self) -> TapStats:
        with self._lock:
            return TapStats(self._captured, self._accepted, self._refused, self._dropped, self._failed)
