"""What a gateway numbered and the receiver never saw."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from gateway_tap.receivers.loss_detector import PAGE_BYTES, Loss, LossDetector

NOW_MS = 1_800_000_000_000
LATE_MS = NOW_MS + 10_000


def new_page() -> bytearray:
    return bytearray(PAGE_BYTES)


def test_a_counter_that_is_as_old_as_may_be_has_lost_nothing_before_it_was_seen() -> None:
    detector = LossDetector(new_page())
    detector.observe(7, 1_000, NOW_MS)
    detector.observe(7, 1_001, NOW_MS)
    assert detector.losses(LATE_MS) == []


def test_numbers_that_are_passed_over_are_lost_once_they_are_late() -> None:
    detector = LossDetector(new_page())
    detector.observe(7, 10, NOW_MS)
    detector.observe(7, 15, NOW_MS + 500)
    assert detector.losses(NOW_MS + 600) == []
    assert detector.losses(LATE_MS) == [Loss(4, NOW_MS, NOW_MS + 500)]
    assert detector.losses(LATE_MS) == []


def test_a_number_that_was_overtaken_is_not_lost() -> None:
    detector = LossDetector(new_page())
    for seq in (10, 14, 12, 11, 13):
        detector.observe(7, seq, NOW_MS)
    assert detector.losses(LATE_MS) == []


def test_what_is_missing_at_the_end_is_lost_at_once() -> None:
    detector = LossDetector(new_page())
    detector.observe(7, 1, NOW_MS)
    detector.observe(7, 3, NOW_MS)
    assert detector.losses(NOW_MS, all_missing=True) == [Loss(1, NOW_MS, NOW_MS)]


def test_the_next_run_counts_what_passed_while_none_ran() -> None:
    page = new_page()
    first = LossDetector(page)
    first.observe(7, 20, NOW_MS)
    first.watch(NOW_MS)
    second = LossDetector(page)
    second.observe(7, 31, NOW_MS + 60_000)
    assert second.losses(NOW_MS + 70_000) == [Loss(10, NOW_MS, NOW_MS + 60_000)]


def test_a_gateway_that_started_while_no_receiver_ran_has_lost_its_first_ones() -> None:
    page = new_page()
    LossDetector(page).watch(NOW_MS)
    second = LossDetector(page)
    second.observe(8, 4, NOW_MS + 60_000)
    assert second.losses(NOW_MS + 70_000) == [Loss(3, NOW_MS, NOW_MS + 60_000)]


def test_a_counter_that_jumps_absurdly_is_taken_for_another_one() -> None:
    detector = LossDetector(new_page())
    detector.observe(7, 1, NOW_MS)
    detector.observe(7, 2**60, NOW_MS)
    assert detector.losses(LATE_MS) == []


def test_more_counters_than_the_page_has_room_for_replace_the_oldest() -> None:
    page = new_page()
    detector = LossDetector(page)
    for epoch in range(1, 1_000):
        detector.observe(epoch, 5, NOW_MS + epoch)
    detector.watch(NOW_MS)
    again = LossDetector(page)
    again.observe(999, 7, NOW_MS)
    assert again.losses(LATE_MS) == [Loss(1, NOW_MS, NOW_MS)]


def test_many_single_holes_are_counted_before_they_are_late() -> None:
    detector = LossDetector(new_page())
    detector.observe(7, 1, NOW_MS)
    for seq in range(3, 6_003, 2):
        detector.observe(7, seq, NOW_MS)
    assert sum(loss.pairs for loss in detector.losses(NOW_MS)) == 2_000
    assert sum(loss.pairs for loss in detector.losses(LATE_MS)) == 1_000


@given(st.sets(st.integers(1, 60)), st.integers(), st.integers(1, 59))
def test_every_number_is_seen_or_lost_whatever_the_order(lost: set[int], seed: int, restart_at: int) -> None:
    """In any order of arrival, and across a restart of the receiver."""
    sent = [seq for seq in range(1, 62) if seq not in lost]
    page = new_page()
    # A page in use, so that the counter counts from its first number.
    LossDetector(page).watch(NOW_MS)
    found = 0
    parts = [[seq for seq in sent if seq <= restart_at], [seq for seq in sent if seq > restart_at]]
    for part in parts:
        detector = LossDetector(page)
        random.Random(seed).shuffle(part)
        for seq in part:
            detector.observe(7, seq, NOW_MS)
        found += sum(loss.pairs for loss in detector.losses(NOW_MS, all_missing=True))
        detector.watch(NOW_MS)
    assert found == len(lost)
