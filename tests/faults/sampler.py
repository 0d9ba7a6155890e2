"""What a system does over time: what was accepted, what is stored, and the memory of each process."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import click

from tests.faults.system import System

_ANSWER_S = 2.0
_MB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Sample:
    at_s: float
    accepted: int
    stored: int | None
    """None while the database does not say."""

    @property
    def behind(self) -> int | None:
        return None if self.stored is None else self.accepted - self.stored


@dataclass(slots=True)
class Memory:
    """Resident memory of one process, in bytes: when it was first seen, and at most."""

    first: int
    peak: int

    @property
    def growth_mb(self) -> float:
        return (self.peak - self.first) / _MB


@dataclass
class Sampler:
    """Looks every `interval_s`, from `start` to `stop`. `memory` is by part and process id; what is taken out of it
    begins anew.
    """

    system: System
    interval_s: float = 1.0
    began_s: float = field(default_factory=time.monotonic)
    samples: list[Sample] = field(default_factory=list)
    memory: dict[tuple[str, int], Memory] = field(default_factory=dict)
    _task: asyncio.Task[None] | None = None

    @property
    def now_s(self) -> float:
        return time.monotonic() - self.began_s

    @property
    def last(self) -> Sample:
        return self.samples[-1] if self.samples else Sample(0, 0, None)

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="sampler")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    def say(self, what: str) -> None:
        last = self.last
        behind = "?" if last.behind is None else last.behind
        click.echo(f"[{self.now_s:6.1f} s] accepted {last.accepted}, behind {behind}: {what}")

    def between(self, from_s: float, to_s: float) -> list[Sample]:
        return [sample for sample in self.samples if from_s <= sample.at_s <= to_s]

    def peaks(self) -> dict[str, int]:
        """Return the bytes of the largest process of each part."""
        peaks: dict[str, int] = {}
        for (part, _), memory in self.memory.items():
            peaks[part] = max(peaks.get(part, 0), memory.peak)
        return peaks

    async def _run(self) -> None:
        while True:
            began = time.monotonic()
            self._weigh()
            stored = await self._stored()
            accepted = sum(len(load.accepted) for load in self.system.loads)
            self.samples.append(Sample(self.now_s, accepted, stored))
            await asyncio.sleep(max(0.0, self.interval_s - (time.monotonic() - began)))

    def _weigh(self) -> None:
        for name, process in self.system.processes.items():
            part = name.rstrip(" 0123456789")
            resident = resident_bytes(process.pid) if process.runs else None
            if resident is None:
                continue
            memory = self.memory.setdefault((part, process.pid), Memory(resident, resident))
            memory.peak = max(memory.peak, resident)

    async def _stored(self) -> int | None:
        if self.system.postgres.pid is None:
            return None
        try:
            async with asyncio.timeout(_ANSWER_S):
                connection = await asyncpg.connect(self.system.postgres.dsn())
                try:
                    found = await connection.fetchval(
                        "SELECT (SELECT count(*) FROM auditap.audit_records)"
                        " + (SELECT count(*) FROM auditap.dead_letters)"
                    )
                finally:
                    connection.terminate()
        except Exception:  # noqa: BLE001  # whatever is wrong with the database, looking goes on
            return None
        return int(found)


def resident_bytes(pid: int) -> int | None:
    """Return the memory that a process holds; None where it has ended."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))
    return None
