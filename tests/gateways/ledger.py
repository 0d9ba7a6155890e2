"""What the collector beside a gateway under test has written to its event log, stored: the gaps that users are shown."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from eventlog.embedded.log import EmbeddedLog, EmbeddedLogSettings
from eventlog.embedded.source import EmbeddedSource
from ingestor.config import IngestorConfig
from ingestor.ingest import Ingestor
from ingestor.postgres_store import PostgresStore
from schemas.metric_defs import Metrics
from schemas.sql import query
from tests.audit_database import AuditDatabase
from tests.gateways.journal import Run
from tests.unit.ingestor.ingestors import NoEnrichment

_GAPS_MAX = 100_000
_ALL_TIMES = (0, 1 << 48)


@dataclass(frozen=True)
class Ledger:
    """The gap ledger of a database, as the log API reads it."""

    reader: asyncpg.Connection

    async def dropped(self) -> dict[tuple[Run, str], set[int]]:
        """Return the numbers of each run that the ledger has as dropped, by cause."""
        rows = await self.reader.fetch(query("completeness_gaps"), *_ALL_TIMES, _GAPS_MAX)
        found: dict[tuple[Run, str], set[int]] = {}
        for row in rows:
            kind, _, cause = row["cause"].partition(":")
            if kind == "dropped":
                numbers = found.setdefault((Run(row["tap_id"], row["epoch"]), cause), set())
                numbers.update(range(row["first"], row["last"] + 1))
        return found


@asynccontextmanager
async def ingested(log_file: Path, database: AuditDatabase) -> AsyncIterator[Ledger]:
    """Ingest an embedded log into a database until the context ends, and yield the database's ledger."""
    log = EmbeddedLog(EmbeddedLogSettings(log_file))
    store = await PostgresStore.connect(database.writer_dsn, connections_max=4, command_timeout_ms=60_000)
    reader = await asyncpg.connect(database.reader_dsn)
    ingestor = Ingestor(
        connect=lambda listener: EmbeddedSource(log, "gateways", listener),
        enrichment=NoEnrichment(),
        store=store,
        dead_letters=store,
        gap_ledger=store,
        config=IngestorConfig(),
        metrics=Metrics(),
        clock_ms=store.clock_ms,
    )
    stop = asyncio.Event()
    ingesting = asyncio.create_task(ingestor.run(stop))
    try:
        yield Ledger(reader)
    finally:
        stop.set()
        await ingesting
        await reader.close()
        await store.close()
        await log.close()
