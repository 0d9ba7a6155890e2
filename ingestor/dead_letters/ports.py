"""Dead letters: the types and the ports.

A dead letter is an event that can never become a record. It is written once, with its reason and its position in the
log, and stays unresolved until an operator's retry stores it or the operator discards it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple, Protocol
from uuid import UUID

from eventlog.ports import Partition
from schemas.errors import UnprocessableEvent


class DeadLetter(NamedTuple):
    """An event that can never become a record, with its position in the log. `received_ms`: Unix ms, by the collector."""

    partition: Partition
    offset: int
    received_ms: int
    value: bytes
    reason: UnprocessableEvent


class DeadLetterWriter(Protocol):
    """Where the ingestor writes dead letters: Postgres, and with Kafka the dead-letter topic as well."""

    async def write_dead_letters(self, dead_letters: Sequence[DeadLetter]) -> None:
        """Return only after all are durable and their sequence numbers are noted as seen.

        Idempotent on log, partition, offset and event: another log of the same name may have another event at an offset. Raises
        RetryableError.
        """


class DeadLetterState(StrEnum):
    """Unresolved, or how it was resolved."""

    UNRESOLVED = "unresolved"
    STORED = "stored"
    """A retry made a record of it."""
    DISCARDED = "discarded"


class StoredDeadLetter(NamedTuple):
    """A dead letter with what became of it. `number` identifies it in its database; `value` is empty if not selected."""

    number: int
    partition: Partition
    offset: int
    reason: str
    path: str
    event_id: UUID | None
    received_ms: int
    dead_lettered_at: datetime
    state: DeadLetterState
    retries: int
    retried_at: datetime | None
    stored_at: datetime | None
    discarded_at: datetime | None
    discarded_by: str | None
    value: bytes


class DeadLetterFilter(NamedTuple):
    """Selects the dead letters that meet every condition. An empty tuple and None are no condition."""

    numbers: tuple[int, ...] = ()
    reasons: tuple[str, ...] = ()
    event_ids: tuple[UUID, ...] = ()
    since: datetime | None = None
    before: datetime | None = None
    """Dead-lettered in this time range; `before` is excluded."""
    state: DeadLetterState | None = None
    number_max: int | None = None


class RetryOutcome(NamedTuple):
    """The outcome of one retry. `refused`: why it failed again, None if it is stored now."""

    number: int
    refused: UnprocessableEvent | None


class DeadLetterStore(Protocol):
    """Dead letters as their operator sees them: Postgres. Every method raises RetryableError while it is away."""

    async def select(
        self, chosen: DeadLetterFilter, after: int, count_max: int, *, with_events: bool
    ) -> Sequence[StoredDeadLetter]:
        """Return at most `count_max` dead letters with a number above `after`, by ascending number."""

    async def count(self, chosen: DeadLetterFilter) -> tuple[int, int]:
        """Return how many match, and the highest number among them (0 if none)."""

    async def record_retries(self, outcomes: Sequence[RetryOutcome]) -> None:
        """Record each outcome durably. A dead letter that is resolved stays as it is."""

    async def discard(self, chosen: DeadLetterFilter) -> int:
        """Discard those that are unresolved and return their number. They can still be selected."""


class UnresolvedDeadLetterCounter(Protocol):
    """Dead letters as their gauge sees them: Postgres, with the ingestor's role, which cannot read them."""

    async def count_unresolved_dead_letters(self, count_max: int) -> Mapping[str, int]:
        """Return the number of unresolved dead letters for every reason, counted up to `count_max` each.

        Raises RetryableError.
        """
