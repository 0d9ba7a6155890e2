"""Bounds on what is in memory: how many requests at once, and how many bytes of their bodies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gateway_tap.limits import IntakeLimits
from schemas.errors import RetryableError


class TooMuchInFlight(RetryableError):
    """The request would exceed a bound; it may succeed once others have ended. The message is for the sender."""


class InFlight:
    """The requests in flight."""

    def __init__(self, limits: IntakeLimits) -> None:
        self._limits = limits
        self._requests = 0
        self._bytes = 0

    @contextmanager
    def request(self) -> Iterator[RequestBytes]:
        """Count a request while it is handled. Raises TooMuchInFlight."""
        if self._requests >= self._limits.requests_max:
            raise TooMuchInFlight("too many requests at once")
        self._requests += 1
        held = RequestBytes(self)
        try:
            yield held
        finally:
            self._requests -= 1
            self._bytes -= held.size_bytes

    def reserve(self, size_bytes: int) -> None:
        """Reserve so many bytes. Raises TooMuchInFlight."""
        if self._bytes + size_bytes > self._limits.in_flight_bytes_max:
            raise TooMuchInFlight("too many bytes at once")
        self._bytes += size_bytes


class RequestBytes:
    """The bytes that one request holds in memory; released when it ends."""

    def __init__(self, in_flight: InFlight) -> None:
        self._in_flight = in_flight
        self.size_bytes = 0

    def add(self, size_bytes: int) -> None:
        """Hold so many bytes more. Raises TooMuchInFlight."""
        self._in_flight.reserve(size_bytes)
        self.size_bytes += size_bytes
