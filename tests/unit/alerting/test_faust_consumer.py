"""Which topic alerting's Faust applications read, without Kafka: each reads one, and another topic gets another application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

pytest.importorskip("faust")

from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread

from alerting import faust_app, faust_consumer
from alerting.faust_app import FaustSettings
from alerting.faust_consumer import FaustConsumer
from alerting.processor import AlertingLimits, AlertProcessor
from eventlog.kafka.client import KafkaConnection
from schemas.errors import RetryableError
from schemas.metric_defs import Metrics

SETTINGS = FaustSettings(KafkaConnection("127.0.0.1:1"), "events", "group", Path())


class Topics:
    """The topics that have the name one after the other; None: there is none."""

    def __init__(self, *ids: str | None) -> None:
        self.ids = list(ids)

    async def existing(self) -> str:
        while self.ids[0] is None:
            self.ids.pop(0)
        return self.ids[0]

    async def find(self) -> str | None:
        return self.ids[0]


class Processor:
    def __init__(self) -> None:
        self.begun: list[tuple[str, str]] = []

    async def begin_log(self, log_name: str, log_id: str) -> None:
        self.begun.append((log_name, log_id))


async def read(
    monkeypatch: pytest.MonkeyPatch, topics: Topics, ends: Sequence[BaseException | None]
) -> list[str]:
    """Run a consumer whose applications end so, each with its topic unless that is the last; return what they read."""
    stop, processor, remaining = asyncio.Event(), Processor(), list(ends)

    class Reader:
        def __init__(self, settings: FaustSettings, topic_id: str, *_parts: Any) -> None:
            assert processor.begun[-1] == (settings.topic, topic_id)

        async def run(self, *_arguments: Any) -> None:
            end = remaining.pop(0)
            if len(topics.ids) > 1:
                topics.ids.pop(0)
            if not remaining:
                stop.set()
            if end is not None:
                raise end

    @asynccontextmanager
    async def watch(*_arguments: Any) -> AsyncIterator[Topics]:
        yield topics

    monkeypatch.setattr(faust_consumer, "own_topic_watch", watch)
    monkeypatch.setattr(faust_consumer, "_TopicReader", Reader)
    consumer = FaustConsumer(SETTINGS, cast("AlertProcessor", processor), AlertingLimits(), Metrics())
    await consumer.run(stop)
    return [log_id for _, log_id in processor.begun]


async def test_each_topic_of_the_name_is_read_by_an_application_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    topics = Topics(None, "first", "second", None, "third")
    assert await read(monkeypatch, topics, [None] * 3) == ["first", "second", "third"]


@pytest.mark.parametrize("now", ["second", None])
async def test_an_application_that_ends_with_its_topic_is_replaced(
    monkeypatch: pytest.MonkeyPatch, now: str | None
) -> None:
    """Regression: aiokafka sometimes fails where a topic goes away, and the process ended."""
    topics = Topics("first", now, "second") if now is None else Topics("first", now)
    assert await read(monkeypatch, topics, [RetryableError("ended"), None]) == ["first", "second"]


@pytest.mark.parametrize("fault", [RetryableError("ended"), ValueError("a bug")])
async def test_an_application_that_ends_beside_its_topic_ends_the_process(
    monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    with pytest.raises(type(fault)):
        await read(monkeypatch, Topics("first"), [fault])


async def test_a_commit_that_aiokafka_tries_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a partition that does not exist any more: the application could not be stopped."""

    async def for_ever(*_arguments: object) -> bool:
        return await asyncio.Event().wait()

    monkeypatch.setattr(AIOKafkaConsumerThread, "_commit", for_ever)
    monkeypatch.setattr(faust_app, "_COMMIT_S", 0.01)
    thread = object.__new__(faust_app._ConsumerThread)
    async with asyncio.timeout(60):
        assert await thread._commit({}) is False
