"""Fills the log in a real database, as its owner."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import asyncpg
import msgspec

from log_api.config import LogApiLimits
from log_api.ports import LogDatabase, LogReads, Token
from schemas.identity import id_ms
from schemas.record import COLUMNS, Record


def unhurried(limits: LogApiLimits) -> LogApiLimits:
    """The same limits with times that a busy machine does not meet."""
    return limits._replace(page_time_ms=60_000, connect_timeout_ms=60_000, acquire_timeout_ms=60_000)


def reads(database: LogDatabase) -> LogReads:
    """Return what a token for every account reads with."""
    return database.reads_of(Token(UUID(int=1), None, frozenset(), 0))


class StoredLog:
    """Stores records and backfilled values where the ingestor would."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self.connection = connection

    async def add(self, records: Sequence[Record]) -> None:
        times = {id_ms(record.id.hex) for record in records}
        for day_ms in {at_ms - at_ms % 86_400_000 for at_ms in times}:
            await self.connection.execute("SELECT auditap.ensure_partitions($1, $1)", day_ms)
        await self.connection.copy_records_to_table(
            "audit_records",
            schema_name="auditap",
            columns=COLUMNS,
            records=[msgspec.structs.astuple(record) for record in records],
        )

    async def complete(self, record_id: UUID, state: str = "complete", **found: str) -> None:
        found["state"] = state
        columns = ", ".join(found)
        places = ", ".join(f"${number + 2}" for number in range(len(found)))
        await self.connection.execute(
            f"INSERT INTO auditap.audit_enrichments (id, {columns}) VALUES ($1, {places})",
            record_id,
            *found.values(),
        )

    async def add_alert(self, alert_id: UUID, account: str | None, **changes: object) -> None:
        row = {"id": alert_id, "account_id": account, **ALERT, **changes, "key_digest": alert_id.bytes}
        columns = ", ".join(row)
        places = ", ".join(f"${number + 1}" for number in range(len(row)))
        await self.connection.execute(
            f"INSERT INTO auditap.alerts ({columns}) VALUES ({places})", *row.values()
        )


ALERT: dict[str, object] = {
    "rule": "broad-token",
    "severity": "high",
    "title": "A token with broad scopes was made",
    "key": '{"actor.id":"ana"}',
    "window_start_ms": 1_769_192_400_000,
    "window_ms": 600_000,
    "records": 1,
    "record_id": UUID("019be973-000d-7000-8000-000000000001"),
    "record": '{"id":"019be973000d70008000000000000001","action":{"type":"create","result":"success"}}',
}
