"""What a seed decides, and which faults overlap."""

from __future__ import annotations

import itertools
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import islice
from typing import Any, cast

import pytest

from tests.faults.chaos import FAULTS
from tests.faults.faults import Fault, Part
from tests.faults.sampler import Sampler
from tests.faults.system import System
from tests.faults.wreaking import AT_ONCE, Step, Wreaking, steps


def test_a_seed_gives_the_same_steps_again() -> None:
    assert list(islice(steps(7, FAULTS), 60)) == list(islice(steps(7, FAULTS), 60))
    assert [step.fault for step in islice(steps(7, FAULTS), 60)] != [
        step.fault for step in islice(steps(8, FAULTS), 60)
    ]


def test_every_fault_comes_once_before_any_comes_again() -> None:
    names = [step.fault.name for step in islice(steps(1, FAULTS), 2 * len(FAULTS))]
    assert (
        sorted(names[: len(FAULTS)]) == sorted(names[len(FAULTS) :]) == sorted(each.name for each in FAULTS)
    )


def test_a_fault_lasts_as_long_as_it_may() -> None:
    assert all(
        step.fault.seconds_min - 0.1 <= step.lasting_s <= step.fault.seconds_max + 0.1
        for step in islice(steps(3, FAULTS), 500)
    )


class NoSystem:
    """Nothing to hurt: which faults are in force is all there is to see."""

    def __init__(self) -> None:
        self.processes: dict[str, Any] = {}
        self.in_force: list[Fault] = []
        self.most = 0
        self.seen: list[str] = []

    def fault(self, name: str, parts: frozenset[Part], trouble: str = "") -> Fault:
        @asynccontextmanager
        async def inflict(_system: System) -> AsyncIterator[None]:
            taken = [part for other in (*self.in_force, fault) for part in other.parts]
            assert len(taken) == len(set(taken))
            self.in_force.append(fault)
            self.most = max(self.most, len(self.in_force))
            self.seen.append(name)
            try:
                yield
                if trouble:
                    raise AssertionError(trouble)
            finally:
                self.in_force.remove(fault)

        fault = Fault(name, inflict, parts, 0, 0)
        return fault


class NoSampler:
    """A clock that is at 0 until the time is over."""

    now_s = 0.0

    def say(self, what: str) -> None:
        """Say nothing."""


def quick_steps(system: NoSystem, sampler: NoSampler, seed: int, count: int) -> Iterator[Step]:
    """Yield faults of random parts that last next to nothing, and end the time after `count` of them."""
    drawn = random.Random(seed)
    for number in itertools.count():
        if number == count:
            sampler.now_s = 1
        parts = frozenset(drawn.sample(list(Part), drawn.choice([1, 1, 1, 2, 4])))
        yield Step(0, system.fault(str(number), parts), drawn.choice([0, 0.001, 0.01]))


@pytest.mark.parametrize("seed", range(5))
async def test_no_two_faults_hurt_one_part_and_none_is_left_out(seed: int) -> None:
    system, sampler = NoSystem(), NoSampler()
    wreaking = Wreaking(cast(System, system), cast(Sampler, sampler), until_s=0.5)
    await wreaking.wreak(quick_steps(system, sampler, seed, 200))
    taken = [int(name) for name in system.seen]
    assert system.most == AT_ONCE
    assert len(taken) == len(set(taken)) > 180
    # None is passed over for long.
    assert all(abs(place - number) <= 20 for place, number in enumerate(taken))
    assert [each.fault for each in wreaking.happened] == system.seen
    assert not system.in_force


async def test_where_one_goes_wrong_the_others_are_broken_off_and_all_is_taken_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    system, sampler = NoSystem(), NoSampler()
    in_force_then: list[int] = []

    async def healed(_system: System) -> None:
        in_force_then.append(len(system.in_force))

    monkeypatch.setattr("tests.faults.wreaking.healed", healed)
    coming = [
        Step(0, system.fault("long", frozenset({Part.TAP})), 600),
        Step(0, system.fault("wrong", frozenset({Part.KAFKA}), "it did not work"), 0.01),
        *(Step(0, system.fault(str(number), frozenset({Part.KAFKA})), 0) for number in range(20)),
    ]
    wreaking = Wreaking(cast(System, system), cast(Sampler, sampler), until_s=700)
    await wreaking.wreak(iter(coming))
    assert in_force_then == [0]
    troubles = {each.fault: each.trouble for each in wreaking.happened}
    assert troubles["long"] == "broken off, because another went wrong"
    assert troubles["wrong"] == "it did not work"
    assert not any(troubles[str(number)] for number in range(20))
