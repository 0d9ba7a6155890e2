"""Kafka with a spool beside it: what Kafka does not acknowledge in time is fsynced to this host's disk.

Each process writes a file of its own in the spool's folder and drains it when Kafka is back. Files of processes that
crashed are adopted by those that run. Events may reach Kafka twice; their ids make that harmless.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from pathlib import Path

import structlog

from eventlog.embedded.log import DamagedLog, EmbeddedLogSettings
from eventlog.ports import EventPublisher
from eventlog.spool.config import SpoolBounds
from eventlog.spool.file import SUFFIX, SpoolFile
from schemas.errors import NotDurable, PermanentError, RetryableError, StartupError
from schemas.event import EncodedEvent
from schemas.metric_defs import Metrics
from schemas.private_files import make_folder

log = structlog.get_logger("spool")

# Longer than the collector's usual second: room comes back only once Kafka is there again and the spool drains.
_FULL_RETRY_AFTER_S = 5
_LOCK_SUFFIX = ".lock"


class SpoolingPublisher:
    """`EventPublisher` that works without Kafka: acknowledged by Kafka, or on disk, before `publish` returns.

    From the first spooled event until the spool is empty again, every event goes through the spool, in order, and no
    batch waits for Kafka.
    """

    def __init__(
        self,
        kafka: EventPublisher,
        folder: Path,
        bounds: SpoolBounds,
        metrics: Metrics,
        *,
        drain_only: bool = False,
    ) -> None:
        """`folder` is shared by all collectors of a host and created with mode 0700. `drain_only`: spool nothing, only drain
        what other processes left.
        """
        self._kafka = kafka
        self._drain_only = drain_only
        self._folder = folder
        self._bounds = bounds
        self._metrics = metrics
        self._own: SpoolFile | None = None
        self._making_own = asyncio.Lock()
        self._adopted: SpoolFile | None = None
        self._backlogged = False
        self._appending = 0
        self._appended = asyncio.Event()
        self._emptied = asyncio.Event()
        self._emptied.set()
        self._calls = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._removing: set[asyncio.Task[None]] = set()
        self._others_bytes = 0
        self._unusable: set[str] = set()
        self._tasks: tuple[asyncio.Task[None], ...] = ()
        metrics.spool_events.set_function(lambda: sum(file.events for file in self._held()))
        metrics.spool_bytes.set_function(lambda: sum(file.size_bytes for file in self._held()))
        metrics.spool_oldest_event_age_seconds.set_function(self._oldest_s)

    @property
    def spooling(self) -> bool:
        """Whether events go to the spool now."""
        return self._backlogged

    async def start(self) -> None:
        """Open the spool, after which `publish` works, then start Kafka.

        Raises RetryableError while Kafka is away, StartupError where waiting cannot help.
        """
        if not self._tasks:
            if not self._drain_only:
                await self._open_early()
            self._tasks = (
                asyncio.create_task(self._keep_draining(), name="spool-drain"),
                asyncio.create_task(self._keep_adopting(), name="spool-adopt"),
            )
        await self._kafka.start()

    async def _open_early(self) -> None:
        """Check at start whether the folder can be used. Raises StartupError."""
        try:
            self._own = await self._created()
        except RetryableError as failed:
            # The disk may be back by the time the spool is needed.
            log.warning("spool_not_opened", cause=str(failed))

    async def publish(self, events: Sequence[EncodedEvent]) -> None:
        """Return once Kafka has acknowledged every event, or every event is on disk.

        Raises NotDurable if neither is possible, as when the spool is full.
        """
        if not events:
            return
        self._calls += 1
        self._idle.clear()
        try:
            if not self._backlogged and await self._acknowledged(events):
                return
            await self._spool(events)
        finally:
            self._calls -= 1
            if self._calls == 0:
                self._idle.set()

    async def ready(self) -> bool:
        """Return whether publishing is likely to succeed now, to Kafka or the spool."""
        if not self._tasks:
            return False
        if not self._backlogged and await self._kafka.ready():
            return True
        return not self._drain_only and self._has_room(0) and (self._own is None or self._own.has_room)

    async def stop(self) -> None:
        """Drain for at most `stop_wait_ms`. What is left stays on disk for the next process."""
        # While Kafka is away, draining would only use up the time.
        if self._backlogged and self._tasks and await self._kafka.ready():
            await _within(self._bounds.stop_wait_ms, self._emptied)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        # Stopping Kafka refuses the calls under way, which then go to the spool.
        await self._kafka.stop()
        await _within(2 * self._bounds.append_deadline_ms, self._idle)
        self._tasks = ()
        own, self._own = self._own, None
        if own is not None:
            await (own.release() if self._backlogged else own.remove())
        if self._removing:
            await asyncio.wait(self._removing)

    async def _acknowledged(self, events: Sequence[EncodedEvent]) -> bool:
        """Return whether Kafka acknowledged the events in time."""
        try:
            await self._kafka.publish(events)
        except NotDurable as away:
            if not self._tasks or self._drain_only:
                raise
            if not self._backlogged:
                log.warning("spooling", cause=str(away))
            return False
        return True

    async def _spool(self, events: Sequence[EncodedEvent]) -> None:
        size = sum(len(event.value) for event in events)
        if not self._has_room(size):
            raise NotDurable("the spool is full", _FULL_RETRY_AFTER_S)
        # Before the first await, so that every event from here on queues behind these.
        self._backlogged = True
        self._emptied.clear()
        self._appending += 1
        try:
            file = await self._own_file()
            await self._append(file, events)
        finally:
            self._appending -= 1
            self._appended.set()
        self._metrics.spool_events_written.inc(len(events))

    async def _append(self, file: SpoolFile, events: Sequence[EncodedEvent]) -> None:
        try:
            await file.append(events)
        except PermanentError:
            raise NotDurable("the batch is too large for the spool", _FULL_RETRY_AFTER_S) from None
        except NotDurable as refused:
            if file.damaged:
                await self._abandon(file)
            raise NotDurable(str(refused), _FULL_RETRY_AFTER_S) from None

    async def _own_file(self) -> SpoolFile:
        """Return the file that this process writes to. Raises NotDurable if it cannot be created."""
        async with self._making_own:
            if self._own is None:
                try:
                    self._own = await self._created()
                except (RetryableError, StartupError) as failed:
                    log.warning("spool_not_opened", cause=str(failed))
                    raise NotDurable("the spool cannot be written", _FULL_RETRY_AFTER_S) from None
            return self._own

    async def _created(self) -> SpoolFile:
        folder = self._folder
        try:
            await asyncio.to_thread(make_folder, folder, 0o700)
        except OSError as error:
            raise StartupError(f"The spool's folder {folder} cannot be created ({error.strerror}).") from None
        return await SpoolFile.created(folder, self._file_settings())

    async def _abandon(self, file: SpoolFile) -> None:
        """Release the own file, which is corrupt. The process that adopts it drains what can be read of it."""
        if file is self._own:
            self._own = None
            log.error("spool_file_damaged", file=file.path.name)
            await file.release()

    async def _keep_draining(self) -> None:
        """Drain the own file whenever it has events, and delete it when it is empty."""
        while True:
            await self._appended.wait()
            self._appended.clear()
            try:
                await self._drain_own()
            except Exception as failed:  # noqa: BLE001
                # Whatever failed, the accepted events are still there: retry.
                log.warning("spool_not_drained", cause=type(failed).__name__)
                await asyncio.sleep(self._bounds.retry_wait_ms / 1000)
                self._appended.set()

    async def _drain_own(self) -> None:
        file = self._own
        if file is not None:
            try:
                await self._drain(file)
            except RetryableError:
                if file.damaged:
                    await self._abandon(file)
                raise
        # Nothing has been appended since the last read, and no append is under way: the file is certainly empty.
        if self._appending == 0 and not self._appended.is_set() and self._own is file:
            self._own, self._backlogged = None, False
            self._emptied.set()
            if file is not None:
                self._remove(file)
                log.info("spool_drained")

    async def _keep_adopting(self) -> None:
        """Look for files of processes that have ended; drain and delete them one by one."""
        while True:
            others: Sequence[Path] = ()
            try:
                others = await self._others()
            except OSError as failed:
                log.warning("spool_not_listed", cause=type(failed).__name__)
            for path in others:
                try:
                    await self._adopt(path)
                except Exception as failed:  # noqa: BLE001  # as above; and the other files do not wait for this one
                    log.warning("spool_not_adopted", file=path.name, cause=type(failed).__name__)
            await asyncio.sleep(self._bounds.adopt_interval_ms / 1000)

    async def _others(self) -> Sequence[Path]:
        """Return the files of other processes that may be adopted, and measure the size of them all."""
        own = self._own.path.stem if self._own is not None else ""
        found = await asyncio.to_thread(_sizes, self._folder)
        others = {stem: size for stem, size in found.items() if stem != own}
        self._others_bytes = sum(others.values())
        return [self._folder / f"{stem}{SUFFIX}" for stem in sorted(others.keys() - self._unusable)]

    async def _adopt(self, path: Path) -> None:
        try:
            file = await SpoolFile.claimed(path, self._file_settings())
        except DamagedLog:
            self._note_damage(path)
            return
        except StartupError as unusable:
            # Perhaps another release wrote it: leave it for that one.
            self._unusable.add(path.stem)
            log.error("spool_file_unusable", file=path.name, cause=str(unusable))
            return
        if file is None:
            return
        self._adopted = file
        try:
            await self._drain_adopted(file)
        finally:
            self._adopted = None

    async def _drain_adopted(self, file: SpoolFile) -> None:
        self._metrics.spool_files_adopted.inc()
        log.info("spool_file_adopted", file=file.path.name, events=file.events)
        try:
            await self._drain(file)
        except BaseException as failed:
            if isinstance(failed, RetryableError) and file.damaged:
                await file.set_aside()
                self._note_damage(file.path)
                return
            await file.release()
            raise
        if file.damaged:
            await file.set_aside()
            self._note_damage(file.path)
        else:
            self._remove(file)

    def _remove(self, file: SpoolFile) -> None:
        """Delete a drained file in a task of its own, because the draining task may be cancelled meanwhile."""
        task = asyncio.create_task(file.remove(), name="spool-remove")
        self._removing.add(task)
        task.add_done_callback(self._removed)

    def _removed(self, task: asyncio.Task[None]) -> None:
        self._removing.discard(task)
        if not task.cancelled() and (failed := task.exception()) is not None:
            log.warning("spool_file_not_removed", cause=type(failed).__name__)

    def _note_damage(self, path: Path) -> None:
        self._metrics.spool_files_damaged.inc()
        log.error("spool_file_set_aside", file=path.with_suffix(".damaged").name)

    async def _drain(self, file: SpoolFile) -> None:
        """Publish the events of a file, from the front, until it is empty. Raises RetryableError."""
        while events := await file.next(self._bounds.drain_events_max):
            await self._deliver(events)
            await file.drained(events)
            self._metrics.spool_events_drained.inc(len(events))

    async def _deliver(self, events: Sequence[EncodedEvent]) -> None:
        """Publish until Kafka has acknowledged: accepted events must not be dropped."""
        while True:
            try:
                return await self._kafka.publish(events)
            except RetryableError:
                pass
            except PermanentError as refused:
                log.error("spooled_events_refused", cause=type(refused).__name__)
            await asyncio.sleep(self._bounds.retry_wait_ms / 1000)

    def _has_room(self, size_bytes: int) -> bool:
        own_bytes = self._own.size_bytes if self._own is not None else 0
        # The files of others count: a collector that restarts again and again would get a new allowance each time.
        return self._others_bytes + own_bytes + size_bytes <= self._bounds.bytes_max

    def _file_settings(self) -> EmbeddedLogSettings:
        return EmbeddedLogSettings(
            path=self._folder,
            bytes_max=self._bounds.bytes_max,
            append_deadline_ms=self._bounds.append_deadline_ms,
            read_bytes_max=self._bounds.drain_bytes_max,
        )

    def _held(self) -> Sequence[SpoolFile]:
        return [file for file in (self._own, self._adopted) if file is not None]

    def _oldest_s(self) -> float:
        oldest = [file.oldest_ms for file in self._held() if file.oldest_ms is not None]
        return max(0.0, time.time() - min(oldest) / 1000) if oldest else 0.0


async def _within(wait_ms: int, event: asyncio.Event) -> None:
    """Wait for an event, at most `wait_ms`."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(wait_ms / 1000):
            await event.wait()


def _sizes(folder: Path) -> dict[str, int]:
    """Return the bytes on disk of each file by its stem, 0 for a lock without a file."""
    sizes: dict[str, int] = {}
    for path in folder.iterdir():
        stem, _, rest = path.name.partition(".")
        if f".{rest}".startswith((SUFFIX, _LOCK_SUFFIX)):
            try:
                sizes[stem] = sizes.get(stem, 0) + path.stat().st_size
            except FileNotFoundError:
                continue
    return sizes
