"""A circuit breaker for one service."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from schemas.errors import RetryableError

# A service that fails five times in a row rarely answers the sixth time, and every attempt costs a timeout.
FAILURES_MAX = 5
# Names of a service that is back are missing for this long at most.
OPEN_S = 10.0
# Or for this long, if the service itself asked to wait as long or longer.
ASKED_WAIT_S_MAX = 300.0

_T = TypeVar("_T")


def _ignore(*, is_open: bool) -> None:
    """The default for `on_change`."""


class CircuitBreaker:
    """Opens after `failures_max` failures in a row and then rejects calls for `open_s`.

    After that it is half-open: it lets one call through, the probe, and rejects all others until the probe has ended. If the
    probe succeeds, the breaker closes; if it fails, the breaker stays open for another `open_s`. If a service asks to wait, the
    breaker opens at once, for as long as it asked, `ASKED_WAIT_S_MAX` at most.

    `service` names the service in error messages. `on_change` is called when the breaker opens or closes, and when a
    failed probe keeps it open. `clock` returns monotonic seconds. Not thread-safe: use it from one event loop.
    """

    def __init__(
        self,
        service: str,
        on_change: Callable[..., None] = _ignore,
        clock: Callable[[], float] = time.monotonic,
        *,
        failures_max: int = FAILURES_MAX,
        open_s: float = OPEN_S,
    ) -> None:
        self._service = service
        self._failures_max = failures_max
        self._open_s = open_s
        self._on_change = on_change
        self._clock = clock
        self._failures = 0
        self._open_until_s: float | None = None
        self._asked = False
        self._probing = False

    @property
    def is_open(self) -> bool:
        """Whether the breaker is open or half-open."""
        return self._open_until_s is not None

    def check(self) -> None:
        """Raise RetryableError if a call would be rejected now."""
        if self._open_until_s is not None and (self._probing or self._clock() < self._open_until_s):
            raise RetryableError(f"the circuit breaker of {self._service} is open")

    async def call(self, work: Callable[[], Awaitable[_T]]) -> _T:
        """Return the result of `work`. Raises RetryableError if the call is rejected, or if `work` raises it.

        Only RetryableError counts as a failure of the service. Any other exception passes through and leaves the state as
        it was.
        """
        self.check()
        # No await since `check`, so that exactly one call becomes the probe.
        is_probe = self._probing = self.is_open
        try:
            result = await work()
        except RetryableError as error:
            if error.asked_to_wait_s is None:
                self._failed(is_probe=is_probe)
            else:
                self._open(min(error.asked_to_wait_s, ASKED_WAIT_S_MAX), asked=True)
            raise
        finally:
            # A cancelled probe says nothing about the service, so the next call becomes the probe.
            self._probing = self._probing and not is_probe
        self._succeeded(is_probe=is_probe)
        return result

    def _failed(self, *, is_probe: bool) -> None:
        self._failures += 1
        # Calls that were in flight when the breaker opened must not extend the time it is open.
        if is_probe or (self._open_until_s is None and self._failures >= self._failures_max):
            self._open(self._open_s)

    def _open(self, seconds: float, *, asked: bool = False) -> None:
        # Of several that ask to wait at once, the longest counts.
        self._open_until_s = max(self._clock() + seconds, self._open_until_s or 0.0)
        self._asked = asked
        self._on_change(is_open=True)

    def _succeeded(self, *, is_probe: bool) -> None:
        self._failures = 0
        # What was in flight when the service asked to wait does not say that the wait is over.
        if self._open_until_s is not None and (is_probe or not self._asked):
            self._open_until_s = None
            self._on_change(is_open=False)
