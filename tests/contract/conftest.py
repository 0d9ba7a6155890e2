from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from eventlog.ports import EventPublisher
from ingestor.postgres_store import PostgresStore
from tests.event_logs import EmbeddedLogUnderTest, KafkaLog, LogUnderTest
from tests.fakes.record_store import MemoryRecordStore
from tests.ports import free_port


@pytest.fixture
def unused_port() -> int:
    """A port of loopback on which nobody listens."""
    return free_port()


@pytest.fixture(params=["memory", "postgres"])
def store(request: pytest.FixtureRequest) -> MemoryRecordStore | PostgresStore:
    """The fake and the real store, one after the other."""
    if request.param == "memory":
        return MemoryRecordStore()
    postgres: PostgresStore = request.getfixturevalue("postgres_store")
    return postgres


@pytest.fixture
async def publisher(log: LogUnderTest) -> AsyncIterator[EventPublisher]:
    """A started publisher to the test's own `log`."""
    publisher = log.publisher()
    await publisher.start()
    yield publisher
    await publisher.stop()


@pytest.fixture
async def embedded_log(tmp_path: Path) -> AsyncIterator[EmbeddedLogUnderTest]:
    embedded = EmbeddedLogUnderTest(tmp_path)
    yield embedded
    await embedded.log.close()


@pytest.fixture
async def kafka(kafka_bootstrap: str, topic_prefix: str) -> KafkaLog:
    """Topics of this test's own on the run's broker."""
    log = KafkaLog(kafka_bootstrap, topic_prefix)
    await log.make_topics()
    return log
