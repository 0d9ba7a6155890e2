from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ingestor.ports import Batch, Partition, SourceEvent
from ingestor.progress import Progress, Ticket

LANE = Partition("events", 0)


def batch(first: int, count: int = 1, generation: int = 1, lane: Partition = LANE) -> Batch:
    return Batch(lane, generation, [SourceEvent(first + number, 0, b"{}") for number in range(count)])


def begun(progress: Progress, taken: Batch) -> Ticket:
    ticket = progress.begin(taken)
    assert ticket is not None
    return ticket


def assigned(generation: int = 1) -> Progress:
    progress = Progress()
    progress.assign({LANE: generation})
    return progress


def test_commits_nothing_over_a_batch_in_flight() -> None:
    progress = assigned()
    first, second = begun(progress, batch(0, 5)), begun(progress, batch(5, 5))
    progress.finish(second)
    assert progress.committable() == {}
    progress.finish(first)
    assert progress.committable() == {LANE: 10}


def test_a_position_is_committed_once() -> None:
    progress = assigned()
    progress.finish(begun(progress, batch(0)))
    progress.committed(progress.committable())
    assert progress.committable() == {}


def test_holes_in_offsets_are_the_logs_own() -> None:
    progress = assigned()
    progress.finish(begun(progress, batch(7)))
    progress.finish(begun(progress, batch(20)))
    assert progress.committable() == {LANE: 21}


def test_a_batch_of_an_ended_assignment_moves_nothing() -> None:
    progress = assigned()
    old = begun(progress, batch(0, 100))
    progress.forget([LANE])
    progress.assign({LANE: 2})
    fresh = begun(progress, batch(0, 10, generation=2))
    progress.finish(old)
    assert progress.committable() == {}
    progress.finish(fresh)
    assert progress.committable() == {LANE: 10}


def test_a_new_generation_without_a_word_drops_the_old_one() -> None:
    progress = assigned()
    old = begun(progress, batch(0, 100))
    progress.assign({LANE: 2})
    begun(progress, batch(50, 1, generation=2))
    progress.finish(old)
    assert progress.committable() == {}


def test_a_batch_that_comes_after_its_assignment_ended_is_not_begun() -> None:
    progress = assigned()
    begun(progress, batch(0, 20))
    progress.forget([LANE])
    assert progress.begin(batch(20, 20)) is None
    progress.assign({LANE: 2})
    assert progress.begin(batch(20, 20)) is None
    assert progress.committable() == {}


@given(st.permutations(range(12)), st.data())
def test_any_order_of_finishing_commits_the_longest_stored_prefix(
    order: list[int], data: st.DataObject
) -> None:
    progress = assigned()
    tickets = [begun(progress, batch(number * 10, 10)) for number in range(12)]
    finished: set[int] = set()
    for number in order[: data.draw(st.integers(0, 12))]:
        progress.finish(tickets[number])
        finished.add(number)
        prefix = next((index for index in range(12) if index not in finished), 12)
        assert progress.committable() == ({LANE: prefix * 10} if prefix else {})
