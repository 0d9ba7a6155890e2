"""The topic of the events is deleted, and made again under its name."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiokafka.admin import AIOKafkaAdminClient

from tests.e2e.pipeline import until
from tests.faults.faults import LOG_TO_STORE, Fault, Part
from tests.faults.ledger import count, kept
from tests.faults.system import TOPIC, System

_S_MAX = 120


@asynccontextmanager
async def topic_recreated(system: System) -> AsyncIterator[None]:
    """Delete the topic once all that was accepted is stored; make it again at the end.

    What only the deleted topic had could be stored by nobody. So nothing is sent from the moment at which everything
    accepted is stored until the topic is gone; after that, senders go on, while there is none and after there is one.
    """
    try:
        for load in system.loads:
            await load.pause()
        await until(lambda: _stored(system), _S_MAX, "everything accepted is stored")
        await _delete(system)
    finally:
        for load in system.loads:
            load.resume()
    yield
    await system.pipeline.run_command("topics")


async def _stored(system: System) -> bool:
    for load in system.loads:
        # What is stored and not accepted yet counts in the first, which is the quick one.
        if await kept(system, load) < len(load.accepted) or (await count(system, load)).lost:
            return False
    return True


async def _delete(system: System) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=system.kafka.bootstrap)
    await admin.start()
    try:
        await admin.delete_topics([TOPIC])

        async def gone() -> bool:
            return TOPIC not in await admin.list_topics()

        await until(gone, _S_MAX, "the topic is gone")
    finally:
        await admin.close()


FAULTS = (Fault("the topic deleted and made again", topic_recreated, LOG_TO_STORE | {Part.TAP}, 1, 10),)
