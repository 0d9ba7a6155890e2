"""The ports of the ingestor. Each docstring is a contract; one contract suite per port runs against every side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from eventlog.ports import Partition
from schemas.errors import UnprocessableEvent
from schemas.heartbeat import TapReport
from schemas.record import Record


class StoreOutcome(NamedTuple):
    """The outcome of storing a batch. `refused` has indexes into the batch as it was passed."""

    stored: int
    repeated: int
    refused: Sequence[tuple[int, UnprocessableEvent]]


class RecordStore(Protocol):
    """Where records are stored: Postgres."""

    async def store(self, records: Sequence[Record]) -> StoreOutcome:
        """Return only after every record is durable, was stored already, or is refused. The sequence numbers of the records
        are noted as seen in the same transaction.

        Idempotent on the id: the same record again counts as `repeated`; the same id with another digest is refused as
        `id_conflict`. An event with a clamped id (`Record.clamped_from_ms`) keeps the id under which it was first
        stored, its own or a clamped one, whichever id it comes with later. A row that cannot be stored is refused
        alone. Raises RetryableError where the outcome is unknown; calling again with the same batch is then safe.
        """

    async def clock_ms(self) -> int:
        """Return the time by the store's own clock (Unix ms). Raises RetryableError."""


class ReceivedReport(NamedTuple):
    """A report with its time of receipt by a collector (Unix ms), which is never later than the ingestor's own time."""

    received_ms: int
    report: TapReport


class LostOffsets(NamedTuple):
    """Offsets that the log no longer held, both ends included. `to_ms`: when a collector received the next event (Unix ms)."""

    partition: Partition
    first: int
    last: int
    to_ms: int


class GapLedger(Protocol):
    """The gap ledger: what taps and collectors report, against which gaps are found. Postgres."""

    async def note(self, reports: Sequence[ReceivedReport], lost: Sequence[LostOffsets]) -> Sequence[int]:
        """Return only after all are durable, with the indexes of reports that can never be stored.

        Idempotent, in any order. Raises RetryableError.
        """


class Enrichment(Protocol):
    """Names for the ids in records: the enricher."""

    async def enrich(self, records: Sequence[Record]) -> None:
        """Fill in names in place and set each record's `enrichment`.

        Never raises and never waits beyond its own bound: a failed look-up leaves `partial`, one that finds nothing
        leaves the name empty.
        """
