"""Pipelines for the end-to-end tests: each runs on the embedded log and on Apache Kafka."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from tests.audit_database import migrated
from tests.e2e.pipeline import Pipeline

StartPipeline = Callable[..., Awaitable[Pipeline]]


@pytest.fixture(params=["embedded", pytest.param("kafka", marks=pytest.mark.kafka)])
def bootstrap(request: pytest.FixtureRequest) -> str | None:
    if request.param == "embedded":
        return None
    address: str = request.getfixturevalue("kafka_bootstrap")
    return address


@pytest.fixture
async def start_pipeline(
    bootstrap: str | None, database: str, tmp_path: Path, topic_prefix: str
) -> AsyncIterator[StartPipeline]:
    """Start a pipeline for a document: `await start_pipeline(document, ingestors=2)`."""
    started: list[Pipeline] = []

    async def start(
        document: Path, *, ingestors: int = 1, envelope: str = "result", extra: str = ""
    ) -> Pipeline:
        documents = f'[redaction]\ndocuments = [{{path = "{document}", envelope = "{envelope}"}}]'
        pipeline = Pipeline(
            tmp_path,
            await migrated(database),
            bootstrap=bootstrap,
            topic=topic_prefix,
            documents=documents,
            extra=extra,
        )
        started.append(pipeline)
        await pipeline.start(ingestors)
        return pipeline

    yield start
    for pipeline in started:
        await pipeline.stop()
