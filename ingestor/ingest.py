"""The ingestor's loop: source → build → enrich → store → commit."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar, cast

import stamina
import structlog

from eventlog.ports import Batch, EventSource, Partition, RevokeListener
from ingestor.build import build_record
from ingestor.config import IngestorConfig
from ingestor.dead_letters.limit import WINDOW_EVENTS, MalformedLimit
from ingestor.dead_letters.ports import DeadLetter, DeadLetterWriter
from ingestor.offset_tracker import InFlightBatch, OffsetTracker
from ingestor.ports import (
    Enrichment,
    GapLedger,
    LostOffsets,
    ReceivedReport,
    RecordStore,
)
from schemas.errors import DeadLetterReason, RetryableError, UnprocessableEvent
from schemas.heartbeat import REPORT_PREFIX, decode_report
from schemas.metric_defs import Metrics
from schemas.record import Record

log = structlog.get_logger("ingestor")
# Of the time that draining may take: to finish what is in flight, and to cancel the rest. The remainder is for the commit.
_FINISH_SHARE = 0.6
_CANCEL_SHARE = 0.1
_T = TypeVar("_T")
_Position = tuple[Batch, int]
"""A batch and the index of an event in it."""


class _BuiltBatches(NamedTuple):
    """What a few batches hold: records, reports, and dead letters; the first two with their positions."""

    records: list[Record]
    record_positions: list[_Position]
    reports: list[ReceivedReport]
    report_positions: list[_Position]
    dead_letters: list[DeadLetter]


class Ingestor:
    """Turns events into records until it is stopped.

    Commits only what is stored or dead-lettered, and only up to the first batch in flight. `connect` makes the source,
    which reports its assignment to the ingestor (`RevokeListener`).

    Where nearly all events are malformed, it halts: it stays in its consumer group, fetches nothing more, and commits
    nothing past the events that exceeded the limit. Only a restart ends that.
    """

    def __init__(
        self,
        *,
        connect: Callable[[RevokeListener], EventSource],
        enrichment: Enrichment,
        store: RecordStore,
        dead_letters: DeadLetterWriter,
        gap_ledger: GapLedger,
        config: IngestorConfig,
        metrics: Metrics,
        clock_ms: Callable[[], Awaitable[int]],
    ) -> None:
        """`clock_ms`: the time by which events expire (Unix ms). While it raises RetryableError, batches wait as for the store."""
        self._source = connect(self)
        self._enrichment = enrichment
        self._store = store
        self._dead_letters = dead_letters
        self._gap_ledger = gap_ledger
        self._config = config
        self._metrics = metrics
        self._clock_ms = clock_ms
        self._offsets = OffsetTracker()
        self._limit = MalformedLimit(config.malformed_share_max)
        self._halted = False
        self._in_flight: set[asyncio.Task[None]] = set()
        self._waiting_for_clock: set[asyncio.Task[None]] = set()
        self._committed_at = 0.0
        self._next_batch_at = 0.0

    @property
    def halted(self) -> bool:
        """Whether ingest has stopped because nearly all events are malformed."""
        return self._halted

    async def run(self, stop: asyncio.Event) -> None:
        """Ingest until `stop` is set, then finish what is in flight within `drain_wait_ms`, commit and leave the source.

        Raises StartupError from the source, and what is a bug. A log or store that is away is retried without end.
        """
        try:
            await self._retrying(self._source.start, "log", stop)
        except RetryableError:
            return  # stopped before the log was there
        try:
            while not stop.is_set():
                batches = await self._fetch()
                if batches:
                    self._begin(batches)
                for error in self._task_errors():
                    raise error
                await self._commit_when_due()
        finally:
            # Before the source stops: leaving the group does not commit.
            await self._drain(self._config.drain_wait_ms)
            await self._source.stop()
            # Of every task, though one is raised at most: asyncio logs an error that nobody asked for, with all that it says.
            errors = self._task_errors()
        for error in errors:
            raise error

    async def _process(self, batches: Sequence[Batch], in_flight: Sequence[InFlightBatch]) -> None:
        """Take a few batches through the data path: build, enrich, store, dead-letter, mark as finished."""
        now_ms = await self._retrying(self._now_ms, "clock")
        # Left unfinished, so that nothing after the batches that exceeded the limit is committed.
        if self._halted:
            return
        built = self._build(batches, now_ms)
        # Before the next await, so that no other batch passes the check above meanwhile.
        exceeds_limit = self._exceeds_limit(built)
        records, dead_letters = built.records, built.dead_letters
        # Before storing, because a stored record is never updated. It is bounded, so it holds no record back.
        await self._enrichment.enrich(records)
        with self._metrics.store_duration_seconds.time():
            outcome = await self._retrying(lambda: self._store.store(records), "store")
        dead_letters += [_dead_letter(built.record_positions[index], why) for index, why in outcome.refused]
        # Before the commit: a lost range that is not noted now would never be noted.
        dead_letters += await self._note_reports(built, batches)
        if dead_letters:
            await self._retrying(lambda: self._dead_letters.write_dead_letters(dead_letters), "dead letters")
        # What exceeded the limit is dead-lettered for an operator to see, and read again after a restart.
        if not exceeds_limit:
            for batch in in_flight:
                self._offsets.finish(batch)
        self._metrics.records_stored.inc(outcome.stored)
        self._metrics.records_repeated.inc(outcome.repeated)
        for dead_letter in dead_letters:
            self._metrics.dead_letters.labels(dead_letter.reason.reason).inc()

    async def _now_ms(self) -> int:
        """Return the time (Unix ms), and note whether the current batch waits for it. Raises RetryableError."""
        task = cast("asyncio.Task[None]", asyncio.current_task())
        try:
            now_ms = await self._clock_ms()
        except RetryableError:
            self._waiting_for_clock.add(task)
            raise
        self._waiting_for_clock.discard(task)
        return now_ms

    def _exceeds_limit(self, built: _BuiltBatches) -> bool:
        """Count what was built against the limit on malformed events; halt where it is exceeded."""
        # Reports never count: on a quiet API, a heartbeat of a newer release must not stop well-formed events.
        refused = [each for each in built.dead_letters if not each.value.startswith(REPORT_PREFIX)]
        malformed = [each for each in refused if each.reason.reason is DeadLetterReason.MALFORMED]
        events = len(built.records) + len(refused)
        if not self._limit.exceeded_with(events, len(malformed)):
            return False
        self._halted = True
        self._metrics.ingest_halted.set(1)
        # The events that end a window may themselves be well-formed.
        examples = [(each.partition.log, each.partition.number, each.offset) for each in malformed[:1]]
        log.error(
            "ingest_halted",
            message=f"More than {self._config.malformed_share_max:.0%} of the last {WINDOW_EVENTS:,} events are malformed."
            " Check that the topic is the collectors' events topic, and that collectors and ingestors are of the same"
            " release; then restart the ingestor. `auditap dead-letters list` shows some of these events.",
            examples=examples,
        )
        return True

    async def _note_reports(self, built: _BuiltBatches, batches: Sequence[Batch]) -> list[DeadLetter]:
        """Note reports and lost offsets in the gap ledger. Returns reports that can never be noted as dead letters."""
        lost = [
            LostOffsets(batch.partition, batch.lost[0], batch.lost[-1], batch.events[0].received_ms)
            for batch in batches
            if batch.lost
        ]
        if not lost and not built.reports:
            return []
        refused = await self._retrying(lambda: self._gap_ledger.note(built.reports, lost), "gap ledger")
        unstorable = UnprocessableEvent(DeadLetterReason.UNSTORABLE)
        return [_dead_letter(built.report_positions[index], unstorable) for index in refused]

    def _build(self, batches: Sequence[Batch], now_ms: int) -> _BuiltBatches:
        built = _BuiltBatches([], [], [], [], [])
        for batch in batches:
            for index in range(len(batch.events)):
                self._build_event((batch, index), built, now_ms)
        self._metrics.events_consumed.inc(len(built.records) + len(built.dead_letters))
        self._metrics.reports_consumed.inc(len(built.reports))
        self._metrics.offsets_passed_over.inc(sum(batch.passed_over for batch in batches))
        return built

    def _build_event(self, position: _Position, built: _BuiltBatches, now_ms: int) -> None:
        batch, index = position
        event = batch.events[index]
        try:
            if event.value.startswith(REPORT_PREFIX):
                # A collector's clock that is ahead must not move the log's time on, by which leases run out and the
                # watermark rises: the database bounds it by its own clock, which may be ahead as well.
                received_ms = min(event.received_ms, now_ms)
                built.reports.append(ReceivedReport(received_ms, decode_report(event.value)))
                built.report_positions.append(position)
            else:
                built.records.append(build_record(event, self._config, now_ms))
                built.record_positions.append(position)
        except UnprocessableEvent as reason:
            built.dead_letters.append(_dead_letter(position, reason))
        except Exception as bug:  # noqa: BLE001
            # A bug that one event triggers must not stop the partition. Its bytes are kept and can be retried.
            log.error("event_not_built", error=type(bug).__name__)
            malformed = UnprocessableEvent(DeadLetterReason.MALFORMED)
            built.dead_letters.append(_dead_letter(position, malformed))

    def _begin(self, batches: Sequence[Batch]) -> None:
        current: list[Batch] = []
        in_flight: list[InFlightBatch] = []
        for batch in batches:
            # Registered here and not in the task, because tasks may start in another order than that of the offsets.
            begun = self._offsets.begin(batch)
            if begun is not None:
                current.append(batch)
                in_flight.append(begun)
        if not current:
            return
        if sum(len(batch.events) for batch in current) < self._config.batch_events_max:
            self._next_batch_at = time.monotonic() + self._config.gather_ms / 1000
        task = asyncio.create_task(self._process(current, in_flight), name="ingest-batch")
        self._in_flight.add(task)
        self._metrics.batches_in_flight.set(len(self._in_flight))

    def _task_errors(self) -> list[BaseException]:
        """Take the finished tasks out of those in flight, and return the errors with which some ended."""
        finished = {task for task in self._in_flight if task.done()}
        self._in_flight -= finished
        self._metrics.batches_in_flight.set(len(self._in_flight))
        errors = (task.exception() for task in finished if not task.cancelled())
        return [error for error in errors if error is not None]

    async def _fetch(self) -> Sequence[Batch]:
        full = self._halted or len(self._in_flight) >= self._config.batches_in_flight_max
        # After a batch that was not full, events gather for a moment: transactions cost more than the rows in them.
        await asyncio.sleep(self._next_batch_at - time.monotonic())
        try:
            # Fetching goes on with 0 events, or the group would give our partitions to others.
            return await self._source.fetch(0 if full else self._config.batch_events_max)
        except RetryableError as away:
            log.warning("log_away", cause=str(away))
            await asyncio.sleep(self._config.retry_wait_ms_initial / 1000)
            return ()

    async def _commit_when_due(self) -> None:
        if time.monotonic() - self._committed_at >= self._config.commit_interval_ms / 1000:
            await self._commit()
            self._committed_at = time.monotonic()

    async def _commit(self) -> None:
        positions = self._offsets.committable()
        if not positions:
            return
        try:
            await self._source.commit(positions)
        except RetryableError as away:
            # A missed commit is harmless: the events are read again and found stored.
            log.warning("commit_failed", cause=str(away))
            return
        self._offsets.committed(positions)

    async def _drain(self, wait_ms: int) -> None:
        """Finish what is in flight, cancel the rest, and commit: all within `wait_ms`."""
        # Nothing of them was done yet, and a clock may stay wrong for long.
        for task in self._waiting_for_clock:
            task.cancel()
        self._waiting_for_clock.clear()
        wait_s = wait_ms / 1000
        if self._in_flight:
            _, late = await asyncio.wait(self._in_flight, timeout=_FINISH_SHARE * wait_s)
            for task in late:
                # Its events are not committed, so whoever has the partition next reads them again.
                task.cancel()
            if late:
                # One that does not end moves no position any more: its generation is over.
                await asyncio.wait(late, timeout=_CANCEL_SHARE * wait_s)
        try:
            async with asyncio.timeout((1 - _FINISH_SHARE - _CANCEL_SHARE) * wait_s):
                await self._commit()
        except TimeoutError:
            log.warning("commit_failed", cause="the log did not take it in time")

    async def on_assigned(self, generations: Mapping[Partition, int]) -> None:
        """See `RevokeListener.on_assigned`: track these partitions afresh."""
        log.info("partitions_assigned", count=len(generations))
        self._offsets.assign(generations)
        # What was in flight is read again, and must not count twice.
        self._limit.reset()
        self._metrics.partitions_assigned.set(len(generations))

    async def on_revoked(self, partitions: Sequence[Partition]) -> None:
        """See `RevokeListener.on_revoked`: finish or cancel what is in flight within `revoke_wait_ms`, and commit.

        All work is drained, because tasks mix partitions, and every rebalance revokes all partitions first.
        """
        log.info("partitions_revoked", count=len(partitions))
        # Commit before the state is dropped, or the next owner would read everything again.
        await self._drain(self._config.revoke_wait_ms)
        self._offsets.forget(partitions)

    async def _retrying(
        self, step: Callable[[], Awaitable[_T]], part: str, stop: asyncio.Event | None = None
    ) -> _T:
        """Call `step` until it succeeds, with backoff, without end: giving up would lose accepted events.

        With `stop` set a RetryableError is raised.
        """
        async for attempt in stamina.retry_context(
            on=lambda error: isinstance(error, RetryableError) and not (stop and stop.is_set()),
            attempts=None,
            timeout=None,
            wait_initial=self._config.retry_wait_ms_initial / 1000,
            wait_max=self._config.retry_wait_ms_max / 1000,
        ):
            with attempt:
                if attempt.num > 1:
                    self._metrics.store_retries.inc()
                try:
                    return await step()
                except RetryableError as away:
                    log.warning("retrying", part=part, attempt=attempt.num, cause=str(away))
                    raise
        raise AssertionError("unreachable: retries never end")


def _dead_letter(position: _Position, reason: UnprocessableEvent) -> DeadLetter:
    batch, index = position
    event = batch.events[index]
    return DeadLetter(batch.partition, event.offset, event.received_ms, event.value, reason)
