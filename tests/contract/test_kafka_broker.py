from __future__ import annotations

import asyncio

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import UnknownTopicOrPartitionError

from tests.kafka_broker import KafkaBroker


async def _make_topic(bootstrap: str, topic: str, partitions: int) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, partitions, 1)])
    finally:
        await admin.close()


async def _produce(bootstrap: str, topic: str, values: list[bytes]) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, enable_idempotence=True, compression_type="zstd")
    await producer.start()
    try:
        for value in values:
            await producer.send_and_wait(topic, value)
    finally:
        await producer.stop()


async def _consume(bootstrap: str, topic: str, count: int) -> set[bytes]:
    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=bootstrap, group_id=f"{topic}.group", auto_offset_reset="earliest"
    )
    await consumer.start()
    values: set[bytes] = set()
    try:
        async with asyncio.timeout(120):
            while len(values) < count:
                values.add((await consumer.getone()).value)
    finally:
        await consumer.stop()
    return values


async def test_what_is_produced_is_consumed_by_a_group(kafka_bootstrap: str, topic_prefix: str) -> None:
    topic = topic_prefix + "events"
    await _make_topic(kafka_bootstrap, topic, 3)
    sent = [str(number).encode() for number in range(20)]

    await _produce(kafka_bootstrap, topic, sent)

    assert await _consume(kafka_bootstrap, topic, len(sent)) == set(sent)


async def test_metadata_requests_create_no_topics(kafka_bootstrap: str, topic_prefix: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_bootstrap)
    await admin.start()
    try:
        (described,) = await admin.describe_topics([topic_prefix + "none"])
        topics = await admin.list_topics()
    finally:
        await admin.close()

    assert described["error_code"] == UnknownTopicOrPartitionError.errno
    assert topic_prefix + "none" not in topics


async def test_a_killed_broker_comes_back_at_its_address_with_its_data(own_kafka: KafkaBroker) -> None:
    address = own_kafka.bootstrap
    await _make_topic(address, "events", 1)
    await _produce(address, "events", [b"before"])

    await own_kafka.kill()
    await own_kafka.start()

    assert own_kafka.bootstrap == address
    assert await _consume(address, "events", 1) == {b"before"}
