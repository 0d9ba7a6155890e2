"""Parts that are not there yet: processes start, say so, and go on when they come."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from auditap.database.connection import administrator
from auditap.database.schema import migrate
from tests.audit_database import migrated
from tests.e2e.golden import DOCUMENT, golden_capture
from tests.e2e.pipeline import Pipeline, until
from tests.ports import free_port


@pytest.fixture
async def pipeline(database: str, tmp_path: Path) -> AsyncIterator[Pipeline]:
    """A pipeline whose parts are started one by one, on a Kafka that nobody runs."""
    documents = f'[redaction]\ndocuments = [{{path = "{DOCUMENT}", envelope = "result"}}]'
    away = f"127.0.0.1:{free_port()}"
    made = Pipeline(tmp_path, await migrated(database), bootstrap=away, topic="none.", documents=documents)
    await made.directory.start()
    yield made
    await made.stop()


async def test_a_collector_without_its_log_lives_is_not_ready_and_accepts_nothing(pipeline: Pipeline) -> None:
    port = pipeline.collector_port
    collector = pipeline.process("collect", AUDITAP_COLLECTOR__ADDRESS__PORT=str(port))
    await collector.start(None)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
        await until(lambda: _status(client, "/healthz", 200), 120, "alive", collector.log)
        assert (await client.get("/readyz")).json() == {"ready": False, "parts": {"log": False}}
    transport = httpx.AsyncHTTPTransport(uds=str(pipeline.socket))
    async with httpx.AsyncClient(transport=transport, base_url="http://collector", timeout=120) as client:
        capture = json.dumps(golden_capture(time.time_ns() // 1_000_000))
        answer = await client.post(
            "/v1/captures", content=capture, headers={"content-type": "application/x-ndjson"}
        )
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) >= 1
    assert await collector.stop() == 0
    assert not pipeline.socket.exists()


async def test_an_ingestor_waits_for_migrations(pipeline: Pipeline, database: str) -> None:
    async with administrator(database) as connection:
        await connection.execute("DROP SCHEMA auditap CASCADE; DROP TABLE public.auditap_migrations")
    port = free_port()
    ingestor = pipeline.process("ingest", AUDITAP_INGEST__ADDRESS__PORT=str(port))
    await ingestor.start(None)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
        await until(lambda: _status(client, "/healthz", 200), 120, "alive", ingestor.log)
        assert (await client.get("/readyz")).status_code == 503
        async with administrator(database) as connection:
            await migrate(connection)
        await until(lambda: _status(client, "/readyz", 200), 120, "ready", ingestor.log)
    assert await ingestor.stop() == 0


async def test_a_refused_login_ends_the_ingestor_with_a_sentence(pipeline: Pipeline) -> None:
    wrong = pipeline.database.writer_dsn.replace("for-tests-only", "S3CRET")
    ingestor = pipeline.process(
        "ingest", AUDITAP_INGEST__ADDRESS__PORT=str(free_port()), AUDITAP_POSTGRES__WRITER_DSN=wrong
    )
    await ingestor.start(None)
    assert await ingestor.wait() == 1
    assert "Postgres refuses the writer's login" in ingestor.output()
    assert "S3CRET" not in ingestor.output()


async def _status(client: httpx.AsyncClient, path: str, status: int) -> bool:
    try:
        return (await client.get(path)).status_code == status
    except httpx.TransportError:
        return False
