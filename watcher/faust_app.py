"""Events from Kafka by way of Faust: an application with one agent, in a consumer group of its own.

What Faust has acknowledged is a hint, what the store keeps is the truth: see docs/adr.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import faust
import structlog
from faust.types import TP
from yarl import URL

from schemas.errors import RetryableError
from schemas.metric_defs import Metrics
from watcher.continuity import Continuity
from watcher.ports import Lane
from watcher.watch import LoggedEvent, Watcher, WatchLimits

log = structlog.get_logger("watcher.kafka")
_LOOK_S = 1.0
_IDLE_LOOKS = 3


@dataclass(frozen=True, slots=True)
class FaustSettings:
    """Where events are read."""

    bootstrap_servers: str
    """Comma-separated `host:port`."""
    topic: str
    group: str
    data_dir: Path
    security: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """aiokafka's names: `security_protocol`, `ssl_context`, `sasl_mechanism`, `sasl_plain_username`, `…_password`."""


class FaustWatch:
    """Hands the topic's events to a watcher, batch after batch, and acknowledges what is durable."""

    def __init__(
        self, settings: FaustSettings, watcher: Watcher, limits: WatchLimits, metrics: Metrics
    ) -> None:
        self._settings = settings
        self._watcher = watcher
        self._limits = limits
        self._metrics = metrics
        self._continuity = Continuity()
        self._batches = 0
        self._is_taking = False
        self._failed: asyncio.Future[None] | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Watch until `stop` is set. Raises what is a fault of the program, RetryableError where Faust gives up."""
        _quiet_library()
        self._failed = asyncio.get_running_loop().create_future()
        app = _application(self._settings, self._limits)
        topic = app.topic(self._settings.topic, key_serializer="raw", value_serializer="raw")
        app.agent(topic, name="auditap-watch")(self._agent(app))
        app.on_partitions_assigned.connect(self._on_rebalance)
        app.on_partitions_revoked.connect(self._on_rebalance)
        app.finalize()
        await app.start()
        looking = asyncio.create_task(self._look(app), name="watch-lag")
        stopped = asyncio.create_task(stop.wait(), name="watch-stop")
        crashed = asyncio.create_task(_crash_of(app), name="watch-crash")
        try:
            awaited: set[asyncio.Future[Any]] = {stopped, crashed, looking, self._failed}
            done, _ = await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
            for each in done:
                each.result()
        finally:
            for task in (looking, stopped, crashed):
                task.cancel()
            await asyncio.gather(looking, stopped, crashed, return_exceptions=True)
            if not self._failed.done():
                self._failed.cancel()
            await app.stop()

    def _agent(self, app: faust.App) -> Any:
        async def watch(stream: Any) -> None:
            async for batch in stream.noack_take(
                self._limits.batch_events_max, within=self._limits.batch_wait_ms / 1000
            ):
                try:
                    self._is_taking = True
                    await self._take(app, batch)
                    self._is_taking = False
                except Exception as fault:  # noqa: BLE001
                    # Faust would start the agent again behind this batch, and acknowledge what comes after it.
                    if self._failed is not None and not self._failed.done():
                        self._failed.set_exception(fault)
                    await asyncio.Event().wait()
                for event in batch:
                    await stream.ack(event)

        return watch

    async def _take(self, app: faust.App, batch: Sequence[Any]) -> None:
        self._batches += 1
        events: dict[Lane, list[LoggedEvent]] = {}
        for event in batch:
            message = event.message
            found = events.setdefault(Lane(message.topic, message.partition), [])
            # A record of Kafka may have no value at all; it is no event.
            value = message.value or b""
            found.append(LoggedEvent(message.offset, round(message.timestamp * 1000), value))
        positions = await self._watcher.positions(events)
        admitted = self._continuity.admit(events, positions)
        if admitted.events:
            await self._watcher.watch(admitted.events)
        for lane, offset in admitted.back_to.items():
            log.warning("reading_again", partition=lane.partition, offset=offset)
            await app.consumer.seek(TP(lane.log, lane.partition), offset)

    async def _on_rebalance(self, *_arguments: Any, **_more: Any) -> None:
        self._continuity.forget()
        self._watcher.forget()

    async def _look(self, app: faust.App) -> None:
        """Say the lag; where nothing comes although there is more, go back to what is kept."""
        idle, seen = 0, -1
        while True:
            await asyncio.sleep(_LOOK_S)
            # A batch that waits for the store is no idleness: reading it again would be of no use.
            idle = idle + 1 if self._batches == seen and not self._is_taking else 0
            seen = self._batches
            with contextlib.suppress(Exception):
                behind = await self._behind(app)
                self._metrics.watch_lag_events.set(sum(behind.values()))
                self._metrics.partitions_assigned.set(len(app.consumer.assignment()))
                if idle >= _IDLE_LOOKS:
                    idle = 0
                    await self._go_back(app, behind)

    async def _behind(self, app: faust.App) -> dict[Lane, int]:
        lanes = {
            Lane(tp.topic, tp.partition): tp
            for tp in app.consumer.assignment()
            if tp.topic == self._settings.topic
        }
        if not lanes:
            return {}
        ends = await app.consumer.highwaters(*lanes.values())
        positions = await self._watcher.positions(lanes)
        return {
            lane: max(ends.get(tp, 0) - positions[lane], 0) for lane, tp in lanes.items() if lane in positions
        }

    async def _go_back(self, app: faust.App, behind: Mapping[Lane, int]) -> None:
        positions = await self._watcher.positions(behind)
        for lane, events in behind.items():
            if events:
                log.warning("reading_again", partition=lane.partition, offset=positions[lane])
                self._continuity.go_back(lane, positions[lane])
                await app.consumer.seek(TP(lane.log, lane.partition), positions[lane])


def _application(settings: FaustSettings, limits: WatchLimits) -> faust.App:
    servers = settings.bootstrap_servers.split(",")
    return faust.App(
        settings.group,
        broker=[URL(f"kafka://{server.strip()}") for server in servers],
        broker_credentials=_credentials(settings.security),
        broker_session_timeout=10.0,
        broker_heartbeat_interval=1.0,
        broker_commit_interval=1.0,
        broker_commit_every=10 * limits.batch_events_max,
        consumer_auto_offset_reset="earliest",
        stream_buffer_maxsize=2 * limits.batch_events_max,
        stream_wait_empty=False,
        stream_recovery_delay=0.0,
        topic_allow_declare=False,
        topic_disable_leader=True,
        store="memory://",
        datadir=str(settings.data_dir / "watch"),
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


async def _crash_of(app: faust.App) -> None:
    await app.wait_until_stopped()
    raise RetryableError(f"Faust has ended ({_place(app.crash_reason)})")


def _place(fault: BaseException | None) -> str:
    """Return what happened where, without the message, which may hold what was read."""
    if fault is None:
        return "stopped"
    frames = traceback.extract_tb(fault.__traceback__)
    at = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(fault).__name__}{at}"


def _quiet_library() -> None:
    # They log what they were given, values of traffic among it.
    for name in ("faust", "mode", "aiokafka"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
