"""Events from the embedded log."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Protocol

from ingestor.ports import Batch, Partition, RevokeListener, SourceEvent

_FULL_WAIT_MS = 5


class LoggedEvent(Protocol):
    """One event as the log gives it."""

    @property
    def offset(self) -> int:
        """Its place, growing by one."""

    @property
    def received_ms(self) -> int:
        """When the collector took it (Unix ms)."""

    @property
    def value(self) -> bytes:
        """The event's JSON."""


class DurableLog(Protocol):
    """What the source needs of a log with one lane; every method raises RetryableError while it is away."""

    @property
    def name(self) -> str:
        """What the log is called where its offsets are named."""

    async def open(self) -> None:
        """Open the log; no-op when open. Raises StartupError too."""

    async def attach(self, consumer: str) -> int:
        """Take the consumer's name for this process and return its position, the oldest event's for a new one."""

    def detach(self, consumer: str) -> None:
        """Leave the name to others; no-op where it is not held."""

    async def read(self, offset: int, events_max: int) -> Sequence[LoggedEvent]:
        """Return what is there from `offset` on, in order, within the log's bound in bytes."""

    async def wait(self, timeout_s: float) -> None:
        """Return when there may be more, at the latest after `timeout_s`."""

    async def commit(self, consumer: str, position: int) -> None:
        """Make the position durable."""


class EmbeddedSource:
    """`EventSource` on a log in this machine: one partition, one reader of a group at a time.

    Whoever made the log closes it. `poll_ms` bounds how late other processes' events are noticed.
    """

    def __init__(
        self,
        log: DurableLog,
        group: str,
        listener: RevokeListener,
        *,
        fetch_wait_ms: int = 200,
        poll_ms: int = 25,
    ) -> None:
        self._log = log
        self._group = group
        self._listener = listener
        self._fetch_wait_s = fetch_wait_ms / 1000
        self._poll_s = poll_ms / 1000
        self._partition = Partition(log.name, 0)
        self._generation = 0
        self._next: int | None = None

    async def start(self) -> None:
        """Open the log and take it over. Raises RetryableError while another process has it, StartupError."""
        await self._log.open()
        position = await self._log.attach(self._group)
        self._generation += 1
        await self._listener.on_assigned({self._partition: self._generation})
        self._next = position

    async def fetch(self, events_max: int) -> Sequence[Batch]:
        """Return what is there, waiting at most `fetch_wait_ms`; with `events_max` 0 a few milliseconds.

        Raises RetryableError.
        """
        if self._next is None or events_max <= 0:
            await asyncio.sleep(_FULL_WAIT_MS / 1000)
            return ()
        deadline = asyncio.get_running_loop().time() + self._fetch_wait_s
        while not (events := await self._log.read(self._next, events_max)):
            if asyncio.get_running_loop().time() >= deadline:
                return ()
            await self._log.wait(self._poll_s)
        self._next = events[-1].offset + 1
        taken = [SourceEvent(event.offset, event.received_ms, event.value) for event in events]
        return [Batch(self._partition, self._generation, taken)]

    async def commit(self, positions: Mapping[Partition, int]) -> None:
        """Make the position durable; another log's is passed over. Raises RetryableError."""
        position = positions.get(self._partition)
        if position is not None and self._next is not None:
            await self._log.commit(self._group, position)

    async def stop(self) -> None:
        """Leave the log to others without committing anything."""
        self._next = None
        self._log.detach(self._group)
