"""The random sequence: what a seed decides."""

from __future__ import annotations

from itertools import islice

from tests.faults.chaos import steps
from tests.faults.faults import FAULTS


def test_a_seed_gives_the_same_steps_again() -> None:
    assert list(islice(steps(7), 60)) == list(islice(steps(7), 60))
    assert [step.fault for step in islice(steps(7), 60)] != [step.fault for step in islice(steps(8), 60)]


def test_every_fault_comes_once_before_any_comes_again() -> None:
    names = [step.fault.name for step in islice(steps(1), 2 * len(FAULTS))]
    assert (
        sorted(names[: len(FAULTS)]) == sorted(names[len(FAULTS) :]) == sorted(each.name for each in FAULTS)
    )


def test_a_fault_lasts_as_long_as_it_may() -> None:
    assert all(
        step.fault.seconds_min - 0.1 <= step.lasting_s <= step.fault.seconds_max + 0.1
        for step in islice(steps(3), 500)
    )
