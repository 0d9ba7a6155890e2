from __future__ import annotations

import os
import socket
import stat
import threading
from pathlib import Path

import pytest

from gateway_tap.unix_socket import bind_unix_socket
from schemas.errors import StartupError


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def can_connect(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
@pytest.mark.parametrize("mode", [0o660, 0o600])
def test_has_exactly_the_requested_mode(socket_dir: Path, umask: int, mode: int) -> None:
    path = socket_dir / "c.sock"
    before = os.umask(umask)
    try:
        with bind_unix_socket(path, mode):
            assert mode_of(path) == mode
            assert can_connect(path)
            assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert [entry.name for entry in socket_dir.iterdir()] == ["c.sock"]


def test_is_never_reachable_with_wider_permissions(socket_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    chmod = Path.chmod

    def looking(self: Path, mode: int, *, follow_symlinks: bool = True) -> None:
        seen.append(mode_of(self.parent))
        assert self.parent != socket_dir
        chmod(self, mode, follow_symlinks=follow_symlinks)

    monkeypatch.setattr(Path, "chmod", looking)
    with bind_unix_socket(socket_dir / "c.sock"):
        assert seen == [0o700]


def test_replaces_what_a_dead_process_left(socket_dir: Path) -> None:
    path = socket_dir / "c.sock"
    bind_unix_socket(path).close()
    assert path.is_socket()
    assert not can_connect(path)
    with bind_unix_socket(path):
        assert can_connect(path)


def test_refuses_where_another_process_listens(socket_dir: Path) -> None:
    path = socket_dir / "c.sock"
    with bind_unix_socket(path) as first:
        with pytest.raises(StartupError, match="another process listens"):
            bind_unix_socket(path)
        assert can_connect(path)
        first.accept()[0].close()


def test_refuses_where_the_listener_is_too_busy_to_answer(socket_dir: Path) -> None:
    path = socket_dir / "c.sock"
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as waiting:
        busy.bind(str(path))
        busy.listen(0)
        waiting.connect(str(path))
        with pytest.raises(StartupError, match="another process listens"):
            bind_unix_socket(path)


def test_of_two_processes_that_start_at_once_one_wins(socket_dir: Path) -> None:
    path = socket_dir / "c.sock"
    bind_unix_socket(path).close()
    start = threading.Barrier(8)
    won: list[socket.socket] = []
    refused: list[str] = []

    def begin() -> None:
        start.wait()
        try:
            won.append(bind_unix_socket(path))
        except StartupError as refusal:
            refused.append(str(refusal))

    threads = [threading.Thread(target=begin) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(refused)) == (1, 7)
    won[0].close()


def test_refuses_to_replace_what_is_not_a_socket(socket_dir: Path) -> None:
    path = socket_dir / "c.sock"
    path.write_text("kept")
    with pytest.raises(StartupError, match="is not a socket"):
        bind_unix_socket(path)
    assert path.read_text() == "kept"


@pytest.mark.parametrize("name", ["missing/c.sock", "x" * 120])
def test_an_error_is_one_sentence(socket_dir: Path, name: str) -> None:
    with pytest.raises(StartupError, match=r"cannot listen at .*: choose another path in collector\.socket"):
        bind_unix_socket(socket_dir / name, setting="collector.socket")
    assert list(socket_dir.iterdir()) == []
