"""Freezing of processes, as a scheduler or a pause of a virtual machine does it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_STOPS_WITHIN_S = 120


def freeze(pid: int) -> None:
    """Stop a process, and return once all its threads have stopped.

    `os.kill` returns before that: a broker that has many threads goes on answering for a while, the longer the busier the machine.
    """
    os.kill(pid, signal.SIGSTOP)
    deadline = time.monotonic() + _STOPS_WITHIN_S
    while _runs(pid):
        if time.monotonic() > deadline:
            raise TimeoutError(f"process {pid} still runs")
        time.sleep(0.001)


def unfreeze(pid: int) -> None:
    os.kill(pid, signal.SIGCONT)


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    freeze(pid)
    try:
        yield
    finally:
        unfreeze(pid)


def _runs(pid: int) -> bool:
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
    except FileNotFoundError:
        return False
    return any(_state(thread) not in "TtZX" for thread in threads)


def _state(thread: Path) -> str:
    """Return a thread's state as proc(5) has it; that of a thread that is gone is X, dead."""
    try:
        return (thread / "stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"
