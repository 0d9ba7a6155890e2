"""Events that cannot be stored, and events that are no longer there."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from auditap.database import administrator
from tests.faults.ledger import Count, count, settled
from tests.faults.system import INGESTORS, System

_TOPIC = "faults.events"


@asynccontextmanager
async def every_seventh_row_bad(system: System) -> AsyncIterator[None]:
    async with administrator(system.postgres.dsn()) as admin:
        await admin.execute(
            "CREATE FUNCTION public.faults_bad_row() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " IF NEW.tap_seq % 7 = 0 THEN RAISE EXCEPTION 'bad' USING ERRCODE = '22P02'; END IF;"
            " RETURN NEW; END $$;"
            "CREATE TRIGGER faults_bad_row BEFORE INSERT ON auditap.audit_records"
            " FOR EACH ROW EXECUTE FUNCTION public.faults_bad_row()"
        )
    yield


async def test_bad_rows_are_buried_and_take_no_good_one_with_them(
    system: System, report: Callable[[Count], None]
) -> None:
    load = system.load(rate_per_s=150)
    try:
        await load.start()
        async with every_seventh_row_bad(system):
            await load.accepts(400)
        await load.finish()
        found = await settled(system, load)
    finally:
        async with administrator(system.postgres.dsn()) as admin:
            await admin.execute("DROP FUNCTION IF EXISTS public.faults_bad_row() CASCADE")
    report(found)
    assert found.balanced, found
    bad = sum(number % 7 == 0 for number in load.accepted)
    # Those that came in before there were bad rows are stored.
    assert 0 < found.reasons["unstorable"] <= bad
    assert found.reasons == Counter({"unstorable": found.dead_letters})


async def test_events_that_the_log_no_longer_has_do_not_stop_an_ingestor(
    system: System, report: Callable[[Count], None]
) -> None:
    load = system.load()
    await load.start()
    await load.accepts(200)
    for _ in range(INGESTORS):
        await system.end_ingestor(0, signal.SIGTERM)
    stored = (await count(system, load)).records
    await load.accepts(600)
    await load.abandon()
    gone = await _delete_from_log(system)
    for _ in range(INGESTORS):
        await system.pipeline.start_ingestor()

    later = system.load()
    await later.start()
    await later.accepts(400)
    await later.finish()
    after = await settled(system, later)
    found = await count(system, load)
    report(found)
    assert after.balanced, after
    assert found.records == stored
    assert found.lost <= gone
    assert found.lost == found.gaps == found.accepted - stored > 0
    assert not found.duplicates
    gaps = await system.pipeline.fetch(
        "SELECT sum(count) FROM auditap.completeness_gaps WHERE cause = 'offsets_expired'"
    )
    assert gaps[0][0] == gone


async def _delete_from_log(system: System) -> int:
    """Delete every event that the log holds, as its retention does; return how many were not read yet, at least."""
    consumer = AIOKafkaConsumer(bootstrap_servers=system.kafka.bootstrap, group_id="faults.group")
    await consumer.start()
    partitions = [TopicPartition(_TOPIC, number) for number in range(4)]
    ends = await consumer.end_offsets(partitions)
    read = [await consumer.committed(partition) or 0 for partition in partitions]
    await consumer.stop()
    admin = AIOKafkaAdminClient(bootstrap_servers=system.kafka.bootstrap)
    await admin.start()
    await admin.delete_records(
        {partition: RecordsToDelete(before_offset=end) for partition, end in ends.items()}
    )
    await admin.close()
    return int(sum(ends.values())) - sum(read)
