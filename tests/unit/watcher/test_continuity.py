"""A lane that does not go on where it was is read again from there."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from watcher.continuity import Continuity
from watcher.ports import Lane
from watcher.watch import LoggedEvent

LANE = Lane("events", 0)


def events(*offsets: int) -> dict[Lane, list[LoggedEvent]]:
    return {LANE: [LoggedEvent(offset, 0, b"") for offset in offsets]}


def offsets(found: dict[Lane, list[LoggedEvent]]) -> list[int]:
    return [event.offset for event in found.get(LANE, [])]


def taken(
    continuity: Continuity, given_: dict[Lane, list[LoggedEvent]], **positions: int
) -> tuple[list[int], dict]:  # type: ignore[type-arg]
    admitted = continuity.admit(given_, {LANE: positions["at"]} if "at" in positions else {})
    return [event.offset for event in admitted.events.get(LANE, ())], admitted.back_to


def test_a_lane_that_is_not_known_begins_anywhere() -> None:
    assert taken(Continuity(), events(7, 8)) == ([7, 8], {})


def test_what_is_kept_already_is_passed_over() -> None:
    assert taken(Continuity(), events(3, 4, 5, 6), at=5) == ([5, 6], {})


def test_a_hole_is_read_again_once() -> None:
    held = Continuity()
    assert taken(held, events(9, 10), at=5) == ([], {LANE: 5})
    assert taken(held, events(11, 12)) == ([], {})  # on its way already
    assert taken(held, events(5, 6, 7, 8, 9)) == ([5, 6, 7, 8, 9], {})
    assert taken(held, events(10, 11)) == ([10, 11], {})


def test_what_is_kept_is_passed_over_while_reading_goes_back_too() -> None:
    held = Continuity()
    taken(held, events(9), at=5)
    assert taken(held, events(3, 4, 5, 6)) == ([5, 6], {})


def test_a_hole_in_the_log_itself_is_passed() -> None:
    held = Continuity()
    assert taken(held, events(9, 10), at=5) == ([], {LANE: 5})
    assert taken(held, events(9, 10, 11)) == ([9, 10, 11], {})


def test_a_hole_in_the_middle_of_a_batch_is_seen() -> None:
    assert taken(Continuity(), events(5, 6, 9), at=5) == ([5, 6], {LANE: 7})


def test_lanes_are_begun_anew() -> None:
    held = Continuity()
    taken(held, events(1, 2, 3))
    held.forget()
    assert taken(held, events(2, 3), at=2) == ([2, 3], {})


@given(
    st.lists(st.integers(0, 60), unique=True, min_size=1).map(sorted),
    st.randoms(use_true_random=False),
)
def test_every_event_of_the_log_is_taken_once_in_order(log: list[int], draw: random.Random) -> None:
    """A reader that skips ahead at will, and goes on from where it is told to go back to."""
    held, at, rounds = Continuity(), 0, 0
    took: list[int] = []
    back: dict[Lane, int] = {}
    start = log[0]
    while (not took or took[-1] != log[-1]) and rounds < 1000:
        rounds += 1
        if rounds < 50 and not back and draw.random() < 0.3:
            at = min(at + draw.randint(0, 5), len(log) - 1)
        size = draw.randint(1, 6)
        found, back = taken(held, events(*log[at : at + size]), at=start)
        took += found
        at = min(at + size, len(log))
        if LANE in back:
            at = next(index for index, offset in enumerate([*log, 99]) if offset >= back[LANE])
        elif at == len(log):
            back = {LANE: 0}
            held.go_back(LANE, took[-1] + 1 if took else start)
            at = next((i for i, offset in enumerate(log) if offset >= (took[-1] + 1 if took else start)), at)
    assert took == log
