from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from eventlog.embedded.log import EmbeddedLog, EmbeddedLogSettings
from eventlog.embedded.source import EmbeddedSource
from eventlog.ports import LoggedEvent
from schemas.errors import RetryableError
from tests.event_logs import Assignments, events, read, values


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[EmbeddedLog]:
    log = EmbeddedLog(
        EmbeddedLogSettings(tmp_path / "events.db", append_deadline_ms=60_000, lock_wait_ms=60_000)
    )
    yield log
    await log.close()


@pytest.fixture
async def other_process(log: EmbeddedLog) -> AsyncIterator[EmbeddedLog]:
    """The same file as another process has it: the two exchange nothing."""
    other_process = EmbeddedLog(log._settings)
    await other_process.open()
    yield other_process
    await other_process.close()


async def test_another_processs_events_are_noticed(
    log: EmbeddedLog, other_process: EmbeddedLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = EmbeddedSource(log, "readers", Assignments(), fetch_wait_ms=120_000)
    await source.start()
    has_read, read = asyncio.Event(), log.read

    async def noted(position: int, events_max: int) -> Sequence[LoggedEvent]:
        found = await read(position, events_max)
        has_read.set()
        return found

    monkeypatch.setattr(log, "read", noted)
    fetching = asyncio.create_task(source.fetch(10))
    await has_read.wait()
    await other_process.append(events(0, 3))

    # One fetch is enough: it looks again and again while it waits.
    assert values(list(await fetching)) == [event.value for event in events(0, 3)]
    await source.stop()


@pytest.mark.parametrize("while_reading", [False, True])
async def test_an_event_of_this_process_wakes_the_fetch(
    log: EmbeddedLog, monkeypatch: pytest.MonkeyPatch, *, while_reading: bool
) -> None:
    source = EmbeddedSource(log, "readers", Assignments(), fetch_wait_ms=600_000, poll_ms=600_000)
    await source.start()
    has_read, may_return, read = asyncio.Event(), asyncio.Event(), log.read

    async def held(position: int, events_max: int) -> Sequence[LoggedEvent]:
        found = await read(position, events_max)
        has_read.set()
        await may_return.wait()
        return found

    monkeypatch.setattr(log, "read", held)
    fetching = asyncio.create_task(source.fetch(10))
    await has_read.wait()
    if not while_reading:
        may_return.set()
        await asyncio.sleep(0)
    await log.append(events(0, 1))
    may_return.set()

    async with asyncio.timeout(120):
        assert len(values(list(await fetching))) == 1
    await source.stop()


async def test_the_group_is_free_for_the_next_after_stop(
    log: EmbeddedLog, other_process: EmbeddedLog
) -> None:
    first = EmbeddedSource(log, "readers", Assignments())
    second = EmbeddedSource(other_process, "readers", Assignments())
    await first.start()
    with pytest.raises(RetryableError):
        await second.start()

    await first.stop()
    await second.start()
    await second.stop()


async def test_a_restart_reads_from_the_committed_position_in_a_new_generation(
    log: EmbeddedLog,
) -> None:
    assignments = Assignments()
    source = EmbeddedSource(log, "readers", assignments)
    await source.start()
    await log.append(events(0, 5))
    first = await read(source, 5)
    await source.commit({first[0].partition: first[0].events[2].offset})
    await source.stop()

    await source.start()
    again = await read(source, 3)
    await source.stop()

    assert values(again) == [event.value for event in events(2, 3)]
    assert [set(generations.values()) for generations in assignments.generations] == [{1}, {2}]
