"""`auditap completeness retire`, as an operator types it, on a real Postgres."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from auditap.cli.completeness import summary, taps_command
from auditap.database.completeness import list_watermark_bounds, retire_tap
from auditap.database.connection import administrator
from ingestor.postgres_store import PostgresStore
from schemas.heartbeat import TapState
from schemas.identity import rfc3339_ms
from tests.audit_database import AuditDatabase
from tests.ledger import Ledger, Tap, now_ms
from tests.unit.auditap.commands import run


@pytest.mark.parametrize(
    ("surplus", "retired", "line"),
    [
        (0, 0, []),
        (2, 0, ["The watermark does not wait for 2 surplus and 0 retired epochs."]),
        (0, 1, ["The watermark does not wait for 0 surplus and 1 retired epoch."]),
    ],
)
def test_epochs_that_are_left_out_are_counted(surplus: int, retired: int, line: list[str]) -> None:
    taps = {"alive": 4, "expired": 0, "unnumbered": 0, "surplus": surplus, "retired": retired}
    info = {
        "complete_before": "2026-01-01T00:00:00Z",
        "gaps": 0,
        "missing": 0,
        "complete": True,
        "taps": taps,
    }
    assert summary(info)[2:-1] == line
    older = {name: count for name, count in taps.items() if name not in {"surplus", "retired"}}
    assert summary(info | {"taps": older})[2:-1] == []


def test_the_counts_and_the_list_call_taps_by_the_same_states() -> None:
    """The count of expired taps held killed ones, which the list calls killed."""
    taps = {"alive": 0, "expired": 5, "unnumbered": 2, "surplus": 0, "retired": 0}
    info = {"complete_before": None, "gaps": 0, "missing": 0, "complete": True, "taps": taps}
    assert summary(info)[1] == "Taps: 0 alive, 5 gone (expired, killed or lost), 2 without sequence numbers."
    described = taps_command.help or ""
    listed = re.findall(r"(?m)^ *((?:\w+, )*\w+)  +\w", described.partition("States:")[2])
    assert {state for names in listed for state in names.split(", ")} == {
        *TapState,
        "silent",
        "expired",
        "late",
    }


@pytest.mark.processes
async def test_a_tap_is_retired_with_who_and_why(
    audit_database: AuditDatabase, postgres_store: PostgresStore, tmp_path: Path
) -> None:
    retire = ("completeness", "retire", "gone", "--by", "ana", "--reason", "switched off")
    async with administrator(audit_database.admin_dsn) as connection:
        await Ledger(postgres_store, connection).note(Tap("gone").heartbeat(1, now_ms()))
        done = await run(tmp_path, audit_database.operator_dsn, *retire)
        assert done == (0, "retired gone, epochs: 1\n", "")
        ended, _, sentence = await run(tmp_path, audit_database.operator_dsn, *retire)
        assert (ended, "choose one that holds the watermark" in sentence) == (1, True)
        ended, _, sentence = await run(tmp_path, audit_database.operator_dsn, *retire[:-1], " ")
        assert (ended, "--reason must not be empty" in sentence) == (2, True)
        rows = await connection.fetch("SELECT retired_by, login, reason FROM auditap.tap_retirements")
    assert [tuple(row) for row in rows] == [("ana", "auditap_operator", "switched off")]


@pytest.mark.processes
async def test_what_holds_the_watermark_is_listed_and_by_a_retirement_that_fails(
    audit_database: AuditDatabase, postgres_store: PostgresStore, tmp_path: Path
) -> None:
    other, slow, gone = Tap("other"), Tap("slow"), Tap("gone", began_ago_ms=200_000)
    async with administrator(audit_database.admin_dsn) as connection:
        ledger = Ledger(postgres_store, connection)
        await ledger.note(other.heartbeat(0, now_ms()))
        await ledger.note(slow.heartbeat(1, now_ms(), pending_from=1, since_ms=slow.started_ms))
        await ledger.note(gone.heartbeat(1, gone.started_ms + 9, pending_from=1, since_ms=gone.started_ms))
        await connection.execute("DELETE FROM auditap.late_arrivals")
        await connection.execute(
            "INSERT INTO auditap.late_arrivals VALUES ($1, $2)", now_ms() + 600_000, 9_000
        )
        await retire_tap(connection, "other", "ana", "replaced")
    code, lines, errors = await run(tmp_path, audit_database.operator_dsn, "completeness", "taps")
    assert (code, errors) == (0, "")
    found = [json.loads(line) for line in lines.splitlines()]
    assert [(each["tap"] and each["tap"]["id"], each["state"], each["holds_at"]) for each in found] == [
        (None, "late", "1970-01-01T00:00:09.000Z"),
        ("gone", "expired", rfc3339_ms(gone.started_ms)),
        ("slow", "alive", rfc3339_ms(slow.started_ms)),
        ("other", "alive", None),
    ]
    assert [(each["surplus"], each["retired"]) for each in found] == [(False, False)] * 3 + [(False, True)]
    unknown = ("completeness", "retire", "nobody", "--reason", "gone")
    code, out, listed = await run(tmp_path, audit_database.operator_dsn, *unknown)
    assert (code, out) == (1, "")
    assert [line.split()[1] for line in listed.splitlines() if "alive" in line] == ["slow", "other"]


async def test_the_list_names_the_tap_that_the_watermark_stands_at(
    audit_database: AuditDatabase, postgres_store: PostgresStore
) -> None:
    async with administrator(audit_database.admin_dsn) as connection:
        ledger = Ledger(postgres_store, connection)
        holed, silent = Tap("holed", began_ago_ms=200_000), Tap("silent")
        await ledger.note(Tap("other").heartbeat(0, now_ms() - 30_000))
        await ledger.note(holed.heartbeat(2, holed.started_ms + 50), holed.heartbeat(9, now_ms()))
        await postgres_store.store([*holed.records(1, 2), *silent.records(1, 1)])
        await connection.execute("DELETE FROM auditap.late_arrivals")
        async with administrator(audit_database.operator_dsn) as operator:
            bounds = await list_watermark_bounds(operator)
        assert bounds[0] == ("holed", 7, "alive", await ledger.complete_before(), False, False)
        assert [each.state for each in bounds if each.tap_id == "silent"] == ["silent"]
        await connection.execute("UPDATE auditap.tap_epochs SET surplus = tap_id = 'holed'")
        assert (await list_watermark_bounds(connection))[-1][3:] == (None, True, False)
        assert await connection.fetch("SELECT auditap.list_watermark_bounds(-1)") == []
