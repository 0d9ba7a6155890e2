"""The log as its maintainer sees it, in memory."""

from __future__ import annotations

from collections.abc import Sequence

from ingestor.config import DAY_MS
from ingestor.retention import PartitionInfo, RetentionEvidence
from schemas.errors import RetryableError


class MemoryMaintenance:
    """`Maintenance` of days of two tables, with a record a day, and of rows beside them by their age in days.

    `in_use`: how often dropping fails before it succeeds. `recorded_days`: what the database says at least. `quiet_ms`: how
    long ago the newest receipt was; `same_host`: whether the database's clock is this host's.
    """

    def __init__(self, now_ms: int, days: Sequence[int], recorded_days: int = 1) -> None:
        self.now_ms = now_ms
        self.quiet_ms, self.same_host = 0, False
        self.recorded_days = recorded_days
        self.rows: list[int] = []
        self.in_use = 0
        self._tables = {(day, parent) for day in days for parent in ("audit_records", "audit_enrichments")}

    async def evidence(self, keep_days: int, own_ms: int) -> RetentionEvidence:
        kept_days = max(keep_days, self.recorded_days)
        return RetentionEvidence(
            self.now_ms, own_ms, self.now_ms - self.quiet_ms, kept_days, same_host=self.same_host
        )

    async def partitions(self, before_ms: int) -> Sequence[PartitionInfo]:
        return [
            PartitionInfo(parent, f"{parent}_{day}", day * DAY_MS, (day + 1) * DAY_MS, 1, 0)
            for day, parent in sorted(self._tables, key=lambda each: (each[0], each[1] != "audit_records"))
        ]

    async def drop(self, partition: PartitionInfo, before_ms: int, keep_days: int) -> bool:
        if self.in_use:
            self.in_use -= 1
            raise RetryableError("a partition to be dropped is in use")
        table = (partition.from_ms // DAY_MS, partition.parent)
        if table not in self._tables or partition.to_ms > self._since_ms(before_ms, keep_days):
            return False
        self._tables.remove(table)
        return True

    async def prune(self, before_ms: int, keep_days: int, rows_max: int) -> int:
        kept_days = (self.now_ms - self._since_ms(before_ms, keep_days)) // DAY_MS
        old = [age for age in self.rows if age > kept_days][:rows_max]
        for age in old:
            self.rows.remove(age)
        return len(old)

    def _since_ms(self, before_ms: int, keep_days: int) -> int:
        return min(before_ms, self.now_ms - max(keep_days, self.recorded_days) * DAY_MS)
