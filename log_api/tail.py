"""Records as they arrive, as server-sent events.

Records arrive in almost the order of their ids. Each look therefore goes back by a bounded time and passes over what
was sent; a client that comes back begins as far before the last event that it saw.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from uuid import UUID

import msgspec

from log_api.config import LogApiConfig
from log_api.listing import Direction, ListQuery
from log_api.ports import LogDatabase
from log_api.records import AuditRecord
from schemas.errors import RetryableError
from schemas.identity import first_id_at, id_ms

# Beyond any clock that records are taken from.
_AHEAD_MS = 86_400_000
_HEARTBEAT = b": waiting\n\n"
_encoder = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True)
class Tail:
    """Follows the log for one client.

    `still_allowed` is asked before each look and ends the stream where it says no. `clock_ms`: Unix milliseconds.
    """

    database: LogDatabase
    config: LogApiConfig
    clock_ms: Callable[[], int]
    sleep: Callable[[float], Awaitable[None]]
    still_allowed: Callable[[], Awaitable[bool]]

    async def events(self, query: ListQuery, since_ms: int) -> AsyncIterator[bytes]:
        """Yield the events of what is stored from `since_ms` on, then of what arrives, until the time is up.

        The query's accounts and conditions count.
        """
        config = self.config
        began_ms = told_ms = self.clock_ms()
        floor = first_id_at(since_ms)
        sent: set[UUID] = set()
        # Tells the client's library that it is connected.
        yield _HEARTBEAT
        while self.clock_ms() - began_ms < config.tail_time_ms and await self.still_allowed():
            ids = await self._ids(query, floor)
            fresh = [one for one in ids if one not in sent]
            for records in [fresh[at : at + 500] for at in range(0, len(fresh), 500)]:
                async for event in self._whole(query, records):
                    yield event
                told_ms = self.clock_ms()
            sent.update(fresh)
            behind = len(ids) >= config.tail_records_max
            lookback = first_id_at(self.clock_ms() - config.tail_lookback_ms)
            floor = UUID(int=ids[-1].int + 1) if behind else max(floor, lookback)
            sent = {one for one in sent if one >= floor}
            if behind:
                continue
            if self.clock_ms() - told_ms >= config.tail_heartbeat_ms:
                told_ms = self.clock_ms()
                yield _HEARTBEAT
            await self.sleep(config.tail_interval_ms / 1000)

    async def _ids(self, query: ListQuery, floor: UUID) -> list[UUID]:
        """Return the oldest ids from `floor` on; none while the database is away."""
        asked = replace(
            query,
            since_ms=id_ms(floor.hex),
            before_ms=self.clock_ms() + _AHEAD_MS,
            after=UUID(int=max(floor.int - 1, 0)),
            direction=Direction.ASC,
            limit=self.config.tail_records_max,
        )
        try:
            return list(await self.database.ids(asked))
        except RetryableError:
            return []

    async def _whole(self, query: ListQuery, ids: list[UUID]) -> AsyncIterator[bytes]:
        while ids:
            records = await self.database.records(query.accounts, ids)
            if not records:
                return
            yield b"".join(map(_event, records))
            ids = ids[[one.hex for one in ids].index(records[-1].id) + 1 :]


def _event(record: AuditRecord) -> bytes:
    # JSON has no bare line ends, so that one data line holds it.
    return b"id: %b\nevent: record\ndata: %b\n\n" % (record.id.encode(), _encoder.encode(record))
