"""Turns on the event loop: work on a long batch goes on for a moment at a time.

The loop runs one thing at a time. A full batch that is read and redacted in one go keeps every other sender, and the health
routes, waiting for more than half a second.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from typing import Final, TypeVar

_T = TypeVar("_T")
_TURN_S: Final = 0.002


async def in_turns(items: Iterable[_T]) -> AsyncIterator[_T]:
    """Yield each of `items`, and every few milliseconds let the loop do first what else is ready."""
    until_s = time.perf_counter() + _TURN_S
    for item in items:
        if time.perf_counter() > until_s:
            await asyncio.sleep(0)
            until_s = time.perf_counter() + _TURN_S
        yield item
