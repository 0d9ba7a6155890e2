"""`auditap completeness retire`, as an operator types it, on a real Postgres."""

from __future__ import annotations

from pathlib import Path

import pytest

from auditap.cli.completeness import summary
from auditap.database.connection import administrator
from ingestor.postgres_store import PostgresStore
from tests.audit_database import AuditDatabase
from tests.ledger import Ledger, Tap, now_ms
from tests.unit.auditap.commands import run


@pytest.mark.parametrize(
    ("surplus", "retired", "line"),
    [
        (0, 0, []),
        (2, 0, ["The watermark does not wait for 2 surplus and 0 retired epochs."]),
        (0, 1, ["The watermark does not wait for 0 surplus and 1 retired epochs."]),
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
        assert (ended, "auditap completeness --json" in sentence) == (1, True)
        ended, _, sentence = await run(tmp_path, audit_database.operator_dsn, *retire[:-1], " ")
        assert (ended, "--reason must not be empty" in sentence) == (2, True)
        rows = await connection.fetch("SELECT retired_by, login, reason FROM auditap.tap_retirements")
    assert [tuple(row) for row in rows] == [("ana", "auditap_operator", "switched off")]
