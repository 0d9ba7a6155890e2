"""Divides what all tokens use together, so that none of them keeps the others waiting.

Tokens for the same accounts are one tenant: a tenant with thirty tokens has one share. A token for every account is a tenant of
its own. Within a tenant, its tokens have equal shares.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

from schemas.errors import RetryableError

Tenant = frozenset[str] | UUID


class Requester(NamedTuple):
    """Whose request it is: a tenant, and one of its tokens."""

    tenant: Tenant
    token: UUID


class ShareExceededError(RetryableError):
    """The requester has its share already, and wants more."""


class NothingFreeError(RetryableError):
    """Others have all there is."""


class SharedPlaces:
    """A number of places, of which a requester may take as many as it leaves free to others.

    A tenant takes a place only while it has fewer than are free, and a token only while it has fewer than are left to its tenant.
    So one token alone has a third of all places at most and one tenant half, and each newcomer finds some.
    """

    def __init__(self, places_max: int) -> None:
        self._places_max = places_max
        self._tenants: defaultdict[Tenant, int] = defaultdict(int)
        self._tokens: defaultdict[Requester, int] = defaultdict(int)
        self.taken = 0

    @contextmanager
    def place(self, requester: Requester, places: int = 1) -> Iterator[None]:
        """Hold a place, or several as if they were taken one by one. Raises ShareExceededError, NothingFreeError."""
        # As it is when only the last one is not taken yet.
        free = self._places_max - self.taken - (places - 1)
        before = self._tenants.get(requester.tenant, 0)
        of_tenant, of_token = before + places - 1, self._tokens.get(requester, 0) + places - 1
        if of_token >= free - of_tenant:
            if before == 0:
                raise NothingFreeError("others have too many places")
            raise ShareExceededError("the requester has its share of places")
        self._add(requester, places)
        try:
            yield
        finally:
            self._add(requester, -places)

    def _add(self, requester: Requester, places: int) -> None:
        self.taken += places
        self._tenants[requester.tenant] += places
        self._tokens[requester] += places
        # Only those who have places are remembered.
        if not self._tenants[requester.tenant]:
            del self._tenants[requester.tenant]
        if not self._tokens[requester]:
            del self._tokens[requester]


@dataclass(slots=True)
class _Standing:
    """What a tenant or a token has of a queue: slots, waiting requests, and the number of its last turn."""

    held: int = 0
    waiting: int = 0
    last_turn: int = 0


class FairQueue:
    """Lets at most `slots_max` requests go on at once, and gives the others their turn in a fair order.

    A free slot goes to the waiting tenant that holds the fewest, among equals to the one whose last turn is longest ago; within
    a tenant likewise to one of its tokens. A tenant never has the last slots, nor a token the last ones of its tenant, so that a
    newcomer finds one. A request waits for at most `wait_s` (None: as long as it takes), and `SharedPlaces` bound how
    many wait.
    """

    def __init__(self, slots_max: int, waiting_max: int, wait_s: float | None) -> None:
        self._slots_max = slots_max
        self._tenant_slots_max = _all_but_a_quarter(slots_max)
        self._token_slots_max = _all_but_a_quarter(self._tenant_slots_max)
        self._places = SharedPlaces(waiting_max)
        self.wait_s = wait_s
        self._turns = 0
        self._tenants: defaultdict[Tenant, _Standing] = defaultdict(_Standing)
        self._tokens: defaultdict[Requester, _Standing] = defaultdict(_Standing)
        # None of them is empty.
        self._queues: dict[Requester, deque[asyncio.Future[None]]] = {}
        self.held = 0

    @property
    def waiting(self) -> int:
        return self._places.taken

    @asynccontextmanager
    async def slot(self, requester: Requester) -> AsyncIterator[Slot]:
        """Hold a slot. Raises ShareExceededError or NothingFreeError, by who has the slots, if there is none in time."""
        slot = Slot(self, requester)
        await slot.take()
        try:
            yield slot
        finally:
            slot.release()

    async def take(self, requester: Requester, wait_s: float | None) -> None:
        """Take a slot as `slot` does, but wait for `wait_s`; the caller has to `release` it."""
        # Others may wait while a slot is free, but only such as may not have more: the newcomer passes nobody.
        if self._may_have_more(requester):
            self._grant(requester)
            return
        with self._places.place(requester):
            await self._wait(requester, wait_s)

    def release(self, requester: Requester) -> None:
        self._count(requester, held=-1)
        while (nearest := self._next()) is not None:
            queue = self._queues[nearest]
            turn = queue.popleft()
            if not queue:
                del self._queues[nearest]
            # One that was given up is still there until its task goes on.
            if not turn.done():
                self._grant(nearest)
                turn.set_result(None)

    def is_wanted_by_others(self, requester: Requester) -> bool:
        """Return whether anybody waits who has less than `requester`, which holds a slot."""
        return any(self._has_less(other, requester) for other in self._queues)

    async def _wait(self, requester: Requester, wait_s: float | None) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queues.setdefault(requester, deque()).append(turn)
        self._count(requester, waiting=1)
        try:
            async with asyncio.timeout(wait_s):
                await turn
        except (TimeoutError, asyncio.CancelledError) as ended:
            self._give_up(requester, turn)
            if isinstance(ended, TimeoutError):
                raise self._refusal(requester) from None
            raise
        finally:
            self._count(requester, waiting=-1)

    def _give_up(self, requester: Requester, turn: asyncio.Future[None]) -> None:
        if turn.done() and not turn.cancelled():
            # The turn came at the moment at which the wait ended.
            self.release(requester)
            return
        queue = self._queues.get(requester, deque())
        if turn in queue:
            queue.remove(turn)
            if not queue:
                del self._queues[requester]

    def _next(self) -> Requester | None:
        """Return who goes next; None if no slot is free, or nobody who waits may have more."""
        if self.held >= self._slots_max:
            return None
        return min(filter(self._may_have_more, self._queues), key=self._order, default=None)

    def _order(self, requester: Requester) -> tuple[int, ...]:
        tenant, token = self._tenants[requester.tenant], self._tokens[requester]
        return tenant.held, tenant.last_turn, token.held, token.last_turn

    def _has_less(self, other: Requester, requester: Requester) -> bool:
        if other.tenant != requester.tenant:
            return self._tenants[other.tenant].held < self._tenants[requester.tenant].held
        return self._tokens[other].held < self._tokens[requester].held

    def _may_have_more(self, requester: Requester) -> bool:
        tenant, token = self._tenants.get(requester.tenant), self._tokens.get(requester)
        return (
            self.held < self._slots_max
            and (tenant is None or tenant.held < self._tenant_slots_max)
            and (token is None or token.held < self._token_slots_max)
        )

    def _grant(self, requester: Requester) -> None:
        self._turns += 1
        self._count(requester, held=1)
        self._tenants[requester.tenant].last_turn = self._tokens[requester].last_turn = self._turns

    def _count(self, requester: Requester, *, held: int = 0, waiting: int = 0) -> None:
        self.held += held
        for standing in (self._tenants[requester.tenant], self._tokens[requester]):
            standing.held += held
            standing.waiting += waiting
        # Whoever neither holds nor waits is forgotten.
        if not self._tenants[requester.tenant].held + self._tenants[requester.tenant].waiting:
            del self._tenants[requester.tenant]
        if not self._tokens[requester].held + self._tokens[requester].waiting:
            del self._tokens[requester]

    def _refusal(self, requester: Requester) -> RetryableError:
        """Return why a request found no slot in time: it is of those who have an equal share of them, or others have more."""
        tokens = sum(other.tenant == requester.tenant for other in self._tokens)
        of_tenant = min(max(self._slots_max // len(self._tenants), 1), self._tenant_slots_max)
        of_token = min(max(of_tenant // tokens, 1), self._token_slots_max)
        if self._tenants[requester.tenant].held >= of_tenant or self._tokens[requester].held >= of_token:
            return ShareExceededError("the requester has its share of slots")
        return NothingFreeError("others have every slot")


class Slot:
    """A slot of a `FairQueue` that one requester takes and releases, as often as it likes."""

    def __init__(self, queue: FairQueue, requester: Requester) -> None:
        self._queue = queue
        self._requester = requester
        self._is_held = False

    async def take(self) -> None:
        """Wait for a slot. Raises as `FairQueue.slot` does."""
        await self._queue.take(self._requester, self._queue.wait_s)
        self._is_held = True

    async def give_way(self, wait_s: float) -> None:
        """Release the slot, and wait for the next one, for at most `wait_s`. Raises as `FairQueue.slot` does."""
        self.release()
        await self._queue.take(self._requester, wait_s)
        self._is_held = True

    def release(self) -> None:
        """Give the slot back, if it is held."""
        if self._is_held:
            self._is_held = False
            self._queue.release(self._requester)

    def is_wanted(self) -> bool:
        """Return whether anybody waits who has less than the holder."""
        return self._queue.is_wanted_by_others(self._requester)


def _all_but_a_quarter(slots: int) -> int:
    """Return how many of `slots` one of those who share them may have: all but a quarter, but one at least."""
    return max(slots - max(slots // 4, 1), 1)
