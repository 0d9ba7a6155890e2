"""A task that repeats at an interval for as long as its process runs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from schemas.errors import RetryableError

log = structlog.get_logger("ingestor")


async def run_periodically(
    step: Callable[[], Awaitable[object]],
    interval_ms: int,
    stop: asyncio.Event,
    failure_event: str,
) -> None:
    """Run `step` at once and then every `interval_ms`, until `stop` is set.

    A RetryableError is logged as `failure_event`, and the next run comes at the usual time. Any other error ends the task.
    """
    while not stop.is_set():
        try:
            await step()
        except RetryableError as error:
            log.warning(failure_event, cause=str(error))
        try:
            await asyncio.wait_for(stop.wait(), interval_ms / 1000)
        except TimeoutError:
            continue
