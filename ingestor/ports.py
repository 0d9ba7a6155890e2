"""The ports of the ingestor. Each docstring is a contract; one contract suite per port runs against every side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from schemas.errors import BuriedEvent
from schemas.heartbeat import TapReport
from schemas.record import Record


class Partition(NamedTuple):
    """One ordered lane of a log."""

    log: str
    number: int


class SourceEvent(NamedTuple):
    """One log record as it was read. `received_ms`: the collector's time of receipt (Unix ms)."""

    offset: int
    received_ms: int
    value: bytes


class Batch(NamedTuple):
    """Consecutive events of one partition. `generation` tells assignments of the same partition apart.

    `lost_from`: the offset that should have come first, where the log no longer held it.
    """

    partition: Partition
    generation: int
    events: Sequence[SourceEvent]
    lost_from: int | None = None


class EventSource(Protocol):
    """Where events come from: Kafka or the embedded log."""

    async def start(self) -> None:
        """Join the log. Raises RetryableError while it is away, StartupError where waiting cannot help."""

    async def fetch(self, events_max: int) -> Sequence[Batch]:
        """Return what is there, at most `events_max` events, waiting a bounded time; empty where there is none.

        Within one generation a partition's events come in the order of their offsets, each once. Must be called
        again and again, with `events_max` 0 while nothing more can be taken, so that the group stays joined.
        Raises RetryableError while the log is away.
        """

    async def commit(self, positions: Mapping[Partition, int]) -> None:
        """Make durable that everything before each position (the next offset to read) is done.

        Positions of partitions no longer assigned are passed over. Raises RetryableError while the log is away.
        """

    async def stop(self) -> None:
        """Leave the log without committing anything."""


class RevokeListener(Protocol):
    """What a source tells of its assignment."""

    async def on_assigned(self, generations: Mapping[Partition, int]) -> None:
        """Reading starts anew at the committed position of each of these partitions."""

    async def on_revoked(self, partitions: Sequence[Partition]) -> None:
        """Called before these partitions are given to another reader, and awaited: finish or drop what is in
        flight within a bound, commit, let go.
        """


class StoreOutcome(NamedTuple):
    """What became of a stored batch; indexes count within the batch as it was given."""

    stored: int
    repeated: int
    refused: Sequence[tuple[int, BuriedEvent]]


class RecordStore(Protocol):
    """Where records go: Postgres."""

    async def store(self, records: Sequence[Record]) -> StoreOutcome:
        """Return only after every record is durable, was there already, or is refused by itself. With the records, and
        not without them, the numbers that their taps gave them are noted as seen.

        Idempotent on the id: the same record again is `repeated`; the same id with another digest is refused
        with `id_conflict`. An event given with a clamped id (`Record.clamped_from_ms`) keeps the id under which it
        was stored first, its own or a clamped one, whichever it is given with later. One row that cannot be stored never takes others with it. Raises RetryableError
        where nothing is certain; calling again with the same batch is then right.
        """


class DeadLetter(NamedTuple):
    """An event that can never become a record, and where it stood."""

    partition: Partition
    offset: int
    received_ms: int
    value: bytes
    reason: BuriedEvent


class DeadLetters(Protocol):
    """Where events go that can never become records."""

    async def bury(self, letters: Sequence[DeadLetter]) -> None:
        """Return only after all are durable, their taps' numbers noted as seen. Idempotent on partition and offset.
        Raises RetryableError.
        """


class ReceivedReport(NamedTuple):
    """A report and when a collector took it (Unix ms)."""

    received_ms: int
    report: TapReport


class LostOffsets(NamedTuple):
    """Offsets that the log no longer held, both ends included. `to_ms`: when a collector took what comes after."""

    partition: Partition
    first: int
    last: int
    to_ms: int


class CompletenessStore(Protocol):
    """Where it is noted what there should be."""

    async def note(self, reports: Sequence[ReceivedReport], lost: Sequence[LostOffsets]) -> Sequence[int]:
        """Return only after all are durable, with the indexes of reports that can never be. Noting again, in any order,
        changes nothing. Raises RetryableError.
        """


class Enrichment(Protocol):
    """What is known elsewhere about the ids in records."""

    async def enrich(self, records: Sequence[Record]) -> None:
        """Fill in names in place and set each record's `enrichment`. Never raises, never waits beyond its bound:
        a look-up that fails leaves `partial`, one that finds nothing leaves the name empty.
        """
