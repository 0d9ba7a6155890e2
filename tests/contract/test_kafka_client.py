"""aiokafka's connections on the event loop that the processes run on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import uvloop
from aiokafka.conn import AIOKafkaConnection, create_conn
from aiokafka.errors import KafkaConnectionError
from aiokafka.protocol.metadata import MetadataRequest

from eventlog.kafka.client import prepare_library


@asynccontextmanager
async def _connection(bootstrap: str) -> AsyncIterator[AIOKafkaConnection]:
    host, port = bootstrap.split(":")
    connection = await create_conn(host, int(port))
    await connection.send(MetadataRequest([]))
    yield connection
    connection.close()


# A turn of the loop later uvloop's transport is closed, and aiokafka does not know it yet.
@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_a_connection_that_was_just_closed_is_lost(kafka_bootstrap: str, turns: int) -> None:
    prepare_library()

    async def send_on_a_closed_one() -> None:
        async with _connection(kafka_bootstrap) as connection:
            connection._writer.transport.abort()
            for _ in range(turns):
                await asyncio.sleep(0)
            with pytest.raises(KafkaConnectionError):
                await connection.send(MetadataRequest([]))
            assert not connection.connected()

    uvloop.run(send_on_a_closed_one())
