"""The topics: created if missing, compared with the settings if they exist."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    InvalidReplicationFactorError,
    KafkaError,
    PolicyViolationError,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    for_code,
)

from eventlog.kafka.client import KafkaConnection, prepare_library
from schemas.errors import RetryableError, StartupError

DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class TopicSettings:
    """The topics as they should be."""

    connection: KafkaConnection
    events_topic: str
    dead_letters_topic: str
    """Empty: no dead-letter topic."""
    client_id: str = "auditap-topics"
    partitions: int = 12
    replication_factor: int = 3
    min_insync_replicas: int = 2
    retention_ms: int = 7 * DAY_MS
    dead_letters_retention_ms: int = 30 * DAY_MS
    message_bytes_max: int = 8 * 1024 * 1024
    """Above the publisher's `event_bytes_max`."""
    request_timeout_ms: int = 10_000


@dataclass(frozen=True, slots=True)
class TopicState:
    """One topic as it is. `differences`: a phrase for each setting that it does not meet."""

    name: str
    created: bool
    partitions: int
    replication_factor: int
    differences: Sequence[str]


@dataclass(frozen=True, slots=True)
class TopicReport:
    """The result of `ensure_topics`."""

    topics: Sequence[TopicState]

    @property
    def matches(self) -> bool:
        """Whether every topic meets the settings."""
        return not any(topic.differences for topic in self.topics)


async def ensure_topics(settings: TopicSettings) -> TopicReport:
    """Create the events and dead-letter topics if missing. Existing topics are compared and not changed.

    Raises RetryableError while Kafka is away, StartupError if it refuses to create them.
    """
    prepare_library()
    admin = AIOKafkaAdminClient(
        client_id=settings.client_id,
        request_timeout_ms=settings.request_timeout_ms,
        **settings.connection.arguments(),
    )
    try:
        await admin.start()
        created = await _create_missing(admin, settings)
        return TopicReport(
            [await _examine(admin, settings, name, created=name in created) for name in _names(settings)]
        )
    except TopicAuthorizationFailedError:
        raise StartupError("Kafka forbids this user to create or describe the topics") from None
    except (KafkaError, OSError, TimeoutError):
        raise RetryableError("Kafka does not answer, or not with these security settings") from None
    finally:
        await admin.close()


def _names(settings: TopicSettings) -> Sequence[str]:
    return [name for name in (settings.events_topic, settings.dead_letters_topic) if name]


async def _create_missing(admin: AIOKafkaAdminClient, settings: TopicSettings) -> set[str]:
    """Create what is missing and return its names. Another process may create a topic at the same time."""
    existing = set(await admin.list_topics())
    missing = [name for name in _names(settings) if name not in existing]
    if not missing:
        return set()
    response = await admin.create_topics([_new_topic(settings, name) for name in missing])
    created = set()
    for name, code, *_ in response.topic_errors:
        error = for_code(code)
        if code == 0:
            created.add(name)
        elif error is not TopicAlreadyExistsError:
            raise _creation_error(error, name, settings)
    # The answer comes before the partitions have leaders, and a collector that started now would not be ready.
    await _wait_for_leaders(admin, settings, set(missing))
    return created


def _creation_error(
    error: type[KafkaError], name: str, settings: TopicSettings
) -> StartupError | RetryableError:
    if error is InvalidReplicationFactorError:
        return StartupError(
            f"the cluster has too few brokers for kafka.replication_factor {settings.replication_factor}: lower it"
            " (AUDITAP_KAFKA__REPLICATION_FACTOR), and kafka.min_insync_replicas with it"
        )
    if error is PolicyViolationError or not error.retriable:
        return StartupError(f"Kafka refuses to create the topic {name}: {error.__name__}")
    return RetryableError(f"Kafka did not create the topic {name}: {error.__name__}")


def _new_topic(settings: TopicSettings, name: str) -> NewTopic:
    return NewTopic(
        name,
        settings.partitions,
        settings.replication_factor,
        topic_configs=_topic_config(settings, name),
    )


def _topic_config(settings: TopicSettings, name: str) -> dict[str, str]:
    is_events = name == settings.events_topic
    return {
        "min.insync.replicas": str(settings.min_insync_replicas),
        "retention.ms": str(settings.retention_ms if is_events else settings.dead_letters_retention_ms),
        "max.message.bytes": str(settings.message_bytes_max),
        "cleanup.policy": "delete",
        # A collector whose clock is ahead must not have its batches refused (known since Kafka 3.6).
        "message.timestamp.after.max.ms": str((1 << 63) - 1),
    }


async def _wait_for_leaders(admin: AIOKafkaAdminClient, settings: TopicSettings, names: set[str]) -> None:
    """Return when every partition of the new topics has a leader. Raises TimeoutError."""
    async with asyncio.timeout(settings.request_timeout_ms / 1000):
        while True:
            topics = await admin.describe_topics(sorted(names))
            if all(topic["partitions"] and _led(topic) for topic in topics):
                return
            await asyncio.sleep(0.05)


def _led(topic: Mapping[str, Any]) -> bool:
    return all(partition["leader"] >= 0 for partition in topic["partitions"])


async def _examine(
    admin: AIOKafkaAdminClient, settings: TopicSettings, name: str, *, created: bool
) -> TopicState:
    partitions = (await admin.describe_topics([name]))[0]["partitions"]
    replicas = min((len(partition["replicas"]) for partition in partitions), default=0)
    found = await _config(admin, name)
    differences = [
        f"{key} is {found[key]}, wanted {wanted}"
        for key, wanted in _topic_config(settings, name).items()
        # A broker that is older than a setting does not list it.
        if key in found and found[key] != wanted
    ]
    if replicas < settings.replication_factor:
        differences.insert(0, f"replication factor is {replicas}, wanted {settings.replication_factor}")
    if len(partitions) != settings.partitions:
        differences.append(f"{len(partitions)} partitions, wanted {settings.partitions}")
    return TopicState(name, created, len(partitions), replicas, differences)


async def _config(admin: AIOKafkaAdminClient, name: str) -> dict[str, str]:
    responses = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name)])
    for _, _, _, _, entries in responses[0].resources:
        return {entry[0]: entry[1] for entry in entries}
    return {}
