"""The log API's database in memory, for tests without one; it passes the port's contract."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import msgspec

from log_api.listing import Condition, Direction, ListQuery
from log_api.ports import Token
from log_api.records import AuditRecord, Page, audit_record, body_bytes
from schemas.errors import RetryableError
from schemas.record import Record


class MemoryLog:
    """Keeps records, what was found out later, and tokens; `away` makes every call fail."""

    def __init__(self, page_bytes_max: int = 1 << 20) -> None:
        self.rows: dict[UUID, dict[str, Any]] = {}
        self.tokens: dict[bytes, Token] = {}
        self.token_lookups = 0
        self.away = False
        self._page_bytes_max = page_bytes_max

    async def add(self, records: Sequence[Record]) -> None:
        self.rows |= {record.id: msgspec.structs.asdict(record) for record in records}

    async def complete(self, record_id: UUID, state: str = "complete", **found: str) -> None:
        row = self.rows[record_id]
        row["enrichment"] = state
        for name, value in found.items():
            if row[name] is None:
                row[name] = value

    async def page(self, query: ListQuery) -> Page:
        self._check()
        low, high = query.id_range()
        found = [
            row
            for row in self.rows.values()
            if row["account_id"] == query.account_id
            and low <= row["id"] < high
            and all(_meets(row, condition) for condition in query.conditions)
        ]
        found.sort(key=lambda row: row["id"].int, reverse=query.direction is Direction.DESC)
        records: list[AuditRecord] = []
        size_bytes = 0
        for row in found:
            if len(records) == query.limit or size_bytes > self._page_bytes_max:
                return Page(records, more=True)
            records.append(audit_record(row))
            size_bytes += body_bytes(records[-1])
        return Page(records, more=False)

    async def token(self, sha256: bytes) -> Token | None:
        self._check()
        self.token_lookups += 1
        return self.tokens.get(sha256)

    async def ready(self) -> bool:
        return not self.away

    def _check(self) -> None:
        if self.away:
            raise RetryableError("the memory is away")


def _meets(row: dict[str, Any], condition: Condition) -> bool:
    value = row[condition.name]
    if condition.name == "actor_ip_address":
        among = value is not None and any(
            ipaddress.ip_address(value) in asked.network  # type: ignore[union-attr]
            for asked in condition.values
        )
    else:
        among = value is not None and value in condition.values
    return among is not condition.excluded
