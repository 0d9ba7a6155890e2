from __future__ import annotations

import asyncio
import functools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from auditap_tap import run, state_file
from schemas.errors import NotDurable
from schemas.heartbeat import TapState
from tests.unit.auditap_tap.apps import request
from tests.unit.auditap_tap.tapped import Wrap, client_of, eventually, files_in
from tests.unit.gateway_tap.servers import FakeSink


@pytest.fixture
def wrap(wrap: Wrap) -> Wrap:
    return functools.partial(wrap, heartbeat_ms=20, lease_ms=1_000, close_ms_max=500)


CRASHED = """
import asyncio, os, sys
from auditap_tap import AuditTapMiddleware
from tests.unit.auditap_tap.apps import answers, request

async def main():
    tap = AuditTapMiddleware(answers, collector=sys.argv[1], tap_id="t-1", state_dir=sys.argv[2])
    await request(tap, 5)
    # The file has its name before it has the numbers.
    while tap._run._state_file is None:
        await asyncio.sleep(0.01)
    assert any(name.startswith("t-1.") for name in os.listdir(sys.argv[2]))
    await request(tap, 2)
    print(tap._run.numbers.epoch, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


def crashed_process(folder: Path) -> int:
    """Let a process assign seven sequence numbers, kill it, and return its epoch."""
    process = subprocess.Popen(
        [sys.executable, "-c", CRASHED, f"unix:{folder}/nowhere", str(folder)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    epoch = int(process.stdout.readline())
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    return epoch


@pytest.mark.parametrize("rebooted", [False, True])
async def test_the_next_run_reports_a_crashed_one(
    sink: FakeSink, wrap: Wrap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rebooted: bool
) -> None:
    epoch = await asyncio.to_thread(crashed_process, tmp_path)
    if rebooted:
        monkeypatch.setattr(state_file, "_boot_id", lambda: b"another")
    tap = wrap(state_dir=tmp_path)
    sink.heartbeat_failures = [NotDurable("away")]
    await request(tap)
    await eventually(lambda: any(beat.tap.epoch == epoch for beat in sink.heartbeats))
    [crashed] = [beat for beat in sink.heartbeats if beat.tap.epoch == epoch]
    state = TapState.LOST if rebooted else TapState.KILLED
    assert (crashed.highest, crashed.pending_from, crashed.beat, crashed.state) == (7, 8, 0, state)
    await eventually(lambda: len(files_in(tmp_path)) == 1)


async def test_a_crashed_run_is_reported_by_a_server_without_requests(
    sink: FakeSink, wrap: Wrap, tmp_path: Path
) -> None:
    epoch = await asyncio.to_thread(crashed_process, tmp_path)
    async with client_of(wrap(state_dir=tmp_path)):
        await eventually(lambda: any(beat.tap.epoch == epoch for beat in sink.heartbeats))
        assert {beat.state for beat in sink.heartbeats} == {TapState.ALIVE, TapState.KILLED}


async def test_a_live_run_is_reported_by_itself_alone(sink: FakeSink, wrap: Wrap, tmp_path: Path) -> None:
    taps = [wrap(state_dir=tmp_path) for _ in range(3)]
    for tap in taps:
        await request(tap)
        await eventually(lambda: len(sink.heartbeats) > 3)
        sink.heartbeats.clear()
    await eventually(lambda: len({beat.tap.epoch for beat in sink.heartbeats}) == 3)
    assert {beat.state for beat in sink.heartbeats} == {TapState.ALIVE}
    assert len(files_in(tmp_path)) == 3


async def test_an_epoch_in_use_is_drawn_again(
    sink: FakeSink, wrap: Wrap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: Iterator[int] = iter([5, 5, 6])
    monkeypatch.setattr(run, "new_epoch", lambda _: next(drawn))
    for tap in [wrap(state_dir=tmp_path) for _ in range(2)]:
        await request(tap)
        await eventually(lambda: tap.stats.accepted == 1)  # noqa: B023
    assert {identified.capture.tap.epoch for identified in sink.accepted if identified.capture.tap} == {5, 6}


@pytest.mark.parametrize("trouble", ["file", "full"])
async def test_without_a_usable_folder_the_tap_works(
    sink: FakeSink, wrap: Wrap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    folder = tmp_path / "state"
    if trouble == "file":
        folder.write_text("")
    else:

        def full(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "posix_fallocate", full)
    tap = wrap(state_dir=folder)
    await request(tap, 3)
    await eventually(lambda: bool(sink.heartbeats) and sink.heartbeats[-1].pending_from == 4)
    assert trouble == "file" or files_in(folder) == []


async def test_foreign_files_are_left_alone(sink: FakeSink, wrap: Wrap, tmp_path: Path) -> None:
    names = ["t-1.txt", "t-1.123", "t-1.9.9", "t-10.55"]
    for name in names:
        (tmp_path / name).write_text("not a state file")
    tap = wrap(state_dir=tmp_path)
    await request(tap)
    await eventually(lambda: len(sink.heartbeats) > 2)
    assert {*files_in(tmp_path)} >= set(names)
    assert len({beat.tap.epoch for beat in sink.heartbeats}) == 1
