"""An ingestor on a log and a store in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from eventlog.ports import EventSource, RevokeListener
from ingestor.config import IngestorConfig
from ingestor.ingest import Ingestor
from schemas.metric_defs import Metrics
from schemas.record import Record
from tests.fakes.event_log import MemoryEventLog, MemorySource
from tests.fakes.record_store import MemoryRecordStore

NOW = 1_769_192_714_749


async def _now_ms() -> int:
    return NOW


class NoEnrichment:
    async def enrich(self, records: Sequence[Record]) -> None:
        await asyncio.sleep(0)


def an_ingestor(
    log: MemoryEventLog,
    store: MemoryRecordStore,
    config: IngestorConfig,
    *,
    connect: Callable[[RevokeListener], EventSource] | None = None,
    metrics: Metrics | None = None,
    clock_ms: Callable[[], Awaitable[int]] | None = None,
) -> Ingestor:
    return Ingestor(
        connect=connect or (lambda listener: MemorySource(log, "group", listener)),
        enrichment=NoEnrichment(),
        store=store,
        dead_letters=store,
        gap_ledger=store,
        config=config,
        metrics=metrics or Metrics(),
        clock_ms=clock_ms or _now_ms,
    )
