"""Starting parts whose servers may not be up yet, and running them until a signal arrives."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import stamina
import structlog

from auditap.runtime.logs import report_task_exception
from schemas.errors import RetryableError

log = structlog.get_logger("auditap")

Run = Callable[[asyncio.Event], Coroutine[Any, Any, None]]
"""A process: it runs until the event is set, then cleans up and returns."""


def clock_ms() -> int:
    """Return the Unix time in milliseconds."""
    return time.time_ns() // 1_000_000


async def start_with_retries(start: Callable[[], Awaitable[None]], part: str) -> None:
    """Call `start` until it raises no RetryableError, with pauses of up to 5 s. Raises StartupError."""
    async for attempt in stamina.retry_context(
        on=RetryableError, attempts=None, timeout=None, wait_initial=0.2, wait_max=5
    ):
        with attempt:
            if attempt.num > 1:
                log.warning("waiting_for", part=part, attempt=attempt.num)
            await start()


def stop_on_signals() -> asyncio.Event:
    """Return an event that SIGINT and SIGTERM set. From here on the loop logs exceptions of tasks without their messages."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(report_task_exception)
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    return stop


async def run_until(stop: asyncio.Event, *work: Coroutine[Any, Any, None]) -> None:
    """Run `work` until `stop` is set or one of it raises, which is raised; then cancel what still runs."""
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


@asynccontextmanager
async def running(run: Run) -> AsyncIterator[asyncio.Task[None]]:
    """Run a process for the length of a block; then set its stop event and wait for it to end."""
    stop = asyncio.Event()
    task = asyncio.create_task(run(stop))
    try:
        yield task
    finally:
        stop.set()
        await asyncio.gather(task, return_exceptions=True)


async def until_stopped(stop: asyncio.Event, tasks: list[asyncio.Task[None]]) -> None:
    """Wait until `stop` is set or a task of `tasks` ends, whose exception is raised."""
    stopped = asyncio.create_task(stop.wait())
    try:
        done, _ = await asyncio.wait({stopped, *tasks}, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        stopped.cancel()
        await asyncio.gather(stopped, return_exceptions=True)
