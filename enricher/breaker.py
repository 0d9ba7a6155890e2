"""Leaving a service alone that does not answer."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from enricher.config import BreakerConfig
from schemas.errors import RetryableError

_T = TypeVar("_T")


def _not_told(*, is_open: bool) -> None:
    """Be told by a breaker that nobody watches."""


class Breaker:
    """Opens after `failures_max` failures in a row; then nothing is asked for `open_ms`, and after that one call alone,
    until it has ended: if it succeeds the breaker is closed, if it fails it stays open as long again.

    `on_change` is told when it opens and closes. `clock`: seconds, monotonic. To be used by one event loop.
    """

    def __init__(
        self,
        who: str,
        config: BreakerConfig,
        on_change: Callable[..., None] = _not_told,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._who = who
        self._failures_max = config.failures_max
        self._open_s = config.open_ms / 1000
        self._on_change = on_change
        self._clock = clock
        self._failures = 0
        self._opened_s: float | None = None
        self._probing = False

    @property
    def is_open(self) -> bool:
        """Whether the service is left alone, but for a probe."""
        return self._opened_s is not None

    def check(self) -> None:
        """Raise RetryableError where a call would not be made now."""
        if self._opened_s is not None and (self._probing or self._clock() - self._opened_s < self._open_s):
            raise RetryableError(f"{self._who} is left alone for a while")

    async def call(self, work: Callable[[], Awaitable[_T]]) -> _T:
        """Return what `work` returns. Raises RetryableError, at once where no call is made now; what else `work`
        raises counts as no answer of the service.
        """
        self.check()
        is_probe = self._probing = self.is_open
        try:
            result = await work()
        except RetryableError:
            self._failed(is_probe=is_probe)
            raise
        finally:
            # A probe that was cancelled says nothing; the next call is one.
            self._probing = self._probing and not is_probe
        self._succeeded()
        return result

    def _failed(self, *, is_probe: bool) -> None:
        self._failures += 1
        # What was under way when it opened prolongs nothing.
        if is_probe or (self._opened_s is None and self._failures >= self._failures_max):
            self._opened_s = self._clock()
            self._on_change(is_open=True)

    def _succeeded(self) -> None:
        self._failures = 0
        if self._opened_s is not None:
            self._opened_s = None
            self._on_change(is_open=False)
