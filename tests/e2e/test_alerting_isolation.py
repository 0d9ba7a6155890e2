"""While alerting fails, the pipeline goes on: every record is stored and its offsets are committed."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from functools import partial
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from auditap_example.document import document_file
from auditap_example.traffic import mixed_captures
from tests.audit_database import migrated
from tests.e2e.faulty_alerting import EXPECTED, FaultyAlerting
from tests.e2e.pipeline import Pipeline, until

pytestmark = pytest.mark.kafka
CAPTURES = 1_500
EVALUATES_NOTHING = {"killed", "frozen", "refused"}


@pytest.fixture
async def pipeline(
    tmp_path: Path, database: str, kafka_bootstrap: str, topic_prefix: str
) -> AsyncIterator[Pipeline]:
    documents = f'[redaction]\ndocuments = [{{path = "{document_file()}", envelope = "result"}}]'
    held = Pipeline(
        tmp_path, await migrated(database), bootstrap=kafka_bootstrap, topic=topic_prefix, documents=documents
    )
    await held.start()
    yield held
    await held.stop()


@pytest.fixture
async def alerting(pipeline: Pipeline, topic_prefix: str) -> AsyncIterator[FaultyAlerting]:
    held = FaultyAlerting(pipeline, f"{topic_prefix}alerting")
    await held.start()
    yield held
    await held.stop()


class Groups:
    """What the broker knows of consumer groups."""

    def __init__(self, bootstrap: str, topic_prefix: str) -> None:
        self._bootstrap = bootstrap
        self._topic = f"{topic_prefix}events"

    async def ends(self) -> Mapping[TopicPartition, int]:
        """Return where the partitions end now; the collector's reports move that on."""
        consumer = AIOKafkaConsumer(bootstrap_servers=self._bootstrap)
        await consumer.start()
        try:
            ends: Mapping[TopicPartition, int] = await consumer.end_offsets(
                [TopicPartition(self._topic, number) for number in range(4)]
            )
            return ends
        finally:
            await consumer.stop()

    async def committed(self, group: str, ends: Mapping[TopicPartition, int]) -> bool:
        """Return whether the group has committed everything up to there."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self._bootstrap)
        await admin.start()
        try:
            found = await admin.list_consumer_group_offsets(group)
            return all(
                end == 0 or (partition in found and found[partition].offset >= end)
                for partition, end in ends.items()
            )
        finally:
            await admin.close()

    async def members(self, group: str) -> set[str]:
        """Return the client ids of a group."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self._bootstrap)
        await admin.start()
        try:
            [answer] = await admin.describe_consumer_groups([group])
            return {member[1] for member in answer.groups[0][5]}
        finally:
            await admin.close()


async def test_every_record_is_stored_while_alerting_fails(
    pipeline: Pipeline, alerting: FaultyAlerting, kafka_bootstrap: str, topic_prefix: str
) -> None:
    groups = Groups(kafka_bootstrap, topic_prefix)
    ingesting = f"{topic_prefix}group"

    async def joined() -> bool:
        return bool(await groups.members(ingesting))

    # The ingestor is ready before that.
    await until(joined, 120, "the ingestor in its group")
    alone = await groups.members(ingesting)
    sent = 0
    for number, (state, held) in enumerate(alerting.states.items()):
        captures = list(mixed_captures(CAPTURES, number, now_ms=time.time_ns() // 1_000_000, with_ids=True))
        async with held():
            assert await pipeline.send(captures) == (CAPTURES, []), state
            sent += CAPTURES
            assert await pipeline.until_processed(sent) == (sent, 0), state
            committed = partial(groups.committed, ingesting, await groups.ends())
            await until(committed, 120, f"all committed while alerting is {state}")
            # The same readers as before: no rebalance took a partition from the ingestor.
            assert await groups.members(ingesting) == alone
            assert (await alerting.evaluated() < sent) or state not in EVALUATES_NOTHING, state
            if state == "hanging":
                await alerting.catches_up(sent)
                assert await open_deliveries(pipeline) > 0
        await alerting.catches_up(sent)
    assert await alerting.evaluated() == sent
    assert alerting.restarts == 0
    await every_alert_is_delivered_once(pipeline)


async def open_deliveries(pipeline: Pipeline) -> int:
    rows = await pipeline.fetch("SELECT count(*) FROM auditap.alert_deliveries WHERE state <> 'delivered'")
    return int(rows[0][0])


async def every_alert_is_delivered_once(pipeline: Pipeline) -> None:
    expected = int((await pipeline.fetch(EXPECTED))[0][0])
    assert await pipeline.count("alerts") == expected > 1_000

    async def delivered() -> bool:
        return await open_deliveries(pipeline) == 0

    await until(delivered, 240, "every alert delivered")
    assert await pipeline.count("alert_deliveries") == expected
