"""`auditap collect` with several workers: binds the listeners, keeps the workers running, and answers for all of them."""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import signal
import socket
import sys
import time
from collections.abc import Sequence
from typing import Final

import structlog

from auditap.runtime.collect import bind_collector_address, bind_collector_socket
from auditap.runtime.collector_worker import WorkerStart
from auditap.runtime.connection_share import ConnectionCounts
from auditap.runtime.health import Exposition, Health, HealthStatus, health_server
from auditap.runtime.lifecycle import run_until
from auditap.runtime.merged_metrics import Family, MergedMetrics, families_of
from auditap.runtime.worker_channel import (
    Answer,
    MetricsAnswer,
    PageAnswer,
    StatusAnswer,
    Subject,
    WorkerChannel,
)
from auditap.settings import Settings, ensure_data_dir, health_token, load_or_create_key
from schemas.errors import StartupError
from schemas.metric_defs import Metrics

log = structlog.get_logger("collect")

_ANSWER_MS_MAX: Final = 2_000
# What a killed worker counted since the last poll is missing in the metrics.
_POLL_S: Final = 1
_RESTART_S_MIN: Final = 0.5
_RESTART_S_MAX: Final = 30.0
_STEADY_S: Final = 60
"""After a worker ran this long, it is started again after the shortest wait."""
# Longer than a worker takes to stop, apart from the time in which Kafka acknowledges its last batch.
_STOP_S_MAX: Final = 60
# A program of one line: its modules come from where those of this process came from, and not from the working directory.
_PROGRAM: Final = "import sys; sys.path[:] = sys.argv[2:]; from auditap.runtime.collector_worker import main; main(int(sys.argv[1]))"


class WorkerProcess:
    """One worker: the process that runs now, and what is known of it. A process that ends is replaced by another one."""

    def __init__(self, number: int, start: WorkerStart) -> None:
        self.number = number
        self.channel: WorkerChannel | None = None
        self.has_been_ready = False
        self.metrics: list[Family] = []
        """What the running process last counted."""
        self._start = start
        self.process: asyncio.subprocess.Process | None = None
        self._listening: asyncio.Task[None] | None = None

    async def run(self, parent: CollectorWorkers) -> int:
        """Start a process, and return its exit status once it has ended. Raises StartupError where it cannot start at all."""
        ours, theirs = socket.socketpair()
        with theirs:
            start = self._start
            descriptors = (theirs.fileno(), start.unix, start.tcp, start.unix_counts, start.tcp_counts)
            try:
                self.process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-c",
                    _PROGRAM,
                    str(theirs.fileno()),
                    *sys.path,
                    stdin=asyncio.subprocess.DEVNULL,
                    pass_fds=descriptors,
                    # Out of reach of the terminal's Ctrl-C, which the parent passes on.
                    start_new_session=True,
                )
            except BaseException as error:
                ours.close()
                if not isinstance(error, OSError):
                    raise
                raise StartupError(f"A worker cannot be started ({error.strerror}).") from None
        self.channel = await WorkerChannel.on(ours, parent.respond)
        self.channel.send_first(pickle.dumps(self._start))
        # In a task of its own, which goes on while the process is being stopped.
        self._listening = asyncio.create_task(self.channel.run(), name="worker-channel")
        status = await self.process.wait()
        await self._listening
        return status

    @property
    def cannot_start(self) -> str | None:
        """Why the process could not start, if it said so."""
        return None if self.channel is None else self.channel.cannot_start

    async def stop(self, within_s: float) -> None:
        """Let the process publish what it has accepted, and end. Kill it if that takes longer; taps send again what it did not accept."""
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(within_s):
                await self.process.wait()
        except TimeoutError:
            log.error("worker_killed", killed=self.number)
            self.process.kill()
            await self.process.wait()
        if self._listening is not None:
            await self._listening


class CollectorWorkers:
    """The parent of `collector.workers` collectors that accept from the same sockets. It handles no capture itself."""

    def __init__(self, settings: Settings) -> None:
        """Bind the addresses. Raises StartupError."""
        count = settings.collector.workers
        if settings.embedded_log:
            raise StartupError(
                f"collector.workers is {count} and there is no Kafka: set kafka.bootstrap_servers, or leave it at 1"
                " (the embedded log is for one collector)."
            )
        ensure_data_dir(settings)
        # Before the workers, of which each would make another one.
        load_or_create_key(settings, "identity.key", settings.collector.identity_key)
        self._metrics = Metrics("collect")
        self._merged = MergedMetrics()
        self._page = Exposition(self._make_page)
        self._counts = (ConnectionCounts.new(count), ConnectionCounts.new(count))
        self._socket_path = settings.collector_socket
        self._stop_s_max = _STOP_S_MAX + settings.kafka.publish_deadline_ms / 1000
        self._sockets = (bind_collector_socket(settings), bind_collector_address(settings))
        address = settings.collector.health_address
        health = Health(self._metrics, {}, token=health_token(settings), of_all=self)
        self._server = (
            None
            if address is None
            else health_server(address, health, settings.http, "collector.health_address")
        )
        unix, tcp = (each.fileno() for each in self._sockets)
        counts = [each.descriptor for each in self._counts]
        self._workers = [
            WorkerProcess(number, WorkerStart(settings, number, unix, tcp, *counts))
            for number in range(1, count + 1)
        ]

    async def run(self, stop: asyncio.Event) -> None:
        """Keep all workers running until `stop` is set; all that they accepted by then is durable. Raises StartupError."""
        if self._server is not None:
            await self._server.start()
        try:
            await run_until(stop, self._keep_polling(), *map(self._keep_running, self._workers))
        finally:
            # The workers still hold the sockets while they drain.
            for each in self._sockets:
                each.close()
            await asyncio.gather(*(worker.stop(self._stop_s_max) for worker in self._workers))
            if self._server is not None:
                await self._server.stop()
            self._socket_path.unlink(missing_ok=True)

    async def respond(self, subject: Subject) -> Answer:
        """Answer a worker that is asked for the health of all."""
        if subject == "status":
            found = await self.status()
            return StatusAnswer.of(found)
        return PageAnswer(page=await self._page.text())

    async def status(self) -> HealthStatus:
        """Return what all workers can use, and what any of them does without."""
        answers = await asyncio.gather(*map(_status_of, self._workers))
        parts = {"workers": True}
        degraded: list[str] = []
        for worker, answer in zip(self._workers, answers, strict=True):
            if answer is None:
                parts["workers"] = False
                continue
            for name, is_usable in answer.parts.items():
                parts[name] = parts.get(name, True) and is_usable
            degraded += [each for each in answer.degraded if each not in degraded]
            worker.has_been_ready |= all(answer.parts.values())
        return HealthStatus(parts, degraded)

    async def exposition(self) -> bytes:
        """Return the metrics of all workers added up, as they are after this call."""
        return await self._page.text()

    async def _make_page(self) -> bytes:
        await asyncio.gather(*map(_note_metrics, self._workers))
        counted: list[Sequence[Family]] = [families_of(self._metrics.registry)]
        return self._merged.exposition(counted + [worker.metrics for worker in self._workers])

    async def _keep_polling(self) -> None:
        """Note what the workers have counted and whether they are ready, for the time when one has ended."""
        while True:
            await asyncio.sleep(_POLL_S)
            await asyncio.gather(self.status(), *map(_note_metrics, self._workers))

    async def _keep_running(self, worker: WorkerProcess) -> None:
        """Start a worker again whenever it ends. Raises StartupError if it cannot start and was never ready."""
        pause_s = _RESTART_S_MIN
        while True:
            began_s = time.monotonic()
            status = await worker.run(self)
            reason = worker.cannot_start
            self._note_end(worker)
            if reason is not None and not worker.has_been_ready:
                raise StartupError(reason)
            if time.monotonic() - began_s > _STEADY_S:
                pause_s = _RESTART_S_MIN
            log.error(
                "worker_ended",
                ended=worker.number,
                status=status,
                reason=reason,
                starts_again_in_s=pause_s,
            )
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _RESTART_S_MAX)
            self._metrics.collector_workers_restarted.inc()

    def _note_end(self, worker: WorkerProcess) -> None:
        for each in self._counts:
            each.remove(worker.number - 1)
        self._merged.note_end(worker.metrics)
        worker.metrics, worker.channel = [], None


async def _status_of(worker: WorkerProcess) -> StatusAnswer | None:
    if worker.channel is None:
        return None
    return await worker.channel.ask("status", StatusAnswer, _ANSWER_MS_MAX)


async def _note_metrics(worker: WorkerProcess) -> None:
    channel = worker.channel
    if channel is None:
        return
    answer = await channel.ask("metrics", MetricsAnswer, _ANSWER_MS_MAX)
    # Another process may have taken its place meanwhile.
    if answer is not None and channel is worker.channel:
        worker.metrics = answer.families
