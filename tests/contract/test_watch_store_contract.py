"""One suite for every `WatchStore`: what is kept is kept once, and with the position or not at all."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from functools import partial

import asyncpg
import pytest

from auditap.database import Connection, administrator
from schemas.errors import RetryableError
from schemas.record import Record
from tests.audit_database import migrated
from tests.watching import AT_MS, action, raised, rules
from watcher.engine import Alert, Known, Verdict, judge, needed, sightings
from watcher.memory_store import MemoryWatchStore
from watcher.ports import HOUR_MS, PANE_MS, Advance, Lane, Overtaken, Trend, WatchStore, Work
from watcher.postgres_store import PostgresWatchStore
from watcher.rules import RuleSet

LANE = Lane("events", 0)
MINUTE_MS = 60_000
DAY_MS = 24 * HOUR_MS
BEGIN_MS = AT_MS - AT_MS % (10 * MINUTE_MS)
HELD = rules(
    {
        "name": "failures",
        "when": {"action.result": "failure"},
        "key": ["actor.id"],
        "threshold": 5,
        "window": {"size": "10m", "hop": "1m"},
    },
    {
        "name": "networks",
        "when": {"actor.ip_address": {"absent": False}},
        "key": ["actor.id", "actor.ip_address"],
        "memory": {"raise": "new", "value": "actor.ip_address", "key": ["actor.id"]},
    },
    {"name": "deletions", "when": {"action.type": "delete"}, "key": ["resource.id"]},
)


@pytest.fixture(params=["memory", "postgres"])
async def store(request: pytest.FixtureRequest, database: str) -> AsyncIterator[WatchStore]:
    if request.param == "memory":
        yield MemoryWatchStore()
        return
    prepared = await migrated(database)
    opened = await connected(prepared.watcher_dsn)
    yield opened
    await opened.close()


async def connected(dsn: str) -> PostgresWatchStore:
    return await PostgresWatchStore.connect(dsn, "test", connections_max=4, command_timeout_ms=10_000)


def failures(*minutes: float) -> list[Record]:
    return [action(BEGIN_MS + int(minute * MINUTE_MS), action_result="failure") for minute in minutes]


def work(held: RuleSet, records: Sequence[Record], **more: dict) -> Work:  # type: ignore[type-arg]
    found = [one for record in records for one in sightings(held, record)]
    return Work(needed(found), partial(judge, found), **more)


def names(found: Sequence[Alert]) -> list[str]:
    return sorted(alert.rule for alert in found)


async def test_windows_are_counted_over_works(store: WatchStore) -> None:
    assert await raised(HELD, failures(0, 1, 2, 3), store) == []
    [alert] = await raised(HELD, failures(4, 5, 6), store)
    assert alert.records == 5
    assert await raised(HELD, failures(7, 8), store) == []


async def test_one_work_holds_many(store: WatchStore) -> None:
    records = [*failures(0, 1, 2, 3, 4, 5), action(action_type="delete", resource_id="r")]
    assert names(await store.settle(work(HELD, records))) == ["deletions", "failures"]
    assert names(await store.settle(work(HELD, records))) == []


async def test_memories_are_kept(store: WatchStore) -> None:
    first, second = action(actor_ip_address="203.0.113.9"), action(actor_ip_address="198.51.100.7")
    assert await raised(HELD, [first, first], store) == []
    assert names(await raised(HELD, [second], store)) == ["networks"]
    assert await raised(HELD, [first, second], store) == []


async def test_positions_move_with_the_work(store: WatchStore) -> None:
    trend = Trend(0, HOUR_MS, "a", None, "p", "delete", "success")
    assert await store.positions([LANE]) == {}
    moved = {LANE: Advance(7, 10)}
    await store.settle(work(HELD, [], advances=moved, trends={trend: 2}))
    assert await store.positions([LANE, Lane("other", 0)]) == {LANE: 10}
    deletion = [action(action_type="delete", resource_id="r")]
    with pytest.raises(Overtaken):
        await store.settle(work(HELD, deletion, advances=moved, trends={trend: 2}))
    assert await store.positions([LANE]) == {LANE: 10}
    # Of the work that was overtaken nothing was kept.
    assert names(await store.settle(work(HELD, deletion, advances={LANE: Advance(10, 11)}))) == ["deletions"]


async def test_a_value_of_any_length_and_letter_is_a_key(store: WatchStore) -> None:
    odd = ["x" * 10_000, "x" * 9_999, 'a"b', "ü\N{SNOWMAN}", "", None]
    records = [action(action_type="delete", resource_id=each) for each in odd]
    assert len(await raised(HELD, records, store)) == 5  # what differs beyond the bound of a key is one


async def test_two_watchers_at_once_count_together_and_tell_once(database: str) -> None:
    prepared = await migrated(database)
    stores = [await connected(prepared.watcher_dsn) for _ in range(2)]
    try:
        for burst in range(20):
            # Neither half is enough: whoever comes second has to see what the first one marked.
            records = failures(*(burst * 60 + minute / 2 for minute in range(5)))
            found = await asyncio.gather(
                *(
                    store.settle(work(HELD, half))
                    for half, store in zip((records[:3], records[3:]), stores, strict=True)
                )
            )
            assert len([*found[0], *found[1]]) == 1
    finally:
        for each in stores:
            await each.close()


async def test_a_watcher_that_stands_still_in_its_work_holds_up_nobody_else(database: str) -> None:
    """As SIGSTOP in the middle of a transaction: its locks are the next one's to wait for, but not without end."""
    prepared = await migrated(database)
    stands_still, may_go_on = threading.Event(), threading.Event()

    def judge_slowly(_known: Known) -> Verdict:
        stands_still.set()
        may_go_on.wait(60)
        return Verdict()

    async def settle() -> None:
        store = await PostgresWatchStore.connect(
            prepared.watcher_dsn, "test", connections_max=1, command_timeout_ms=500
        )
        slow = Work(needed(sightings(HELD, failures(0)[0])), judge_slowly, {}, {LANE: Advance(0, 1)})
        try:
            with pytest.raises(RetryableError):
                await store.settle(slow)
        finally:
            await store.close()

    frozen = asyncio.create_task(asyncio.to_thread(asyncio.run, settle()))
    await asyncio.to_thread(stands_still.wait, 60)
    store = await connected(prepared.watcher_dsn)
    try:
        await store.settle(work(HELD, failures(0), advances={LANE: Advance(0, 1)}))
        assert await store.positions([LANE]) == {LANE: 1}
    finally:
        may_go_on.set()
        await frozen
        await store.close()


async def test_counts_are_forgotten_by_their_width_and_age(database: str) -> None:
    prepared = await migrated(database)
    store = await connected(prepared.watcher_dsn)
    counted = [
        Trend(start_ms, width_ms, "a", None, "p", "view", "success")
        for start_ms in (0, HOUR_MS, 2 * HOUR_MS)
        for width_ms in (HOUR_MS, PANE_MS)
    ]
    try:
        await store.settle(work(HELD, [], trends=dict.fromkeys(counted, 3)))
        await store.settle(work(HELD, [], trends=dict.fromkeys(counted[:2], 4)))
        await store.forget_trends(hours_before_ms=HOUR_MS, panes_before_ms=2 * HOUR_MS, rows_max=10)
        async with administrator(prepared.admin_dsn) as connection:
            found = await connection.fetch(
                "SELECT width_ms, start_ms, events FROM auditap.trends ORDER BY 1, 2"
            )
    finally:
        await store.close()
    assert list(map(tuple, found)) == [
        (PANE_MS, 2 * HOUR_MS, 3),
        (HOUR_MS, HOUR_MS, 3),
        (HOUR_MS, 2 * HOUR_MS, 3),
    ]


async def test_marks_and_memories_are_forgotten_by_their_age(database: str) -> None:
    prepared = await migrated(database)
    store = await connected(prepared.watcher_dsn)
    try:
        seen = action(actor_ip_address="203.0.113.9")
        await store.settle(work(HELD, [*failures(0), seen]))
        async with administrator(prepared.admin_dsn) as connection:
            await store.forget(DAY_MS, DAY_MS, 10)
            assert await kept(connection) == (1, 1)
            await connection.execute("UPDATE auditap.watch_marks SET marked_at = now() - interval '2 days'")
            await store.forget(DAY_MS, DAY_MS, 10)
            assert await kept(connection) == (0, 1)
            await connection.execute(
                "UPDATE auditap.watch_memories SET learned_at = now() - interval '2 days'"
            )
            # What is asked for again in time is remembered.
            await store.settle(work(HELD, [seen]))
            await store.forget(DAY_MS, DAY_MS, 10)
            assert await kept(connection) == (0, 1)
            await connection.execute(
                "UPDATE auditap.watch_memories SET learned_at = now() - interval '2 days'"
            )
            await store.forget(DAY_MS, DAY_MS, 10)
            assert await kept(connection) == (0, 0)
    finally:
        await store.close()


async def kept(connection: Connection) -> tuple[int, int]:
    row = await connection.fetchrow(
        "SELECT (SELECT count(*) FROM auditap.watch_marks), (SELECT count(*) FROM auditap.watch_memories)"
    )
    assert row is not None
    return row[0], row[1]


async def test_a_connection_that_the_driver_has_lost_track_of_is_a_database_that_is_away(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen when connections were ended while deliveries were noted: the watcher ended by it."""
    prepared = await migrated(database)
    store = await connected(prepared.watcher_dsn)

    async def lost(*_arguments: object, **_more: object) -> None:
        raise asyncpg.InternalClientError("cannot switch to state 12")

    try:
        with monkeypatch.context() as patched:
            patched.setattr(asyncpg.Connection, "execute", lost)
            with pytest.raises(RetryableError, match="InternalClientError"):
                await store.find_accounts(1)
        await store.find_accounts(1)
    finally:
        await store.close()


async def test_a_database_that_is_away_is_waited_for(database: str) -> None:
    prepared = await migrated(database)
    store = await connected(prepared.watcher_dsn)
    await store.close()
    with pytest.raises(RetryableError):
        await store.settle(work(HELD, failures(0)))
