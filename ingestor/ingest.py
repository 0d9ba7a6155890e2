"""The ingestor: source → build → enrich → store → commit."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import stamina
import structlog

from ingestor.build import build_record
from ingestor.config import IngestorConfig
from ingestor.ports import (
    Batch,
    CompletenessStore,
    DeadLetter,
    DeadLetters,
    Enrichment,
    EventSource,
    LostOffsets,
    Partition,
    ReceivedReport,
    RecordStore,
    RevokeListener,
)
from ingestor.progress import Progress, Ticket
from schemas.errors import BuriedEvent, DeadLetterReason, RetryableError
from schemas.heartbeat import REPORT_PREFIX, decode_report
from schemas.metric_defs import Metrics
from schemas.record import Record

log = structlog.get_logger("ingestor")
_T = TypeVar("_T")
_Place = tuple[Batch, int]


class _Built(NamedTuple):
    """What batches hold: records, reports, and what can be neither; each of the first two with where it stood."""

    records: list[Record]
    record_places: list[_Place]
    reports: list[ReceivedReport]
    report_places: list[_Place]
    letters: list[DeadLetter]


class Ingestor:
    """Turns events into records until it is told to stop.

    Commits only what is stored or buried, and only up to the first batch in flight. `connect` makes the source,
    which tells us of its assignment.
    """

    def __init__(
        self,
        *,
        connect: Callable[[RevokeListener], EventSource],
        enrichment: Enrichment,
        store: RecordStore,
        dead_letters: DeadLetters,
        completeness: CompletenessStore,
        config: IngestorConfig,
        metrics: Metrics,
        clock_ms: Callable[[], int],
    ) -> None:
        self._source = connect(self)
        self._enrichment = enrichment
        self._store = store
        self._dead_letters = dead_letters
        self._completeness = completeness
        self._config = config
        self._metrics = metrics
        self._clock_ms = clock_ms
        self._progress = Progress()
        self._in_flight: set[asyncio.Task[None]] = set()
        self._committed_at = 0.0
        self._next_batch_at = 0.0

    async def run(self, stop: asyncio.Event) -> None:
        """Ingest until `stop` is set, then finish what is in flight within the bound, commit and leave the source.

        Raises only what is a fault of the program; a log or store that is away is waited for.
        """
        try:
            await self._retrying(self._source.start, "log", stop)
        except RetryableError:
            return  # told to end before the log was there
        try:
            while not stop.is_set():
                batches = await self._fetch()
                if batches:
                    self._begin(batches)
                self._raise_faults()
                await self._commit_when_due()
        finally:
            await self._settle(self._config.drain_wait_ms)
            await self._source.stop()
        self._raise_faults()

    async def _process(self, batches: Sequence[Batch], tickets: Sequence[Ticket]) -> None:
        """The data path of one unit of work."""
        built = self._build(batches)
        records, letters = built.records, built.letters
        await self._enrichment.enrich(records)
        with self._metrics.store_seconds.time():
            outcome = await self._retrying(lambda: self._store.store(records), "store")
        letters += [_letter(built.record_places[index], reason) for index, reason in outcome.refused]
        letters += await self._note(built, batches)
        if letters:
            await self._retrying(lambda: self._dead_letters.bury(letters), "dead letters")
        for ticket in tickets:
            self._progress.finish(ticket)
        self._metrics.records_stored.inc(outcome.stored)
        self._metrics.records_repeated.inc(outcome.repeated)
        for letter in letters:
            self._metrics.dead_letters.labels(letter.reason.reason).inc()

    async def _note(self, built: _Built, batches: Sequence[Batch]) -> list[DeadLetter]:
        """Note reports and lost offsets; return the letters of reports that can never be noted."""
        lost = [
            LostOffsets(batch.partition, batch.lost_from, first.offset - 1, first.received_ms)
            for batch in batches
            for first in batch.events[:1]
            if batch.lost_from is not None
        ]
        if not lost and not built.reports:
            return []
        refused = await self._retrying(lambda: self._completeness.note(built.reports, lost), "completeness")
        reason = BuriedEvent(DeadLetterReason.UNSTORABLE)
        return [_letter(built.report_places[index], reason) for index in refused]

    def _build(self, batches: Sequence[Batch]) -> _Built:
        now_ms = self._clock_ms()
        built = _Built([], [], [], [], [])
        for batch in batches:
            for index, event in enumerate(batch.events):
                try:
                    if event.value.startswith(REPORT_PREFIX):
                        built.reports.append(ReceivedReport(event.received_ms, decode_report(event.value)))
                        built.report_places.append((batch, index))
                        continue
                    built.records.append(build_record(event, self._config, now_ms))
                    built.record_places.append((batch, index))
                except BuriedEvent as reason:
                    built.letters.append(_letter((batch, index), reason))
                except Exception as fault:  # noqa: BLE001
                    # An event that trips the program must not stop the partition; its bytes are kept and retried.
                    log.error("event_not_built", fault=type(fault).__name__)
                    built.letters.append(_letter((batch, index), BuriedEvent(DeadLetterReason.MALFORMED)))
        self._metrics.events_consumed.inc(len(built.records) + len(built.letters))
        self._metrics.reports_consumed.inc(len(built.reports))
        return built

    def _begin(self, batches: Sequence[Batch]) -> None:
        begun = [(batch, ticket) for batch in batches if (ticket := self._progress.begin(batch))]
        if not begun:
            return
        ours, tickets = zip(*begun, strict=True)
        if sum(len(batch.events) for batch in ours) < self._config.batch_events_max:
            self._next_batch_at = time.monotonic() + self._config.gather_ms / 1000
        task = asyncio.create_task(self._process(ours, tickets), name="ingest-batch")
        self._in_flight.add(task)
        self._metrics.batches_in_flight.set(len(self._in_flight))

    def _raise_faults(self) -> None:
        finished = {task for task in self._in_flight if task.done()}
        self._in_flight -= finished
        self._metrics.batches_in_flight.set(len(self._in_flight))
        faults = [fault for task in finished if not task.cancelled() and (fault := task.exception())]
        if faults:
            raise faults[0]

    async def _fetch(self) -> Sequence[Batch]:
        full = len(self._in_flight) >= self._config.batches_in_flight_max
        await asyncio.sleep(self._next_batch_at - time.monotonic())
        try:
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
        positions = self._progress.committable()
        if not positions:
            return
        try:
            await self._source.commit(positions)
        except RetryableError as away:
            # Not committing is harmless: the events come again and are found stored.
            log.warning("commit_failed", cause=str(away))
            return
        self._progress.committed(positions)

    async def _settle(self, wait_ms: int) -> None:
        """Let what is in flight end within the bound, drop the rest, commit."""
        if self._in_flight:
            _, late = await asyncio.wait(self._in_flight, timeout=wait_ms / 1000)
            for task in late:
                task.cancel()
            # All of them, so that the exception of each is taken note of, whichever is raised.
            await asyncio.gather(*self._in_flight, return_exceptions=True)
        await self._commit()

    async def on_assigned(self, generations: Mapping[Partition, int]) -> None:
        """Begin reading these partitions anew, and note how many are ours now."""
        log.info("partitions_assigned", count=len(generations))
        self._progress.assign(generations)
        self._metrics.partitions_assigned.set(len(generations))

    async def on_revoked(self, partitions: Sequence[Partition]) -> None:
        """Finish or drop what is in flight within the bound, commit, let go.

        Batches mix partitions, and every assignment takes all of them away, so all work is settled.
        """
        log.info("partitions_revoked", count=len(partitions))
        await self._settle(self._config.revoke_wait_ms)
        self._progress.forget(partitions)

    async def _retrying(
        self, step: Callable[[], Awaitable[_T]], part: str, stop: asyncio.Event | None = None
    ) -> _T:
        """Call `step` until it succeeds, backing off; without end, because giving up would lose what was accepted."""
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
        raise AssertionError("unreachable: retried without end")


def _letter(position: _Place, reason: BuriedEvent) -> DeadLetter:
    batch, index = position
    event = batch.events[index]
    return DeadLetter(batch.partition, event.offset, event.received_ms, event.value, reason)
