"""Starting what may not be there yet, and running until told to stop."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import stamina
import structlog

from auditap.logs import report_loop_fault
from schemas.errors import RetryableError

log = structlog.get_logger("auditap")


def clock_ms() -> int:
    """Return the Unix time in milliseconds."""
    return time.time_ns() // 1_000_000


async def keep_starting(start: Callable[[], Awaitable[None]], part: str) -> None:
    """Call `start` until it succeeds, backing off up to 5 s; StartupError ends it."""
    async for attempt in stamina.retry_context(
        on=RetryableError, attempts=None, timeout=None, wait_initial=0.2, wait_max=5
    ):
        with attempt:
            if attempt.num > 1:
                log.warning("waiting_for", part=part, attempt=attempt.num)
            await start()


def stop_on_signals() -> asyncio.Event:
    """Return an event that SIGINT and SIGTERM set; from here on the loop reports faults without their messages."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(report_loop_fault)
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    return stop


async def run_until(stop: asyncio.Event, *work: Coroutine[Any, Any, None]) -> None:
    """Run `work` until `stop` is set or one of it fails, which is raised; the others are then cancelled."""
    tasks = [asyncio.create_task(each) for each in work]
    stopped = asyncio.create_task(stop.wait())
    running: set[asyncio.Task[Any]] = {stopped, *tasks}
    try:
        while not stopped.done():
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
    finally:
        for task in (stopped, *tasks):
            task.cancel()
        await asyncio.gather(stopped, *tasks, return_exceptions=True)
