"""Dropping what is older than the retention: a pass now and then, beside the path."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import structlog

from ingestor.config import RetentionConfig
from schemas.errors import RetryableError
from schemas.metric_defs import Metrics

log = structlog.get_logger("ingestor.retention")


class PartitionInfo(NamedTuple):
    """One partition of the log. Times in Unix ms, the end excluded; `rows_estimated` -1: not counted yet."""

    parent: str
    child: str
    from_ms: int
    to_ms: int
    rows_estimated: int
    size_bytes: int


class Maintenance(Protocol):
    """The log as the role sees it that may drop what is not kept any more. Every method raises RetryableError."""

    async def partitions(self) -> Sequence[PartitionInfo]:
        """Return the partitions there are, oldest first."""

    async def kept_since_ms(self, keep_days: int) -> int:
        """Return the time before which nothing is kept: `keep_days` ago, or longer where the database says so."""

    async def drop_expired(self, keep_days: int) -> str | None:
        """Drop the oldest partition that holds nothing to be kept and return its name; None: there is none.

        Raises RetryableError as well where it is in use for longer than whoever else wants it should wait.
        """

    async def prune(self, keep_days: int, rows_max: int) -> int:
        """Take away at most `rows_max` rows of each table beside the log that are not kept; return how many went."""


class Retainer:
    """Keeps the log to its retention, one partition and one batch of rows at a time."""

    def __init__(
        self, *, maintenance: Maintenance, config: RetentionConfig, keep_days: int, metrics: Metrics
    ) -> None:
        self._maintenance = maintenance
        self._config = config
        self._keep_days = keep_days
        self._metrics = metrics

    async def run(self, stop: asyncio.Event) -> None:
        """Drop what expires until `stop` is set; rests between passes, shortly where something was in use."""
        while not stop.is_set():
            rest_ms = self._config.interval_ms
            try:
                await self.pass_over(stop)
            except RetryableError as away:
                log.warning("retention_deferred", cause=str(away))
                rest_ms = min(self._config.retry_wait_ms, rest_ms)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), rest_ms / 1000)

    async def pass_over(self, stop: asyncio.Event) -> Sequence[str]:
        """Drop and take away all that is not kept; return the names of the partitions. Raises RetryableError."""
        dropped: list[str] = []
        while not stop.is_set() and (name := await self._maintenance.drop_expired(self._keep_days)):
            dropped.append(name)
            self._metrics.partitions_dropped.inc()
            log.info("partition_dropped", partition=name)
        rows_max = self._config.pruned_rows_max
        while not stop.is_set() and await self._maintenance.prune(self._keep_days, rows_max):
            pass  # the next rows
        return dropped
