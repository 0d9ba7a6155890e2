from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ingestor.embedded_source import EmbeddedSource
from redactor.event_log import EventLog, EventLogSettings
from schemas.errors import RetryableError
from tests.event_logs import Assignments, events, read, values


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[EventLog]:
    log = EventLog(EventLogSettings(tmp_path / "events.db"))
    yield log
    await log.close()


@pytest.fixture
async def stranger(log: EventLog) -> AsyncIterator[EventLog]:
    """The same file as another process has it: nothing is told between the two."""
    stranger = EventLog(log._settings)
    await stranger.open()
    yield stranger
    await stranger.close()


async def test_another_processs_events_are_noticed(log: EventLog, stranger: EventLog) -> None:
    source = EmbeddedSource(log, "readers", Assignments(), fetch_wait_ms=20_000)
    await source.start()
    fetching = asyncio.create_task(source.fetch(10))
    await asyncio.sleep(0.05)
    await stranger.append(events(0, 3))

    # One fetch is enough: it looks again and again while it waits.
    assert values(list(await fetching)) == [event.value for event in events(0, 3)]
    await source.stop()


async def test_an_event_of_this_process_wakes_the_fetch(log: EventLog) -> None:
    source = EmbeddedSource(log, "readers", Assignments(), fetch_wait_ms=60_000, poll_ms=60_000)
    await source.start()
    fetching = asyncio.create_task(source.fetch(10))
    await asyncio.sleep(0.05)
    await log.append(events(0, 1))

    async with asyncio.timeout(20):
        assert len(values(list(await fetching))) == 1
    await source.stop()


async def test_the_group_is_free_for_the_next_after_stop(log: EventLog, stranger: EventLog) -> None:
    first = EmbeddedSource(log, "readers", Assignments())
    second = EmbeddedSource(stranger, "readers", Assignments())
    await first.start()
    with pytest.raises(RetryableError):
        await second.start()

    await first.stop()
    await second.start()
    await second.stop()


async def test_started_again_it_reads_from_the_committed_position_in_a_new_generation(log: EventLog) -> None:
    told = Assignments()
    source = EmbeddedSource(log, "readers", told)
    await source.start()
    await log.append(events(0, 5))
    first = await read(source, 5)
    await source.commit({first[0].partition: first[0].events[2].offset})
    await source.stop()

    await source.start()
    again = await read(source, 3)
    await source.stop()

    assert values(again) == [event.value for event in events(2, 3)]
    assert [set(generations.values()) for generations in told.generations] == [{1}, {2}]
