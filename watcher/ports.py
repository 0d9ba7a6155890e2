"""The ports of the watcher. Each docstring is a contract."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol
from uuid import UUID

from schemas.record import Record
from watcher.engine import Alert, Known, Needed, Verdict

Judge = Callable[[Known], Verdict]


class Lane(NamedTuple):
    """One partition of a log."""

    log: str
    partition: int


class Advance(NamedTuple):
    """How far a lane is read with this: from the position that was kept to the one that is to be kept."""

    from_offset: int
    next_offset: int


HOUR_MS = 3_600_000
PANE_MS = 600_000
TREND_WIDTHS_MS = (HOUR_MS, PANE_MS)
"""Hours tumble; of panes windows are made that hop."""


class Trend(NamedTuple):
    """What events are counted by, in spans of time that begin at multiples of their width (Unix ms)."""

    start_ms: int
    width_ms: int
    account_id: str | None
    actor_id: str | None
    resource_product: str | None
    action_type: str
    action_result: str


@dataclass(frozen=True, slots=True)
class Work:
    """What one unit of work keeps, all of it or nothing."""

    needed: Needed
    judge: Judge
    trends: Mapping[Trend, int] = field(default_factory=dict)
    advances: Mapping[Lane, Advance] = field(default_factory=dict)


class Overtaken(Exception):
    """A lane's kept position is not the one that the work begins at: another watcher reads it, nothing was kept."""


class WatchStore(Protocol):
    """Where the watcher's memory is: Postgres, or the memory of a rehearsal."""

    async def settle(self, work: Work) -> Sequence[Alert]:
        """Judge and keep, as one: returns the alerts that are new, once all of the work is durable.

        `work.judge` is called once or more, with what is known; what it returns is kept, each mark, lesson and alert
        once however often it comes. Two works that need the same place do not see each other half done. Raises
        RetryableError where nothing is certain (settling again is then right), Overtaken.
        """

    async def positions(self, lanes: Sequence[Lane]) -> Mapping[Lane, int]:
        """Return the kept positions of lanes that have one. Raises RetryableError."""


class EventBuilder(Protocol):
    """From the bytes of an event to its record."""

    def __call__(self, value: bytes, received_ms: int, /) -> Record:
        """Return the record. Raises BuriedEvent where there can be none."""


class DueDelivery(NamedTuple):
    """One alert to be told on one channel, and how often that was tried, this time included."""

    alert_id: UUID
    channel: str
    attempts: int
    document: Mapping[str, Any]


class Outbox(Protocol):
    """The deliveries that are due."""

    async def take(self, deliveries_max: int, lease_ms: int) -> Sequence[DueDelivery]:
        """Return deliveries that are due and lease them: nobody else is given them for `lease_ms`. RetryableError."""

    async def delivered(self, delivery: DueDelivery) -> None:
        """Note that it was told. Raises RetryableError."""

    async def failed(self, delivery: DueDelivery, outcome: str, retry_after_ms: int | None) -> None:
        """Note why not, and when to try again; None: never, it is dead. Raises RetryableError."""


class Channel(Protocol):
    """One way to tell."""

    async def tell(self, delivery: DueDelivery) -> None:
        """Return once the other side has taken it. Raises Untold."""


class Untold(Exception):
    """An alert was not taken. `outcome`: why, without anything the other side said. `final`: trying again is no use."""

    def __init__(self, outcome: str, *, final: bool = False) -> None:
        super().__init__(outcome)
        self.outcome = outcome
        self.final = final
