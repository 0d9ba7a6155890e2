"""The limit on malformed events: a wrong topic must not be drained into the dead letters."""

from __future__ import annotations

from typing import Final

WINDOW_EVENTS: Final = 1_000
"""Large enough that a few foreign messages stop nothing, small enough that a wrong topic fills no table."""


class MalformedLimit:
    """Judges events in consecutive windows of at least `WINDOW_EVENTS`, in the order in which they are built.

    Only `malformed` counts. It depends on the programs that write and read the log, never on traffic: no client can
    stop an ingestor (docs/adr/0022-malformed-events-halt-the-ingestor.md).
    """

    def __init__(self, share_max: float, window_events: int = WINDOW_EVENTS) -> None:
        """`share_max`: the limit is exceeded above this share of malformed events in a window; 1: never."""
        self._share_max = share_max
        self._window_events = window_events
        self._events = self._malformed = 0

    def exceeded_with(self, events: int, malformed: int) -> bool:
        """Add `events`, of which `malformed` are malformed. Returns whether they end a window above the limit."""
        self._events += events
        self._malformed += malformed
        if self._events < self._window_events:
            return False
        exceeded = self._malformed > self._share_max * self._events
        self.reset()
        return exceeded

    def reset(self) -> None:
        """Begin a new window. After a rebalance, events are read again and must not count twice."""
        self._events = self._malformed = 0
