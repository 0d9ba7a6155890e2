"""Shares of what all tokens use together."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from log_api.fair_shares import (
    FairQueue,
    NothingFreeError,
    Requester,
    SharedPlaces,
    ShareExceededError,
    Slot,
)
from log_api.ports import Token

_ENOUGH = 10_000


def of(tenant: str, token: int = 1) -> Requester:
    return Requester(frozenset({tenant}), UUID(int=token))


A, B, C = of("a"), of("b"), of("c")


def taken(places: SharedPlaces, stack: ExitStack, requester: Requester) -> int:
    """Take places until there is none; return how many."""
    count = 0
    while True:
        try:
            stack.enter_context(places.place(requester))
        except (ShareExceededError, NothingFreeError):
            return count
        count += 1


async def settle() -> None:
    """Let every task go on as far as it can."""
    for _ in range(10):
        await asyncio.sleep(0)


class Queue:
    """A `FairQueue` and the requests in it."""

    def __init__(self, slots_max: int, waiting_max: int = _ENOUGH, wait_s: float | None = None) -> None:
        self.fair = FairQueue(slots_max, waiting_max, wait_s)
        self.served: list[Requester] = []
        self.refused: list[type[Exception]] = []
        self.holding: list[tuple[Requester, asyncio.Event]] = []
        self.tasks: dict[asyncio.Task[None], Requester] = {}

    async def ask(self, *requesters: Requester) -> None:
        for requester in requesters:
            task = asyncio.create_task(self._request(requester))
            self.tasks[task] = requester
            task.add_done_callback(self.tasks.pop)
            await settle()

    async def _request(self, requester: Requester) -> None:
        done = asyncio.Event()
        try:
            async with self.fair.slot(requester):
                self.served.append(requester)
                self.holding.append((requester, done))
                try:
                    await done.wait()
                finally:
                    self.holding.remove((requester, done))
        except (ShareExceededError, NothingFreeError) as refused:
            self.refused.append(type(refused))

    async def end(self, number: int = 0) -> None:
        self.holding[number][1].set()
        await settle()

    async def end_of(self, requester: Requester) -> None:
        await self.end([one for one, _ in self.holding].index(requester))

    async def end_all(self) -> None:
        while self.holding:
            await self.end()

    @property
    def held(self) -> Counter[Requester]:
        return Counter(requester for requester, _ in self.holding)


# Places


def test_one_token_has_a_third_of_the_places_and_one_tenant_half() -> None:
    places = SharedPlaces(32)
    with ExitStack() as stack:
        assert taken(places, stack, A) == 11
        assert sum(taken(places, stack, of("a", number)) for number in range(2, 30)) == 5
        # Each newcomer finds some, whatever those before it have taken.
        found = [taken(places, stack, of(name)) for name in "bcde"]
        assert all(found)
        assert places.taken <= 32
    assert places.taken == 0


def test_the_only_place_is_for_whoever_comes_first() -> None:
    places = SharedPlaces(1)
    with places.place(A):
        with pytest.raises(ShareExceededError), places.place(A):
            pass
        with pytest.raises(NothingFreeError), places.place(B):
            pass
    with places.place(B):
        pass


def test_a_place_is_given_back_after_a_failure() -> None:
    places = SharedPlaces(1)
    with pytest.raises(ValueError, match="in the middle"), places.place(A):
        raise ValueError("in the middle")
    assert places.taken == 0


@given(st.integers(1, 50), st.lists(st.tuples(st.sampled_from("abcd"), st.integers(1, 4)), max_size=60))
def test_places_are_bounded_and_no_tenant_has_more_than_it_leaves(
    places_max: int, asked: list[tuple[str, int]]
) -> None:
    places = SharedPlaces(places_max)
    held: Counter[str] = Counter()
    with ExitStack() as stack:
        for tenant, token in asked:
            free = places_max - held.total()
            try:
                stack.enter_context(places.place(of(tenant, token)))
            except ShareExceededError:
                assert held[tenant] > 0
            except NothingFreeError:
                assert (held[tenant], free) == (0, 0)
            else:
                held[tenant] += 1
                assert held[tenant] <= free
        assert places.taken == held.total() <= places_max
    assert (places.taken, dict(places._tenants), dict(places._tokens)) == (0, {}, {})


@given(
    st.integers(1, 60),
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 3), st.integers(1, 20)), max_size=30),
)
def test_several_places_at_once_are_as_many_one_by_one(
    places_max: int, asked: list[tuple[str, int, int]]
) -> None:
    at_once, one_by_one = SharedPlaces(places_max), SharedPlaces(places_max)
    with ExitStack() as stack:
        for tenant, token, number in asked:
            requester = of(tenant, token)
            with ExitStack() as attempt:
                try:
                    for _ in range(number):
                        attempt.enter_context(one_by_one.place(requester))
                except (ShareExceededError, NothingFreeError):
                    has_any = at_once._tenants.get(requester.tenant, 0) > 0
                    with (
                        pytest.raises(ShareExceededError if has_any else NothingFreeError),
                        at_once.place(requester, number),
                    ):
                        pass
                else:
                    stack.enter_context(at_once.place(requester, number))
                    stack.push(attempt.pop_all())
            assert at_once.taken == one_by_one.taken
    assert at_once.taken == 0


# The queue


def test_tokens_for_the_same_accounts_are_one_tenant() -> None:
    one, two = (Token(UUID(int=number), frozenset({"a", "b"}), frozenset(), 0) for number in (1, 2))
    assert one.requester.tenant == two.requester.tenant
    assert one.requester != two.requester
    everywhere = [Token(UUID(int=number), None, frozenset(), 0).requester for number in (1, 2)]
    assert everywhere[0].tenant != everywhere[1].tenant


async def test_a_lone_token_has_most_slots_and_never_the_last() -> None:
    queue = Queue(8)
    await queue.ask(*[A] * 30)
    assert queue.held == {A: 5}
    await queue.ask(*(of("a", number) for number in range(2, 30)))
    assert queue.held.total() == 6
    # A newcomer need not wait, though others have waited for long.
    await queue.ask(B)
    assert queue.held[B] == 1
    await queue.end_all()
    assert (queue.fair.held, queue.fair.waiting) == (0, 0)


async def test_a_free_slot_goes_to_whoever_has_least() -> None:
    queue = Queue(4)
    await queue.ask(*[A] * 10, *[B] * 10)
    assert queue.held == {A: 2, B: 2}
    await queue.ask(C)
    await queue.end_of(A)
    assert queue.held == {A: 1, B: 2, C: 1}
    # Now C's request has ended, and of A and B the one that has less goes on.
    await queue.end_of(C)
    assert queue.held == {A: 2, B: 2}
    await queue.end_all()


async def test_waiting_tenants_and_their_tokens_take_turns() -> None:
    queue = Queue(1)
    await queue.ask(of("z"), *[of("a", 1)] * 3, *[of("a", 2)] * 3, *[B] * 3)
    await queue.end_all()
    first, *rest = queue.served
    assert first == of("z")
    assert [one.tenant for one in rest[:6]] == [A.tenant, B.tenant] * 3
    assert [one.token.int for one in rest if one.tenant == A.tenant] == [1, 2, 1, 2, 1, 2]


async def test_an_account_with_many_tokens_has_one_share() -> None:
    queue = Queue(4)
    await queue.ask(*(of("a", number) for number in range(30)), *[B] * 3)
    assert sum(count for one, count in queue.held.items() if one.tenant == A.tenant) == 3
    await queue.end_of(next(one for one in queue.held if one.tenant == A.tenant))
    assert queue.held[B] == 2
    await queue.end_all()


async def test_a_slot_is_wanted_by_those_who_have_less_alone() -> None:
    queue = Queue(4)
    async with queue.fair.slot(A) as first, queue.fair.slot(A):
        await queue.ask(*[A] * 5)
        assert not first.is_wanted()
        await queue.ask(B, B, C)
        # B has one slot and waits for another: less than A has.
        assert first.is_wanted()
    await queue.end_all()


async def test_a_sibling_token_that_has_less_wants_a_slot() -> None:
    queue = Queue(4)
    async with queue.fair.slot(A) as mine, queue.fair.slot(A):
        await queue.ask(of("a", 2))
        assert not mine.is_wanted()
        await queue.ask(of("a", 2), of("a", 3))
        assert mine.is_wanted()
    await queue.end_all()


async def test_a_slot_that_was_given_back_comes_again_after_the_others() -> None:
    queue = Queue(1)
    slot = Slot(queue.fair, A)
    await slot.take()
    await queue.ask(B, C)
    assert slot.is_wanted()
    slot.release()
    again = asyncio.create_task(slot.take())
    await settle()
    await queue.end_all()
    await again
    assert queue.served == [B, C]
    slot.release()
    slot.release()
    assert queue.fair.held == 0


async def test_whoever_gives_way_may_wait_for_longer_than_a_newcomer() -> None:
    queue = Queue(1, wait_s=0.05)
    async with queue.fair.slot(A) as slot:
        await queue.ask(B)
        going_on = asyncio.create_task(slot.give_way(60))
        await settle()
        await queue.ask(C)
        while not queue.refused:
            await asyncio.sleep(0.01)
        assert (queue.held, going_on.done()) == ({B: 1}, False)
        await queue.end_all()
        await going_on
        assert queue.fair.held == 1
    assert queue.fair.held == 0


async def test_a_request_above_its_share_is_told_so_when_its_wait_ends() -> None:
    queue = Queue(4, wait_s=0.05)
    await queue.ask(*[A] * 10)
    while len(queue.refused) < 8:
        await asyncio.sleep(0.01)
    assert set(queue.refused) == {ShareExceededError}
    assert queue.fair.waiting == 0
    await queue.end_all()


async def test_a_request_below_its_share_is_told_that_nothing_is_free() -> None:
    queue = Queue(3, wait_s=0.05)
    await queue.ask(A, A, B, C)
    assert (queue.held, queue.fair.waiting) == ({A: 1, B: 1, C: 1}, 1)
    await queue.ask(of("d"))
    while len(queue.refused) < 2:
        await asyncio.sleep(0.01)
    assert sorted(one.__name__ for one in queue.refused) == ["NothingFreeError", "ShareExceededError"]
    await queue.end_all()


async def test_requests_that_wait_are_bounded() -> None:
    queue = Queue(1, waiting_max=30)
    await queue.ask(*[A] * 50)
    assert (queue.fair.waiting, len(queue.refused)) == (10, 39)
    await queue.ask(B)
    assert queue.fair.waiting == 11
    await queue.end_all()


async def test_a_request_that_is_given_up_leaves_nothing_behind() -> None:
    queue = Queue(1)
    await queue.ask(A, B, C)
    given_up = next(task for task, requester in queue.tasks.items() if requester == B)
    given_up.cancel()
    await settle()
    await queue.end()
    assert queue.served == [A, C]
    await queue.end_all()
    assert (queue.fair.held, queue.fair.waiting, queue.fair._queues) == (0, 0, {})


async def test_a_turn_that_comes_as_its_request_is_given_up_goes_to_the_next() -> None:
    queue = Queue(1)
    await queue.ask(A, B, C)
    given_up = next(task for task, requester in queue.tasks.items() if requester == B)
    queue.holding[0][1].set()
    # A has given the slot to B, whose task has not gone on yet.
    while queue.fair._queues.get(B):
        await asyncio.sleep(0)
    given_up.cancel()
    await settle()
    assert queue.served == [A, C]
    await queue.end_all()
    assert queue.fair.held == 0


_REQUESTERS = st.builds(of, st.sampled_from("abc"), st.integers(1, 3))
_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), _REQUESTERS),
        st.tuples(st.just("end"), st.integers(0, 20)),
        st.tuples(st.just("give up"), st.integers(0, 20)),
    ),
    max_size=40,
)


@given(st.integers(1, 9), _STEPS)
def test_the_rules_hold_whatever_happens(
    slots_max: int, steps: Sequence[tuple[str, Requester | int]]
) -> None:
    asyncio.run(_steps(slots_max, steps))


async def _steps(slots_max: int, steps: Sequence[tuple[str, Requester | int]]) -> None:
    queue = Queue(slots_max)
    for step, of_what in steps:
        if isinstance(of_what, Requester):
            await queue.ask(of_what)
        elif step == "end" and queue.holding:
            await queue.end(of_what % len(queue.holding))
        elif step == "give up" and queue.tasks:
            list(queue.tasks)[of_what % len(queue.tasks)].cancel()
            await settle()
        _check(queue, slots_max)
    for task in list(queue.tasks):
        task.cancel()
    await settle()
    fair = queue.fair
    assert (fair.held, fair.waiting, fair._queues, fair._tenants, fair._tokens) == (0, 0, {}, {}, {})


def _check(queue: Queue, slots_max: int) -> None:
    fair, held = queue.fair, queue.held
    assert fair.held == held.total() <= slots_max
    assert fair.waiting == len(queue.tasks) - held.total()
    tenants: Counter[object] = Counter()
    for requester, count in held.items():
        tenants[requester.tenant] += count
    for requester in fair._queues:
        # Whoever waits though a slot is free has as many as it may have.
        assert fair.held == slots_max or not fair._may_have_more(requester)
    if slots_max > 1:
        assert all(count < slots_max for count in tenants.values())


async def test_every_tenant_goes_on_however_many_ask() -> None:
    """Twenty tenants, one of which asks for a hundred slots at once: after twenty turns each has had one."""
    queue = Queue(4)
    await queue.ask(*[A] * 100, *(of(f"other{number}") for number in range(19)))
    while len(queue.served) < 23:
        await queue.end()
    assert len({one.tenant for one in queue.served}) == 20
    await queue.end_all()
