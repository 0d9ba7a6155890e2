"""A log of events in memory: `EventPublisher` and `EventSource` for tests without a broker or a disk."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from eventlog.ports import Batch, LoggedEvent, Partition, RevokeListener
from schemas.errors import NotDurable, RetryableError
from schemas.event import EncodedEvent


class MemoryEventLog:
    """Partitions of events and committed positions. `away` makes every call fail, as a log that is away does;
    `unsure` makes it append what is published without acknowledging it.
    """

    def __init__(self, name: str = "memory", partitions: int = 2) -> None:
        self.partitions = {Partition(name, number): list[LoggedEvent]() for number in range(partitions)}
        self.committed: dict[tuple[str, Partition], int] = {}
        self.away = False
        self.unsure = False
        self.generations = 0

    def append(self, events: Sequence[EncodedEvent]) -> None:
        """Add the events to the shortest partition."""
        partition = min(self.partitions.values(), key=len)
        for event in events:
            partition.append(LoggedEvent(len(partition), event.received_ms, event.value))


class MemoryPublisher:
    """`EventPublisher` into a MemoryEventLog."""

    def __init__(self, log: MemoryEventLog) -> None:
        self._log = log
        self._started = False

    async def start(self) -> None:
        if self._log.away:
            raise RetryableError("the log is away")
        self._started = True

    async def publish(self, events: Sequence[EncodedEvent]) -> None:
        await asyncio.sleep(0)
        if not events:
            return
        if self._log.away or not self._started:
            raise NotDurable("the log is away")
        self._log.append(events)
        if self._log.unsure:
            raise NotDurable("the log did not acknowledge in time")

    async def ready(self) -> bool:
        return self._started and not self._log.away

    async def stop(self) -> None:
        self._started = False


class MemorySource:
    """`EventSource` from a MemoryEventLog, the only reader of its group."""

    def __init__(self, log: MemoryEventLog, group: str, listener: RevokeListener) -> None:
        self._log = log
        self._group = group
        self._listener = listener
        self._generation = 0
        self._next: dict[Partition, int] = {}

    async def start(self) -> None:
        self._check()
        await self._assign()

    async def rebalance(self) -> None:
        """Take every partition away and give it back, as a group does when a reader joins or leaves."""
        await self._listener.on_revoked(list(self._next))
        self._next = {}
        await self._assign()

    async def fetch(self, events_max: int) -> Sequence[Batch]:
        self._check()
        batches = []
        for partition, position in self._next.items():
            events = self._log.partitions[partition][position : position + max(events_max, 0)]
            if events:
                events_max -= len(events)
                self._next[partition] = position + len(events)
                batches.append(Batch(partition, self._generation, events))
        await asyncio.sleep(0 if batches else 0.001)
        return batches

    async def commit(self, positions: Mapping[Partition, int]) -> None:
        self._check()
        for partition, position in positions.items():
            if partition in self._next:
                self._log.committed[self._group, partition] = position

    async def stop(self) -> None:
        self._next = {}

    async def _assign(self) -> None:
        self._log.generations += 1
        self._generation = self._log.generations
        await self._listener.on_assigned(dict.fromkeys(self._log.partitions, self._generation))
        self._next = {
            partition: self._log.committed.get((self._group, partition), 0)
            for partition in self._log.partitions
        }

    def _check(self) -> None:
        if self._log.away:
            raise RetryableError("the log is away")
