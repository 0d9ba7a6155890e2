"""`EventSource` from the embedded log."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence

from eventlog.embedded.log import EmbeddedLog
from eventlog.ports import Batch, Partition, RevokeListener

# How long `fetch` takes while nothing more may be fetched; without a pause its caller's loop would spin.
_PAUSE_MS = 5


class EmbeddedSource:
    """`EventSource` from the log of this host: one partition, one reader per group at a time.

    `poll_ms` bounds the delay until other processes' events are noticed. The owner of the log closes it.
    """

    def __init__(
        self,
        log: EmbeddedLog,
        group: str,
        listener: RevokeListener,
        *,
        fetch_wait_ms: int = 200,
        poll_ms: int = 25,
    ) -> None:
        self._log = log
        self._group = group
        self._listener = listener
        self._fetch_wait_s = fetch_wait_ms / 1000
        self._poll_s = poll_ms / 1000
        self._partition = Partition(log.name, 0)
        self._generation = 0
        self._position: int | None = None

    async def start(self) -> None:
        """Open the log and join the group. Raises RetryableError while another process has the group, StartupError."""
        await self._log.open()
        position = await self._log.attach(self._group)
        self._generation += 1
        await self._listener.on_assigned({self._partition: self._generation})
        # After the listener knows of the generation, whose events it would not take before.
        self._position = position

    async def fetch(self, events_max: int) -> Sequence[Batch]:
        """See `EventSource.fetch`. Waits at most `fetch_wait_ms`, with `events_max` 0 a few milliseconds."""
        if self._position is None or events_max <= 0:
            await asyncio.sleep(_PAUSE_MS / 1000)
            return ()
        deadline = asyncio.get_running_loop().time() + self._fetch_wait_s
        appended = self._log.next_append()
        while not (events := await self._log.read(self._position, events_max)):
            if asyncio.get_running_loop().time() >= deadline:
                return ()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._poll_s):
                    await appended.wait()
            appended = self._log.next_append()
        self._position = events[-1].offset + 1
        return [Batch(self._partition, self._generation, events)]

    async def commit(self, positions: Mapping[Partition, int]) -> None:
        """See `EventSource.commit`."""
        position = positions.get(self._partition)
        if position is not None and self._position is not None:
            await self._log.commit(self._group, position)

    async def stop(self) -> None:
        """Leave the group without committing."""
        self._position = None
        self._log.detach(self._group)
