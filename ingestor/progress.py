"""Which offsets may be committed: per partition, everything up to the first batch that is not stored yet."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ingestor.ports import Batch, Partition


@dataclass(slots=True, eq=False)
class Ticket:
    """One batch in flight; whoever stores it hands it back to `Progress.finish`."""

    partition: Partition
    generation: int
    position: int
    """The offset after the batch's last event."""
    finished: bool = False


@dataclass(slots=True)
class _Lane:
    generation: int
    in_flight: deque[Ticket] = field(default_factory=deque)
    position: int | None = None
    committed: int | None = None


class Progress:
    """Batches in flight, by partition and generation; finishing them in any order commits no hole."""

    def __init__(self) -> None:
        self._lanes: dict[Partition, _Lane] = {}

    def assign(self, generations: Mapping[Partition, int]) -> None:
        """Begin these partitions anew: only batches of these generations count from here on."""
        for partition, generation in generations.items():
            self._lanes[partition] = _Lane(generation)

    def begin(self, batch: Batch) -> Ticket | None:
        """Note a batch as in flight. Batches of a partition must be begun in the order of their offsets.

        None for a batch of an assignment that has ended: it must not be worked on. What came before it may have
        been dropped with that assignment, and a commit past it would lose that.
        """
        lane = self._lanes.get(batch.partition)
        if lane is None or lane.generation != batch.generation:
            return None
        ticket = Ticket(batch.partition, batch.generation, batch.events[-1].offset + 1)
        lane.in_flight.append(ticket)
        return ticket

    def finish(self, ticket: Ticket) -> None:
        """Note a batch as stored. One of an assignment that has ended moves nothing."""
        ticket.finished = True
        lane = self._lanes.get(ticket.partition)
        if lane is None or lane.generation != ticket.generation:
            return
        while lane.in_flight and lane.in_flight[0].finished:
            lane.position = lane.in_flight.popleft().position

    def committable(self) -> dict[Partition, int]:
        """Return the positions that moved since they were last committed."""
        return {
            partition: lane.position
            for partition, lane in self._lanes.items()
            if lane.position is not None and lane.position != lane.committed
        }

    def committed(self, positions: Mapping[Partition, int]) -> None:
        """Note positions as committed."""
        for partition, position in positions.items():
            if partition in self._lanes:
                self._lanes[partition].committed = position

    def forget(self, partitions: Iterable[Partition]) -> None:
        """Drop partitions that were taken away."""
        for partition in partitions:
            self._lanes.pop(partition, None)
