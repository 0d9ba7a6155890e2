"""The fake of the log API's database port, in memory. It passes the contract tests of the port."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import re
from bisect import bisect
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Self
from uuid import UUID

import msgspec

from log_api.access_requests import FIELDS, access_request
from log_api.completeness import Gap, Gaps, TapCounts
from log_api.cpu_turns import CpuTurns, cpu_queue
from log_api.dead_letters import DeadLetterCount
from log_api.fair_shares import Requester
from log_api.ports import AlertQuery, Count, Token, UnmatchedCount
from log_api.records import AuditRecord, Page, audit_record, body_bytes
from log_api.resource_changes import ResourceChanges, ResourceKey, WantedChanges
from log_api.sql_builder import (
    LOGIN_EMAIL,
    LOGIN_EMAIL_PATTERN,
    LOGIN_FILTERS,
    LOGINS,
    Condition,
    Direction,
    ListQuery,
    SummaryQuery,
)
from log_api.taps import TapRun, TapRuns
from schemas.alert import alert_payload
from schemas.errors import RetryableError
from schemas.identity import id_ms
from schemas.record import Record


class MemoryLog:
    """Holds records, backfilled values, and tokens.

    `tailed` is set by the first poll of a tail. `unavailable` makes every call fail; `page_times_out` makes every page end, empty, after a millisecond of the log.
    """

    def __init__(self, page_bytes_max: int = 1 << 20) -> None:
        self.rows: dict[UUID, dict[str, Any]] = {}
        self.tokens: dict[bytes, Token] = {}
        self.trends: list[dict[str, Any]] = []
        self.raised: dict[UUID, dict[str, Any]] = {}
        self.token_lookups = 0
        self.tailed = asyncio.Event()
        self.complete_ms: int | None = None
        self.gap_list: list[Gap] = []
        self.runs: list[TapRun] = []
        self.dead_letter_counts: list[DeadLetterCount] = []
        self.sent: dict[UUID, list[dict[str, Any]]] = {}
        self.unavailable = False
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

    def reads_of(self, _token: Token) -> Self:
        return self

    @property
    def turns(self) -> CpuTurns:
        return CpuTurns(cpu_queue(), Requester(frozenset(), UUID(int=0)))

    async def page(self, query: ListQuery) -> Page:
        self._check()
        if self.page_times_out:
            low, high = query.id_range()
            if low.int >> 80 >= high.int >> 80:
                return Page([], None)
            # The newest millisecond holds no match, and the time limit is reached.
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
        self.tailed.set()
        self._check()
        return [row["id"] for row in self._found(query)[query.skip :][: query.limit]]

    async def accounts(self, accounts_max: int) -> Sequence[str]:
        self._check()
        return sorted({row["account_id"] for row in self.rows.values() if row["account_id"]})[:accounts_max]

    async def records(self, accounts: Sequence[str] | None, ids: Sequence[UUID]) -> Sequence[AuditRecord]:
        self._check()
        rows = [self.rows[one] for one in ids if one in self.rows]
        return [audit_record(row) for row in rows if accounts is None or row["account_id"] in accounts]

    async def resource_changes(
        self, accounts: Sequence[str] | None, wanted: Sequence[WantedChanges]
    ) -> Sequence[ResourceChanges]:
        self._check()
        results = []
        for one in wanted:
            found = [
                audit_record(row)
                for _, row in sorted(self.rows.items())
                if row["id"] <= one.last
                and (accounts is None or row["account_id"] in accounts)
                and _key(row) == one.key
                and row["action_result"] == "success"
                and row["action_type"] != "view"
            ]
            whole = len(found) < one.records_max
            results.append(ResourceChanges(found[-one.records_max :], whole))
        return results

    async def counts(self, query: SummaryQuery) -> Sequence[Count]:
        self._check()
        if query.from_trends:
            return self._trend_counts(query)
        counted: Counter[tuple[int, str | None]] = Counter()
        for row in self.rows.values():
            bucket = bisect(query.bounds_ms, id_ms(row["id"].hex)) - 1
            if (
                (query.accounts is None or row["account_id"] in query.accounts)
                and 0 <= bucket < len(query.bounds_ms) - 1
                and all(_meets(row, condition) for condition in query.conditions)
            ):
                value = row[query.field]
                counted[bucket, None if value is None else str(value)] += 1
        return [Count(bucket, value, count) for (bucket, value), count in counted.items()]

    def _trend_counts(self, query: SummaryQuery) -> Sequence[Count]:
        counted: Counter[tuple[int, str | None]] = Counter()
        for row in self.trends:
            bucket = bisect(query.bounds_ms, row["start_ms"]) - 1
            if (
                row["account_id"] in (query.accounts or ())
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
        return [alert_payload(row) for row in found[: query.limit]]

    async def acknowledge(self, account: str, alert_id: UUID, token: Token) -> dict[str, Any] | None:
        self._check()
        row = self.raised.get(alert_id)
        if row is None or row["account_id"] != account or self.tokens.get(token.sha256) is None:
            return None
        if row["acknowledged_at"] is None:
            row |= {"acknowledged_at": datetime.now(UTC), "acknowledged_by": token.email or token.name}
        return alert_payload(row)

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
        missing = sum(each.size or 0 for each in found if each.cause != "offsets_expired")
        return Gaps(found[:gaps_max], len(found), missing)

    async def taps(self) -> TapCounts:
        self._check()
        return TapCounts(1, 2, 3, 4, 5)

    async def tap_runs(self, runs_max: int) -> TapRuns:
        self._check()
        return TapRuns(self.runs[:runs_max], len(self.runs))

    async def dead_letters(self, count_max: int) -> Sequence[DeadLetterCount]:
        self._check()
        return [
            one._replace(dead_letters=min(one.dead_letters, count_max)) for one in self.dead_letter_counts
        ][:100]

    async def unmatched(
        self, accounts: tuple[str, ...] | None, since_ms: int, before_ms: int, groups_max: int
    ) -> Sequence[UnmatchedCount]:
        self._check()
        found: dict[tuple[str, str | None, str | None], list[int]] = {}
        for row in self.rows.values():
            reason = json.loads(row["receipt"]).get("unmatched")
            at_ms = id_ms(row["id"].hex)
            belongs = accounts is None or row["account_id"] in accounts
            if reason is not None and belongs and since_ms <= at_ms < before_ms:
                path = None if row["raw_uri"] is None else row["raw_uri"].split("?")[0]
                found.setdefault((reason, row["raw_method"], path), []).append(at_ms)
        return [UnmatchedCount(*key, len(times), max(times)) for key, times in found.items()][:groups_max]

    async def deliveries(self, account: str, alert_id: UUID) -> Sequence[dict[str, Any]]:
        self._check()
        row = self.raised.get(alert_id)
        return [] if row is None or row["account_id"] != account else self.sent.get(alert_id, [])

    async def token(self, sha256: bytes) -> Token | None:
        self._check()
        self.token_lookups += 1
        return self.tokens.get(sha256)

    async def ready(self) -> bool:
        return not self.unavailable

    def _check(self) -> None:
        if self.unavailable:
            raise RetryableError("the memory log is unavailable")


def _key(row: dict[str, Any]) -> ResourceKey:
    return ResourceKey(row["account_id"], row["resource_product"], row["resource_type"], row["resource_id"])


def _meets(row: dict[str, Any], condition: Condition) -> bool:
    value = _compared(row, condition.name)
    among = value is not None and any(_equals(condition.name, value, each) for each in condition.values)
    return among is not condition.excluded


def _compared(row: dict[str, Any], name: str) -> Any:
    """Return the value of a record that a filter compares; None where there is none."""
    if name == LOGINS:
        return row["resource_type"] if row["resource_product"] == "access" else None
    if name in {LOGIN_EMAIL, LOGIN_EMAIL_PATTERN}:
        return _login_value(row, LOGIN_EMAIL)
    if name in LOGIN_FILTERS:
        return _login_value(row, name)
    if name == "unmatched":
        return json.loads(row["receipt"]).get("unmatched")
    if name == "altered":
        return str(json.loads(row["receipt"]).get("altered", False)).lower()
    return row[name]


def _equals(name: str, value: Any, wanted: Any) -> bool:
    if name == "actor_ip_address":
        return ipaddress.ip_address(value) in wanted.network
    if name == LOGIN_EMAIL_PATTERN:
        return _like(value, wanted)
    return bool(value == wanted)


def _login_value(row: dict[str, Any], name: str) -> str | None:
    entry = access_request(audit_record(row), frozenset(FIELDS))
    names = {LOGIN_EMAIL: "user_email", "country_code": "country", "idp": "connection"}
    value = entry["user_email"] is None if name == "non_identity" else entry[names.get(name, name)]
    return str(value).lower() if isinstance(value, bool) else value


def _like(text: str, pattern: str) -> bool:
    """SQL's LIKE with backslash as its escape."""
    parts = re.findall(r"\\.|%|_|[^\\%_]+", pattern, re.DOTALL)
    wildcards = {"%": ".*", "_": "."}
    expression = "".join(
        wildcards.get(part) or re.escape(part[1:] if part[0] == "\\" else part) for part in parts
    )
    return re.fullmatch(expression, text, re.DOTALL) is not None
