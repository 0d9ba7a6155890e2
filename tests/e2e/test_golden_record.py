from __future__ import annotations

import re
import time

from schemas.identity import rfc3339_ms
from tests.e2e.conftest import StartPipeline
from tests.e2e.golden import ACCOUNT, DOCUMENT, golden_capture, golden_record
from tests.e2e.pipeline import Pipeline, until

DAY_MS = 86_400_000


def without_nulls(value: object) -> object:
    if isinstance(value, dict):
        return {key: without_nulls(each) for key, each in value.items() if each not in (None, {})}
    return value


async def test_a_capture_becomes_the_golden_record(start_pipeline: StartPipeline) -> None:
    # On a busy machine the directory answers late; then the name would come with the backfill.
    pipeline = await start_pipeline(DOCUMENT, extra="[enrich]\nbatch_budget_ms = 60000")
    now_ms = time.time_ns() // 1_000_000
    capture = golden_capture(now_ms)
    assert await pipeline.send([capture]) == (1, [])
    assert await pipeline.until_processed(1) == (1, 0)

    [record] = await pipeline.list_records(ACCOUNT, rfc3339_ms(now_ms), rfc3339_ms(now_ms + 1))

    ours = record.pop("auditap")
    assert record.pop("id") == capture["id"]
    assert record["action"].pop("time") == rfc3339_ms(now_ms)
    assert without_nulls(record) == golden_record()
    assert ours["operation_id"] == "notification-policies-update"
    assert ours["enrichment"] == "complete"
    assert ours["receipt"]["request"] == {"kept": 6}
    assert ours["receipt"]["response"] == {"kept": 1}
    assert ours["tap"] == {"id": "gw-eu-1", "epoch": 1_769_192_714, "seq": 4711}


async def test_nothing_unmarked_is_in_what_was_stored_or_logged(start_pipeline: StartPipeline) -> None:
    pipeline = await start_pipeline(DOCUMENT)
    assert await pipeline.send([golden_capture(time.time_ns() // 1_000_000)]) == (1, [])
    await pipeline.until_processed(1)
    await pipeline.stop_processes()
    for table in ("audit_records", "dead_letters"):
        for row in await pipeline.fetch(f"SELECT t::text AS text FROM auditap.{table} AS t"):
            assert "CANARY" not in row["text"]
    for file in pipeline.folder.rglob("*"):
        if file.is_file():
            assert not re.search(rb"CANARY", file.read_bytes()), file.name


async def test_a_record_stored_while_the_directory_is_away_is_completed_later(
    start_pipeline: StartPipeline,
) -> None:
    pipeline = await start_pipeline(DOCUMENT, other_constants={"ingest": {"backfill_interval_ms": 200}})
    pipeline.directory.away = True
    now_ms = time.time_ns() // 1_000_000
    await pipeline.send([golden_capture(now_ms)])
    await pipeline.until_processed(1)
    [record] = await pipeline.list_records(ACCOUNT, rfc3339_ms(now_ms), rfc3339_ms(now_ms + 1))
    assert record["auditap"]["enrichment"] == "partial"
    assert record["account"] == {"id": ACCOUNT, "name": ACCOUNT}

    pipeline.directory.away = False
    await completed(pipeline)

    [record] = await pipeline.list_records(ACCOUNT, rfc3339_ms(now_ms), rfc3339_ms(now_ms + 1))
    assert record["auditap"]["enrichment"] == "complete"
    assert record["account"]["name"] == "Example Industries"


async def test_a_record_of_an_account_that_the_directory_learns_of_late_is_completed(
    start_pipeline: StartPipeline,
) -> None:
    pipeline = await start_pipeline(DOCUMENT, other_constants={"ingest": {"backfill_interval_ms": 200}})
    pipeline.directory.unknown = True
    now_ms = time.time_ns() // 1_000_000
    await pipeline.send([golden_capture(now_ms)])
    await pipeline.until_processed(1)

    pipeline.directory.unknown = False
    await completed(pipeline)

    [record] = await pipeline.list_records(ACCOUNT, rfc3339_ms(now_ms), rfc3339_ms(now_ms + 1))
    assert record["auditap"]["enrichment"] == "complete"
    assert record["account"]["name"] == "Example Industries"


async def completed(pipeline: Pipeline) -> None:
    async def one() -> bool:
        return await pipeline.count("audit_enrichments") == 1

    # A waiting record is tried again after 5 minutes at last.
    await until(one, 600, "the record completed")
