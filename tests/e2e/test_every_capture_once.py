"""20,000 mixed captures end as 20,000 records, however often they are sent."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from auditap_example.document import document_file
from auditap_example.traffic import mixed_captures
from tests.e2e.conftest import StartPipeline
from tests.e2e.pipeline import Pipeline, until

COUNT = 20_000
DOCUMENT = Path(str(document_file()))


def captures(*, with_ids: bool) -> list[dict[str, Any]]:
    now_ms = time.time_ns() // 1_000_000
    return list(mixed_captures(COUNT, 7, now_ms=now_ms, with_ids=with_ids))


async def everything_read(pipeline: Pipeline, seen: int) -> None:
    """Wait until the ingestors have read `seen` events altogether."""

    async def read() -> bool:
        counts = [await each.metric("auditap_events_consumed_total") for each in pipeline.ingestors]
        return sum(counts) >= seen and not sum(
            [await each.metric("auditap_batches_in_flight") for each in pipeline.ingestors]
        )

    await until(read, 240, f"{seen} events read")


@pytest.mark.parametrize("with_ids", [True, False], ids=["ids", "sequence-numbers"])
async def test_twenty_thousand_captures_are_as_many_records_sent_once_or_twice(
    start_pipeline: StartPipeline, bootstrap: str | None, with_ids: bool
) -> None:
    ingestors = 2 if bootstrap else 1
    pipeline = await start_pipeline(DOCUMENT, ingestors=ingestors)
    sent = captures(with_ids=with_ids)

    assert await pipeline.send(sent) == (COUNT, [])
    assert await pipeline.until_processed(COUNT) == (COUNT, 0)

    assert pipeline.directory.asked
    assert max(pipeline.directory.asked.values()) <= ingestors

    assert pipeline.collector is not None
    await pipeline.collector.stop()
    await pipeline.start_collector()
    assert await pipeline.send(sent) == (COUNT, [])
    await everything_read(pipeline, 2 * COUNT)

    assert await pipeline.count("audit_records") == COUNT
    assert await pipeline.count("dead_letters") == 0
