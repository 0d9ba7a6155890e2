"""The judge of the watermark's claims: what makes one false, and when it is late."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditap.database.connection import administrator
from tests.faults.watermark import (
    Arrival,
    Claim,
    GapRange,
    Sightings,
    Snapshot,
    false_claims,
    how_far_behind,
    snapshot,
    uncorrected,
)

_TRANSACTION = "SELECT pg_current_xact_id()::text::bigint"


def claim(at_ms: float, before_ms: int, *gaps: GapRange) -> Claim:
    return Claim(at_ms, at_ms + 10, before_ms, gaps)


def record(at_ms: int, stored_ms: float, number: int = 1, *, hidden_ms: float = 0) -> Arrival:
    return Arrival(at_ms, stored_ms, stored_ms + hidden_ms, "tap", 1, number)


@pytest.mark.parametrize(
    ("arrival", "is_late"),
    [
        (record(500, 2_000), True),
        (record(600, 2_000), False),
        (record(500, 900), False),
        # Between question and answer: it may have been on the page.
        (record(500, 1_005), False),
        (record(500, 1_011), True),
    ],
)
def test_a_claim_is_false_if_something_earlier_shows_up_after_it(arrival: Arrival, is_late: bool) -> None:
    made = [claim(1_000, 600)]
    assert false_claims(made, [arrival]) == ((made, [arrival]) if is_late else ([], []))


@pytest.mark.parametrize(
    ("gap", "admitted"),
    [
        (GapRange("tap", 1, 3, 9), True),
        (GapRange("tap", 1, 3, None), True),
        (GapRange("tap", 1, 8, 9), False),
        (GapRange("tap", 2, 3, 9), False),
        (GapRange("another", 1, 3, 9), False),
    ],
)
def test_what_a_gap_admitted_makes_no_claim_false(gap: GapRange, admitted: bool) -> None:
    false, late = false_claims([claim(1_000, 600, gap)], [record(500, 2_000, number=7)])
    assert (not false, not late) == (admitted, admitted)


HOLD_MS = 10_000


def missed(*claims: Claim, arrival: Arrival) -> list[tuple[Arrival, Claim]]:
    return uncorrected(claims, [arrival], HOLD_MS)


def test_a_claim_that_is_not_taken_back_lets_clients_miss_a_record() -> None:
    late = record(500, 2_000)
    kept = claim(4_000, 600)
    assert missed(claim(1_000, 600), kept, arrival=late) == [(late, kept)]
    assert not missed(claim(1_000, 600), claim(4_000, 500), claim(10_999, 500), arrival=late)


def test_a_claim_has_to_stay_back_for_the_hold_of_those_that_knew_it() -> None:
    late = record(500, 2_000)
    early = claim(10_999, 600)
    assert missed(claim(1_000, 600), claim(4_000, 500), early, arrival=late) == [(late, early)]
    assert not missed(claim(1_000, 600), claim(4_000, 500), claim(11_001, 600), arrival=late)


def test_what_was_claimed_before_the_hold_binds_nobody() -> None:
    """Whoever polls as documented has polled since, and heard that it was taken back."""
    assert not missed(claim(1_000, 600), claim(4_000, 400), claim(14_000, 600), arrival=record(500, 12_000))


def test_a_claim_that_was_asked_for_within_the_age_of_an_answer_says_nothing_yet() -> None:
    late = record(500, 2_000)
    assert not missed(claim(1_000, 600), claim(2_500, 600), claim(4_000, 500), arrival=late)


def test_a_claim_need_not_go_back_for_what_is_committed_and_not_seen_yet() -> None:
    claims = [claim(1_000, 600), claim(4_000, 600), claim(6_000, 500)]
    assert missed(*claims, arrival=record(500, 2_000))
    assert not missed(*claims, arrival=record(500, 2_000, hidden_ms=2_500))


def test_a_transaction_is_seen_by_the_first_snapshot_in_which_it_no_longer_runs() -> None:
    sightings = Sightings(
        [
            Snapshot(1_000, 5, frozenset()),
            Snapshot(2_000, 9, frozenset({6, 7})),
            Snapshot(3_000, 9, frozenset({7})),
            Snapshot(4_000, 12, frozenset()),
        ]
    )
    assert [sightings.seen_ms(each) for each in (4, 5, 6, 7, 9, 12)] == [
        1_000,
        2_000,
        3_000,
        4_000,
        4_000,
        math.inf,
    ]


async def test_a_snapshot_tells_what_is_committed_from_what_still_runs(database: str) -> None:
    async with administrator(database) as first, administrator(database) as second:
        async with first.transaction():
            hidden = await first.fetchval(_TRANSACTION)
            committed = await second.fetchval(_TRANSACTION)
            before = await snapshot(second)
            assert Sightings([before]).seen_ms(committed) == before.at_ms
            assert Sightings([before]).seen_ms(hidden) == math.inf
        after = await snapshot(second)
        assert Sightings([before, after]).seen_ms(hidden) == after.at_ms
        assert Sightings([after]).seen_ms(await first.fetchval(_TRANSACTION)) == math.inf


_claims = st.lists(
    st.builds(claim, st.integers(0, 50).map(float), st.integers(0, 50), st.just(GapRange("tap", 1, 3, 4))),
    max_size=8,
)
_arrivals = st.lists(
    st.builds(record, st.integers(0, 50), st.integers(0, 80).map(float), st.integers(1, 6)), max_size=8
)


@given(_claims, _arrivals)
def test_it_finds_what_looking_at_every_pair_finds(
    claims: Sequence[Claim], arrived: Sequence[Arrival]
) -> None:
    pairs = [
        (one, other)
        for one in claims
        for other in arrived
        if other.stored_ms > one.answered_ms and other.at_ms < one.before_ms and other.number not in {3, 4}
    ]
    false, late = false_claims(claims, arrived)
    assert set(false) == {one for one, _ in pairs}
    assert set(late) == {other for _, other in pairs}


@given(_claims, st.lists(st.tuples(st.integers(0, 50), st.integers(1, 30)), max_size=8))
def test_a_claim_is_behind_by_the_oldest_that_cannot_be_seen(
    claims: Sequence[Claim], captures: Sequence[tuple[int, int]]
) -> None:
    begun = sorted((float(at_ms), float(at_ms + taken_ms)) for at_ms, taken_ms in captures)
    for one, behind_ms in how_far_behind(claims, begun):
        hidden = [at_ms for at_ms, seen_ms in begun if at_ms <= one.asked_ms < seen_ms]
        assert behind_ms == min(hidden, default=one.asked_ms) - one.before_ms
