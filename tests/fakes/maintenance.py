"""The log as its maintainer sees it, in memory."""

from __future__ import annotations

from collections.abc import Sequence

from ingestor.config import DAY_MS
from ingestor.retention import PartitionInfo
from schemas.errors import RetryableError


class MemoryMaintenance:
    """`Maintenance` of days of two tables, and of rows beside them by their age in days.

    `in_use`: how often dropping fails before it succeeds. `recorded_days`: what the database says at least.
    """

    def __init__(self, now_ms: int, days: Sequence[int], recorded_days: int = 1) -> None:
        self.now_ms = now_ms
        self.days = sorted(days)
        self.recorded_days = recorded_days
        self.rows: list[int] = []
        self.in_use = 0
        self._tables = {(day, parent) for day in days for parent in ("audit_records", "audit_enrichments")}

    async def partitions(self) -> Sequence[PartitionInfo]:
        return [
            PartitionInfo(parent, f"{parent}_{day}", day * DAY_MS, (day + 1) * DAY_MS, -1, 0)
            for day, parent in sorted(self._tables, key=lambda each: (each[0], each[1] != "audit_records"))
        ]

    async def kept_since_ms(self, keep_days: int) -> int:
        return self.now_ms - max(keep_days, self.recorded_days) * DAY_MS

    async def drop_expired(self, keep_days: int) -> str | None:
        if self.in_use:
            self.in_use -= 1
            raise RetryableError("a partition to be dropped is in use")
        since_ms = await self.kept_since_ms(keep_days)
        for each in await self.partitions():
            if each.to_ms <= since_ms:
                self._tables.remove((each.from_ms // DAY_MS, each.parent))
                return each.child
        return None

    async def prune(self, keep_days: int, rows_max: int) -> int:
        old = [age for age in self.rows if age > max(keep_days, self.recorded_days)][:rows_max]
        for age in old:
            self.rows.remove(age)
        return len(old)
