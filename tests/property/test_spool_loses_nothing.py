"""Whatever happens to Kafka and to the collectors: what was accepted arrives, in order within one collector's spool."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import tempfile
from itertools import pairwise
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from eventlog.spool.config import SpoolBounds
from eventlog.spool.publisher import SpoolingPublisher
from schemas.errors import NotDurable, RetryableError
from schemas.metric_defs import Metrics
from tests.event_logs import events
from tests.fakes.event_log import MemoryEventLog, MemoryPublisher

_BOUNDS = SpoolBounds(retry_wait_ms=1, adopt_interval_ms=5, stop_wait_ms=50, drain_events_max=7)
_STEPS = ("publish", "publish", "publish", "away", "back", "unsure", "crash", "stop", "pause", "second")


class World:
    """One log, one spool folder, and collectors that come and go."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.log = MemoryEventLog(partitions=1)
        self.folder = folder / "spool-0"
        self.accepted: list[int] = []
        self.lives: list[list[int]] = []
        self._random = random.Random(seed)
        self._next = 0
        self._running: list[tuple[SpoolingPublisher, list[int]]] = []
        self._crashed: list[SpoolingPublisher] = []

    async def start(self) -> None:
        publisher = SpoolingPublisher(MemoryPublisher(self.log), self.folder, _BOUNDS, Metrics())
        try:
            await publisher.start()
        except RetryableError:
            # As `start_with_retries` does it, by and by.
            publisher._kafka._started = True  # type: ignore[attr-defined]
        spooled: list[int] = []
        self.lives.append(spooled)
        self._running.append((publisher, spooled))

    async def do(self, step: str) -> None:
        if step in {"away", "back", "unsure"}:
            self.log.away, self.log.unsure = step == "away", step == "unsure"
        elif step == "publish":
            await asyncio.gather(*[self._publish() for _ in range(self._random.randint(1, 4))])
        elif step == "pause":
            await asyncio.sleep(self._random.random() / 50)
        elif step == "second":
            await self.start()
        elif step == "stop":
            publisher, _ = self._running.pop(self._random.randrange(len(self._running)))
            await publisher.stop()
        else:
            await self._crash()
        if not self._running:
            await self.start()

    async def _publish(self) -> None:
        publisher, spooled = self._random.choice(self._running)
        batch = range(self._next, self._next + self._random.randint(1, 12))
        self._next = batch.stop
        try:
            await publisher.publish(events(batch.start, len(batch)))
        except NotDurable:
            return
        self.accepted += batch
        if self.log.away:
            spooled += batch

    async def _crash(self) -> None:
        """All collectors of the host end in this moment: the files are what they are now, and no lock is held."""
        for publisher, _ in self._running:
            await _stilled(publisher)
        after = self.folder.with_name(f"spool-{len(self.lives)}-{self._random.random()}")
        shutil.copytree(self.folder, after)
        self.folder = after
        self._crashed += [publisher for publisher, _ in self._running]
        # What the ended ones still do in this process is done to a log of their own.
        for publisher in self._crashed:
            publisher._kafka._log = MemoryEventLog()  # type: ignore[attr-defined]
        self._running = []

    async def end(self) -> None:
        await self.do("back")
        async with asyncio.timeout(120):
            while not set(self.accepted) <= set(self.arrived()):
                await asyncio.sleep(0.002)
        for publisher in [*self._crashed, *[publisher for publisher, _ in self._running]]:
            await publisher.stop()

    def arrived(self) -> list[int]:
        return [
            json.loads(event.value)["number"]
            for partition in self.log.partitions.values()
            for event in partition
        ]


async def _stilled(publisher: SpoolingPublisher) -> None:
    """Let nothing be written while the files are copied."""
    for task in publisher._tasks:
        task.cancel()
    await asyncio.gather(*publisher._tasks, *publisher._removing, return_exceptions=True)
    for file in publisher._held():
        await file._log.committed("drained")


@settings(max_examples=100, deadline=None)
@given(steps=st.lists(st.sampled_from(_STEPS), min_size=3, max_size=30), seed=st.integers(0, 2**32))
async def test_nothing_accepted_is_lost_and_the_spool_keeps_the_order(steps: list[str], seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder), seed)
        await world.start()
        for step in steps:
            await world.do(step)
        await world.end()

    first_at = {number: at for at, number in reversed(list(enumerate(world.arrived())))}
    for spooled in world.lives:
        for earlier, later in pairwise(spooled):
            assert first_at[earlier] < first_at[later]
