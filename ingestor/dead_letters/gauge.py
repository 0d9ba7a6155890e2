"""The metric of unresolved dead letters."""

from __future__ import annotations

from typing import Final

from ingestor.dead_letters.ports import UnresolvedDeadLetterCounter
from schemas.metric_defs import Metrics

COUNT_MAX: Final = 100_000
"""Of each reason. Counting further would cost the database more and show an operator nothing new."""


class UnresolvedDeadLettersGauge:
    """Sets `auditap_dead_letters_unresolved`."""

    def __init__(self, counter: UnresolvedDeadLetterCounter, metrics: Metrics) -> None:
        self._counter = counter
        self._metrics = metrics

    async def refresh(self) -> None:
        """Count once and set the gauge of every reason. Raises RetryableError."""
        counts = await self._counter.count_unresolved_dead_letters(COUNT_MAX)
        for reason, count in counts.items():
            self._metrics.dead_letters_unresolved.labels(reason).set(count)
