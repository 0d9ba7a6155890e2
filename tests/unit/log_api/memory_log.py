"""The log API's database in memory, for tests without one; it passes the port's contract."""

from __future__ import annotations

import ipaddress
import re
from bisect import bisect
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec

from log_api.completeness import Gap, Gaps, TapCounts
from log_api.listing import EMAIL_PATTERN, LOGINS, Condition, Direction, ListQuery, SummaryQuery
from log_api.ports import AlertQuery, Count, Token
from log_api.records import AuditRecord, Page, audit_record, body_bytes
from schemas.alert import alert_document
from schemas.errors import RetryableError
from schemas.identity import id_ms
from schemas.record import Record


class MemoryLog:
    """Keeps records, what was found out later, and tokens.

    `away` makes every call fail; `page_times_out` makes every page end, empty, after a millisecond of the log.
    """

    def __init__(self, page_bytes_max: int = 1 << 20) -> None:
        self.rows: dict[UUID, dict[str, Any]] = {}
        self.tokens: dict[bytes, Token] = {}
        self.trends: list[dict[str, Any]] = []
        self.raised: dict[UUID, dict[str, Any]] = {}
        self.token_lookups = 0
        self.complete_ms: int | None = None
        self.gap_list: list[Gap] = []
        self.away = False
        self.page_times_out = False
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
        if self.page_times_out:
            low, high = query.id_range()
            if low.int >> 80 >= high.int >> 80:
                return Page([], None)
            # Nothing was found in the newest millisecond, and the time is up.
            return Page([], UUID(int=((high.int >> 80) - 1) << 80))
        found = self._found(query)[query.skip :]
        records: list[AuditRecord] = []
        size_bytes = 0
        for row in found:
            if len(records) == query.limit or size_bytes > self._page_bytes_max:
                return Page(records, UUID(records[-1].id))
            records.append(audit_record(row))
            size_bytes += body_bytes(records[-1])
        return Page(records, None)

    async def ids(self, query: ListQuery) -> Sequence[UUID]:
        self._check()
        return [row["id"] for row in self._found(query)[query.skip :][: query.limit]]

    async def records(self, accounts: Sequence[str] | None, ids: Sequence[UUID]) -> Sequence[AuditRecord]:
        self._check()
        rows = [self.rows[one] for one in ids if one in self.rows]
        return [audit_record(row) for row in rows if accounts is None or row["account_id"] in accounts]

    async def counts(self, query: SummaryQuery) -> Sequence[Count]:
        self._check()
        if query.of_trends:
            return self._trend_counts(query)
        counted: Counter[tuple[int, str | None]] = Counter()
        for row in self.rows.values():
            bucket = bisect(query.bounds_ms, id_ms(row["id"].hex)) - 1
            if (
                row["account_id"] in query.accounts
                and 0 <= bucket < len(query.bounds_ms) - 1
                and all(_meets(row, condition) for condition in query.conditions)
            ):
                counted[bucket, row[query.field]] += 1
        return [Count(bucket, value, count) for (bucket, value), count in counted.items()]

    def _trend_counts(self, query: SummaryQuery) -> Sequence[Count]:
        counted: Counter[tuple[int, str | None]] = Counter()
        for row in self.trends:
            bucket = bisect(query.bounds_ms, row["start_ms"]) - 1
            if (
                row["account_id"] in query.accounts
                and row["width_ms"] == query.trend_ms
                and 0 <= bucket < len(query.bounds_ms) - 1
            ):
                counted[bucket, row[query.field]] += row["events"]
        return [Count(bucket, value, count) for (bucket, value), count in counted.items()]

    async def alerts(self, query: AlertQuery) -> Sequence[dict[str, Any]]:
        self._check()
        found = [
            row
            for row in self.raised.values()
            if row["account_id"] == query.account
            and query.since <= row["id"] < query.before
            and (query.severities is None or row["severity"] in query.severities)
            and (query.rules is None or row["rule"] in query.rules)
            and query.acknowledged in {None, row["acknowledged_at"] is not None}
        ]
        found.sort(key=lambda row: row["id"].int, reverse=True)
        return [alert_document(row) for row in found[: query.limit]]

    async def acknowledge(self, account: str, alert_id: UUID, who: str) -> dict[str, Any] | None:
        self._check()
        row = self.raised.get(alert_id)
        if row is None or row["account_id"] != account:
            return None
        if row["acknowledged_at"] is None:
            row |= {"acknowledged_at": datetime.now(UTC), "acknowledged_by": who}
        return alert_document(row)

    def _found(self, query: ListQuery) -> list[dict[str, Any]]:
        low, high = query.id_range()
        found = [
            row
            for row in self.rows.values()
            if (query.accounts is None or row["account_id"] in query.accounts)
            and low <= row["id"] < high
            and all(_meets(row, condition) for condition in query.conditions)
        ]
        return sorted(found, key=lambda row: row["id"].int, reverse=query.direction is Direction.DESC)

    async def complete_before_ms(self) -> int | None:
        self._check()
        return self.complete_ms

    async def gaps(self, since_ms: int, before_ms: int, gaps_max: int) -> Gaps:
        self._check()
        found = [
            each
            for each in self.gap_list
            if each.from_ms < before_ms and (each.to_ms is None or each.to_ms >= since_ms)
        ]
        found.sort(key=lambda each: (each.from_ms, each.tap_id or "", each.epoch or 0, each.first))
        missing = sum(each.numbers or 0 for each in found if each.cause != "offsets_expired")
        return Gaps(found[:gaps_max], len(found), missing)

    async def taps(self) -> TapCounts:
        self._check()
        return TapCounts(1, 2, 3)

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
    if condition.name == "actor_ip_address":
        value = row[condition.name]
        among = value is not None and any(
            ipaddress.ip_address(value) in asked.network  # type: ignore[union-attr]
            for asked in condition.values
        )
    elif condition.name == EMAIL_PATTERN:
        email = row["actor_email"]
        among = email is not None and any(_like(email, str(pattern)) for pattern in condition.values)
    elif condition.name == LOGINS:
        among = row["resource_product"] == "access" and row["resource_type"] in condition.values
    else:
        value = row[condition.name]
        among = value is not None and value in condition.values
    return among is not condition.excluded


def _like(text: str, pattern: str) -> bool:
    """SQL's LIKE with backslash as its escape."""
    parts = re.findall(r"\\.|%|_|[^\\%_]+", pattern, re.DOTALL)
    meant = {"%": ".*", "_": "."}
    expression = "".join(
        meant.get(part) or re.escape(part[1:] if part[0] == "\\" else part) for part in parts
    )
    return re.fullmatch(expression, text, re.DOTALL) is not None
