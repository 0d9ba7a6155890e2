"""Which offsets may be committed: per partition, everything before the first batch that is not stored yet."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from eventlog.ports import Batch, Partition


@dataclass(slots=True, eq=False)
class InFlightBatch:
    """A batch between fetch and commit. Whoever stores it passes it to `OffsetTracker.finish`."""

    partition: Partition
    generation: int
    position: int
    """The offset after the batch's last event."""
    finished: bool = False


@dataclass(slots=True)
class _PartitionState:
    generation: int
    in_flight: deque[InFlightBatch] = field(default_factory=deque)
    position: int | None = None
    committed: int | None = None


class OffsetTracker:
    """Tracks batches in flight by partition and generation.

    Batches may finish in any order. A partition's committable position only moves past a batch once every batch
    before it has finished, so that a commit never skips an event that is not stored.
    """

    def __init__(self) -> None:
        self._partitions: dict[Partition, _PartitionState] = {}

    def assign(self, generations: Mapping[Partition, int]) -> None:
        """Start these partitions afresh: from now on only batches of these generations count."""
        for partition, generation in generations.items():
            self._partitions[partition] = _PartitionState(generation)

    def begin(self, batch: Batch) -> InFlightBatch | None:
        """Register a batch as in flight. Batches of one partition must be registered in the order of their offsets.

        Returns None for a batch of an assignment that has ended. It must not be processed: earlier batches may have
        been dropped with that assignment, and a commit past it would lose them.
        """
        state = self._partitions.get(batch.partition)
        if state is None or state.generation != batch.generation:
            return None
        begun = InFlightBatch(batch.partition, batch.generation, batch.events[-1].offset + 1)
        state.in_flight.append(begun)
        return begun

    def finish(self, batch: InFlightBatch) -> None:
        """Mark a batch as stored. A batch of an assignment that has ended moves no position."""
        # Batches after it may have finished before; the position moves past all of them at once.
        batch.finished = True
        state = self._partitions.get(batch.partition)
        if state is None or state.generation != batch.generation:
            return
        while state.in_flight and state.in_flight[0].finished:
            state.position = state.in_flight.popleft().position

    def committable(self) -> dict[Partition, int]:
        """Return the positions (next offset to read) that have moved since they were last committed."""
        return {
            partition: state.position
            for partition, state in self._partitions.items()
            if state.position is not None and state.position != state.committed
        }

    def committed(self, positions: Mapping[Partition, int]) -> None:
        """Record positions as committed, so that `committable` does not return them again."""
        for partition, position in positions.items():
            # A partition may have been revoked while its commit was under way.
            if partition in self._partitions:
                self._partitions[partition].committed = position

    def forget(self, partitions: Iterable[Partition]) -> None:
        """Drop the state of revoked partitions."""
        for partition in partitions:
            self._partitions.pop(partition, None)
