"""`EventSource` from the embedded log."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence

from eventlog.embedded.log import EmbeddedLog
from eventlog.ports import Batch, Partition, RevokeListener
from schemas.errors import StartupError

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
        self._committed = 0

    async def start(self) -> None:
        """Open the log and join the group. Raises RetryableError while another process has the group, StartupError."""
        await self._log.open()
        position = self._committed = await self._log.attach(self._group)
        self._partition = Partition(self._log.name, 0, self._log.log_id)
        self._generation += 1
        await self._listener.on_assigned({self._partition: self._generation})
        # After the listener knows of the generation, whose events it would not take before.
        self._position = position

    async def fetch(self, events_max: int) -> Sequence[Batch]:
        """See `EventSource.fetch`. Waits at most `fetch_wait_ms`, with `events_max` 0 a few milliseconds.

        Raises StartupError once the log's file was moved, deleted or replaced, and all that was in it is committed.
        """
        if self._position is None or events_max <= 0:
            await asyncio.sleep(_PAUSE_MS / 1000)
            return ()
        deadline = asyncio.get_running_loop().time() + self._fetch_wait_s
        appended = self._log.next_append()
        while not (events := await self._log.read(self._position, events_max)):
            if asyncio.get_running_loop().time() >= deadline:
                self._check_place(self._position)
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
            self._committed = position

    async def stop(self) -> None:
        """Leave the group without committing."""
        self._position = None
        self._log.detach(self._group)

    def _check_place(self, position: int) -> None:
        if self._committed >= position and self._log.displaced:
            raise StartupError(
                f"The file of the event log {self._log.name} was moved, deleted or replaced while it was in use. All that was in"
                " it has been read: start again to go on with what is there now."
            )
