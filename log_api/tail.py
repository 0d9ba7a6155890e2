"""Streams records as they arrive, as server-sent events.

Records are stored almost in the order of their ids. Each poll therefore looks back by a bounded time and skips the records
already sent. A client that reconnects starts that far before the last event it received.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

import msgspec

from log_api.config import LogApiConfig
from log_api.ports import LogReads
from log_api.records import AuditRecord
from log_api.sql_builder import Direction, ListQuery
from schemas.errors import RetryableError
from schemas.identity import first_id_at, id_ms

# No record has a time further ahead than this: ingest clamps clocks that are.
_AHEAD_MS = 86_400_000
_HEARTBEAT = b": waiting\n\n"
_BATCH_RECORDS = 500
_encoder = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True)
class Tail:
    """Streams new records to one client as server-sent events.

    `may_continue` is called before each poll; the stream ends when it returns False. `clock_ms` returns Unix milliseconds.
    """

    reads: LogReads
    config: LogApiConfig
    clock_ms: Callable[[], int]
    sleep: Callable[[float], Awaitable[None]]
    may_continue: Callable[[], Awaitable[bool]]

    async def events(self, query: ListQuery, since_ms: int) -> AsyncIterator[bytes]:
        """Yield events for the records stored since `since_ms`, then for new ones, until the stream's time limit.

        Only the accounts and conditions of `query` are used.
        """
        limits = self.config.limits
        started_ms = last_sent_ms = self.clock_ms()
        floor = first_id_at(since_ms)
        sent: set[UUID] = set()
        # The client's library reports a connection once it has the first bytes.
        yield _HEARTBEAT
        while self.clock_ms() - started_ms < limits.tail_time_ms and await self.may_continue():
            ids = await self._ids(query, floor)
            unsent = [each for each in ids if each not in sent]
            try:
                async for events, those in self._events(query, unsent):
                    yield events
                    sent.update(those)
                    last_sent_ms = self.clock_ms()
            except RetryableError:
                # The rest comes with the next poll, from the same floor.
                is_behind = False
            else:
                sent.update(unsent)
                # If there is more than one poll returns, the next one goes on behind it. Looking back each time, the tail
                # of a busy log would never catch up.
                is_behind = len(ids) >= limits.tail_records_max
                floor = UUID(int=ids[-1].int + 1) if is_behind else max(floor, self._lookback_id())
                sent = {each for each in sent if each >= floor}
            if is_behind:
                continue
            if self.clock_ms() - last_sent_ms >= limits.tail_heartbeat_ms:
                last_sent_ms = self.clock_ms()
                yield _HEARTBEAT
            await self.sleep(self.config.tail_interval_ms / 1000)

    def _lookback_id(self) -> UUID:
        return first_id_at(self.clock_ms() - self.config.limits.tail_lookback_ms)

    async def _ids(self, query: ListQuery, floor: UUID) -> list[UUID]:
        """Return the oldest ids from `floor`, in order; none while the database is unavailable."""
        oldest = replace(
            query,
            since_ms=id_ms(floor.hex),
            before_ms=self.clock_ms() + _AHEAD_MS,
            # `since_ms` has whole milliseconds, the floor may lie within one.
            after=UUID(int=max(floor.int - 1, 0)),
            direction=Direction.ASC,
            limit=self.config.limits.tail_records_max,
        )
        try:
            return list(await self.reads.ids(oldest))
        except RetryableError:
            return []

    async def _events(self, query: ListQuery, ids: list[UUID]) -> AsyncIterator[tuple[bytes, Sequence[UUID]]]:
        """Yield the events for `ids`, in order, many in each chunk, with the ids in it. Raises RetryableError."""
        for start in range(0, len(ids), _BATCH_RECORDS):
            batch = ids[start : start + _BATCH_RECORDS]
            while batch:
                records = await self.reads.records(query.accounts, batch)
                if not records:
                    break
                # The database may leave out records at the end of a batch.
                end = [each.hex for each in batch].index(records[-1].id) + 1
                yield b"".join(map(_event, records)), batch[:end]
                batch = batch[end:]


def _event(record: AuditRecord) -> bytes:
    # The encoded record holds no line end, so one data line is enough.
    return b"id: %b\nevent: record\ndata: %b\n\n" % (record.id.encode(), _encoder.encode(record))
