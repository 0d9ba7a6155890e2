from __future__ import annotations

import asyncio
import signal
import socket
import sys

from auditap.runtime.collector_worker import WorkerStart
from auditap.runtime.collector_workers import WorkerProcess
from auditap.runtime.merged_metrics import families_of
from auditap.runtime.worker_channel import (
    Answer,
    MetricsAnswer,
    StatusAnswer,
    Subject,
    WorkerChannel,
    receive_first,
)
from auditap.settings import Settings
from schemas.metric_defs import Metrics

WITHIN_MS = 60_000
DEAF = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(600)"
)


async def answer(subject: Subject) -> Answer:
    if subject == "metrics":
        return MetricsAnswer(families=families_of(Metrics("collect").registry))
    return StatusAnswer(parts={"log": subject == "status"}, degraded=["spooling"])


async def never(_subject: Subject) -> Answer:
    await asyncio.sleep(600)
    raise AssertionError


async def test_both_ends_answer_each_other_at_the_same_time() -> None:
    ends = [await WorkerChannel.on(each, answer) for each in socket.socketpair()]
    running = [asyncio.create_task(each.run()) for each in ends]
    statuses = await asyncio.gather(*(each.ask("status", StatusAnswer, WITHIN_MS) for each in ends))
    assert statuses[0] is not None
    assert [(each and each.parts, each and each.degraded) for each in statuses] == [
        ({"log": True}, ["spooling"])
    ] * 2
    found = await ends[0].ask("metrics", MetricsAnswer, WITHIN_MS)
    assert found is not None
    assert "auditap_captures_accepted" in {each.name for each in found.families}
    # One that gives another answer than was asked for has none.
    assert await ends[0].ask("status", MetricsAnswer, WITHIN_MS) is None
    running[0].cancel()
    await asyncio.gather(*running, return_exceptions=True)


async def test_an_end_that_answers_nothing_keeps_nobody_waiting_once_it_has_ended() -> None:
    here, there = [await WorkerChannel.on(each, never) for each in socket.socketpair()]
    running = [asyncio.create_task(each.run()) for each in (here, there)]
    assert await here.ask("status", StatusAnswer, 1) is None
    asking = asyncio.create_task(here.ask("status", StatusAnswer, WITHIN_MS))
    await asyncio.sleep(0)
    running[1].cancel()
    assert await asking is None
    await asyncio.gather(*running, return_exceptions=True)
    assert await here.ask("status", StatusAnswer, WITHIN_MS) is None


async def test_why_a_worker_cannot_start_is_known_when_it_has_ended() -> None:
    here, there = [await WorkerChannel.on(each, never) for each in socket.socketpair()]
    listening = asyncio.create_task(here.run())
    await there.say_why("Set this.")
    ending = asyncio.create_task(there.run())
    await asyncio.sleep(0)
    ending.cancel()
    await asyncio.gather(ending, return_exceptions=True)
    await listening
    assert here.cannot_start == "Set this."


def test_the_first_message_is_read_before_a_loop_runs() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(b"\0\0\0\3abc...")
        assert receive_first(theirs) == b"abc"
        assert theirs.recv(9) == b"..."
        ours.close()
        assert receive_first(theirs) is None


async def test_a_worker_that_does_not_end_is_killed() -> None:
    worker = WorkerProcess(1, WorkerStart(Settings(), 1, 0, 0, 0, 0))
    process = worker.process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", DEAF, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    await process.stdout.readline()
    await worker.stop(within_s=0.1)
    assert process.returncode == -signal.SIGKILL
