"""The ports of alerting. Each docstring is a contract."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol
from uuid import UUID

from alerting.engine import Alert, Evaluation, RequiredState, State
from eventlog.ports import Partition
from schemas.record import Record


class Advance(NamedTuple):
    """How far a unit of work reads a partition: from the stored position to the one to be stored."""

    from_offset: int
    next_offset: int


HOUR_MS = 3_600_000
TEN_MINUTES_MS = 600_000
TREND_WIDTHS_MS = (HOUR_MS, TEN_MINUTES_MS)
"""Tumbling windows are made of hours, hopping ones of ten minutes."""


class TrendBucket(NamedTuple):
    """What events are counted by. `start_ms`: a multiple of `width_ms` (Unix ms)."""

    start_ms: int
    width_ms: int
    account_id: str | None
    actor_id: str | None
    resource_product: str | None
    action_type: str
    action_result: str


@dataclass(frozen=True, slots=True)
class UnitOfWork:
    """What is stored together: all of it or nothing."""

    required: RequiredState
    evaluate: Callable[[State], Evaluation]
    trends: Mapping[TrendBucket, int] = field(default_factory=dict)
    """Number of events to add to each bucket."""
    advances: Mapping[Partition, Advance] = field(default_factory=dict)


class PositionConflict(Exception):
    """The stored position of a partition is not where the work begins: another process reads it. Nothing was stored."""


class AlertStore(Protocol):
    """Where the state of rules is: Postgres, or memory for a backtest."""

    async def commit(self, work: UnitOfWork) -> Sequence[Alert]:
        """Evaluate and store as one transaction; return the new alerts once everything is durable.

        `work.evaluate` is called once or more, with the required state; what it returns is stored, each entry, value
        and alert once however often it comes. Two units of work that need the same key never see each other half done.
        Raises PositionConflict; RetryableError where the outcome is uncertain (to commit again is then right).
        """

    async def positions(self, partitions: Sequence[Partition]) -> Mapping[Partition, int]:
        """Return the stored positions of the partitions that have one. Raises RetryableError."""

    async def adopt_positions(self, log_name: str, log_id: str) -> None:
        """Give the positions that this name of a log has without an id to the log with this id.

        Nothing changes if a log of the name with an id, this or another, has a position already. Raises RetryableError.
        """


class EventBuilder(Protocol):
    """Makes the record of an event, as the ingestor does, but without enrichment."""

    def __call__(self, value: bytes, received_ms: int, /) -> Record:
        """Return the record. Raises UnprocessableEvent where there can be none."""


class DueDelivery(NamedTuple):
    """One alert to be sent on one channel. `attempts`: how often it was tried, this time included."""

    alert_id: UUID
    channel: str
    attempts: int
    payload: Mapping[str, Any]


class Outbox(Protocol):
    """The deliveries that are due."""

    async def lease(
        self, deliveries_max: int, lease_ms: int, waiting_channels: Sequence[str] = ()
    ) -> Sequence[DueDelivery]:
        """Return due deliveries, none of `waiting_channels`; nobody else gets them for `lease_ms`.

        Leasing counts as an attempt. Raises RetryableError.
        """

    async def delivered(self, delivery: DueDelivery) -> None:
        """Store that it was delivered. Raises RetryableError."""

    async def failed(self, delivery: DueDelivery, outcome: str, retry_after_ms: int | None) -> None:
        """Store why it failed and when it is due again; None: it is dead. Raises RetryableError."""

    async def postponed(self, delivery: DueDelivery, outcome: str, wait_ms: int) -> None:
        """Store why it was not sent and when it is due again, and do not count the attempt. Raises RetryableError."""


class Channel(Protocol):
    """One way to send alerts."""

    async def send(self, delivery: DueDelivery) -> None:
        """Return once the other side has accepted it. Raises DeliveryFailed."""


class DeliveryFailed(Exception):
    """An alert was not accepted.

    `outcome`: why, without any text from the other side. `final`: retrying is of no use. `asked_to_wait_s`: for how long
    the other side asked to send nothing; None if it did not.
    """

    def __init__(self, outcome: str, *, final: bool = False, asked_to_wait_s: float | None = None) -> None:
        super().__init__(outcome)
        self.outcome = outcome
        self.final = final
        self.asked_to_wait_s = asked_to_wait_s
