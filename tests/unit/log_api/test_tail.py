"""Tails of the log."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from log_api.app import log_api_app
from log_api.config import LogApiConfig, LogApiLimits
from log_api.ports import Permission
from log_api.records import AuditRecord
from log_api.sql_builder import Condition, ListQuery
from log_api.tail import Tail
from schemas.errors import RetryableError
from schemas.metric_defs import Metrics
from schemas.record import Record
from tests.records import record
from tests.unit.log_api.api_client import NOW_MS, TOKEN, A, ApiClient, B, add_token
from tests.unit.log_api.memory_log import MemoryLog

QUERY = ListQuery((A,), 0, 0)
SETTINGS = LogApiConfig(
    cursor_key=b"k" * 32,
    tail_interval_ms=1_000,
    limits=LogApiLimits(
        tail_lookback_ms=10_000, tail_records_max=50, tail_heartbeat_ms=3_000, tail_time_ms=20_000
    ),
)
Step = Callable[[], Awaitable[None]]


class Script:
    """A tail whose sleeps are scripted: each runs the next step and moves the clock by the interval."""

    def __init__(self, log: MemoryLog, settings: LogApiConfig = SETTINGS) -> None:
        self.log = log
        self.settings = settings
        self.now_ms = NOW_MS
        self.allowed = True
        self.steps: list[Step] = []

    async def run(self, query: ListQuery = QUERY, since_ms: int = NOW_MS) -> list[bytes]:
        tail = Tail(self.log, self.settings, lambda: self.now_ms, self._sleep, self._may_continue)
        return [chunk async for chunk in tail.events(query, since_ms)]

    async def _sleep(self, seconds: float) -> None:
        self.now_ms += int(seconds * 1000)
        if self.steps:
            await self.steps.pop(0)()

    async def _may_continue(self) -> bool:
        return self.allowed

    def arrive(self, *records: Record) -> None:
        async def add() -> None:
            await self.log.add(records)

        self.steps.append(add)


def ids(chunks: Sequence[bytes]) -> list[str]:
    return [
        line.removeprefix(b"id: ").decode()
        for chunk in chunks
        for line in chunk.splitlines()
        if line.startswith(b"id: ")
    ]


def at(offset_ms: int, **columns: Any) -> Record:
    return record(NOW_MS + offset_ms, **{"account_id": A, **columns})


async def test_each_record_is_sent_once_as_it_arrives(memory_log: MemoryLog) -> None:
    script = Script(memory_log)
    records = [at(number * 700) for number in range(10)]
    for one in records:
        script.arrive(one, at(0, account_id=B))
    assert ids(await script.run()) == [one.id.hex for one in records]


async def test_an_event_is_the_record_on_one_line(memory_log: MemoryLog) -> None:
    one = at(0, resource_request='{"a":\r\n1.10}')
    await memory_log.add([one])
    chunks = await Script(memory_log).run()
    [event] = [chunk for chunk in chunks if chunk.startswith(b"id: ")]
    lines = event.decode().split("\n")
    assert lines[:2] == [f"id: {one.id.hex}", "event: record"]
    assert json.loads(lines[2].removeprefix("data: "))["resource"]["request"] == {"a": 1.1}
    assert lines[3:] == ["", ""]


async def test_a_record_out_of_order_is_sent_once(memory_log: MemoryLog) -> None:
    script = Script(memory_log)
    first, late, last = at(5_000), at(1_000), at(6_000)
    script.arrive(first)
    script.arrive(late)
    script.arrive(last)
    assert ids(await script.run()) == [one.id.hex for one in (first, late, last)]


async def test_a_record_later_than_the_lookback_is_not_sent(memory_log: MemoryLog) -> None:
    script = Script(memory_log)
    for _ in range(12):
        script.arrive()
    script.arrive(at(1_000))
    assert ids(await script.run()) == []


async def test_a_backlog_larger_than_the_memory_of_sent_ids(memory_log: MemoryLog) -> None:
    records = [at(-60_000 + number) for number in range(300)]
    await memory_log.add(records)
    found = ids(await Script(memory_log).run(since_ms=NOW_MS - 60_000))
    assert found == [one.id.hex for one in records]


async def test_more_arrivals_than_the_memory_of_sent_ids(memory_log: MemoryLog) -> None:
    script = Script(memory_log)
    records = [at(number) for number in range(180)]
    script.arrive(*records)
    script.arrive(at(1_500))
    found = ids(await script.run())
    assert found[:180] == [one.id.hex for one in records]
    assert len(found) == len(set(found)) == 181


async def test_filters_apply(memory_log: MemoryLog) -> None:
    script = Script(memory_log)
    wanted = at(1, actor_id="u1")
    script.arrive(wanted, at(2, actor_id="u2"))
    query = replace(QUERY, conditions=(Condition("actor_id", False, ("u1",)),))
    assert ids(await script.run(query)) == [wanted.id.hex]


async def test_heartbeats_are_sent_while_nothing_arrives(memory_log: MemoryLog) -> None:
    chunks = await Script(memory_log).run()
    assert set(chunks) == {b": waiting\n\n"}
    assert 5 <= len(chunks) <= 8


async def test_a_token_that_becomes_invalid_ends_its_tail(memory_log: MemoryLog) -> None:
    script = Script(memory_log)

    async def revoke() -> None:
        script.allowed = False
        await memory_log.add([at(1)])

    script.steps.append(revoke)
    assert ids(await script.run()) == []
    assert script.now_ms == NOW_MS + 1_000


async def test_a_tail_survives_an_unavailable_database(memory_log: MemoryLog) -> None:
    script = Script(memory_log)
    one = at(1)

    async def away() -> None:
        memory_log.unavailable = True

    async def back() -> None:
        memory_log.unavailable = False
        await memory_log.add([one])

    script.steps += [away, back]
    assert ids(await script.run()) == [one.id.hex]


class OneByOne(MemoryLog):
    """Returns one record per call, as with large bodies."""

    async def records(self, accounts: Sequence[str] | None, ids: Sequence[UUID]) -> Sequence[AuditRecord]:
        return (await super().records(accounts, ids))[:1]


async def test_all_records_with_large_bodies_are_sent() -> None:
    script = Script(OneByOne())
    records = [at(number) for number in range(5)]
    script.arrive(*records)
    assert ids(await script.run()) == [one.id.hex for one in records]


class AwayInBetween(OneByOne):
    """Away at each second call for records, as where others have all connections."""

    calls = 0

    async def records(self, accounts: Sequence[str] | None, ids: Sequence[UUID]) -> Sequence[AuditRecord]:
        self.calls += 1
        if self.calls % 2 == 0:
            raise RetryableError("away")
        return await super().records(accounts, ids)


@pytest.mark.parametrize("records_max", [3, 50])
async def test_a_tail_that_cannot_read_its_records_reads_on_later(records_max: int) -> None:
    limits = SETTINGS.limits._replace(tail_records_max=records_max)
    script = Script(AwayInBetween(), replace(SETTINGS, limits=limits))
    records = [at(number) for number in range(5)]
    script.arrive(*records)
    assert ids(await script.run()) == [one.id.hex for one in records]


async def test_a_client_that_reconnects_misses_nothing(memory_log: MemoryLog) -> None:
    add_token(memory_log, TOKEN, {A}, *Permission, for_ms=3_600_000)
    settings = replace(SETTINGS, tail_interval_ms=1, limits=SETTINGS.limits._replace(tail_time_ms=10))
    now = iter(range(NOW_MS + 60_000, NOW_MS + 1_000_000))
    client = ApiClient(log_api_app(memory_log, settings, Metrics(), lambda: next(now)), settings)
    seen, late, missed = at(0), at(-9_000), at(1_000)
    await memory_log.add([seen, late, missed, at(-11_000)])
    headers = {**client.headers, "Last-Event-ID": seen.id.hex}
    response = await client.get(f"/accounts/{A}/logs/audit/tail", {}, headers)
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert ids([response.content]) == [one.id.hex for one in (late, seen, missed)]
    refused = await client.get(
        f"/accounts/{A}/logs/audit/tail", {}, {**client.headers, "Last-Event-ID": "canary"}
    )
    assert (refused.status_code, "canary" in refused.text) == (400, False)
    await client.close()
