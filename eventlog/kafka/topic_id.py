"""The id of a topic: another topic under the same name has another one. aiokafka does not ask for it, so the request is here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from io import BytesIO
from uuid import UUID

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import (
    IncompatibleBrokerVersion,
    KafkaError,
    LeaderNotAvailableError,
    NodeNotReadyError,
    NoError,
    UnknownTopicOrPartitionError,
    for_code,
)
from aiokafka.protocol.abstract import AbstractType
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Schema,
    TaggedFields,
)

from eventlog.kafka.client import KafkaConnection, connection_error, prepare_library

NO_ID = ""
"""The id of every topic where the brokers give them none: they are older than Kafka 2.8."""
TOPIC_CHECK_S = 1.0
"""How often a reader asks for the id: so long may it go on in another topic of the same name before it begins again."""
_RETRY_S = 0.1
_REQUEST_TIMEOUT_MS = 10_000
_NIL = UUID(int=0)
_COMMIT_PREFIX = "topic-id="


async def find_topic_id(client: AIOKafkaClient, topic: str) -> str | None:
    """Return the topic's id, NO_ID where the brokers have none, or None where there is no such topic now.

    Raises KafkaError where no broker answers, or forbids it.
    """
    node = client.get_random_node()
    if node is None:
        raise NodeNotReadyError
    try:
        response = await client.send(node, _MetadataRequest(topic))
    except (IncompatibleBrokerVersion, NotImplementedError):
        # aiokafka raises the first where the brokers name no versions, the second where they know no version of this request.
        return NO_ID
    [(error_code, _, found, *_)] = response.topics
    error = for_code(error_code)
    if error is UnknownTopicOrPartitionError:
        return None
    # A topic whose partitions have no leader at the moment has an id all the same.
    if error not in (NoError, LeaderNotAvailableError):
        raise error
    return NO_ID if found == _NIL else found.hex


def commit_metadata(topic_id: str) -> str:
    """Return what to commit beside a position, so that it counts for this topic alone."""
    return _COMMIT_PREFIX + topic_id if topic_id else ""


def committed_topic_id(metadata: str | None) -> str:
    """Return the id of the topic that a position was committed for, or NO_ID where nothing says so."""
    if metadata is None or not metadata.startswith(_COMMIT_PREFIX):
        return NO_ID
    return metadata.removeprefix(_COMMIT_PREFIX)


class TopicWatch:
    """Asks a client for a topic's id now and then, beside what its owner does."""

    def __init__(self, client: AIOKafkaClient, topic: str) -> None:
        self._client = client
        self._topic = topic
        self._asking: asyncio.Task[str | None] | None = None
        self._asked_at = 0.0

    async def find(self) -> str | None:
        """Return what `find_topic_id` does, once a broker answers."""
        # What was asked before may be answered late, with the topic that was there then.
        await self.stop()
        while True:
            try:
                return await find_topic_id(self._client, self._topic)
            except KafkaError:
                await asyncio.sleep(_RETRY_S)

    async def existing(self) -> str:
        """Return the topic's id, or NO_ID, once there is a topic."""
        while True:
            found = await self.find()
            if found is not None:
                return found
            await asyncio.sleep(TOPIC_CHECK_S)

    async def another(self, topic_id: str) -> str:
        """Return the id of another topic than this one, once there is one under the name."""
        while True:
            await asyncio.sleep(TOPIC_CHECK_S)
            found = await self.find()
            if found and found != topic_id:
                return found

    def poll(self) -> str | None:
        """Return the topic's id if a broker has named it since the last call. Ask again if that is due; never wait."""
        now_s = asyncio.get_running_loop().time()
        if self._asking is None:
            if now_s - self._asked_at >= TOPIC_CHECK_S:
                self._asked_at = now_s
                self._asking = asyncio.create_task(self._ask(), name="kafka-topic-id")
            return None
        if not self._asking.done():
            return None
        asking, self._asking = self._asking, None
        return asking.result()

    async def stop(self) -> None:
        """End the request under way, if there is one."""
        asking, self._asking = self._asking, None
        if asking is not None:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

    async def _ask(self) -> str | None:
        try:
            return await find_topic_id(self._client, self._topic)
        except KafkaError:
            return None


@asynccontextmanager
async def own_topic_watch(connection: KafkaConnection, topic: str) -> AsyncIterator[TopicWatch]:
    """Yield a watch with connections of its own. Raises RetryableError while Kafka is away."""
    prepare_library()
    client = AIOKafkaClient(request_timeout_ms=_REQUEST_TIMEOUT_MS, **connection.arguments())
    watch = TopicWatch(client, topic)
    try:
        try:
            await client.bootstrap()
        except (KafkaError, OSError) as error:
            raise connection_error(error, topic) from None
        yield watch
    finally:
        await watch.stop()
        await client.close()


class _Uuid(AbstractType[UUID]):  # type: ignore[misc]
    @classmethod
    def encode(cls, value: UUID) -> bytes:
        return value.bytes

    @classmethod
    def decode(cls, data: BytesIO) -> UUID:
        return UUID(bytes=data.read(16))


class _MetadataResponse(Response):  # type: ignore[misc]
    API_KEY = 3
    API_VERSION = 10
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            CompactArray(
                ("node_id", Int32),
                ("host", CompactString()),
                ("port", Int32),
                ("rack", CompactString()),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster_id", CompactString()),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("topic", CompactString()),
                ("topic_id", _Uuid),
                ("is_internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", CompactArray(Int32)),
                        ("isr", CompactArray(Int32)),
                        ("offline_replicas", CompactArray(Int32)),
                        ("tags", TaggedFields),
                    ),
                ),
                ("authorized_operations", Int32),
                ("tags", TaggedFields),
            ),
        ),
        ("authorized_operations", Int32),
        ("tags", TaggedFields),
    )


class _MetadataRequestV10(RequestStruct):  # type: ignore[misc]
    API_KEY = 3
    API_VERSION = 10
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _MetadataResponse
    SCHEMA = Schema(
        ("topics", CompactArray(("topic_id", _Uuid), ("topic", CompactString()), ("tags", TaggedFields))),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
        ("tags", TaggedFields),
    )


class _MetadataRequest(Request[_MetadataRequestV10]):  # type: ignore[misc]
    API_KEY = 3

    def __init__(self, topic: str) -> None:
        self._topic = topic

    def build(self, request_struct_class: type[_MetadataRequestV10]) -> _MetadataRequestV10:
        topics: list[tuple[UUID, str, dict[int, bytes]]] = [(_NIL, self._topic, {})]
        return request_struct_class(topics, False, False, False, {})
