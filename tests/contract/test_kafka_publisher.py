"""What the publisher does when Kafka does not do its part."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from eventlog.kafka.client import KafkaConnection
from eventlog.kafka.publisher import KafkaPublisher, KafkaPublisherSettings
from schemas.errors import EventsTooLarge, NotDurable, RetryableError, StartupError
from schemas.event import EncodedEvent
from tests.event_logs import Assignments, KafkaLog, events, read, read_until, retried, values
from tests.freezing import freeze, frozen
from tests.kafka_broker import KafkaBroker


@asynccontextmanager
async def started(publisher: KafkaPublisher) -> AsyncIterator[KafkaPublisher]:
    await retried(publisher.start)
    try:
        yield publisher
    finally:
        await publisher.stop()


async def until_durable(publisher: KafkaPublisher, batch: list[EncodedEvent]) -> None:
    async with asyncio.timeout(120):
        while True:
            try:
                return await publisher.publish(batch)
            except NotDurable:
                await asyncio.sleep(0.05)


async def stored(kafka: KafkaLog, wanted: set[bytes]) -> set[bytes]:
    return await read_until(kafka, "check", wanted)


@pytest.fixture
async def own_log(own_kafka: KafkaBroker) -> KafkaLog:
    log = KafkaLog(own_kafka.bootstrap, "own.", answers_at_once=True)
    await retried(log.make_topics)
    return log


async def test_a_killed_broker_makes_batches_not_durable_until_it_is_back(
    own_kafka: KafkaBroker, own_log: KafkaLog
) -> None:
    async with started(own_log.publisher(publish_deadline_ms=500)) as publisher:
        await until_durable(publisher, events(0, 10))
        await own_kafka.kill()

        with pytest.raises(NotDurable):
            await publisher.publish(events(10, 10))
        assert not await publisher.ready()
        with pytest.raises(NotDurable):
            await publisher.publish(events(10, 10))

        await own_kafka.start()
        await until_durable(publisher, events(10, 10))
        while not await publisher.ready():
            await asyncio.sleep(0.05)

    await stored(own_log, {event.value for event in events(0, 20)})


async def test_a_hung_broker_makes_batches_not_durable_until_it_answers(
    own_kafka: KafkaBroker, own_log: KafkaLog
) -> None:
    async with started(own_log.publisher(publish_deadline_ms=500)) as publisher:
        await until_durable(publisher, events(0, 10))
        late = publisher._producer
        assert own_kafka.pid is not None
        with frozen(own_kafka.pid):
            outcomes = await asyncio.gather(
                *[publisher.publish(events(10 * number, 10)) for number in range(1, 20)],
                return_exceptions=True,
            )
            assert {type(outcome) for outcome in outcomes} == {NotDurable}
            assert not await publisher.ready()
        await until_durable(publisher, events(200, 10))
        # It would have come back by itself here, but not to a cluster that moved to other addresses.
        assert publisher._producer is not late

    await stored(own_log, {event.value for event in [*events(0, 10), *events(200, 10)]})


async def test_it_stops_while_the_broker_hangs(own_kafka: KafkaBroker, own_log: KafkaLog) -> None:
    waiting, reconnecting = own_log.publisher(publish_deadline_ms=60_000), own_log.publisher(200)
    await retried(waiting.start)
    await retried(reconnecting.start)
    assert own_kafka.pid is not None
    with frozen(own_kafka.pid):
        under_way = asyncio.create_task(waiting.publish(events(0, 10)))
        with pytest.raises(NotDurable):
            await reconnecting.publish(events(0, 1))
        await asyncio.sleep(0.3)
        async with asyncio.timeout(120):
            await waiting.stop()
            await reconnecting.stop()
        with pytest.raises(NotDurable):
            await under_way


async def test_replacing_a_producer_that_retries_logs_no_error(
    own_kafka: KafkaBroker, own_log: KafkaLog
) -> None:
    """aiokafka trips over a batch that it has put back into its queue and that is then dropped."""
    gc.collect()  # Else garbage of earlier tests might be reported to this one's handler.
    faults: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _loop, context: faults.append(context.get("exception")))
    try:
        async with started(own_log.publisher(publish_deadline_ms=1_500)) as publisher:
            assert own_kafka.pid is not None
            freeze(own_kafka.pid)
            sending = [asyncio.create_task(publisher.publish(events(10 * number, 10))) for number in range(9)]
            await asyncio.sleep(0.5)
            await own_kafka.kill()
            assert {type(each) for each in await asyncio.gather(*sending, return_exceptions=True)} == {
                NotDurable
            }
            await own_kafka.start()
            await until_durable(publisher, events(200, 10))
    finally:
        loop.set_exception_handler(None)
    assert faults == []


async def test_a_broker_that_is_away_at_start_is_retryable(topic_prefix: str, unused_port: int) -> None:
    publisher = KafkaPublisher(
        KafkaPublisherSettings(KafkaConnection(f"127.0.0.1:{unused_port}"), topic_prefix + "events")
    )

    with pytest.raises(RetryableError):
        await publisher.start()

    assert not await publisher.ready()
    await publisher.stop()


async def test_a_missing_topic_is_a_startup_error_with_advice(
    kafka_bootstrap: str, topic_prefix: str
) -> None:
    publisher = KafkaPublisher(
        KafkaPublisherSettings(
            KafkaConnection(kafka_bootstrap), topic_prefix + "missing", request_timeout_ms=1_000
        )
    )

    with pytest.raises(StartupError, match="auditap topics"):
        await retried(publisher.start)

    await publisher.stop()


async def test_more_than_the_queue_takes_is_refused_at_once(kafka: KafkaLog) -> None:
    settings = replace(kafka.publisher()._settings, queue_bytes_max=1_000, linger_ms=200)
    async with started(KafkaPublisher(settings)) as publisher:
        first = asyncio.create_task(publisher.publish(events(0, 40)))
        await asyncio.sleep(0)
        with pytest.raises(NotDurable, match="too much"):
            await publisher.publish(events(40, 40))
        await first

        await publisher.publish(events(40, 40))


async def test_an_event_above_event_bytes_max_is_refused(kafka: KafkaLog) -> None:
    settings = replace(kafka.publisher()._settings, event_bytes_max=100)
    async with started(KafkaPublisher(settings)) as publisher:
        with pytest.raises(EventsTooLarge):
            await publisher.publish([*events(0, 1), EncodedEvent("0" * 32, b"x" * 101, 1)])
        await publisher.publish(events(1, 1))

    assert await stored(kafka, {event.value for event in events(1, 1)}) == {
        event.value for event in events(1, 1)
    }


async def test_an_incompressible_event_of_several_megabytes_goes_through(kafka: KafkaLog) -> None:
    large = EncodedEvent("0" * 32, os.urandom(6 * 1024 * 1024), 1_700_000_000_000)
    async with started(kafka.publisher()) as publisher:
        await publisher.publish([*events(0, 3), large, *events(3, 3)])

    assert large.value in await stored(kafka, {large.value})


@pytest.fixture
async def narrow(kafka_bootstrap: str, topic_prefix: str) -> KafkaLog:
    """A log whose topic takes no batch above 10,000 bytes."""
    log = KafkaLog(kafka_bootstrap, topic_prefix)
    await log.make_topics(partitions=1, message_bytes_max=10_000)
    return log


def incompressible(number: int, size: int) -> EncodedEvent:
    return EncodedEvent(f"{number:032x}", os.urandom(size), 1_700_000_000_000)


async def test_an_event_too_large_for_the_topic_is_named_and_stops_no_other(narrow: KafkaLog) -> None:
    async with started(narrow.publisher()) as publisher:
        outcomes = await asyncio.gather(
            publisher.publish(events(0, 10)),
            publisher.publish([*events(10, 5), incompressible(999, 20_000)]),
            publisher.publish(events(20, 10)),
            return_exceptions=True,
        )
        assert [type(outcome) for outcome in outcomes] == [type(None), EventsTooLarge, type(None)]
        assert outcomes[1].ids == {f"{999:032x}"}  # type: ignore[union-attr]

    await stored(narrow, {event.value for event in [*events(0, 10), *events(20, 10)]})


async def test_an_event_known_to_be_too_large_is_not_sent(narrow: KafkaLog) -> None:
    async with started(narrow.publisher()) as publisher:
        with pytest.raises(EventsTooLarge):
            await publisher.publish([incompressible(1, 20_000)])
        await until_durable(publisher, events(0, 1))
        producer = publisher._producer
        with pytest.raises(EventsTooLarge) as refused:
            await publisher.publish([incompressible(2, 30_000), *events(1, 1), incompressible(3, 40_000)])
        assert refused.value.ids == {f"{2:032x}", f"{3:032x}"}
        # Compressed it fits, whatever it is before.
        await publisher.publish([EncodedEvent("0" * 32, b"x" * 40_000, 1_700_000_000_000)])
        assert publisher._producer is producer


async def test_a_batch_too_large_for_the_topic_is_split(narrow: KafkaLog) -> None:
    sent = [incompressible(number, 2_000) for number in range(100)]
    async with started(narrow.publisher()) as publisher:
        await asyncio.gather(*[publisher.publish(sent[first : first + 10]) for first in range(0, 100, 10)])

    await stored(narrow, {event.value for event in sent})


async def test_one_call_larger_than_a_batch_is_durable_as_a_whole(kafka: KafkaLog) -> None:
    settings = replace(kafka.publisher()._settings, batch_bytes_max=1_000)
    async with started(KafkaPublisher(settings)) as publisher:
        await publisher.publish(events(0, 2_000))
        reader = kafka.source("check", Assignments())
        await reader.start()
        try:
            found = values(await read(reader, 2_000))
        finally:
            await reader.stop()

    assert sorted(found) == sorted(event.value for event in events(0, 2_000))


async def test_neither_payload_nor_credential_is_logged(
    kafka: KafkaLog, caplog: pytest.LogCaptureFixture
) -> None:
    secret = EncodedEvent("0" * 32, b"needle-in-a-body", 1_700_000_000_000)
    with caplog.at_level(logging.DEBUG):
        async with started(kafka.publisher()) as publisher:
            await publisher.publish([secret])
        await stored(kafka, {secret.value})

    assert "needle" not in caplog.text
    assert "pass" not in repr(
        replace(publisher._settings, connection=KafkaConnection("h:1", {"sasl_plain_password": "pass"}))
    )
