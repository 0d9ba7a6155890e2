"""The Faust application that alerting reads a topic with."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faust
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, Consumer, Transport
from faust.types import TP
from yarl import URL

from alerting.processor import AlertingLimits
from eventlog.kafka.client import METADATA_AGE_MS_MAX, KafkaConnection, prepare_library

_COMMIT_S = 5.0
# Below Faust's own, which are silenced.
_LOGGER = logging.getLogger("faust.alerting")


@dataclass(frozen=True, slots=True)
class FaustSettings:
    """Where events are read."""

    connection: KafkaConnection
    topic: str
    group: str
    data_dir: Path


class _ConsumerThread(AIOKafkaConsumerThread):
    logger = _LOGGER

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        # aiokafka tries again for as long as a partition does not exist, and the application could not be stopped meanwhile. What is
        # committed is a hint.
        try:
            async with asyncio.timeout(_COMMIT_S):
                return bool(await super()._commit(offsets))
        except TimeoutError:
            return False


class _Consumer(Consumer):
    logger = _LOGGER

    def _new_consumer_thread(self) -> AIOKafkaConsumerThread:
        return _ConsumerThread(self, loop=self.loop, beacon=self.beacon)


class _Transport(Transport):
    Consumer = _Consumer


class _App(faust.App):
    logger = _LOGGER

    def _new_transport(self) -> Transport:
        return _Transport(self.conf.broker_consumer, self)

    def _on_rebalance_when_stopped(self) -> None:
        """Do nothing: Faust would close the consumer from a thread that is not its own, and stopping closes it anyway."""


def application(settings: FaustSettings, limits: AlertingLimits) -> faust.App:
    """Return an application that only reads, with the group and connection of `settings`. Give it an agent before its start."""
    # Faust only reads: no tables, no topics of its own, no web server, and no wait for its buffers on a rebalance, because
    # the store decides what was processed.
    prepare_library()
    return _App(
        settings.group,
        broker=[URL(f"kafka://{host}") for host in settings.connection.hosts],
        broker_credentials=_credentials(settings.connection.security),
        # A killed process gives up its partitions after this; the library's default is a minute.
        broker_session_timeout=10.0,
        broker_heartbeat_interval=1.0,
        broker_commit_interval=1.0,
        broker_commit_every=10 * limits.batch_events_max,
        consumer_auto_offset_reset="earliest",
        consumer_metadata_max_age_ms=METADATA_AGE_MS_MAX,
        stream_buffer_maxsize=2 * limits.batch_events_max,
        stream_wait_empty=False,
        stream_recovery_delay=0.0,
        topic_allow_declare=False,
        topic_disable_leader=True,
        store="memory://",
        datadir=str(settings.data_dir / "alerting"),
        web_enabled=False,
        autodiscover=False,
        debug=False,
    )


def _credentials(security: Mapping[str, Any]) -> Any:
    context = security.get("ssl_context")
    if "sasl_mechanism" in security:
        return faust.SASLCredentials(
            username=security["sasl_plain_username"],
            password=security["sasl_plain_password"],
            ssl_context=context,
            mechanism=security["sasl_mechanism"],
        )
    return None if context is None else faust.SSLCredentials(context)
