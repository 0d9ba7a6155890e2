"""Doing the same now and then, as long as a process runs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from schemas.errors import RetryableError


async def do_now_and_then(
    step: Callable[[], Awaitable[object]],
    interval_ms: int,
    stop: asyncio.Event,
    deferred: Callable[[RetryableError], object],
) -> None:
    """Take a step until `stop` is set, first at once. `deferred` is told of one that could not be taken."""
    while not stop.is_set():
        try:
            await step()
        except RetryableError as away:
            deferred(away)
        try:
            await asyncio.wait_for(stop.wait(), interval_ms / 1000)
        except TimeoutError:
            continue
