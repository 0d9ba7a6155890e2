"""Streams all records of a query, in bounded memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace

import msgspec

from log_api.csv_format import csv_lines
from log_api.ports import LogReads
from log_api.records import AuditRecord, Page
from log_api.sql_builder import ListQuery
from schemas.errors import RetryableError

Cells = Callable[[AuditRecord], Sequence[object]]

CSV_HEADER = (
    "id",
    "action.time",
    "action.type",
    "action.result",
    "action.description",
    "account.id",
    "account.name",
    "actor.id",
    "actor.email",
    "actor.type",
    "actor.context",
    "actor.ip_address",
    "actor.token_id",
    "actor.token_name",
    "resource.id",
    "resource.product",
    "resource.scope",
    "resource.type",
    "resource.request",
    "resource.response",
    "raw.method",
    "raw.status_code",
    "raw.uri",
    "raw.cf_ray_id",
    "raw.user_agent",
    "zone.id",
    "zone.name",
)
_encoder = msgspec.json.Encoder()


class Exporter:
    """Reads page after page, and holds no connection, transaction or snapshot while the client is slow.

    A page has `query.limit` records. Records that are stored behind the current position are not in the stream.
    """

    def __init__(self, reads: LogReads, retries: int, retry_after_s: float) -> None:
        self._reads = reads
        self._retries = retries
        self._retry_after_s = retry_after_s

    async def ndjson(self, query: ListQuery) -> AsyncIterator[bytes]:
        """Yield one record per line. Raises RetryableError if the database stays unavailable."""
        async for records in self._pages(query):
            async for lines in self._reads.turns.results(records, _encoder.encode_lines):
                yield b"".join(lines)

    async def csv(self, query: ListQuery, header: Sequence[str], cells: Cells) -> AsyncIterator[bytes]:
        """Yield a header and one record per line. Raises RetryableError if the database stays unavailable."""
        yield csv_lines([header])
        async for records in self._pages(query):
            async for lines in self._reads.turns.results(records, lambda some: csv_lines(map(cells, some))):
                yield b"".join(lines)

    async def _pages(self, query: ListQuery) -> AsyncIterator[Sequence[AuditRecord]]:
        while True:
            page = await self._page(query)
            if page.records:
                yield page.records
            if page.after is None:
                return
            query = replace(query, after=page.after)

    async def _page(self, query: ListQuery) -> Page:
        for _ in range(self._retries):
            try:
                return await self._reads.page(query)
            except RetryableError:
                await asyncio.sleep(self._retry_after_s)
        return await self._reads.page(query)


def v2_cells(record: AuditRecord) -> Sequence[object]:
    action, actor, resource, raw = record.action, record.actor, record.resource, record.raw
    return (
        record.id,
        action.time,
        action.type,
        action.result,
        action.description,
        record.account.id,
        record.account.name,
        actor.id,
        record.actor_email,
        actor.type,
        actor.context,
        actor.ip_address,
        actor.token_id,
        actor.token_name,
        resource.id,
        resource.product,
        resource.scope,
        resource.type,
        _text(resource.request),
        _text(resource.response),
        raw.method,
        raw.status_code,
        raw.uri,
        raw.cf_ray_id,
        raw.user_agent,
        record.zone.id,
        record.zone.name,
    )


def _text(body: msgspec.Raw | msgspec.UnsetType) -> str:
    return bytes(body).decode() if isinstance(body, msgspec.Raw) else ""
