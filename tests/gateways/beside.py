"""Servers beside a test: in a thread and an event loop of their own, where their connections may outlive a test."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import TypeVar

_T = TypeVar("_T")
_STARTS_WITHIN_S = 60


@contextmanager
def served_beside(context: AbstractAsyncContextManager[_T]) -> Iterator[_T]:
    """Enter the context in a thread of its own, and leave it there in the end."""
    entered: Future[_T] = Future()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        async with context as value:
            entered.set_result(value)
            await stop.wait()

    def run() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(serve())

    thread = threading.Thread(target=run, name="beside")
    thread.start()
    try:
        yield entered.result(_STARTS_WITHIN_S)
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
