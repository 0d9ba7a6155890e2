"""A real database's log, filled by its administrator."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import asyncpg
import msgspec

from schemas.identity import id_ms
from schemas.record import COLUMNS, Record


class StoredLog:
    """Puts records and late findings where the ingestor would."""

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
