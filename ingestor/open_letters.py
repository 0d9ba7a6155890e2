"""Telling operators how many dead letters wait for them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final, Protocol

import structlog

from ingestor.rounds import do_now_and_then
from schemas.metric_defs import Metrics

OPEN_LETTERS_MAX: Final = 100_000
"""Of each reason, how far they are counted."""
log = structlog.get_logger("ingestor.open_letters")


class OpenLetters(Protocol):
    """Where dead letters are."""

    async def open_letters(self, letters_max: int) -> Mapping[str, int]:
        """Return for every reason there is how many letters are open, counted as far as `letters_max`.

        Raises RetryableError.
        """


class OpenLettersWatch:
    """Counts them now and then."""

    def __init__(self, letters: OpenLetters, metrics: Metrics, interval_ms: int) -> None:
        self._letters = letters
        self._metrics = metrics
        self._interval_ms = interval_ms

    async def run(self, stop: asyncio.Event) -> None:
        """Count until `stop` is set, first at once."""
        await do_now_and_then(
            self.look,
            self._interval_ms,
            stop,
            lambda away: log.warning("open_letters_not_counted", cause=str(away)),
        )

    async def look(self) -> None:
        """Count once and set the gauges. Raises RetryableError."""
        for reason, letters in (await self._letters.open_letters(OPEN_LETTERS_MAX)).items():
            self._metrics.dead_letters_open.labels(reason).set(letters)
