from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from auditap_tap.sequence import DropCause
from gateway_tap.formats.caddy import CADDY
from gateway_tap.receivers import file_tail
from gateway_tap.receivers.file_tail import FileTail
from schemas.errors import StartupError
from tests.gateways.receiving import IN_MEMORY
from tests.unit.gateway_tap.receivers.received import Received


@pytest.fixture
def log_file() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="auditap-", dir=IN_MEMORY) as folder:
        yield Path(folder, "caddy.log")


def line(number: int, filler: int = 0) -> bytes:
    request = {
        "method": "GET",
        "uri": f"/{number}",
        "host": "h",
        "headers": {"X-Filler": ["s3cret" * filler]},
    }
    return (
        json.dumps({"ts": 1_769_192_714.7, "duration": 0.1, "status": 200, "request": request}).encode()
        + b"\n"
    )


def append(path: Path, *lines: bytes) -> None:
    with path.open("ab") as file:
        file.write(b"".join(lines))


def rename(path: Path) -> Path:
    return path.rename(path.with_name("caddy-2026.log"))


def remove(path: Path) -> None:
    path.unlink()


def put_folder_there(path: Path) -> None:
    path.mkdir()


def take_folder_away(path: Path) -> None:
    path.rmdir()


def used_bytes(path: Path) -> int:
    return path.stat().st_blocks * 512


@asynccontextmanager
async def tailing(path: Path, received: Received) -> AsyncIterator[None]:
    task = asyncio.create_task(FileTail(path, CADDY).run(received.tap))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def arrived(received: Received) -> list[int]:
    return [int(each.capture.request.url.rpartition("/")[2]) for each in received.collected.sink.accepted]


async def until(received: Received, numbers: list[int]) -> None:
    await received.collected.until(lambda: arrived(received) == numbers, f"{numbers} ({arrived(received)})")


async def test_lines_are_taken_once_and_erased(log_file: Path, received: Received) -> None:
    append(log_file, *(line(number, 2_000) for number in range(3)))
    async with tailing(log_file, received):
        await until(received, [0, 1, 2])
        append(log_file, line(3)[:20])
        append(log_file, line(3)[20:], line(4))
        await until(received, [0, 1, 2, 3, 4])
        await received.collected.until(lambda: not log_file.read_bytes().strip(b"\0"), "the erasing")
    assert used_bytes(log_file) <= 4096
    assert received.drops() == {}


async def test_another_run_goes_on_where_the_first_ended(log_file: Path, received: Received) -> None:
    append(log_file, line(0, 1_000))
    async with tailing(log_file, received):
        await until(received, [0])
    append(log_file, line(1), line(2, 1_000))
    async with tailing(log_file, received):
        await until(received, [0, 1, 2])
    assert len(await received.captures()) == 3
    assert received.drops() == {}


async def test_renamed_files_are_read_first_and_removed(log_file: Path, received: Received) -> None:
    append(log_file.with_name("caddy-2026-01-01T00-00-01.000-size.log"), line(0), line(1))
    append(log_file.with_name("caddy-2026-01-01T00-00-02.000-size.log"), line(2), b'{"cut off')
    append(log_file, line(3))
    append(log_file.with_name("other.log"), line(9))
    async with tailing(log_file, received):
        await until(received, [0, 1, 2, 3])
        await received.collected.until(lambda: len(list(log_file.parent.glob("c*.log"))) == 1, "the removal")
    await received.captures()
    assert received.drops() == {DropCause.REFUSED: 1}


async def test_a_file_renamed_between_two_looks_loses_nothing(log_file: Path, received: Received) -> None:
    append(log_file, line(0))
    async with tailing(log_file, received):
        await until(received, [0])
        append(log_file, line(1))
        rename(log_file)
        append(log_file, line(2))
        await until(received, [0, 1, 2])
    await received.captures()
    assert received.drops() == {}


async def test_a_file_that_was_removed_before_it_was_read_is_a_gap(
    log_file: Path, received: Received
) -> None:
    append(log_file, line(0))
    async with tailing(log_file, received):
        await until(received, [0])
    append(log_file, line(1), line(2))
    renamed = rename(log_file)
    append(log_file, line(3))
    remove(renamed)
    async with tailing(log_file, received):
        await until(received, [0, 3])
    await received.captures()
    assert received.drops() == {DropCause.LOST: 1}


async def test_what_is_no_entry_or_too_long_is_a_gap(
    log_file: Path, received: Received, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_tail, "_READ_BYTES", 1_000)
    monkeypatch.setattr(file_tail, "LINE_BYTES_MAX", 12_000)
    append(log_file, line(0, 1_000), b"s3cret\n", b"x" * 30_000, b"\n", line(1))
    async with tailing(log_file, received):
        await until(received, [0, 1])
    await received.captures()
    assert received.drops() == {DropCause.REFUSED: 2}


async def test_what_cannot_be_read_is_waited_for(
    log_file: Path, received: Received, caplog: pytest.LogCaptureFixture
) -> None:
    put_folder_there(log_file)
    async with tailing(log_file, received):
        await received.collected.until(
            lambda: "cannot read what the gateway writes" in caplog.text, "the warning"
        )
        take_folder_away(log_file)
        append(log_file, line(0))
        await until(received, [0])
    assert caplog.text.count("cannot read") == 1


def test_a_file_on_a_disk_or_nowhere_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StartupError, match="is not there: make the folder"):
        FileTail(tmp_path / "none" / "caddy.log", CADDY)
    # Tests may run on a tmpfs themselves.
    monkeypatch.setattr(file_tail, "_IN_MEMORY", frozenset())
    with pytest.raises(StartupError, match=r"is on a disk.*`df -t tmpfs`.*collector\.receivers"):
        FileTail(tmp_path / "caddy.log", CADDY)


def test_a_file_in_memory_is_accepted(log_file: Path) -> None:
    FileTail(log_file, CADDY)
