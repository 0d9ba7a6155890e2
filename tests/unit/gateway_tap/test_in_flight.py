from __future__ import annotations

from collections import Counter
from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gateway_tap.in_flight import Bound, InFlight, RequestBytes, TooMuchInFlight
from gateway_tap.limits import IntakeLimits

LIMITS = IntakeLimits(requests_max=64, in_flight_bytes_max=1_000)
SENDERS = ("a", "b", "c", "d")


def fill(in_flight: InFlight, sender: str, stack: ExitStack, size_bytes: int = 0) -> tuple[int, Bound]:
    """Begin requests until one is refused; return how many there are, and by which bound it was."""
    count = 0
    while True:
        try:
            stack.enter_context(in_flight.request(sender)).add(size_bytes)
        except TooMuchInFlight as refused:
            return count, refused.bound
        count += 1


def test_a_sender_alone_gets_two_thirds_and_the_next_ones_the_same_each() -> None:
    in_flight = InFlight(LIMITS)
    with ExitStack() as stack:
        assert fill(in_flight, "a", stack) == (43, Bound.REQUESTS_SHARE)
        assert fill(in_flight, "b", stack) == (14, Bound.REQUESTS_SHARE)
        assert fill(in_flight, "c", stack) == (5, Bound.REQUESTS_SHARE)
    with ExitStack() as stack:
        held: Counter[str] = Counter()
        refused: set[str] = set()
        # All at once.
        while len(refused) < len(SENDERS):
            for sender in SENDERS:
                try:
                    stack.enter_context(in_flight.request(sender))
                    held[sender] += 1
                except TooMuchInFlight:
                    refused.add(sender)
        assert max(held.values()) - min(held.values()) <= 1
        assert held.total() < LIMITS.requests_max


def test_bytes_are_shared_likewise() -> None:
    in_flight = InFlight(LIMITS)
    with ExitStack() as stack:
        assert fill(in_flight, "a", stack, 50) == (13, Bound.BYTES_SHARE)
        # The one refused still holds its place, and none of the bytes.
        assert fill(in_flight, "b", stack, 50) == (4, Bound.BYTES_SHARE)


def test_the_only_request_of_a_sender_may_be_as_long_as_all_together() -> None:
    in_flight = InFlight(LIMITS)
    with in_flight.request("a") as body:
        body.add(600)
        body.add(400)
        with in_flight.request("b") as other, pytest.raises(TooMuchInFlight) as refused:
            other.add(1)
        assert refused.value.bound is Bound.BYTES


def test_there_is_always_a_place_for_one_request() -> None:
    with InFlight(IntakeLimits(requests_max=1)).request("a"):
        pass


class Senders(RuleBasedStateMachine):
    """Requests that begin, grow and end in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.in_flight = InFlight(LIMITS)
        self.open: list[tuple[str, ExitStack, RequestBytes]] = []

    @rule(sender=st.sampled_from(SENDERS))
    def begin(self, sender: str) -> None:
        stack = ExitStack()
        try:
            body = stack.enter_context(self.in_flight.request(sender))
        except TooMuchInFlight:
            # Never the first one, as long as there is any place.
            assert self.held_by(sender) or len(self.open) == LIMITS.requests_max
        else:
            self.open.append((sender, stack, body))

    @rule(which=st.integers(0, 63), size=st.integers(0, 300))
    def grow(self, which: int, size: int) -> None:
        if self.open:
            sender, _, body = self.open[which % len(self.open)]
            try:
                body.add(size)
            except TooMuchInFlight:
                fits = self.total() + size <= LIMITS.in_flight_bytes_max
                assert not (fits and self.held_by(sender) == 1)

    @rule(which=st.integers(0, 63))
    def end(self, which: int) -> None:
        if self.open:
            self.open.pop(which % len(self.open))[1].close()

    @invariant()
    def bounds_hold(self) -> None:
        assert len(self.open) <= LIMITS.requests_max
        assert self.total() <= LIMITS.in_flight_bytes_max

    def held_by(self, sender: str) -> int:
        return sum(each == sender for each, _, _ in self.open)

    def total(self) -> int:
        return sum(body.size_bytes for _, _, body in self.open)

    def teardown(self) -> None:
        for _, stack, _ in self.open:
            stack.close()
        assert not self.in_flight._by_sender
        assert (self.in_flight._all.requests, self.in_flight._all.bytes) == (0, 0)


TestSenders = Senders.TestCase


@given(st.integers(1, 64))
def test_every_number_of_places_is_used_by_one_sender_up_to_its_share(places: int) -> None:
    with ExitStack() as stack:
        count, _ = fill(InFlight(IntakeLimits(requests_max=places)), "a", stack)
        assert max(1, places * 2 // 3) <= count <= max(1, places * 2 // 3 + 1)
