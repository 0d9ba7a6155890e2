"""A worker: one of several collector processes that share their listeners. `collector_workers` starts it.

It is a fresh interpreter that inherits the listening sockets, and one end of a channel to its parent. When the parent has
ended, for whatever reason, the worker publishes what it has accepted and ends, too.
"""

from __future__ import annotations

import asyncio
import pickle
import socket
import sys
from dataclasses import dataclass

import structlog
import uvloop

from auditap.runtime.collect import Collector, SharedListeners
from auditap.runtime.connection_share import ConnectionCounts, ConnectionShare
from auditap.runtime.exception_hooks import install_exception_hooks
from auditap.runtime.health import HealthStatus
from auditap.runtime.lifecycle import stop_on_signals
from auditap.runtime.logs import configure_logs
from auditap.runtime.merged_metrics import families_of
from auditap.runtime.worker_channel import (
    Answer,
    MetricsAnswer,
    PageAnswer,
    StatusAnswer,
    Subject,
    WorkerChannel,
    receive_first,
)
from auditap.settings import Settings
from schemas.errors import StartupError

log = structlog.get_logger("collect")

ANSWER_MS_MAX = 3_000
"""How long a worker waits for its parent, which waits for all workers: a second less."""


@dataclass(frozen=True)
class WorkerStart:
    """What a worker begins with. The descriptors are inherited."""

    settings: Settings
    number: int
    """From 1 to `settings.collector.workers`."""
    unix: int
    tcp: int
    unix_counts: int
    tcp_counts: int


class _Parent:
    """A `HealthSource`: the parent, which answers for all workers."""

    def __init__(self, channel: WorkerChannel) -> None:
        self._channel = channel

    async def status(self) -> HealthStatus:
        """See `HealthSource.status`."""
        answer = await self._channel.ask("status", StatusAnswer, ANSWER_MS_MAX)
        return (
            HealthStatus({"workers": False})
            if answer is None
            else HealthStatus(answer.parts, answer.degraded)
        )

    async def exposition(self) -> bytes:
        """See `HealthSource.exposition`."""
        answer = await self._channel.ask("page", PageAnswer, ANSWER_MS_MAX)
        return b"" if answer is None else answer.page


def main(descriptor: int) -> None:
    """Run a worker whose channel to its parent is `descriptor`."""
    install_exception_hooks()
    connected = socket.socket(fileno=descriptor)
    message = receive_first(connected)
    if message is None:
        return
    start: WorkerStart = pickle.loads(message)  # noqa: S301  of the parent alone
    configure_logs(start.settings.log_level, start.settings.log_format, start.number)
    if not uvloop.run(_run(start, connected)):
        sys.exit(1)


async def _run(start: WorkerStart, connected: socket.socket) -> bool:
    """Collect until stopped. Return False where it cannot start, after saying why to the parent."""
    stop = stop_on_signals()
    collector: Collector | None = None

    async def respond(subject: Subject) -> Answer:
        if subject == "metrics":
            families = [] if collector is None else families_of(collector.metrics.registry)
            return MetricsAnswer(families=families)
        if collector is None:
            return StatusAnswer(parts={"log": False}, degraded=[])
        return StatusAnswer.of(await collector.health.status())

    channel = await WorkerChannel.on(connected, respond)
    watching = asyncio.create_task(_watch(channel, stop), name="worker-parent")
    try:
        collector = Collector(start.settings, listeners=_listeners(start, _Parent(channel)))
        await collector.run(stop)
    except StartupError as error:
        await channel.say_why(str(error))
        return False
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    return True


def _listeners(start: WorkerStart, parent: _Parent) -> SharedListeners:
    count = start.settings.collector.workers
    return SharedListeners(
        unix=socket.socket(fileno=start.unix),
        tcp=socket.socket(fileno=start.tcp),
        unix_share=ConnectionShare(ConnectionCounts(start.unix_counts, count), start.number - 1),
        tcp_share=ConnectionShare(ConnectionCounts(start.tcp_counts, count), start.number - 1),
        health=parent,
        number=start.number,
    )


async def _watch(channel: WorkerChannel, stop: asyncio.Event) -> None:
    await channel.run()
    log.error("parent_ended")
    stop.set()
