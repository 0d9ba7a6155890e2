"""What is not there, as it is served; and before when everything is."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from schemas.identity import rfc3339_ms


class Gap(NamedTuple):
    """A range of a tap's numbers, or of a log's offsets, that is not there. Times are Unix ms.

    `last`, `numbers` (how many), `to_ms` None: nobody knows. `from_ms` 0: from whenever on.
    """

    tap_id: str | None
    epoch: int | None
    log: str | None
    partition: int | None
    first: int
    last: int | None
    numbers: int | None
    from_ms: int
    to_ms: int | None
    cause: str


class Gaps(NamedTuple):
    """The first gaps of a range of time; of all of them how many there are, and how many captures they hold."""

    gaps: Sequence[Gap]
    total: int
    missing: int


class TapCounts(NamedTuple):
    """Starts of taps that are heard and that were cut off, and taps whose captures have no numbers."""

    alive: int
    expired: int
    unnumbered: int


class _Database(Protocol):
    async def complete_before_ms(self) -> int | None: ...


class CompleteBefore:
    """Before when everything is there, asked for once in `kept_ms`: an older answer is as true, and never later."""

    def __init__(
        self, database: _Database, kept_ms: int, timer: Callable[[], float] = time.monotonic
    ) -> None:
        self._database = database
        self._kept_s = kept_ms / 1000
        self._timer = timer
        self._until_s = 0.0
        self._at_ms: int | None = None

    async def at_ms(self) -> int | None:
        """Return it (Unix ms), None where no tap numbers. Ask before the page is read. Raises RetryableError."""
        if self._timer() >= self._until_s:
            self._at_ms = await self._database.complete_before_ms()
            self._until_s = self._timer() + self._kept_s
        return self._at_ms


def shown_gap(gap: Gap) -> dict[str, Any]:
    """Return a gap as the document has it."""
    return {
        "cause": gap.cause,
        "tap": None if gap.tap_id is None else {"id": gap.tap_id, "epoch": gap.epoch},
        "log": None if gap.log is None else {"name": gap.log, "partition": gap.partition},
        "first": gap.first,
        "last": gap.last,
        "count": gap.numbers,
        "from": _moment(gap.from_ms or None),
        "to": _moment(gap.to_ms),
    }


def completeness_info(found: Gaps, taps: TapCounts, complete_before_ms: int | None) -> dict[str, Any]:
    """Return the `result_info` of an answer about gaps."""
    return {
        "count": len(found.gaps),
        "complete": len(found.gaps) == found.total,
        "gaps": found.total,
        "missing": found.missing,
        "complete_before": _moment(complete_before_ms),
        "taps": taps._asdict(),
    }


def _moment(at_ms: int | None) -> str | None:
    return None if at_ms is None else rfc3339_ms(at_ms)
