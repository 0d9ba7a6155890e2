"""Faults in a random order, by seed, several at once where they hurt different parts."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from tests.faults.faults import Fault, Part, healed, ready, revived
from tests.faults.sampler import Sampler
from tests.faults.system import System

AT_ONCE = 4
_Hurt = Callable[[], Collection[Part]]
# Steps that may be taken while those before them wait, and how often one is passed over.
_AHEAD = 6
_PASSED_OVER_MAX = 3
_QUIET_S = (0.3, 2.0)
_STEP_S_MAX = 200.0


@dataclass(frozen=True)
class Step:
    """A fault to come: after so many quiet seconds, for so long."""

    quiet_s: float
    fault: Fault
    lasting_s: float


@dataclass
class Happened:
    """A step as it went; times are seconds from the start of the load."""

    fault: str
    at_s: float
    lasting_s: float
    until_s: float = 0.0
    """When what it hurt was ready again."""
    trouble: str = ""


def steps(seed: int, faults: Sequence[Fault]) -> Iterator[Step]:
    """Yield steps without end: every fault once in a random order, then all of them again in another."""
    drawn = random.Random(seed)
    while True:
        for fault in drawn.sample(faults, len(faults)):
            lasting_s = round(drawn.uniform(fault.seconds_min, fault.seconds_max), 1)
            yield Step(round(drawn.uniform(*_QUIET_S), 1), fault, lasting_s)


class Wreaking:
    """Takes the steps about in their order, each as soon as no fault hurts the same parts, until the time is over."""

    def __init__(self, system: System, sampler: Sampler, until_s: float) -> None:
        self._system = system
        self._sampler = sampler
        self._until_s = until_s
        self._running: dict[asyncio.Task[None], Step] = {}
        self._passed_over: Counter[str] = Counter()
        self.happened: list[Happened] = []
        self.ended_by_themselves: list[str] = []

    @property
    def hurt(self) -> frozenset[Part]:
        """The parts that faults in force hurt."""
        return frozenset(part for step in self._running.values() for part in step.fault.parts)

    async def wreak(self, coming: Iterator[Step]) -> None:
        waiting = list(islice(coming, _AHEAD))
        try:
            while waiting:
                step = await self._next(waiting)
                await asyncio.sleep(step.quiet_s)
                if self._sampler.now_s + step.lasting_s > self._until_s:
                    break
                task = asyncio.create_task(self._take(step), name="wreaking")
                self._running[task] = step
                waiting += islice(coming, 1)
            while self._running:
                await self._one_over()
        finally:
            await self._break_off()

    async def _next(self, waiting: list[Step]) -> Step:
        """Take the first step that hurts no part that is hurt already. One that was passed over often lets none pass any more."""
        while True:
            if len(self._running) < AT_ONCE:
                for place, step in enumerate(waiting):
                    if not self.hurt & step.fault.parts:
                        self._passed_over.update(each.fault.name for each in waiting[:place])
                        del self._passed_over[step.fault.name]
                        return waiting.pop(place)
                    if self._passed_over[step.fault.name] == _PASSED_OVER_MAX:
                        break
            await self._one_over()

    async def _one_over(self) -> None:
        """Wait until a step is over. Where one went wrong, break off the others and take everything back."""
        over, _ = await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
        troubles = [task for task in over if task.cancelled() or task.exception() is not None]
        for task in over:
            del self._running[task]
        if troubles:
            await self._break_off()
            await healed(self._system)

    async def _break_off(self) -> None:
        for task in self._running:
            task.cancel()
        if self._running:
            await asyncio.wait(self._running)
        self._running.clear()

    async def _take(self, step: Step) -> None:
        system, parts = self._system, step.fault.parts
        happened = Happened(step.fault.name, self._sampler.now_s, step.lasting_s)
        self.happened.append(happened)
        self._sampler.say(f"{step.fault.name} for {step.lasting_s:g} s")
        try:
            async with asyncio.timeout(_STEP_S_MAX):
                self.ended_by_themselves += await revived(system, parts)
                async with step.fault.inflict(system):
                    await asyncio.sleep(step.lasting_s)
                self.ended_by_themselves += await revived(system, parts)
                await ready(system, parts=parts, hurt=self._hurt_by_others(step))
        except asyncio.CancelledError:
            happened.trouble = "broken off, because another went wrong"
            raise
        except Exception as trouble:
            happened.trouble = str(trouble) or type(trouble).__name__
            self._sampler.say(f"  {step.fault.name}: {happened.trouble}")
            raise
        finally:
            happened.until_s = self._sampler.now_s

    def _hurt_by_others(self, own: Step) -> _Hurt:
        return lambda: frozenset(
            part for step in self._running.values() if step is not own for part in step.fault.parts
        )
