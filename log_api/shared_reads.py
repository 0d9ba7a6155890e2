"""Reads that many requests need at the same time: one for all who wait."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from schemas.errors import RetryableError

_K = TypeVar("_K", bound=Hashable)
_V = TypeVar("_V")
_BATCH_MAX = 500


class SharedRead(Generic[_V]):
    """Has at most one read under way, and gives each caller the result of one that began at most `age_ms_max` before it asked."""

    def __init__(
        self, read: Callable[[], Awaitable[_V]], age_ms_max: int, timer: Callable[[], float] = time.monotonic
    ) -> None:
        self._read = read
        self._age_s_max = age_ms_max / 1000
        self._timer = timer
        self._began_s = 0.0
        self._reading: asyncio.Future[_V] | None = None

    async def get(self) -> _V:
        oldest_s = self._timer() - self._age_s_max
        while self._reading is None or self._began_s < oldest_s or _failed(self._reading):
            if self._reading is not None and not self._reading.done():
                # It began too early, and whether it succeeds says nothing about the next.
                await asyncio.wait([self._reading])
            else:
                self._began_s = self._timer()
                self._reading = asyncio.ensure_future(self._read())
                self._reading.add_done_callback(_mark_retrieved)
        # One caller that goes away takes the result from no other.
        return await asyncio.shield(self._reading)

    async def stop(self) -> None:
        await _cancelled(self._reading)


class BatchedReads(Generic[_K, _V]):
    """Looks keys up in batches, one batch under way at a time, so that many unknown keys cost little more than one.

    `read_many` returns the values of the keys that exist. At most `waiting_max` keys wait for the next batches.
    """

    def __init__(
        self, read_many: Callable[[Sequence[_K]], Awaitable[Mapping[_K, _V]]], waiting_max: int
    ) -> None:
        self._read_many = read_many
        self._waiting_max = waiting_max
        self._waiting: dict[_K, asyncio.Future[_V | None]] = {}
        self._working: asyncio.Future[None] | None = None

    async def get(self, key: _K) -> _V | None:
        """Return the value of a key, None if it does not exist. Raises what `read_many` raises, or RetryableError."""
        found = self._waiting.get(key)
        if found is None:
            if len(self._waiting) >= self._waiting_max:
                raise RetryableError("too many lookups wait")
            found = self._waiting[key] = asyncio.get_running_loop().create_future()
            found.add_done_callback(_mark_retrieved)
            if self._working is None or self._working.done():
                self._working = asyncio.ensure_future(self._work())
        return await asyncio.shield(found)

    async def stop(self) -> None:
        await _cancelled(self._working)
        for found in self._waiting.values():
            found.cancel()
        self._waiting.clear()

    async def _work(self) -> None:
        while self._waiting:
            keys = list(self._waiting)[:_BATCH_MAX]
            try:
                values = await self._read_many(keys)
            except Exception as error:  # noqa: BLE001  # whatever it is, it is for those who wait
                for key in keys:
                    self._waiting.pop(key).set_exception(error)
            else:
                for key in keys:
                    self._waiting.pop(key).set_result(values.get(key))


def _failed(reading: asyncio.Future[Any]) -> bool:
    return reading.done() and (reading.cancelled() or reading.exception() is not None)


def _mark_retrieved(done: asyncio.Future[Any]) -> None:
    # All who waited may have gone, and asyncio warns of an error that nobody retrieves.
    if not done.cancelled():
        done.exception()


async def _cancelled(working: asyncio.Future[Any] | None) -> None:
    if working is not None:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
