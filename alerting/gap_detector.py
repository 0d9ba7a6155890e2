"""Detects whether a partition's events continue where its stored position is. Pure bookkeeping.

A library that reads for us may commit offsets of events that it never handed over. The stored position is the truth:
where the next event is not the one that is due, reading has to be rewound.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from eventlog.ports import LoggedEvent, Partition

# Faust may hand an event over again although reading was rewound: on an assignment it seeks to what the group has committed. So a gap is
# the log's own only if reading meets it after so many rewinds.
_REWINDS_BEFORE_GAP = 5


@dataclass(slots=True)
class _PartitionState:
    due: int
    """The next offset."""
    newest: int = -1
    """The highest offset seen since reading was last rewound."""
    is_rewinding: bool = False
    rewinds: int = 0
    """How often reading was rewound to `due`."""


@dataclass(slots=True)
class Admission:
    """Events that continue their partitions, and the offsets to which partitions have to be rewound."""

    events: dict[Partition, Sequence[LoggedEvent]] = field(default_factory=dict)
    rewind_to: dict[Partition, int] = field(default_factory=dict)


class GapDetector:
    """Follows the offsets of partitions; reset with every assignment."""

    def __init__(self) -> None:
        self._partitions: dict[Partition, _PartitionState] = {}

    def reset(self) -> None:
        """Forget all partitions: each begins at its stored position again."""
        self._partitions.clear()

    def rewind(self, partition: Partition, due: int) -> None:
        """Note that the partition is read again from `due` on."""
        self._partitions[partition] = _PartitionState(due)

    def admit(
        self, events: Mapping[Partition, Sequence[LoggedEvent]], positions: Mapping[Partition, int]
    ) -> Admission:
        """Return the events that are due, in order, and where to rewind.

        `positions`: the stored positions; a partition without one begins at offset 0.
        """
        admission = Admission()
        for partition, batch in events.items():
            state = self._partitions.setdefault(partition, _PartitionState(positions.get(partition, 0)))
            due = [event for event in batch if self._is_due(state, event.offset)]
            if due:
                admission.events[partition] = due
            if state.newest >= state.due and not state.is_rewinding:
                state.is_rewinding = True
                state.rewinds += 1
                admission.rewind_to[partition] = state.due
        return admission

    @staticmethod
    def _is_due(state: _PartitionState, offset: int) -> bool:
        if offset < state.due:
            return False
        # If reading still begins later after rewinds, the log itself holds nothing in between.
        is_met_again = state.is_rewinding and offset <= state.newest
        if offset == state.due or (is_met_again and state.rewinds >= _REWINDS_BEFORE_GAP):
            state.due, state.is_rewinding, state.newest, state.rewinds = offset + 1, False, -1, 0
            return True
        if is_met_again:
            state.is_rewinding, state.newest = False, -1
        state.newest = max(state.newest, offset)
        return False
