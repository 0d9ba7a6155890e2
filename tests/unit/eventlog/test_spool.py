from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import shutil
import sqlite3
import stat
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import pytest
from structlog.testing import capture_logs

from eventlog.embedded.log import EmbeddedLogSettings
from eventlog.ports import Partition
from eventlog.spool.config import SpoolBounds
from eventlog.spool.file import SpoolFile, has_files
from eventlog.spool.publisher import SpoolingPublisher
from schemas.errors import NotDurable, RetryableError, StartupError
from schemas.event import EncodedEvent
from schemas.metric_defs import Metrics
from tests.event_logs import events
from tests.fakes.event_log import MemoryEventLog, MemoryPublisher

BOUNDS = SpoolBounds(retry_wait_ms=5, adopt_interval_ms=20, stop_wait_ms=60_000, append_deadline_ms=60_000)


class Collector:
    """A spooling publisher as a process has it, on a log in memory."""

    def __init__(self, log: MemoryEventLog, folder: Path, bounds: SpoolBounds = BOUNDS) -> None:
        self.metrics = Metrics()
        self.publisher = SpoolingPublisher(MemoryPublisher(log), folder, bounds, self.metrics)

    async def start(self) -> None:
        try:
            await self.publisher.start()
        except RetryableError:
            self._starting = asyncio.create_task(self._keep_starting())

    async def _keep_starting(self) -> None:
        while True:
            try:
                return await self.publisher.start()
            except RetryableError:
                await asyncio.sleep(0.005)

    async def stop(self) -> None:
        if hasattr(self, "_starting"):
            self._starting.cancel()
            await asyncio.gather(self._starting, return_exceptions=True)
        await self.publisher.stop()

    def metric(self, name: str) -> float:
        value = self.metrics.registry.get_sample_value(name)
        assert value is not None
        return value


@asynccontextmanager
async def running(
    log: MemoryEventLog, folder: Path, bounds: SpoolBounds = BOUNDS
) -> AsyncIterator[Collector]:
    collector = Collector(log, folder, bounds)
    await collector.start()
    try:
        yield collector
    finally:
        await collector.stop()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(120):
        while not condition():
            await asyncio.sleep(0.005)


def numbers(log: MemoryEventLog) -> list[int]:
    """What the log holds, by number; the log has one partition."""
    return [json.loads(event.value)["number"] for partition in log.partitions.values() for event in partition]


def left_in(folder: Path) -> list[Path]:
    return list(folder.iterdir())


def files(folder: Path, suffix: str = ".spool") -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix == suffix)


@pytest.fixture
def log() -> MemoryEventLog:
    return MemoryEventLog(partitions=1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data" / "spool"


async def test_while_the_log_is_there_nothing_is_spooled(log: MemoryEventLog, folder: Path) -> None:
    async with running(log, folder) as collector:
        await collector.publisher.publish(events(0, 10))

        assert numbers(log) == list(range(10))
        assert collector.metric("auditap_spool_events_written_total") == 0
        assert not collector.publisher.spooling
        assert await collector.publisher.ready()


async def test_spooled_events_are_drained_in_order_when_the_log_is_back(
    log: MemoryEventLog, folder: Path
) -> None:
    async with running(log, folder, replace(BOUNDS, drain_events_max=3)) as collector:
        log.away = True
        for first in range(0, 20, 2):
            await collector.publisher.publish(events(first, 2))
        assert numbers(log) == []
        assert collector.publisher.spooling
        assert await collector.publisher.ready()
        assert collector.metric("auditap_spool_events") == 20
        assert collector.metric("auditap_spool_bytes") == sum(len(each.value) for each in events(0, 20))
        assert collector.metric("auditap_spool_oldest_event_age_seconds") > 0

        log.away = False
        await until(lambda: not collector.publisher.spooling)

        assert numbers(log) == list(range(20))
        assert collector.metric("auditap_spool_events_drained_total") == 20
        for gauge in ("events", "bytes", "oldest_event_age_seconds"):
            assert collector.metric(f"auditap_spool_{gauge}") == 0
        await until(lambda: left_in(folder) == [])


async def test_events_queue_behind_the_spool_until_it_is_empty(log: MemoryEventLog, folder: Path) -> None:
    async with running(log, folder, replace(BOUNDS, retry_wait_ms=200)) as collector:
        log.away = True
        await collector.publisher.publish(events(0, 5))
        await asyncio.sleep(0.02)
        log.away = False
        # The log is there again, and the drain has not noticed.
        await collector.publisher.publish(events(5, 5))
        await until(lambda: not collector.publisher.spooling)

    assert numbers(log) == list(range(10))


async def test_events_spooled_during_the_last_read_are_not_deleted(
    log: MemoryEventLog, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked, go_on = asyncio.Event(), asyncio.Event()
    look = SpoolFile.next

    async def slow_next(self: SpoolFile, events_max: int) -> Sequence[EncodedEvent]:
        found = await look(self, events_max)
        if not found:
            looked.set()
            await go_on.wait()
        return found

    async with running(log, folder) as collector:
        log.away = True
        await collector.publisher.publish(events(0, 5))
        monkeypatch.setattr(SpoolFile, "next", slow_next)
        log.away = False
        await looked.wait()
        await collector.publisher.publish(events(5, 5))
        go_on.set()
        await until(lambda: not collector.publisher.spooling)

    assert numbers(log) == list(range(10))


async def test_it_works_while_the_log_is_away_at_start(log: MemoryEventLog, folder: Path) -> None:
    log.away = True
    async with running(log, folder) as collector:
        await collector.publisher.publish(events(0, 3))
        assert await collector.publisher.ready()
        log.away = False
        await until(lambda: not collector.publisher.spooling)

    assert numbers(log) == [0, 1, 2]


async def test_events_appended_without_acknowledgement_may_come_twice(
    log: MemoryEventLog, folder: Path
) -> None:
    async with running(log, folder) as collector:
        log.unsure = True
        await collector.publisher.publish(events(0, 3))
        await asyncio.sleep(0.03)
        log.unsure = False
        await until(lambda: not collector.publisher.spooling)

    assert set(numbers(log)) == {0, 1, 2}
    assert len(numbers(log)) > 3


async def test_stop_leaves_undrained_events_for_the_next_start(log: MemoryEventLog, folder: Path) -> None:
    async with running(log, folder) as collector:
        log.away = True
        await collector.publisher.publish(events(0, 4))
    (left,) = files(folder)

    log.away = False
    async with running(log, folder) as collector:
        await until(lambda: left not in left_in(folder))
        assert collector.metric("auditap_spool_files_adopted_total") == 1

    assert numbers(log) == [0, 1, 2, 3]
    assert left_in(folder) == []


async def test_stop_drains_what_it_can(log: MemoryEventLog, folder: Path) -> None:
    async with running(log, folder, replace(BOUNDS, retry_wait_ms=50)) as collector:
        log.away = True
        await collector.publisher.publish(events(0, 4))
        await asyncio.sleep(0.01)
        log.away = False

    assert numbers(log) == [0, 1, 2, 3]
    assert left_in(folder) == []


async def test_a_living_process_keeps_its_file(
    log: MemoryEventLog, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: Counter[SpoolingPublisher] = Counter()
    look = SpoolingPublisher._others

    async def counted(self: SpoolingPublisher) -> Sequence[Path]:
        looked[self] += 1
        return await look(self)

    monkeypatch.setattr(SpoolingPublisher, "_others", counted)
    log.away = True
    async with running(log, folder) as first, running(log, folder) as second:
        await first.publisher.publish(events(0, 2))
        await second.publisher.publish(events(2, 2))
        looked.clear()
        # The third begins after the second has ended.
        await until(lambda: min(looked[first.publisher], looked[second.publisher]) >= 3)
        assert first.metric("auditap_spool_events") == second.metric("auditap_spool_events") == 2
        log.away = False
        await until(lambda: not (first.publisher.spooling or second.publisher.spooling))
        assert first.metric("auditap_spool_files_adopted_total") == 0
        assert second.metric("auditap_spool_files_adopted_total") == 0

    assert sorted(numbers(log)) == [0, 1, 2, 3]


async def test_a_full_spool_refuses_with_a_retry_hint(log: MemoryEventLog, folder: Path) -> None:
    async with running(log, folder, replace(BOUNDS, bytes_max=1_000)) as collector:
        log.away = True
        await collector.publisher.publish(events(0, 30))
        await collector.publisher.publish(events(30, 30))
        with pytest.raises(NotDurable) as full:
            await collector.publisher.publish(events(60, 30))
        assert full.value.retry_after_s > 1
        assert await collector.publisher.ready()

        log.away = False
        await until(lambda: not collector.publisher.spooling)
        await collector.publisher.publish(events(60, 30))

    assert numbers(log) == list(range(90))


async def test_files_left_by_others_count_against_the_bound(log: MemoryEventLog, folder: Path) -> None:
    log.away = True
    async with running(log, folder) as left:
        await left.publisher.publish(events(0, 5))
    async with running(log, folder, replace(BOUNDS, bytes_max=1_000)) as collector:
        await until(lambda: collector.metric("auditap_spool_files_adopted_total") == 1)
        with pytest.raises(NotDurable):
            await collector.publisher.publish(events(5, 5))
        assert not await collector.publisher.ready()


async def test_a_file_that_is_full_by_itself_refuses(log: MemoryEventLog, folder: Path) -> None:
    async with running(log, folder, replace(BOUNDS, bytes_max=16 * 8192)) as collector:
        log.away = True
        taken = []
        for number in range(40):
            try:
                await collector.publisher.publish(
                    [EncodedEvent(f"{number:032x}", b"1%0*d" % (3_000, number), 1)]
                )
            except NotDurable:
                continue
            taken.append(number)
        assert 0 < len(taken) < 40
        log.away = False
        await until(lambda: not collector.publisher.spooling)

    assert len(log.partitions[Partition("memory", 0)]) == len(taken)


async def test_files_are_the_owners_alone(log: MemoryEventLog, folder: Path) -> None:
    async with running(log, folder) as collector:
        log.away = True
        await collector.publisher.publish(events(0, 1))
        modes = {stat.S_IMODE(path.stat().st_mode) for path in left_in(folder)}
        assert modes == {0o600}
        assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700  # noqa: PTH116


def abandoned(folder: Path) -> Path:
    """Return a folder as a crash at this moment would leave it: every file, no lock held."""
    left = folder.with_name(f"{folder.name}-left")
    shutil.copytree(folder, left)
    return left


async def test_an_abandoned_file_is_adopted_drained_and_removed(log: MemoryEventLog, folder: Path) -> None:
    log.away = True
    async with running(log, folder) as killed:
        await killed.publisher.publish(events(0, 50))
        left = abandoned(folder)
    async with running(log, left) as heir:
        await until(lambda: heir.metric("auditap_spool_files_adopted_total") == 1)
        assert heir.metric("auditap_spool_events") == 50
        (theirs,) = [path for path in files(left) if path.name in {each.name for each in files(folder)}]
        log.away = False
        await until(lambda: theirs not in left_in(left))

    assert numbers(log) == list(range(50))
    assert left_in(left) == []


@pytest.mark.parametrize("garbage", [b"no database at all " * 1_000, b"SQLite format 3\0" + b"\xff" * 9_000])
async def test_a_corrupt_file_is_set_aside(log: MemoryEventLog, folder: Path, garbage: bytes) -> None:
    log.away = True
    async with running(log, folder) as killed:
        await killed.publisher.publish(events(0, 5))
        left = abandoned(folder)
    (left / "-broken.spool").write_bytes(garbage)
    async with running(log, left) as heir:
        await until(lambda: heir.metric("auditap_spool_files_damaged_total") == 1)
        log.away = False
        await until(lambda: len(numbers(log)) >= 5)
        await heir.publisher.publish(events(5, 5))

    assert set(numbers(log)) == set(range(10))
    assert len(files(left, ".damaged")) == 1


async def test_events_before_a_corrupt_page_are_drained(log: MemoryEventLog, folder: Path) -> None:
    log.away = True
    async with running(log, folder) as killed:
        for number in range(200):
            await killed.publisher.publish(
                [EncodedEvent(f"{number:032x}", b'{"number":%d}' % number + b" " * 5_000, 1)]
            )
    (left,) = files(folder)
    with left.open("r+b") as file:
        file.seek(left.stat().st_size * 3 // 4)
        file.write(b"\xa5" * (left.stat().st_size // 8))
    async with running(log, folder, replace(BOUNDS, drain_events_max=5)) as heir:
        log.away = False
        await until(lambda: heir.metric("auditap_spool_files_damaged_total") == 1)

    saved = numbers(log)
    assert saved == list(range(len(saved)))
    assert 20 < len(saved) < 200
    assert len(files(folder, ".damaged")) == 1


async def test_a_corrupt_own_file_is_replaced(log: MemoryEventLog, folder: Path) -> None:
    async with running(log, folder) as collector:
        log.away = True
        await collector.publisher.publish(events(0, 3))
        own = collector.publisher._own
        assert own is not None
        own._log._damaged = True
        await own._log.close()
        with contextlib.suppress(NotDurable):
            await collector.publisher.publish(events(3, 3))
        await collector.publisher.publish(events(3, 3))
        assert collector.publisher._own is not own
        log.away = False
        await until(lambda: set(numbers(log)) == set(range(6)))


async def test_a_lock_without_a_file_is_deleted(log: MemoryEventLog, folder: Path) -> None:
    os.makedirs(folder)  # noqa: PTH103
    (folder / "1.lock").touch()
    async with running(log, folder):
        await until(lambda: not (folder / "1.lock").exists())


async def test_a_folder_that_cannot_be_made_ends_the_start(log: MemoryEventLog, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    publisher = SpoolingPublisher(MemoryPublisher(log), tmp_path / "file" / "spool", BOUNDS, Metrics())
    with pytest.raises(StartupError, match="folder"):
        await publisher.start()
    await publisher.stop()


async def test_the_log_is_used_while_the_spool_cannot_be(
    log: MemoryEventLog, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(self: SpoolingPublisher) -> None:
        raise RetryableError("the disk is full")

    monkeypatch.setattr(SpoolingPublisher, "_created", away)
    async with running(log, folder) as collector:
        await collector.publisher.publish(events(0, 2))
        log.away = True
        with pytest.raises(NotDurable):
            await collector.publisher.publish(events(2, 2))
        log.away = False
        await until(lambda: not collector.publisher.spooling)
        await collector.publisher.publish(events(2, 2))

    assert numbers(log) == [0, 1, 2, 3]


async def test_batches_that_a_full_disk_refuses_leave_no_file_and_one_kind_of_message(
    log: MemoryEventLog, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventlog.embedded.log._prepare", lambda path: path.touch())
    monkeypatch.setattr(
        "eventlog.embedded.log._Store.opened", AsyncMock(side_effect=sqlite3.OperationalError("full"))
    )
    log.away = True
    with capture_logs() as logged:
        async with running(log, folder) as collector:
            for number in range(5):
                with pytest.raises(NotDurable):
                    await collector.publisher.publish(events(number, 1))
            assert left_in(folder) == []
    failed = [line for line in logged if line["event"] == "spool_not_opened"]
    assert len(failed) >= 5
    assert len({line["cause"] for line in failed}) == 1


async def test_a_cancelled_call_leaves_the_spool_consistent(log: MemoryEventLog, folder: Path) -> None:
    async with running(log, folder) as collector:
        log.away = True
        leaving = [asyncio.create_task(collector.publisher.publish(events(n, 1))) for n in range(10)]
        staying = asyncio.create_task(collector.publisher.publish(events(10, 1)))
        for _ in range(3):
            await asyncio.sleep(0)
        for task in leaving:
            task.cancel()
        await staying
        await collector.publisher.publish(events(11, 1))
        log.away = False
        await until(lambda: not collector.publisher.spooling)

    assert {10, 11} <= set(numbers(log))
    assert left_in(folder) == []


async def test_a_collector_that_does_not_spool_drains_what_is_left(log: MemoryEventLog, folder: Path) -> None:
    assert not has_files(folder)
    log.away = True
    async with running(log, folder) as left:
        await left.publisher.publish(events(0, 5))
    assert has_files(folder)

    log.away = False
    metrics = Metrics()
    publisher = SpoolingPublisher(MemoryPublisher(log), folder, BOUNDS, metrics, drain_only=True)
    await publisher.start()
    await until(lambda: not has_files(folder))
    await publisher.publish(events(5, 5))
    log.away = True
    assert not await publisher.ready()
    with pytest.raises(NotDurable):
        await publisher.publish(events(10, 5))
    await publisher.stop()

    assert numbers(log) == list(range(10))
    assert left_in(folder) == []


async def test_a_file_that_is_deleted_while_it_is_written_takes_no_more_and_is_drained(
    log: MemoryEventLog, folder: Path
) -> None:
    """What SQLite writes to a deleted file is gone with the process, so it is not accepted."""
    async with running(log, folder) as collector:
        log.away = True
        await collector.publisher.publish(events(0, 2))
        for path in left_in(folder):
            path.unlink()
        with pytest.raises(NotDurable, match="moved, deleted or replaced"):
            await collector.publisher.publish(events(2, 1))
        assert not await collector.publisher.ready()
        log.away = False
        await until(lambda: numbers(log) == [0, 1])
        await until(lambda: not collector.publisher.spooling)
        log.away = True
        await collector.publisher.publish(events(3, 1))


def _to_symlink(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


def _to_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _to_other_user(path: Path) -> None:
    os.chown(path, 65_000, -1)


@pytest.mark.parametrize("disguise", [_to_symlink, _to_fifo, _to_other_user])
async def test_a_file_that_this_user_did_not_write_is_left_alone(
    log: MemoryEventLog, folder: Path, disguise: Callable[[Path], None]
) -> None:
    """Its events would become records."""
    if disguise is _to_other_user and os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    async with running(log, folder) as collector:
        log.away = True
        await collector.publisher.publish(events(0, 1))
        await collector.publisher.publish(events(1, 1))
        left = abandoned(folder)
        log.away = False
    log.partitions[Partition("memory", 0)].clear()
    [path] = files(left)
    disguise(path)
    with capture_logs() as lines:
        async with running(log, left):
            await until(lambda: any(line["event"] == "spool_file_unusable" for line in lines))
    assert numbers(log) == []
    assert path.is_symlink() or path.exists()


async def test_a_file_that_cannot_be_adopted_holds_up_no_other(
    log: MemoryEventLog, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(log, folder) as collector:
        log.away = True
        await collector.publisher.publish(events(0, 1))
        left = abandoned(folder)
        log.away = False
    log.partitions[Partition("memory", 0)].clear()
    [good] = files(left)
    first = left / f"{'0' * 32}.spool"
    shutil.copyfile(good, first)
    claimed = SpoolFile.claimed

    async def fail_for_first(path: Path, settings: EmbeddedLogSettings) -> SpoolFile | None:
        if path == first:
            raise RetryableError("locked")
        return await claimed(path, settings)

    monkeypatch.setattr(SpoolFile, "claimed", fail_for_first)
    async with running(log, left):
        await until(lambda: numbers(log) == [0])


async def test_a_file_without_its_tables_is_set_aside(log: MemoryEventLog, folder: Path) -> None:
    os.makedirs(folder)  # noqa: PTH103
    path = folder / f"{'0' * 32}.spool"
    with contextlib.closing(sqlite3.connect(path)) as emptied:
        emptied.execute("PRAGMA user_version = 1")
        emptied.execute("CREATE TABLE other (n INTEGER)")
    async with running(log, folder) as collector:
        await until(lambda: collector.metric("auditap_spool_files_damaged_total") == 1)
    assert files(folder, ".damaged")


async def test_a_flipped_bit_that_makes_text_of_a_blob_costs_no_event(
    log: MemoryEventLog, folder: Path
) -> None:
    async with running(log, folder) as collector:
        log.away = True
        await collector.publisher.publish(events(0, 4))
        left = abandoned(folder)
        log.away = False
    log.partitions[Partition("memory", 0)].clear()
    [path] = files(left)
    with contextlib.closing(sqlite3.connect(path)) as flipped:
        flipped.execute("UPDATE events SET value = CAST(value AS TEXT) WHERE offset = 2")
        flipped.execute("UPDATE events SET received_ms = 'x', id = x'ff00' WHERE offset = 3")
        flipped.commit()
    async with running(log, left):
        await until(lambda: len(numbers(log)) == 4)
    assert numbers(log) == [0, 1, 2, 3]


def _fail_at_locks(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    really = os.open

    def failing(path: Any, *arguments: Any, **options: Any) -> int:
        if str(path).endswith(".lock"):
            raise OSError(number, os.strerror(number))
        return really(path, *arguments, **options)

    monkeypatch.setattr(os, "open", failing)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EMFILE, errno.EIO])
async def test_a_lock_that_cannot_be_made_now_refuses_batches(
    log: MemoryEventLog, folder: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The error ended the collector, or the request, as a bug does."""
    _fail_at_locks(monkeypatch, number)
    async with running(log, folder) as collector:
        await collector.publisher.publish(events(0, 1))
        log.away = True
        with capture_logs() as lines, pytest.raises(NotDurable, match="the spool cannot be written"):
            await collector.publisher.publish(events(1, 1))
        # The same message each time.
        assert lines[-1]["cause"].startswith(f"a new file in {folder}.lock cannot be used")
        monkeypatch.undo()
        await collector.publisher.publish(events(1, 1))


async def test_a_spool_on_a_read_only_disk_ends_the_start(
    log: MemoryEventLog, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fail_at_locks(monkeypatch, errno.EROFS)
    with pytest.raises(StartupError, match="Read-only file system"):
        await Collector(log, folder).publisher.start()
