from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from eventlog.ports import Batch, LoggedEvent, Partition
from ingestor.offset_tracker import InFlightBatch, OffsetTracker

PARTITION = Partition("events", 0)


def batch(first: int, count: int = 1, generation: int = 1, partition: Partition = PARTITION) -> Batch:
    return Batch(partition, generation, [LoggedEvent(first + number, 0, b"{}") for number in range(count)])


def begun(tracker: OffsetTracker, taken: Batch) -> InFlightBatch:
    batch_in_flight = tracker.begin(taken)
    assert batch_in_flight is not None
    return batch_in_flight


def assigned(generation: int = 1) -> OffsetTracker:
    tracker = OffsetTracker()
    tracker.assign({PARTITION: generation})
    return tracker


def test_nothing_is_committable_past_a_batch_in_flight() -> None:
    tracker = assigned()
    first, second = begun(tracker, batch(0, 5)), begun(tracker, batch(5, 5))
    tracker.finish(second)
    assert tracker.committable() == {}
    tracker.finish(first)
    assert tracker.committable() == {PARTITION: 10}


def test_a_position_is_committed_once() -> None:
    tracker = assigned()
    tracker.finish(begun(tracker, batch(0)))
    tracker.committed(tracker.committable())
    assert tracker.committable() == {}


def test_offsets_may_have_holes() -> None:
    tracker = assigned()
    tracker.finish(begun(tracker, batch(7)))
    tracker.finish(begun(tracker, batch(20)))
    assert tracker.committable() == {PARTITION: 21}


def test_a_batch_of_an_ended_assignment_moves_no_position() -> None:
    tracker = assigned()
    old = begun(tracker, batch(0, 100))
    tracker.forget([PARTITION])
    tracker.assign({PARTITION: 2})
    fresh = begun(tracker, batch(0, 10, generation=2))
    tracker.finish(old)
    assert tracker.committable() == {}
    tracker.finish(fresh)
    assert tracker.committable() == {PARTITION: 10}


def test_a_new_generation_replaces_the_old_one() -> None:
    tracker = assigned()
    old = begun(tracker, batch(0, 100))
    tracker.assign({PARTITION: 2})
    begun(tracker, batch(50, 1, generation=2))
    tracker.finish(old)
    assert tracker.committable() == {}


def test_a_batch_of_an_ended_assignment_is_not_begun() -> None:
    tracker = assigned()
    begun(tracker, batch(0, 20))
    tracker.forget([PARTITION])
    assert tracker.begin(batch(20, 20)) is None
    tracker.assign({PARTITION: 2})
    assert tracker.begin(batch(20, 20)) is None
    assert tracker.committable() == {}


@given(st.permutations(range(12)), st.data())
def test_finishing_in_any_order_commits_the_longest_finished_prefix(
    order: list[int], data: st.DataObject
) -> None:
    tracker = assigned()
    batch_in_flights = [begun(tracker, batch(number * 10, 10)) for number in range(12)]
    finished: set[int] = set()
    for number in order[: data.draw(st.integers(0, 12))]:
        tracker.finish(batch_in_flights[number])
        finished.add(number)
        prefix = next((index for index in range(12) if index not in finished), 12)
        assert tracker.committable() == ({PARTITION: prefix * 10} if prefix else {})
