"""The embedded log's file is moved, deleted or replaced while it is in use: SQLite would go on writing to what nobody finds again."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from eventlog.embedded.log import EmbeddedLog, EmbeddedLogSettings
from eventlog.embedded.source import EmbeddedSource
from schemas.errors import NotDurable, RetryableError, StartupError
from tests.event_logs import Assignments, ends, events, read, values


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "events.sqlite"


@pytest.fixture
async def log(path: Path) -> AsyncIterator[EmbeddedLog]:
    opened = EmbeddedLog(EmbeddedLogSettings(path, append_deadline_ms=60_000, lock_wait_ms=60_000))
    await opened.open()
    yield opened
    await opened.close()


def _delete_all(path: Path) -> None:
    for each in path.parent.iterdir():
        each.unlink()


def _delete_write_ahead_log(path: Path) -> None:
    path.with_name(f"{path.name}-wal").unlink()


def _delete_index(path: Path) -> None:
    path.with_name(f"{path.name}-shm").unlink()


def _move_folder(path: Path) -> None:
    path.parent.rename(path.parent.with_name("moved"))


def _replace(path: Path) -> None:
    copy = path.with_name("copy")
    shutil.copyfile(path, copy)
    copy.replace(path)


def _link_elsewhere(path: Path) -> None:
    elsewhere = path.parent.with_name("elsewhere")
    path.rename(elsewhere)
    path.symlink_to("/dev/null")


@pytest.mark.parametrize(
    "displace",
    [
        _delete_all,
        Path.unlink,
        _delete_write_ahead_log,
        _delete_index,
        _move_folder,
        _replace,
        _link_elsewhere,
    ],
)
async def test_nothing_is_acknowledged_that_the_next_start_would_not_find(
    log: EmbeddedLog, path: Path, displace: Callable[[Path], object]
) -> None:
    await log.append(events(0, 2))
    displace(path)
    assert not log.ready()
    with pytest.raises(NotDurable, match="moved, deleted or replaced"):
        await log.append(events(2, 1))
    # What was acknowledged before is still read here.
    assert [event.value for event in await log.read(1, 10)] == [event.value for event in events(0, 2)]


async def test_what_is_deleted_during_a_write_is_not_acknowledged(
    log: EmbeddedLog, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = log._writer
    assert writer is not None
    insert = writer._insert

    def insert_and_delete(rows: object) -> None:
        insert(rows)  # type: ignore[arg-type]
        _delete_all(path)

    monkeypatch.setattr(writer, "_insert", insert_and_delete)
    with pytest.raises(NotDurable, match="moved, deleted or replaced"):
        await log.append(events(0, 1))


async def test_a_folder_that_is_put_back_serves_as_before(log: EmbeddedLog, path: Path) -> None:
    _move_folder(path)
    with pytest.raises(NotDurable):
        await log.append(events(0, 1))
    path.parent.with_name("moved").rename(path.parent)
    await log.append(events(1, 1))
    assert log.ready()
    assert [event.value for event in await log.read(1, 10)] == [event.value for event in events(1, 1)]


async def test_a_reader_ends_once_it_has_committed_all_of_a_file_that_was_replaced(
    log: EmbeddedLog, path: Path
) -> None:
    await log.append(events(0, 3))
    source = EmbeddedSource(log, "readers", Assignments(), fetch_wait_ms=1)
    await source.start()
    _delete_all(path)
    batches = await read(source, 3)
    assert values(batches) == [event.value for event in events(0, 3)]
    # Not committed yet: its end would lose what it has in hand.
    assert await source.fetch(10) == ()
    await source.commit(ends(batches))
    with pytest.raises(StartupError, match="event log events was moved, deleted or replaced"):
        await source.fetch(10)
    await source.stop()


async def test_a_log_has_an_id_as_a_topic_has(log: EmbeddedLog, path: Path) -> None:
    first = log.log_id
    assert len(first) == 32
    await log.close()
    await log.open()
    assert log.log_id == first
    await log.close()
    _delete_all(path)
    await log.open()
    assert log.log_id not in ("", first)
    assignments = Assignments()
    source = EmbeddedSource(log, "readers", assignments)
    await source.start()
    [partition] = assignments.generations[0]
    assert partition.log_id == log.log_id
    await source.stop()


async def test_a_file_of_an_older_release_has_no_id_and_serves(log: EmbeddedLog, path: Path) -> None:
    await log.append(events(0, 1))
    await log.close()
    older = sqlite3.connect(path)
    older.execute("DROP TABLE log_id")
    older.close()
    await log.open()
    assert log.log_id == ""
    await log.append(events(1, 1))
    assert len(await log.read(1, 10)) == 2


async def test_a_file_that_is_replaced_while_it_is_opened_is_opened_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = EmbeddedLog(EmbeddedLogSettings(path))
    connect = sqlite3.connect

    def replace_and_connect(database: object, **options: object) -> object:
        if database == path:
            monkeypatch.setattr(sqlite3, "connect", connect)
            _replace(path)
        return connect(database, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(sqlite3, "connect", replace_and_connect)
    with pytest.raises(RetryableError, match="was replaced while it was opened"):
        await log.open()
    await log.open()
    await log.append(events(0, 1))
    await log.close()
