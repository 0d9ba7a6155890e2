"""The topics: made where they are missing, compared with the settings where they exist."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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

from schemas.errors import RetryableError, StartupError

DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class TopicSettings:
    """What the topics are to be."""

    bootstrap_servers: str
    events_topic: str
    dead_letters_topic: str
    """Empty: there is none."""
    client_id: str = "auditap-topics"
    security: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """aiokafka's `security_protocol`, `ssl_context`, `sasl_mechanism`, `sasl_plain_username`, `sasl_plain_password`."""
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
    """One topic as it is now. `differences`: one sentence for each setting that it does not meet."""

    name: str
    created: bool
    partitions: int
    replication_factor: int
    differences: Sequence[str]


@dataclass(frozen=True, slots=True)
class TopicReport:
    """What `ensure_topics` found and did."""

    topics: Sequence[TopicState]

    @property
    def as_wanted(self) -> bool:
        """Whether every topic is as the settings have it."""
        return not any(topic.differences for topic in self.topics)


async def ensure_topics(settings: TopicSettings) -> TopicReport:
    """Make the events and dead-letter topics where missing; change nothing about existing ones.

    Raises RetryableError while Kafka is away, StartupError where it will not make them.
    """
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    admin = AIOKafkaAdminClient(
        bootstrap_servers=settings.bootstrap_servers,
        client_id=settings.client_id,
        request_timeout_ms=settings.request_timeout_ms,
        **settings.security,
    )
    try:
        await admin.start()
        created = await _create_missing(admin, settings)
        return TopicReport(
            [await _examine(admin, settings, name, created=name in created) for name in _wanted(settings)]
        )
    except TopicAuthorizationFailedError:
        raise StartupError("Kafka forbids this user to make or describe the topics") from None
    except (KafkaError, OSError, TimeoutError):
        raise RetryableError("Kafka does not answer, or not with these security settings") from None
    finally:
        await admin.close()


def _wanted(settings: TopicSettings) -> Sequence[str]:
    return [name for name in (settings.events_topic, settings.dead_letters_topic) if name]


async def _create_missing(admin: AIOKafkaAdminClient, settings: TopicSettings) -> set[str]:
    wanted = _wanted(settings)
    existing = set(await admin.list_topics())
    missing = [name for name in wanted if name not in existing]
    if not missing:
        return set()
    response = await admin.create_topics([_new_topic(settings, name) for name in missing])
    created = set()
    for name, code, *_ in response.topic_errors:
        error = for_code(code)
        if code == 0:
            created.add(name)
        elif error is InvalidReplicationFactorError:
            raise StartupError(
                f"the cluster has too few brokers for replication_factor {settings.replication_factor}"
            )
        elif error is PolicyViolationError or not (error.retriable or error is TopicAlreadyExistsError):
            raise StartupError(f"Kafka will not make the topic {name}: {error.__name__}")
        elif error is not TopicAlreadyExistsError:
            raise error
    await _wait_for_leaders(admin, settings, set(missing))
    return created


def _new_topic(settings: TopicSettings, name: str) -> NewTopic:
    return NewTopic(
        name,
        settings.partitions,
        settings.replication_factor,
        topic_configs=_wanted_config(settings, name),
    )


def _wanted_config(settings: TopicSettings, name: str) -> dict[str, str]:
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
        for key, wanted in _wanted_config(settings, name).items()
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
