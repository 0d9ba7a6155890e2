"""Secrets on disk: whole or not at all, for one user's eyes, and never empty."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from auditap.runtime.embedded_postgres import EmbeddedPostgres
from auditap_tap.state_file import StateFile
from eventlog.embedded.log import _prepare
from schemas import private_files
from schemas.errors import StartupError
from schemas.private_files import create_private_file, make_folder, read_secret, replace_private_file

SECRET = "sixteen-letters-"
Write = Callable[[Path, str], Any]


@pytest.mark.parametrize("write", [replace_private_file, create_private_file])
def test_a_private_file_is_its_owners_alone_and_has_no_draft_beside_it(tmp_path: Path, write: Write) -> None:
    write(tmp_path / "key", SECRET)
    assert [path.name for path in tmp_path.iterdir()] == ["key"]
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    assert read_secret(tmp_path / "key", "") == SECRET


@pytest.mark.parametrize("write", [replace_private_file, create_private_file])
def test_content_and_name_are_durable_before_the_file_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Write
) -> None:
    synced: list[tuple[bool, bool]] = []
    fsync = os.fsync

    def noting(descriptor: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        assert is_folder or os.fstat(descriptor).st_size == len(SECRET)
        synced.append((is_folder, (tmp_path / "key").exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noting)
    write(tmp_path / "key", SECRET)
    assert synced == [(False, False), (True, True)]


@pytest.mark.parametrize("write", [replace_private_file, create_private_file])
def test_a_write_that_fails_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Write
) -> None:
    (tmp_path / "key").write_text(SECRET)

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write(tmp_path / "key", "another secret of the same file")
    assert [path.name for path in tmp_path.iterdir()] == ["key"]
    assert (tmp_path / "key").read_text() == SECRET


def test_of_two_that_create_a_file_at_once_both_read_the_same_whole_secret(tmp_path: Path) -> None:
    read: list[str] = []
    together = threading.Barrier(8)

    def start(number: int) -> None:
        together.wait()
        create_private_file(tmp_path / "key", f"{SECRET}{number}")
        read.append(read_secret(tmp_path / "key", ""))

    threads = [threading.Thread(target=start, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read) == 8
    assert len(set(read)) == 1


@pytest.mark.parametrize(
    ("content", "wrong"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"\0" * 40, "is empty"),
        (b"\x0b\x0c" * 20, "is empty"),
        (("\N{NO-BREAK SPACE}" * 40).encode(), "is empty"),
        (("\N{ZERO WIDTH SPACE}" * 40).encode(), "is empty"),
        (b"short" + b" " * 40 + b"x", "has fewer than 16 characters"),
        (SECRET.encode() + b"\0" * 40, "has characters that cannot be printed"),
        (f"\N{ZERO WIDTH NO-BREAK SPACE}{SECRET}".encode(), "has characters that cannot be printed"),
        (SECRET[:-1].encode(), "has fewer than 16 characters"),
        (b"\xff" * 20, "is not UTF-8"),
        (b"x" * 20_000, "is too long for a secret"),
    ],
)
def test_a_secret_that_is_none_is_refused_in_one_sentence(tmp_path: Path, content: bytes, wrong: str) -> None:
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(StartupError) as caught:
        read_secret(tmp_path / "key", "do this")
    assert str(caught.value) == f"{tmp_path / 'key'} {wrong}: do this."


def test_a_key_may_have_several_lines(tmp_path: Path) -> None:
    """As `openssl rand -base64 64` writes it."""
    (tmp_path / "key").write_text(f"{SECRET}\n{SECRET}\n")
    assert read_secret(tmp_path / "key", "") == f"{SECRET}\n{SECRET}"


def test_a_secret_may_have_white_space_around_it(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f" {SECRET}\n")
    assert read_secret(tmp_path / "key", "") == SECRET


def test_a_file_that_is_missing_is_left_to_the_caller(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_secret(tmp_path / "key", "")


@pytest.fixture(params=[0o000, 0o022, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.mark.parametrize("mode", [0o700, 0o711, 0o751])
def test_a_folder_and_those_above_it_are_writable_to_nobody_else_whatever_the_umask(
    tmp_path: Path, umask: int, mode: int
) -> None:
    """With a umask of 0 everybody could rename the data folder, and put another in its place."""
    folder = tmp_path / "a" / "b" / "c"
    make_folder(folder, mode)
    assert stat.S_IMODE(folder.stat().st_mode) == mode
    for above in (folder.parent, folder.parent.parent):
        assert stat.S_IMODE(above.stat().st_mode) == 0o755 & ~umask
    folder.chmod(0o770)
    make_folder(folder, mode)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o770


def test_every_folder_of_ours_is_made_so(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        StateFile(tmp_path / "state" / "of" / "tap", "t").create(1, 0, 0)
        EmbeddedPostgres(tmp_path / "up" / "postgres")._take_folder()
        _prepare(tmp_path / "up" / "log" / "events.sqlite")
    finally:
        os.umask(before)
    made = [path for path in tmp_path.rglob("*") if path.is_dir()]
    assert len(made) == 6
    assert [path for path in made if path.stat().st_mode & stat.S_IWOTH] == []


def _write_later(path: Path, *pieces: bytes) -> threading.Thread:
    def write() -> None:
        with path.open("wb", buffering=0) as pipe:
            for piece in pieces:
                pipe.write(piece)

    thread = threading.Thread(target=write)
    thread.start()
    return thread


def test_a_secret_may_come_by_a_pipe(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = _write_later(path, SECRET[:3].encode(), SECRET[3:].encode() + b"\r\n")
    assert read_secret(path, "") == SECRET
    writer.join()


def test_a_pipe_that_nobody_writes_to_holds_up_no_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(private_files, "_PIPE_WAIT_S", 0.05)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StartupError, match=r"pipe to which nobody has written for 0\.05 s: write it"):
        read_secret(tmp_path / "pipe", "write it")


def test_endless_input_is_no_secret() -> None:
    with pytest.raises(StartupError, match="too long for a secret"):
        read_secret(Path("/dev/zero"), "")


def test_a_secret_may_be_a_link_to_a_link_as_kubernetes_mounts_it(tmp_path: Path) -> None:
    version = tmp_path / "..2026_11_30"
    version.mkdir()
    (version / "key").write_text(SECRET + "\r\n")
    (tmp_path / "..data").symlink_to(version.name)
    (tmp_path / "key").symlink_to("..data/key")
    assert read_secret(tmp_path / "key", "") == SECRET
