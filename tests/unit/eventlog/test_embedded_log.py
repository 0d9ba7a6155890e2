from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from eventlog.embedded.log import EmbeddedLog, EmbeddedLogSettings
from eventlog.ports import LoggedEvent
from schemas.errors import NotDurable, PermanentError, RetryableError, StartupError
from schemas.event import EncodedEvent

_ROOT = Path(__file__).resolve().parents[3]
_PREAMBLE = """
    import asyncio, sys
    from pathlib import Path
    from eventlog.embedded.log import EmbeddedLog, EmbeddedLogSettings
    from schemas.event import EncodedEvent

    # SQLite's waiting for another process's write is not fair.
    settings = EmbeddedLogSettings(Path(sys.argv[1]), append_deadline_ms=60_000, lock_wait_ms=60_000)
    log = EmbeddedLog(settings)
"""


def events(first: int, count: int, size: int = 0) -> list[EncodedEvent]:
    return [
        EncodedEvent(f"{number:032x}", b"%d" % number + b"." * size, 1_700_000_000_000 + number)
        for number in range(first, first + count)
    ]


@asynccontextmanager
async def opened(settings: EmbeddedLogSettings) -> AsyncIterator[EmbeddedLog]:
    log = EmbeddedLog(settings)
    await log.open()
    try:
        yield log
    finally:
        await log.close()


@pytest.fixture
def settings(tmp_path: Path) -> EmbeddedLogSettings:
    return EmbeddedLogSettings(
        tmp_path / "data" / "events.db", append_deadline_ms=60_000, lock_wait_ms=60_000
    )


def process(code: str, settings: EmbeddedLogSettings) -> subprocess.Popen[str]:
    return subprocess.Popen(  # this file's own code
        [sys.executable, "-c", textwrap.dedent(_PREAMBLE) + textwrap.dedent(code), str(settings.path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=_ROOT,
    )


async def everything(log: EmbeddedLog) -> list[bytes]:
    found: list[bytes] = []
    offset = 1
    while batch := await log.read(offset, 1_000):
        found += [event.value for event in batch]
        offset = batch[-1].offset + 1
    return found


async def test_events_come_back_as_they_were_in_order(settings: EmbeddedLogSettings) -> None:
    async with opened(settings) as log:
        await log.append(events(0, 3))
        await log.append(events(3, 2))

        found = await log.read(1, 100)
        encoded = await log.read_encoded(1, 100)

    assert found == [
        LoggedEvent(offset, event.received_ms, event.value) for offset, event in enumerate(events(0, 5), 1)
    ]
    assert encoded == (events(0, 5), 6)


async def test_everything_is_there_after_reopening(settings: EmbeddedLogSettings) -> None:
    async with opened(settings) as log:
        await log.append(events(0, 500))
        await log.attach("reader")
        await log.commit("reader", 123)

    async with opened(settings) as log:
        assert await everything(log) == [event.value for event in events(0, 500)]
        assert await log.attach("reader") == 123


async def test_the_file_is_the_owners_alone(settings: EmbeddedLogSettings) -> None:
    async with opened(settings) as log:
        await log.append(events(0, 1))
        await log.attach("reader")
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in settings.path.parent.iterdir()}

    assert set(modes) >= {"events.db", "events.db-wal", "events.db-shm"}
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE(settings.path.parent.stat().st_mode) == 0o700


@pytest.fixture
def shared_folder(tmp_path: Path) -> Path:
    tmp_path.chmod(0o755)
    return tmp_path


async def test_a_folder_that_was_there_keeps_its_mode(shared_folder: Path) -> None:
    async with opened(EmbeddedLogSettings(shared_folder / "events.db")):
        pass
    assert stat.S_IMODE(os.stat(shared_folder).st_mode) == 0o755  # noqa: PTH116


async def test_reading_is_bounded_in_events_and_bytes(settings: EmbeddedLogSettings) -> None:
    async with opened(replace(settings, read_bytes_max=1_000)) as log:
        await log.append(events(0, 10, size=300))
        await log.append(events(10, 1, size=5_000))

        assert len(await log.read(1, 2)) == 2
        assert [event.offset for event in await log.read(1, 100)] == [1, 2, 3]
        assert [event.offset for event in await log.read(11, 100)] == [11]


async def test_concurrent_appends_share_transactions(settings: EmbeddedLogSettings) -> None:
    async with opened(settings) as log:
        assert log._writer is not None
        transactions: list[int] = []
        write = log._writer.append

        def counted(rows: list[EncodedEvent]) -> None:
            transactions.append(len(rows))
            write(rows)

        log._writer.append = counted  # type: ignore[method-assign, assignment]
        await asyncio.gather(*[log.append(events(number * 3, 3)) for number in range(200)])

        assert sum(transactions) == 600
        assert len(transactions) < 20
        assert sorted(await everything(log)) == sorted(event.value for event in events(0, 600))


async def test_a_transaction_is_bounded_in_bytes(settings: EmbeddedLogSettings) -> None:
    async with opened(replace(settings, transaction_bytes_max=10_000)) as log:
        await asyncio.gather(*[log.append(events(number, 1, size=4_000)) for number in range(20)])

        assert len(await everything(log)) == 20


async def test_reading_while_appending_sees_every_event_once(settings: EmbeddedLogSettings) -> None:
    async def append(log: EmbeddedLog, first: int) -> None:
        for number in range(first, first + 500, 10):
            await log.append(events(number, 10))

    async with opened(settings) as log:
        appending = asyncio.gather(*[append(log, number * 500) for number in range(4)])
        found: list[bytes] = []
        offset = 1
        async with asyncio.timeout(120):
            while len(found) < 2_000:
                batch = await log.read(offset, 77)
                assert [event.offset for event in batch] == list(range(offset, offset + len(batch)))
                found += [event.value for event in batch]
                offset += len(batch)
                if not batch:
                    await asyncio.sleep(0.001)
        await appending

    assert sorted(found) == sorted(event.value for event in events(0, 2_000))


async def test_a_killed_process_loses_nothing_it_had_acknowledged(settings: EmbeddedLogSettings) -> None:
    code = """
        async def writer(writer):
            for number in range(1_000_000):
                text = f"{writer}-{number}"
                await log.append([EncodedEvent("0" * 32, text.encode(), 1)])
                print(text, flush=True)

        async def main():
            await log.open()
            await asyncio.gather(*[writer(number) for number in range(5)])

        asyncio.run(main())
    """
    appender = process(code, settings)
    assert appender.stdout is not None
    acknowledged = [await asyncio.to_thread(appender.stdout.readline) for _ in range(300)]
    appender.kill()
    rest = appender.stdout.read()
    appender.stdout.close()
    appender.wait()
    # The last line may have been cut short by the kill.
    lines = ["".join(acknowledged), rest.rpartition("\n")[0]]
    texts = {line.encode() for part in lines for line in part.split("\n") if line}

    async with opened(settings) as log:
        found = await everything(log)
        await log.append(events(0, 1))
        assert len(await everything(log)) == len(found) + 1

    assert len(texts) >= 300
    assert texts <= set(found)
    assert len(found) == len(set(found))


async def test_two_processes_append_and_read_at_once(settings: EmbeddedLogSettings) -> None:
    code = """
        async def main():
            await log.open()
            for number in range(300):
                await log.append([EncodedEvent("0" * 32, b"%d" % number, 1)])
            await log.close()

        asyncio.run(main())
    """
    async with opened(settings) as log:
        position = await log.attach("reader")
        other = process(code, settings)
        found: list[bytes] = []
        async with asyncio.timeout(120):
            while len(found) < 600:
                if len(found) % 2 == 0 and len(found) < 600:
                    await log.append(events(1_000 + len(found), 1))
                batch = await log.read(position, 50)
                found += [event.value for event in batch]
                position += len(batch)
                await log.commit("reader", position)
                if other.poll() is not None and not batch:
                    break
        await asyncio.to_thread(other.wait)
        assert other.stdout is not None
        other.stdout.close()

        rest = [event.value for event in await log.read(position, 1_000)]
    assert other.returncode == 0
    assert [value for value in found + rest if len(value) <= 3] == [b"%d" % number for number in range(300)]


async def test_a_group_has_one_reader_at_a_time(settings: EmbeddedLogSettings) -> None:
    async with opened(settings) as log, opened(settings) as other:
        await log.attach("reader")
        with pytest.raises(RetryableError):
            await other.attach("reader")
        await other.attach("another")

        log.detach("reader")
        log.detach("reader")
        await other.attach("reader")


async def test_a_groups_name_is_no_path(settings: EmbeddedLogSettings) -> None:
    async with opened(settings) as log:
        for name in ("", "../x", "a/b", "a\n", "."):
            with pytest.raises(StartupError):
                await log.attach(name)


async def test_a_new_group_starts_at_the_oldest_event_even_if_all_are_gone(
    settings: EmbeddedLogSettings,
) -> None:
    async with opened(replace(settings, trim_records_max=10)) as log:
        await log.append(events(0, 100))
        await log.attach("first")
        await log.commit("first", 101)
        await log.flush()

        assert await log.attach("second") == 101
        await log.append(events(100, 1))
        assert [event.offset for event in await log.read(101, 10)] == [101]


async def test_events_that_every_group_has_passed_are_deleted(settings: EmbeddedLogSettings) -> None:
    async with opened(replace(settings, trim_records_max=10)) as log:
        await log.append(events(0, 100))
        await log.attach("slow")
        await log.attach("quick")

        await log.commit("quick", 101)
        await log.flush()
        assert len(await everything(log)) == 100

        await log.commit("slow", 41)
        await log.flush()
        assert [event.offset for event in await log.read(1, 1_000)] == list(range(41, 101))


async def fill(log: EmbeddedLog) -> int:
    """Append pairs of events until the log is full; return how many it took."""
    taken = 0
    while True:
        try:
            await log.append(events(taken, 2, size=4_000))
        except NotDurable as full:
            assert "full" in str(full)  # noqa: PT017
            return taken
        taken += 2


async def test_nothing_is_deleted_before_a_group_is_known(settings: EmbeddedLogSettings) -> None:
    small = replace(settings, bytes_max=40 * 8_192, trim_records_max=10)
    async with opened(small) as log:
        taken = await fill(log)

        assert await everything(log) == [event.value for event in events(0, taken, size=4_000)]


async def test_a_full_log_refuses_until_its_events_have_been_passed(settings: EmbeddedLogSettings) -> None:
    small = replace(settings, bytes_max=60 * 8_192, trim_records_max=1_000)
    async with opened(small) as log:
        await log.attach("reader")
        taken = await fill(log)
        assert not log.ready()
        assert [event.value for event in await log.read(1, 1_000)] == [
            event.value for event in events(0, taken, size=4_000)
        ]

        # Fewer than would be trimmed by themselves: appending to the full log removes them.
        await log.commit("reader", taken + 1)
        await log.append(events(taken, 2, size=4_000))

        assert log.ready()
        assert [event.offset for event in await log.read(1, 1_000)] == [taken + 1, taken + 2]
        assert settings.path.stat().st_size <= small.bytes_max


async def test_a_best_effort_group_that_does_not_read_never_fills_the_log(
    settings: EmbeddedLogSettings,
) -> None:
    small = replace(
        settings, bytes_max=80 * 8_192, trim_records_max=10, best_effort_groups=frozenset({"alerting"})
    )
    async with opened(small) as log:
        stands_still = await log.attach("alerting")
        position = await log.attach("ingestor")
        kept = []
        for number in range(60):
            await log.append(events(number * 5, 5, size=4_000))
            position += 5
            await log.commit("ingestor", position)
            await log.flush()
            kept.append((await log.backlog(stands_still)).events)
        # It is waited for as long as there is room: half of the file.
        assert kept[5] == 30
        assert max(kept) < 100
        assert (await log.read(position - 5, 10))[0].offset == position - 5


async def test_what_only_a_best_effort_group_has_passed_is_kept(settings: EmbeddedLogSettings) -> None:
    async with opened(
        replace(settings, trim_records_max=10, best_effort_groups=frozenset({"alerting"}))
    ) as log:
        await log.attach("alerting")
        await log.append(events(0, 50))
        await log.commit("alerting", 51)
        await log.flush()
        assert await log.attach("ingestor") == 1
        assert len(await log.read(1, 100)) == 50
        assert await log.end_offset() == 51


async def test_a_batch_that_could_never_fit_is_refused_for_good(settings: EmbeddedLogSettings) -> None:
    async with opened(replace(settings, bytes_max=60 * 8_192)) as log:
        with pytest.raises(PermanentError):
            await log.append(events(0, 1, size=30 * 8_192))
        assert await everything(log) == []


async def test_more_than_the_queue_takes_is_refused_at_once(settings: EmbeddedLogSettings) -> None:
    async with opened(replace(settings, queue_bytes_max=10_000)) as log:
        first = asyncio.create_task(log.append(events(0, 1, size=9_000)))
        await asyncio.sleep(0)
        with pytest.raises(NotDurable, match="too much"):
            await log.append(events(1, 1, size=9_000))
        await first
        await log.append(events(1, 1, size=9_000))


async def test_a_log_locked_by_another_process_is_not_durable(settings: EmbeddedLogSettings) -> None:
    async with opened(replace(settings, lock_wait_ms=50)) as log:
        await log.append(events(0, 1))
        other = sqlite3.connect(settings.path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        try:
            with pytest.raises(NotDurable):
                await log.append(events(1, 1))
            with pytest.raises(RetryableError):
                await log.commit("reader", 1)
            assert len(await log.read(1, 10)) == 1
        finally:
            other.execute("ROLLBACK")
            other.close()

        await log.append(events(2, 1))
        assert await everything(log) == [event.value for event in (*events(0, 1), *events(2, 1))]


async def test_a_batch_that_cannot_be_written_leaves_nothing_behind(settings: EmbeddedLogSettings) -> None:
    async with opened(settings) as log:
        with pytest.raises(NotDurable):
            await log.append([*events(0, 2), EncodedEvent("0" * 32, b"", 1 << 70)])

        await log.append(events(2, 1))
        assert [(event.offset, event.value) for event in await log.read(1, 10)] == [
            (1, events(2, 1)[0].value)
        ]


async def test_an_append_that_hangs_is_not_durable_within_its_deadline(settings: EmbeddedLogSettings) -> None:
    async with opened(replace(settings, lock_wait_ms=60_000, append_deadline_ms=20)) as log:
        other = sqlite3.connect(settings.path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(NotDurable, match="in time"):
            await log.append(events(0, 1))
        other.execute("ROLLBACK")
        other.close()


async def test_closing_finishes_what_is_being_written(settings: EmbeddedLogSettings) -> None:
    log = EmbeddedLog(settings)
    await log.open()
    under_way = [asyncio.create_task(log.append(events(number, 1))) for number in range(50)]
    await asyncio.sleep(0)
    await log.close()
    await asyncio.gather(*under_way)

    with pytest.raises(NotDurable):
        await log.append(events(50, 1))
    with pytest.raises(RetryableError):
        await log.read(1, 1)
    async with opened(settings) as again:
        assert len(await everything(again)) == 50


async def test_opening_twice_is_one_opening(settings: EmbeddedLogSettings) -> None:
    async with opened(settings) as log:
        writer = log._writer
        await log.open()
        assert log._writer is writer


async def test_a_file_that_is_no_log_ends_the_start(settings: EmbeddedLogSettings) -> None:
    settings.path.parent.mkdir()
    settings.path.write_bytes(b"not a database, but long enough to look at" * 50)

    with pytest.raises(StartupError):
        await EmbeddedLog(settings).open()


async def test_a_log_of_another_version_ends_the_start(settings: EmbeddedLogSettings) -> None:
    async with opened(settings):
        pass
    other = sqlite3.connect(settings.path)
    other.execute("PRAGMA user_version = 99")
    other.close()

    with pytest.raises(StartupError, match="99"):
        await EmbeddedLog(settings).open()


async def test_a_path_below_a_file_ends_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(StartupError):
        await EmbeddedLog(EmbeddedLogSettings(tmp_path / "file" / "events.db")).open()


async def test_writes_are_synced_before_they_are_acknowledged(settings: EmbeddedLogSettings) -> None:
    async with opened(settings) as log:
        assert log._writer is not None
        writer = log._writer

        def pragmas() -> list[object]:
            return [
                writer._db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")
            ]

        assert await writer.run(pragmas) == ["wal", 2]
