"""Whether what a lane gives goes on where it was. Pure bookkeeping.

A library that reads for us may have committed over events that were never handed to us. What is kept is the truth:
where the next event is not the one that is due, reading has to go back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from watcher.ports import Lane
from watcher.watch import LoggedEvent


@dataclass(slots=True)
class _LaneState:
    due: int | None
    newest: int = -1
    """The highest offset seen since reading last went back."""
    going_back: bool = False


@dataclass(slots=True)
class Admitted:
    """What of some events goes on where their lanes were, and from where on lanes have to be read again."""

    events: dict[Lane, Sequence[LoggedEvent]] = field(default_factory=dict)
    back_to: dict[Lane, int] = field(default_factory=dict)


class Continuity:
    """Follows lanes; begun anew with every assignment."""

    def __init__(self) -> None:
        self._lanes: dict[Lane, _LaneState] = {}

    def forget(self) -> None:
        """Begin every lane anew."""
        self._lanes.clear()

    def go_back(self, lane: Lane, due: int) -> None:
        """Note that the lane is read again from `due` on."""
        self._lanes[lane] = _LaneState(due, going_back=True)

    def admit(self, events: Mapping[Lane, Sequence[LoggedEvent]], positions: Mapping[Lane, int]) -> Admitted:
        """Return what is due, in order. `positions`: what is kept of each lane; one that has none begins anywhere."""
        admitted = Admitted()
        for lane, found in events.items():
            state = self._lanes.setdefault(lane, _LaneState(positions.get(lane)))
            due = [event for event in found if self._is_due(state, event.offset)]
            if due:
                admitted.events[lane] = due
            if state.due is not None and not state.going_back and state.newest >= state.due:
                state.going_back = True
                admitted.back_to[lane] = state.due
        return admitted

    @staticmethod
    def _is_due(state: _LaneState, offset: int) -> bool:
        if state.due is not None and offset < state.due:
            return False
        # Where reading has gone back and still begins later, the log itself has nothing there.
        has_gone_back = state.going_back and offset <= state.newest
        if state.due is None or offset == state.due or has_gone_back:
            state.due, state.going_back, state.newest = offset + 1, False, -1
            return True
        state.newest = max(state.newest, offset)
        return False
