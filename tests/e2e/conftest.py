"""Pipelines for the end-to-end tests: each runs on the embedded log and on Apache Kafka."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.audit_database import AuditDatabase
from tests.e2e.golden import DOCUMENT
from tests.e2e.pipeline import Pipeline

StartPipeline = Callable[..., Awaitable[Pipeline]]


@pytest.fixture
async def start_pipeline(
    bootstrap: str | None, audit_database: AuditDatabase, tmp_path: Path, topic_prefix: str
) -> AsyncIterator[StartPipeline]:
    """Start a pipeline for a document: `await start_pipeline(document, ingestors=2)`."""
    started: list[Pipeline] = []

    async def start(
        document: Path,
        *,
        ingestors: int = 1,
        envelope: str = "result",
        redaction: str = "",
        extra: str = "",
        other_constants: dict[str, dict[str, Any]] | None = None,
    ) -> Pipeline:
        documents = (
            f'[redaction]\n{redaction}\ndocuments = [{{path = "{document}", envelope = "{envelope}"}}]'
        )
        pipeline = Pipeline(
            tmp_path,
            audit_database,
            bootstrap=bootstrap,
            topic=topic_prefix,
            documents=documents,
            extra=extra,
            other_constants=other_constants,
        )
        started.append(pipeline)
        await pipeline.start(ingestors)
        return pipeline

    yield start
    for pipeline in started:
        await pipeline.stop()


@pytest.fixture
async def kafka_pipeline(
    audit_database: AuditDatabase, tmp_path: Path, kafka_bootstrap: str, topic_prefix: str
) -> AsyncIterator[Pipeline]:
    """A pipeline on Kafka for the golden document, not yet started."""
    pipeline = Pipeline(
        tmp_path,
        audit_database,
        bootstrap=kafka_bootstrap,
        topic=topic_prefix,
        documents=f'[redaction]\ndocuments = [{{path = "{DOCUMENT}", envelope = "result"}}]',
    )
    yield pipeline
    await pipeline.stop()
