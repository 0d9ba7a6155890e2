"""The ports of the event log: publisher and source. Each docstring is the contract of every backend.

The backends are `kafka/`, `embedded/` (SQLite) and `spool/` (Kafka with an embedded log beside it). The suites
tests/contract/test_event_publisher_contract.py and test_event_source_contract.py run against each of them and the fake.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from schemas.event import EncodedEvent


class EventPublisher(Protocol):
    """Writes events to the log. A producer, in Kafka's terms."""

    async def start(self) -> None:
        """Connect. Raises RetryableError while the log is away, StartupError where waiting cannot help."""

    async def publish(self, events: Sequence[EncodedEvent]) -> None:
        """Return only after every event is durable; an empty batch returns at once.

        Raises NotDurable, within a bounded time, if the outcome is unknown: no event may then be called accepted, and
        publishing all of them again is safe (an event may be in the log twice, with the same id). Raises
        EventsTooLarge with the ids of events that the log will never take. The outcome of the others is unknown
        then, and publishing those again is safe.
        """

    async def ready(self) -> bool:
        """Return whether publishing is likely to succeed now."""

    async def stop(self) -> None:
        """Wait a bounded time for calls of `publish` under way, then disconnect."""


class Partition(NamedTuple):
    """A partition. `log`: the topic, or the name of the embedded log.

    `log_id` differs between logs that have the same name one after the other: the topic's id, or that of the embedded log's file.
    Empty where the log has none.
    """

    log: str
    number: int
    log_id: str = ""


class LoggedEvent(NamedTuple):
    """One record read from the log. `received_ms`: the collector's time of receipt (Unix ms), the record's timestamp."""

    offset: int
    received_ms: int
    value: bytes


class Batch(NamedTuple):
    """At least one event of one partition, by ascending offset. `generation` distinguishes assignments of the partition.

    `lost`: the offsets before the events that the log no longer held, from the one that was expected. `passed_over`: the number
    of offsets before them that the log holds no event for, such as the markers of transactions.
    """

    partition: Partition
    generation: int
    events: Sequence[LoggedEvent]
    lost: range | None = None
    passed_over: int = 0


class EventSource(Protocol):
    """Reads events from the log as a member of a consumer group."""

    async def start(self) -> None:
        """Join the group. Raises RetryableError while it is away, StartupError where waiting cannot help."""

    async def fetch(self, events_max: int) -> Sequence[Batch]:
        """Return at most `events_max` events; wait a bounded time for the first, and return nothing if none comes.

        Within one generation a partition's events come by ascending offset, each once. The caller must keep calling,
        with `events_max` 0 while it can take no more, or the group assigns the partitions to others. Raises
        RetryableError while the log is away.
        """

    async def commit(self, positions: Mapping[Partition, int]) -> None:
        """Commit positions (the next offset to read); they are durable on return.

        Positions of partitions that are no longer assigned are ignored, and so are those of another log of the same name. They
        count for this log alone: another one is read from its beginning. Raises RetryableError while the log is away.
        """

    async def stop(self) -> None:
        """Leave the group without committing."""


class RevokeListener(Protocol):
    """Receives a source's assignments (rebalances)."""

    async def on_assigned(self, generations: Mapping[Partition, int]) -> None:
        """Called when reading starts at the committed position of each of these partitions, in a new generation."""

    async def on_revoked(self, partitions: Sequence[Partition]) -> None:
        """Called and awaited before these partitions go to another reader: finish or drop what is in flight within a
        bounded time, and commit.
        """
