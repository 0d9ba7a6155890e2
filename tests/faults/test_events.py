"""Events that cannot be stored, and events that are no longer there."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from tests.e2e.pipeline import until
from tests.faults.faults import rows_refused
from tests.faults.ledger import Count, count, count_when_stored
from tests.faults.system import INGESTORS, PARTITIONS, System

_PARTITIONS = [TopicPartition("faults.events", number) for number in range(PARTITIONS)]


async def test_bad_rows_are_dead_lettered_and_take_no_good_one_with_them(
    system: System, report: Callable[[Count], None]
) -> None:
    load = system.load(rate_per_s=150)
    await load.start()
    async with rows_refused(system):
        await load.accepts(400)
        await load.finish()
        found = await count_when_stored(system, load)
    report(found)
    assert found.balanced, found
    bad = sum(number % 7 == 0 for number in load.accepted)
    # Those that came in before there were bad rows are stored.
    assert 0 < found.reasons["unstorable"] <= bad
    assert found.reasons == Counter({"unstorable": found.dead_letters})


async def test_events_that_the_log_no_longer_has_do_not_stop_an_ingestor(
    system: System, report: Callable[[Count], None]
) -> None:
    load = await system.loading(200)

    async def begun() -> bool:
        return None not in await _positions(system)

    # A group that has read nothing of a partition cannot know what it has lost of it.
    await until(begun, 120, "a position in every partition")
    while system.ingestors:
        await system.end_ingestor(0, signal.SIGTERM)

    async def left() -> bool:
        sessions = await system.pipeline.fetch(
            "SELECT FROM pg_stat_activity WHERE usename = 'auditap_writer'"
        )
        return not sessions

    # Postgres may still commit what a process has sent that has ended.
    await until(left, 120, "no session of an ingestor")
    stored = (await count(system, load)).records
    await load.accepts(600)
    # Not abandoned: a batch whose answer nobody waits for could reach the log after the deletion.
    await load.finish()
    gone = await _delete_from_log(system)
    while len(system.ingestors) < INGESTORS:
        await system.pipeline.start_ingestor()

    later = await system.loading(400)
    await later.finish()
    after = await count_when_stored(system, later)
    found = await count(system, load)
    report(found)
    assert after.balanced, after
    assert found.records == stored
    assert found.lost <= gone
    assert found.lost == found.gaps == found.accepted - stored > 0
    assert not found.duplicates

    async def noted() -> bool:
        gaps = await system.pipeline.fetch(
            "SELECT sum(count) FROM auditap.completeness_gaps WHERE cause = 'offsets_expired'"
        )
        return bool(gaps[0][0] == gone)

    await until(noted, 120, f"{gone} lost events in the gap ledger")


async def _delete_from_log(system: System) -> int:
    """Delete every event that the log holds, as its retention does; return how many were not read yet, at least."""
    async with _consumer(system) as consumer:
        ends = await consumer.end_offsets(_PARTITIONS)
    read = [position or 0 for position in await _positions(system)]
    admin = AIOKafkaAdminClient(bootstrap_servers=system.kafka.bootstrap)
    await admin.start()
    await admin.delete_records(
        {partition: RecordsToDelete(before_offset=end) for partition, end in ends.items()}
    )
    await admin.close()
    return int(sum(ends.values())) - sum(read)


async def _positions(system: System) -> list[int | None]:
    """Return the position that the ingestors have committed in each partition, None where there is none yet."""
    async with _consumer(system) as consumer:
        return [await consumer.committed(partition) for partition in _PARTITIONS]


@asynccontextmanager
async def _consumer(system: System) -> AsyncIterator[AIOKafkaConsumer]:
    consumer = AIOKafkaConsumer(bootstrap_servers=system.kafka.bootstrap, group_id="faults.group")
    await consumer.start()
    try:
        yield consumer
    finally:
        await consumer.stop()
