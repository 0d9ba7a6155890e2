"""Documents change while a collector runs: no pair is lost, a broken one changes nothing, and the event says which decided."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from schemas.identity import new_id
from tests.audit_database import migrated
from tests.e2e.pipeline import Pipeline, until
from tests.unit.redactor.documents import a_document, an_operation
from tests.unit.redactor.schemas import MARKED, TEXT, Node, an_object

ACCOUNT = "1f0c2b7d9e8a4c3b8d6e5f4a3b2c1d0e"


def text(**properties: Any) -> str:
    operation: Node = an_operation(an_object(**properties))
    return json.dumps(a_document({"/accounts/{account_id}/things": {"post": operation}}))


def replace(path: Path, content: str) -> None:
    path.with_suffix(".new").write_text(content)
    path.with_suffix(".new").replace(path)


def a_capture() -> dict[str, Any]:
    request = {
        "method": "POST",
        "url": f"/accounts/{ACCOUNT}/things",
        "headers": {"content-type": "application/json"},
        "body": '{"a": "one", "b": "two"}',
    }
    return {"id": new_id(time.time_ns() // 1_000_000), "request": request, "response": {"status": 200}}


@pytest.fixture
async def pipeline(database: str, tmp_path: Path) -> AsyncIterator[Pipeline]:
    replace(tmp_path / "d.json", text(a=MARKED, b=TEXT))
    made = Pipeline(
        tmp_path,
        await migrated(database),
        bootstrap=None,
        topic="t.",
        documents=f'[redaction]\ndocuments = [{{path = "{tmp_path / "d.json"}"}}]',
        other_constants={"collector": {"reload_interval_ms": 50}},
    )
    await made.start()
    yield made
    await made.stop()


async def degraded(pipeline: Pipeline) -> list[str]:
    async with httpx.AsyncClient(timeout=120) as client:
        answer = await client.get(f"http://127.0.0.1:{pipeline.collector_port}/readyz")
    assert answer.status_code == 200
    found: list[str] = answer.json().get("degraded", [])
    return found


async def test_documents_change_under_traffic_without_losing_a_pair(pipeline: Pipeline) -> None:
    collector = pipeline.collector
    assert collector is not None
    sent = 0
    done = asyncio.Event()

    async def traffic() -> None:
        nonlocal sent
        while not done.is_set():
            accepted, refused = await pipeline.send([a_capture() for _ in range(20)], 20)
            assert refused == []
            sent += accepted

    async def reloaded(times: int) -> bool:
        return await collector.metric("auditap_openapi_documents_reloaded_total") == times

    sending = asyncio.create_task(traffic())
    path = pipeline.folder / "d.json"
    await until(lambda: asyncio.sleep(0, sent > 0), 120, "traffic")
    replace(path, text(a=TEXT, b=MARKED))
    await until(lambda: reloaded(1), 120, "the changed document reloaded", collector.log)
    replace(path, text(a=MARKED, b=MARKED)[:-1])

    async def refused() -> bool:
        return await degraded(pipeline) == ["stale_documents"]

    await until(refused, 120, "the broken document refused", collector.log)
    assert await collector.metric("auditap_openapi_documents_refused_total") == 1
    assert "documents_not_reloaded" in collector.output()
    before = sent
    await until(lambda: asyncio.sleep(0, sent > before + 20), 120, "traffic goes on")
    replace(path, text(a=MARKED, b=MARKED))
    await until(lambda: reloaded(2), 120, "the mended document reloaded", collector.log)
    assert await degraded(pipeline) == []
    before = sent
    await until(lambda: asyncio.sleep(0, sent > before + 20), 120, "traffic goes on")
    done.set()
    await sending
    assert await pipeline.until_processed(sent) == (sent, 0)
    rows = await pipeline.fetch(
        "SELECT DISTINCT receipt ->> 'document' AS digest, resource_request::text AS kept FROM auditap.audit_records"
    )
    assert {json.dumps(json.loads(row["kept"])) for row in rows} == {
        '{"a": "one"}',
        '{"b": "two"}',
        '{"a": "one", "b": "two"}',
    }
    assert len({row["digest"] for row in rows}) == 3
