"""Runs of taps, dead letters, unmatched requests, and alerts with their deliveries and records."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

import pytest

from log_api.app import log_api_app
from log_api.config import LogApiConfig
from log_api.database import PostgresLogDatabase
from log_api.dead_letters import DeadLetterCount
from log_api.ports import LogDatabase, Permission, UnmatchedCount
from log_api.taps import CauseCount, TapRun
from log_api.unmatched import count_unmatched
from schemas.identity import new_id, rfc3339_ms
from schemas.metric_defs import Metrics
from tests.records import record
from tests.unit.log_api.api_client import NOW_MS, A, ApiClient, add_token
from tests.unit.log_api.memory_log import MemoryLog
from tests.unit.log_api.stored_log import ALERT, StoredLog, reads

B = "b" * 32
DAY_MS = 86_400_000
NOON_MS = (int(datetime.now(UTC).timestamp() * 1000) // DAY_MS - 3) * DAY_MS + DAY_MS // 2
LOGS = f"/accounts/{A}/logs/audit"
HOSTILE = "'; DROP TABLE x; -- \u202e<script>"
UNMATCHED = '{"unmatched":"no_path"}'


class Log(NamedTuple):
    """An implementation, and what fills it."""

    read: LogDatabase
    write: Any


@pytest.fixture(params=["memory", "postgres"])
def log(request: pytest.FixtureRequest) -> Log:
    if request.param == "memory":
        memory = request.getfixturevalue("memory_log")
        return Log(memory, memory)
    return Log(request.getfixturevalue("postgres_log"), request.getfixturevalue("stored_log"))


@pytest.fixture
async def api(memory_log: MemoryLog, settings: LogApiConfig) -> AsyncIterator[ApiClient]:
    both = (Permission.AUDIT_LOGS, Permission.ALERTS)
    add_token(memory_log, "atp_mine", {A}, *both)
    add_token(memory_log, "atp_all", None, *both)
    add_token(memory_log, "atp_logs", {A}, Permission.AUDIT_LOGS)
    add_token(memory_log, "atp_theirs", {B}, *both)
    client = ApiClient(log_api_app(memory_log, settings, Metrics(), lambda: NOW_MS), settings, "atp_mine")
    yield client
    await client.close()


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


async def test_unmatched_records_are_counted_for_their_account(log: Log) -> None:
    fields: dict[str, Any] = {"receipt": UNMATCHED, "raw_method": "GET"}
    late = record(NOON_MS + 7, account_id=None, raw_uri="/found", **fields)
    await log.write.add(
        [
            record(NOON_MS, account_id=A, raw_uri="/x?secret=1", **fields),
            record(NOON_MS + 5, account_id=A, raw_uri="/x", **fields),
            record(NOON_MS + 6, account_id=B, raw_uri="/theirs", **fields),
            record(NOON_MS + 6, account_id=A, raw_uri="/matched"),
            record(NOON_MS + 1000, account_id=A, raw_uri="/late", **fields),
            late,
        ]
    )
    await log.write.complete(late.id, account_id=A)
    mine = await reads(log.read).unmatched((A,), NOON_MS, NOON_MS + 1000, 100)
    assert sorted(mine) == [
        UnmatchedCount("no_path", "GET", "/found", 1, NOON_MS + 7),
        UnmatchedCount("no_path", "GET", "/x", 2, NOON_MS + 5),
    ]
    everything = await reads(log.read).unmatched(None, NOON_MS, NOON_MS + 1000, 100)
    assert {one.path for one in everything} == {"/x", "/theirs", "/found"}
    assert len(await reads(log.read).unmatched(None, NOON_MS, NOON_MS + 1000, 2)) == 2
    found = await count_unmatched(reads(log.read), (A,), (NOON_MS - 2 * DAY_MS, NOON_MS + 2000), 60)
    assert [(one["path"], one["count"]) for one in found.listed] == [("/x", 2), ("/found", 1), ("/late", 1)]
    assert (found.complete, found.counted_since_ms) == (True, NOON_MS - 2 * DAY_MS)


async def test_unmatched_says_how_far_it_counted(memory_log: MemoryLog) -> None:
    times = iter([0.0, 99.0])
    range_ms = (NOON_MS - DAY_MS, NOON_MS)
    found = await count_unmatched(memory_log, None, range_ms, 1, lambda: next(times))
    assert (found.complete, found.counted_since_ms) == (False, NOON_MS // DAY_MS * DAY_MS)


async def test_runs_of_taps_in_the_database(postgres_log: PostgresLogDatabase, stored_log: StoredLog) -> None:
    for number, (tap, retired) in enumerate([("gone", True), (HOSTILE, False)]):
        await stored_log.connection.execute(
            "INSERT INTO auditap.tap_epochs (tap_id, epoch, state, highest, seen, oldest_ms, latest_ms, beat, pending_from,"
            " pending_since_ms, heard_ms, lease_until_ms, waits_until_ms, retired)"
            " VALUES ($1, 7, 'ended', 10, '{[1,4),[6,11)}', $2, $2, 3, 11, $2, $3, $2, $4, $5)",
            tap,
            NOON_MS,
            NOON_MS + number,
            1 << 50,
            retired,
        )
        await stored_log.connection.execute(
            "INSERT INTO auditap.tap_drops VALUES ($1, 7, 4, 4, 'buffer_full', $2, $2)", tap, NOON_MS
        )
    await stored_log.connection.execute("INSERT INTO auditap.unnumbered_taps VALUES ('plain', 1, 2)")
    found = await reads(postgres_log).tap_runs(10)
    assert found.total == 3
    assert [(one.tap_id, one.epoch, one.state, one.retired) for one in found.runs] == [
        (HOSTILE, 7, "ended", False),
        ("gone", 7, "ended", True),
        ("plain", None, "unnumbered", False),
    ]
    first = found.runs[0]
    assert (first.captures, first.heartbeat_ms) == (10, NOON_MS + 1)
    assert first.holds_at_ms is not None
    assert found.runs[1].holds_at_ms is None
    assert CauseCount("dropped:buffer_full", 1, 1) in first.gaps
    assert first.silent_ms > 0
    assert len((await reads(postgres_log).tap_runs(1)).runs) == 1


async def test_dead_letters_in_the_database(postgres_log: PostgresLogDatabase, stored_log: StoredLog) -> None:
    assert await reads(postgres_log).dead_letters(2) == []
    for number, reason in enumerate(["b", HOSTILE, "b", "b"]):
        await stored_log.connection.execute(
            "INSERT INTO auditap.dead_letters (source_log, source_partition, source_offset, reason, path, event, received_ms,"
            " dead_lettered_at, stored_at) VALUES ('events', 0, $1::bigint, $2, '', '', 0, to_timestamp($1::bigint + 1), NULL)",
            number,
            reason,
        )
    assert sorted(await reads(postgres_log).dead_letters(2)) == sorted(
        [DeadLetterCount(HOSTILE, 1, 2000, 2000), DeadLetterCount("b", 2, 1000, 4000)]
    )
    await stored_log.connection.execute(
        "UPDATE auditap.dead_letters SET stored_at = now() WHERE reason = 'b'"
    )
    assert [one.reason for one in await reads(postgres_log).dead_letters(2)] == [HOSTILE]


async def test_deliveries_belong_to_the_alerts_account(
    postgres_log: PostgresLogDatabase, stored_log: StoredLog
) -> None:
    one = UUID(new_id(NOW_MS))
    await stored_log.add_alert(one, A)
    await stored_log.connection.execute(
        "INSERT INTO auditap.alert_deliveries (alert_id, channel, state, attempts, due_at, outcome)"
        " VALUES ($1, 'ops', 'dead', 3, to_timestamp(1), 'status 500')",
        one,
    )
    assert await reads(postgres_log).deliveries(A, one) == [
        {
            "channel": "ops",
            "state": "dead",
            "attempts": 3,
            "due_at": "1970-01-01T00:00:01.000Z",
            "outcome": "status 500",
        }
    ]
    assert await reads(postgres_log).deliveries(B, one) == []


async def test_taps_route(api: ApiClient, memory_log: MemoryLog) -> None:
    memory_log.complete_ms = NOW_MS
    gaps = (CauseCount("missing", 1, 2), CauseCount("unknown", 1, None))
    memory_log.runs = [
        TapRun(HOSTILE, 7, "alive", False, False, NOW_MS, 5, NOW_MS, 9, NOW_MS, gaps),
        *[TapRun("t", n, "ended", False, False, None, 5, 0, 9, None) for n in range(200)],
    ]
    body = (await api.get(f"{LOGS}/taps", "", api.headers)).json()
    assert body["result_info"] == {
        "count": 200,
        "complete": False,
        "runs": 201,
        "complete_before": rfc3339_ms(NOW_MS),
    }
    first, second = body["result"][:2]
    assert (first["id"], first["missing"], first["lag_ms"]) == (HOSTILE, None, 5)
    assert first["gaps"][0] == {"cause": "missing", "gaps": 1, "missing": 2}
    assert (second["missing"], second["holds_watermark_at"]) == (0, None)
    assert (await api.get(f"{LOGS}/taps", "", bearer("atp_theirs"))).status_code == 403


async def test_only_tokens_for_every_account_count_dead_letters(
    api: ApiClient, memory_log: MemoryLog
) -> None:
    memory_log.dead_letter_counts = [DeadLetterCount("too_large", 20_000, 0, 1000)]
    for path in (LOGS, "/accounts/-/logs/audit"):
        assert (await api.get(f"{path}/dead_letters", "", api.headers)).status_code == 403
        body = (await api.get(f"{path}/dead_letters", "", bearer("atp_all"))).json()
        [one] = body["result"]
        assert (one["reason"], one["count"], one["complete"]) == ("too_large", 10_000, False)


async def test_unmatched_route_is_for_the_tokens_accounts(api: ApiClient, memory_log: MemoryLog) -> None:
    for account, path in ((A, "/mine"), (B, "/theirs"), (None, "/nobody")):
        await memory_log.add([record(NOW_MS, account_id=account, raw_uri=path, receipt=UNMATCHED)])
    query = {"since": rfc3339_ms(NOW_MS - 1000), "before": rfc3339_ms(NOW_MS + 1000)}

    async def paths(account: str, token: str) -> set[str]:
        response = await api.get(f"/accounts/{account}/logs/audit/unmatched", query, bearer(token))
        return {one["path"] for one in response.json()["result"]}

    assert await paths("-", "atp_mine") == {"/mine"}
    assert await paths(A, "atp_all") == {"/mine"}
    assert await paths("-", "atp_all") == {"/mine", "/theirs", "/nobody"}
    wide = {"since": "1970-01-01", "before": "2026-01-01"}
    assert (await api.get(f"{LOGS}/unmatched", wide, api.headers)).status_code == 400


async def test_an_alert_with_its_deliveries_and_records(api: ApiClient, memory_log: MemoryLog) -> None:
    one = UUID(new_id(NOW_MS))
    unseen = {"acknowledged_at": None, "acknowledged_by": None, "note": None}
    row = {**ALERT, **unseen, "id": one, "account_id": A, "raised_at": datetime.now(UTC)}
    memory_log.raised[one] = row | {"key": '{"actor.id":"ana","tap.id":"gw"}', "window_start_ms": NOW_MS}
    delivery = {
        "channel": "ops",
        "state": "due",
        "attempts": 1,
        "due_at": rfc3339_ms(NOW_MS),
        "outcome": None,
    }
    memory_log.sent[one] = [delivery]
    held = record(NOW_MS + 5, account_id=A, actor_id="ana")
    await memory_log.add(
        [
            held,
            record(NOW_MS + 5, account_id=A, actor_id="bob"),
            record(NOW_MS + 5, account_id=B, actor_id="ana"),
            record(NOW_MS - 5, account_id=A, actor_id="ana"),
            record(NOW_MS + 600_000, account_id=A, actor_id="ana"),
        ]
    )
    path = f"{LOGS}/alerts/{one.hex}"
    assert (await api.get(path, "", api.headers)).json()["result"]["deliveries"] == [delivery]
    body = (await api.get(f"{path}/records", "", api.headers)).json()
    assert [each["id"] for each in body["result"]] == [held.id.hex]
    assert body["result_info"] == {"count": 1, "complete": True, "counted": 1, "exact": False}
    theirs = f"/accounts/{B}/logs/audit/alerts/{one.hex}"
    for suffix in ("", "/records"):
        assert (await api.get(path + suffix, "", bearer("atp_theirs"))).status_code == 403
        assert (await api.get(theirs + suffix, "", bearer("atp_theirs"))).status_code == 404
        assert (await api.get(path + suffix, "", bearer("atp_logs"))).status_code == 403
