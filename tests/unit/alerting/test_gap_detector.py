"""A partition that does not continue at its stored position is read again from there."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from alerting.gap_detector import GapDetector
from eventlog.ports import LoggedEvent, Partition

PARTITION = Partition("events", 0)


def events(*offsets: int) -> dict[Partition, list[LoggedEvent]]:
    return {PARTITION: [LoggedEvent(offset, 0, b"") for offset in offsets]}


def offsets(found: dict[Partition, list[LoggedEvent]]) -> list[int]:
    return [event.offset for event in found.get(PARTITION, [])]


def admitted(
    detector: GapDetector, batch: dict[Partition, list[LoggedEvent]], **positions: int
) -> tuple[list[int], dict]:  # type: ignore[type-arg]
    admission = detector.admit(batch, {PARTITION: positions["at"]} if "at" in positions else {})
    return [event.offset for event in admission.events.get(PARTITION, ())], admission.rewind_to


def test_a_partition_without_a_position_begins_at_its_beginning() -> None:
    """The group's offset may be that of another topic which had the name."""
    assert admitted(GapDetector(), events(0, 1)) == ([0, 1], {})
    detector = GapDetector()
    assert admitted(detector, events(7, 8)) == ([], {PARTITION: 0})


def test_stored_events_are_skipped() -> None:
    assert admitted(GapDetector(), events(3, 4, 5, 6), at=5) == ([5, 6], {})


def test_a_gap_is_read_again_once() -> None:
    detector = GapDetector()
    assert admitted(detector, events(9, 10), at=5) == ([], {PARTITION: 5})
    assert admitted(detector, events(11, 12)) == ([], {})  # already being rewound
    assert admitted(detector, events(5, 6, 7, 8, 9)) == ([5, 6, 7, 8, 9], {})
    assert admitted(detector, events(10, 11)) == ([10, 11], {})


def test_stored_events_are_skipped_while_rewinding() -> None:
    detector = GapDetector()
    admitted(detector, events(9), at=5)
    assert admitted(detector, events(3, 4, 5, 6)) == ([5, 6], {})


def test_a_gap_in_the_log_itself_is_accepted() -> None:
    detector = GapDetector()
    for _ in range(5):
        assert admitted(detector, events(9, 10), at=5) == ([], {PARTITION: 5})
    assert admitted(detector, events(9, 10, 11)) == ([9, 10, 11], {})


def test_a_log_that_begins_after_the_position_is_read_from_there_after_a_rewind() -> None:
    detector = GapDetector()
    assert admitted(detector, events(9, 10), at=5) == ([], {PARTITION: 5})
    detector.rewind(PARTITION, 9)
    assert admitted(detector, events(9, 10)) == ([9, 10], {})


def test_an_event_that_comes_again_after_a_rewind_is_no_proof_of_a_gap_in_the_log() -> None:
    """Regression: Faust sought what the group had committed, after the rewind, and everything before that was passed over."""
    detector = GapDetector()
    for _ in range(3):
        assert admitted(detector, events(199)) == ([], {PARTITION: 0})
    assert admitted(detector, events(0, 1, 2)) == ([0, 1, 2], {})
    assert admitted(detector, events(199)) == ([], {PARTITION: 3})


def test_a_gap_in_the_middle_of_a_batch_is_detected() -> None:
    assert admitted(GapDetector(), events(5, 6, 9), at=5) == ([5, 6], {PARTITION: 7})


def test_reset_begins_at_the_stored_position() -> None:
    detector = GapDetector()
    admitted(detector, events(1, 2, 3))
    detector.reset()
    assert admitted(detector, events(2, 3), at=2) == ([2, 3], {})


@given(
    st.lists(st.integers(0, 60), unique=True, min_size=1).map(sorted),
    st.randoms(use_true_random=False),
)
def test_every_event_of_the_log_is_admitted_once_in_order(log: list[int], draw: random.Random) -> None:
    """A reader that skips ahead at will, and rewinds where the detector says so."""
    detector, at, rounds = GapDetector(), 0, 0
    processed: list[int] = []
    back: dict[Partition, int] = {}
    start = log[0]
    while (not processed or processed[-1] != log[-1]) and rounds < 1000:
        rounds += 1
        if rounds < 50 and not back and draw.random() < 0.3:
            at = min(at + draw.randint(0, 5), len(log) - 1)
        size = draw.randint(1, 6)
        found, back = admitted(detector, events(*log[at : at + size]), at=start)
        processed += found
        at = min(at + size, len(log))
        if PARTITION in back:
            at = next(index for index, offset in enumerate([*log, 99]) if offset >= back[PARTITION])
        elif at == len(log):
            back = {PARTITION: 0}
            detector.rewind(PARTITION, processed[-1] + 1 if processed else start)
            at = next(
                (i for i, offset in enumerate(log) if offset >= (processed[-1] + 1 if processed else start)),
                at,
            )
    assert processed == log
