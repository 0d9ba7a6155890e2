"""The contract of `AlertStore`: what is committed is stored once, together with the position or not at all."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from functools import partial

import asyncpg
import pytest

from alerting.engine import Alert, Evaluation, State, evaluate, match_rules, required_state
from alerting.memory_store import MemoryAlertStore
from alerting.ports import (
    HOUR_MS,
    TEN_MINUTES_MS,
    Advance,
    AlertStore,
    PositionConflict,
    TrendBucket,
    UnitOfWork,
)
from alerting.postgres_store import PostgresAlertStore
from alerting.rules import RuleSet
from auditap.database.connection import Connection, administrator
from eventlog.ports import Partition
from schemas.errors import RetryableError
from schemas.record import Record
from tests.alert_cases import AT_MS, action, raised, rules
from tests.audit_database import migrated

PARTITION = Partition("events", 0)
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
        "seen_values": {"raise": "new", "value": "actor.ip_address", "key": ["actor.id"]},
    },
    {"name": "deletions", "when": {"action.type": "delete"}, "key": ["resource.id"]},
)


@pytest.fixture(params=["memory", "postgres"])
async def store(request: pytest.FixtureRequest, database: str) -> AsyncIterator[AlertStore]:
    if request.param == "memory":
        yield MemoryAlertStore()
        return
    prepared = await migrated(database)
    opened = await connected(prepared.alerting_dsn)
    yield opened
    await opened.close()


async def connected(dsn: str) -> PostgresAlertStore:
    return await PostgresAlertStore.connect(dsn, "test", connections_max=4, command_timeout_ms=60_000)


def failures(*minutes: float) -> list[Record]:
    return [action(BEGIN_MS + int(minute * MINUTE_MS), action_result="failure") for minute in minutes]


def work(held: RuleSet, records: Sequence[Record], **more: dict) -> UnitOfWork:  # type: ignore[type-arg]
    found = [one for record in records for one in match_rules(held, record)]
    return UnitOfWork(required_state(found), partial(evaluate, found), **more)


def names(found: Sequence[Alert]) -> list[str]:
    return sorted(alert.rule for alert in found)


async def test_windows_are_counted_across_units_of_work(store: AlertStore) -> None:
    assert await raised(HELD, failures(0, 1, 2, 3), store) == []
    [alert] = await raised(HELD, failures(4, 5, 6), store)
    assert alert.records == 5
    assert await raised(HELD, failures(7, 8), store) == []


async def test_a_unit_of_work_holds_many_records(store: AlertStore) -> None:
    records = [*failures(0, 1, 2, 3, 4, 5), action(action_type="delete", resource_id="r")]
    assert names(await store.commit(work(HELD, records))) == ["deletions", "failures"]
    assert names(await store.commit(work(HELD, records))) == []


async def test_seen_values_are_stored(store: AlertStore) -> None:
    first, second = action(actor_ip_address="203.0.113.9"), action(actor_ip_address="198.51.100.7")
    assert await raised(HELD, [first, first], store) == []
    assert names(await raised(HELD, [second], store)) == ["networks"]
    assert await raised(HELD, [first, second], store) == []


async def test_positions_move_with_the_unit_of_work(store: AlertStore) -> None:
    trend = TrendBucket(0, HOUR_MS, "a", None, "p", "delete", "success")
    assert await store.positions([PARTITION]) == {}
    moved = {PARTITION: Advance(7, 10)}
    await store.commit(work(HELD, [], advances=moved, trends={trend: 2}))
    assert await store.positions([PARTITION, Partition("other", 0)]) == {PARTITION: 10}
    deletion = [action(action_type="delete", resource_id="r")]
    with pytest.raises(PositionConflict):
        await store.commit(work(HELD, deletion, advances=moved, trends={trend: 2}))
    assert await store.positions([PARTITION]) == {PARTITION: 10}
    # Nothing of the conflicting unit of work was stored.
    assert names(await store.commit(work(HELD, deletion, advances={PARTITION: Advance(10, 11)}))) == [
        "deletions"
    ]


async def test_positions_are_of_one_log_although_another_has_its_name(store: AlertStore) -> None:
    first, second = Partition("events", 0, "first"), Partition("events", 0, "second")
    await store.commit(work(HELD, [], advances={first: Advance(0, 500), second: Advance(0, 3)}))
    assert await store.positions([first, second]) == {first: 500, second: 3}
    await store.commit(work(HELD, [], advances={second: Advance(3, 4)}))
    assert await store.positions([first, second]) == {first: 500, second: 4}
    assert await store.positions([Partition("events", 0, "third"), Partition("events", 1, "first")]) == {}


async def test_positions_without_a_log_id_go_to_one_log(store: AlertStore) -> None:
    """An older release stored them: without them everything would be read again, and with them for every log events be skipped."""
    other = Partition("other", 0)
    both = {PARTITION: Advance(0, 500), Partition("events", 1): Advance(0, 300), other: Advance(0, 7)}
    await store.commit(work(HELD, [], advances=both))
    for log_id in ("first", "second", "first"):
        await store.adopt_positions("events", log_id)
    first = {Partition("events", 0, "first"): 500, Partition("events", 1, "first"): 300}
    second = [Partition("events", number, "second") for number in range(2)]
    assert await store.positions([*first, *second, PARTITION, other]) == {**first, other: 7}
    # As with brokers of which some give no ids.
    await store.commit(work(HELD, [], advances={PARTITION: Advance(0, 9)}))
    await store.adopt_positions("events", "second")
    assert await store.positions([*second, PARTITION]) == {PARTITION: 9}


async def test_a_value_of_any_length_and_letter_is_a_key(store: AlertStore) -> None:
    odd = ["x" * 10_000, "x" * 9_999, 'a"b', "ü\N{SNOWMAN}", "", None]
    records = [action(action_type="delete", resource_id=each) for each in odd]
    assert len(await raised(HELD, records, store)) == 5  # what differs beyond the bound of a key is one


async def test_two_processes_count_together_and_raise_once(database: str) -> None:
    prepared = await migrated(database)
    stores = [await connected(prepared.alerting_dsn) for _ in range(2)]
    try:
        for burst in range(20):
            # Neither half is enough: whoever comes second has to see what the first one marked.
            records = failures(*(burst * 60 + minute / 2 for minute in range(5)))
            found = await asyncio.gather(
                *(
                    store.commit(work(HELD, half))
                    for half, store in zip((records[:3], records[3:]), stores, strict=True)
                )
            )
            assert len([*found[0], *found[1]]) == 1
    finally:
        for each in stores:
            await each.close()


async def test_a_frozen_process_blocks_its_successor_for_a_bounded_time(database: str) -> None:
    """As with SIGSTOP in the middle of a transaction, which holds locks."""
    prepared = await migrated(database)
    is_frozen, may_continue = threading.Event(), threading.Event()

    def evaluate_slowly(_state: State) -> Evaluation:
        is_frozen.set()
        may_continue.wait(120)
        return Evaluation()

    async def commit() -> None:
        store = await PostgresAlertStore.connect(
            prepared.alerting_dsn, "test", connections_max=1, command_timeout_ms=500
        )
        slow = UnitOfWork(
            required_state(match_rules(HELD, failures(0)[0])), evaluate_slowly, {}, {PARTITION: Advance(0, 1)}
        )
        try:
            # Again where a slow statement met the short time limit before.
            while not is_frozen.is_set():
                with pytest.raises(RetryableError):
                    await store.commit(slow)
        finally:
            await store.close()

    frozen = asyncio.create_task(asyncio.to_thread(asyncio.run, commit()))
    assert await asyncio.to_thread(is_frozen.wait, 120)
    store = await connected(prepared.alerting_dsn)
    try:
        await store.commit(work(HELD, failures(0), advances={PARTITION: Advance(0, 1)}))
        assert await store.positions([PARTITION]) == {PARTITION: 1}
    finally:
        may_continue.set()
        await frozen
        await store.close()


async def test_trends_are_deleted_by_width_and_age(database: str) -> None:
    prepared = await migrated(database)
    store = await connected(prepared.alerting_dsn)
    counted = [
        TrendBucket(start_ms, width_ms, "a", None, "p", "view", "success")
        for start_ms in (0, HOUR_MS, 2 * HOUR_MS)
        for width_ms in (HOUR_MS, TEN_MINUTES_MS)
    ]
    try:
        await store.commit(work(HELD, [], trends=dict.fromkeys(counted, 3)))
        await store.commit(work(HELD, [], trends=dict.fromkeys(counted[:2], 4)))
        await store.delete_old_trends(hours_before_ms=HOUR_MS, ten_minutes_before_ms=2 * HOUR_MS, rows_max=10)
        async with administrator(prepared.admin_dsn) as connection:
            found = await connection.fetch(
                "SELECT width_ms, start_ms, events FROM auditap.trends ORDER BY 1, 2"
            )
    finally:
        await store.close()
    assert list(map(tuple, found)) == [
        (TEN_MINUTES_MS, 2 * HOUR_MS, 3),
        (HOUR_MS, HOUR_MS, 3),
        (HOUR_MS, 2 * HOUR_MS, 3),
    ]


async def test_window_entries_and_seen_values_are_deleted_by_age(database: str) -> None:
    prepared = await migrated(database)
    store = await connected(prepared.alerting_dsn)
    try:
        seen = action(actor_ip_address="203.0.113.9")
        await store.commit(work(HELD, [*failures(0), seen]))
        async with administrator(prepared.admin_dsn) as connection:
            await store.delete_old_state(DAY_MS, DAY_MS, 10)
            assert await stored_rows(connection) == (1, 1)
            await two_days_old(connection, "alert_window_entries", "counted_at")
            await store.delete_old_state(DAY_MS, DAY_MS, 10)
            assert await stored_rows(connection) == (0, 1)
            await two_days_old(connection, "alert_seen_values", "seen_at")
            # Using a value refreshes its age.
            await store.commit(work(HELD, [seen]))
            await store.delete_old_state(DAY_MS, DAY_MS, 10)
            assert await stored_rows(connection) == (0, 1)
            await two_days_old(connection, "alert_seen_values", "seen_at")
            await store.delete_old_state(DAY_MS, DAY_MS, 10)
            assert await stored_rows(connection) == (0, 0)
    finally:
        await store.close()


async def two_days_old(connection: Connection, table: str, column: str) -> None:
    await connection.execute(f"UPDATE auditap.{table} SET {column} = now() - interval '2 days'")


async def stored_rows(connection: Connection) -> tuple[int, int]:
    row = await connection.fetchrow(
        "SELECT (SELECT count(*) FROM auditap.alert_window_entries), (SELECT count(*) FROM auditap.alert_seen_values)"
    )
    assert row is not None
    return row[0], row[1]


async def test_an_internal_driver_error_is_retryable(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression: it ended the process when connections were cut while deliveries were stored."""
    prepared = await migrated(database)
    store = await connected(prepared.alerting_dsn)

    async def lost(*_arguments: object, **_more: object) -> None:
        raise asyncpg.InternalClientError("cannot switch to state 12")

    try:
        with monkeypatch.context() as patched:
            patched.setattr(asyncpg.Connection, "execute", lost)
            with pytest.raises(RetryableError, match="InternalClientError"):
                await store.set_accounts(1)
        await store.set_accounts(1)
    finally:
        await store.close()


async def test_a_closed_pool_is_retryable(database: str) -> None:
    prepared = await migrated(database)
    store = await connected(prepared.alerting_dsn)
    await store.close()
    with pytest.raises(RetryableError):
        await store.commit(work(HELD, failures(0)))
