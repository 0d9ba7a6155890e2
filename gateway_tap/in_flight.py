"""Bounds on what is in memory: how many requests at once, and how many bytes of their bodies, with a fair share for each sender.

The share is a dynamic threshold, as switches use for a shared buffer: a sender may hold `_SHARE` times what is free. A
sender alone gets two thirds, and always leaves room for the next one; n busy senders get the same each. Nothing has to be
known of senders in advance, and no one waits.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Final

from gateway_tap.limits import IntakeLimits
from schemas.errors import RetryableError

_SHARE: Final = 2


class Bound(StrEnum):
    """What a request would exceed; the value is a label of `auditap_intake_busy_total`."""

    REQUESTS = "requests"
    BYTES = "bytes"
    REQUESTS_SHARE = "requests_share"
    BYTES_SHARE = "bytes_share"


_SENTENCES: Final = {
    Bound.REQUESTS: "too many requests at once",
    Bound.BYTES: "too many bytes at once",
    Bound.REQUESTS_SHARE: "too many requests of this sender at once",
    Bound.BYTES_SHARE: "too many bytes of this sender at once",
}


class TooMuchInFlight(RetryableError):
    """The request would exceed a bound; it may succeed once others have ended. The message is for the sender."""

    def __init__(self, bound: Bound) -> None:
        super().__init__(_SENTENCES[bound])
        self.bound = bound


class _Held:
    """What the requests of one sender hold."""

    __slots__ = ("bytes", "requests")

    def __init__(self) -> None:
        self.requests = 0
        self.bytes = 0


class InFlight:
    """The requests in flight, of all listeners of a collector."""

    def __init__(self, limits: IntakeLimits) -> None:
        self._limits = limits
        self._all = _Held()
        # Of senders with a request in flight, so there are never more than `requests_max`.
        self._by_sender: dict[Hashable, _Held] = {}

    @contextmanager
    def request(self, sender: Hashable) -> Iterator[RequestBytes]:
        """Count a request while it is handled. `sender`: whose share it takes. Raises TooMuchInFlight."""
        held = self._by_sender.get(sender) or _Held()
        free = self._limits.requests_max - self._all.requests
        if free <= 0:
            raise TooMuchInFlight(Bound.REQUESTS)
        if held.requests >= _SHARE * free:
            raise TooMuchInFlight(Bound.REQUESTS_SHARE)
        self._by_sender[sender] = held
        held.requests += 1
        self._all.requests += 1
        body = RequestBytes(self, held)
        try:
            yield body
        finally:
            self._all.requests -= 1
            self._all.bytes -= body.size_bytes
            held.requests -= 1
            held.bytes -= body.size_bytes
            if not held.requests:
                del self._by_sender[sender]

    def reserve(self, held: _Held, size_bytes: int) -> None:
        """Reserve so many bytes for the sender that holds `held`. Raises TooMuchInFlight."""
        free_bytes = self._limits.in_flight_bytes_max - self._all.bytes - size_bytes
        if free_bytes < 0:
            raise TooMuchInFlight(Bound.BYTES)
        # A sender's only request may be as long as the limits for one request allow.
        if held.requests > 1 and held.bytes + size_bytes > _SHARE * free_bytes:
            raise TooMuchInFlight(Bound.BYTES_SHARE)
        held.bytes += size_bytes
        self._all.bytes += size_bytes


class RequestBytes:
    """The bytes that one request holds in memory; released when it ends."""

    def __init__(self, in_flight: InFlight, held: _Held) -> None:
        self._in_flight = in_flight
        self._held = held
        self.size_bytes = 0

    def add(self, size_bytes: int) -> None:
        """Hold so many bytes more. Raises TooMuchInFlight."""
        self._in_flight.reserve(self._held, size_bytes)
        self.size_bytes += size_bytes
