"""What the roles of the database may do: exactly what ARCHITECTURE.md says, and nothing by arguments of their choosing."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest

from auditap.database.connection import administrator
from auditap.database.roles import ROLES
from ingestor.config import DAY_MS
from ingestor.postgres_store import PostgresStore
from schemas.identity import new_id, with_ms
from schemas.sql import query
from tests.audit_database import AuditDatabase, assert_denied
from tests.records import record
from tests.role_powers import BEGIN, END, granted, table_of, things, tried

_ARCHITECTURE = Path(__file__).parents[2] / "ARCHITECTURE.md"


def now_ms() -> int:
    return time.time_ns() // 1_000_000


@pytest.fixture
async def admin(audit_database: AuditDatabase) -> AsyncIterator[asyncpg.Connection]:
    async with administrator(audit_database.admin_dsn) as connection:
        yield connection


def dsn_of(database: AuditDatabase, role: str) -> str:
    dsn: str = getattr(database, f"{role.removeprefix('auditap_')}_dsn")
    return dsn


async def test_the_table_of_powers_is_what_the_roles_can_do(
    audit_database: AuditDatabase, postgres_store: PostgresStore, admin: asyncpg.Connection
) -> None:
    await postgres_store.ensure_partitions(now_ms(), now_ms())
    all_things = await things(admin)
    by_catalogue = await granted(admin, all_things)
    by_trying = [await tried(dsn_of(audit_database, role), role, all_things) for role in ROLES]
    assert set().union(*by_trying) == by_catalogue
    partitions = {row["child"] for row in await admin.fetch("SELECT child FROM auditap.partitions()")}
    assert len(partitions) == 2
    assert not {power for power in by_catalogue if power.thing in partitions}
    for partition in partitions:
        del all_things.columns[partition]  # type: ignore[attr-defined]
    written = _ARCHITECTURE.read_text().partition(BEGIN)[2].partition(END)[0]
    assert written.strip() == table_of(by_catalogue, all_things).strip(), "python -m tests.role_powers"


async def test_no_role_has_rights_beside_the_schema(admin: asyncpg.Connection) -> None:
    for role in ROLES:
        row = await admin.fetchrow(
            "SELECT rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls,"
            " has_schema_privilege(rolname, 'auditap', 'CREATE') AS creates,"
            " has_schema_privilege(rolname, 'public', 'CREATE') AS creates_beside,"
            " has_database_privilege(rolname, current_database(), 'CREATE') AS creates_schemas,"
            " has_table_privilege(rolname, 'public.auditap_migrations', 'INSERT, UPDATE, DELETE, TRUNCATE') AS migrates"
            " FROM pg_roles WHERE rolname = $1",
            role,
        )
        assert row is not None
        assert not any(row), role
        for table in (await things(admin)).columns:
            beside = "SELECT has_table_privilege($1, $2, 'REFERENCES, TRIGGER')"
            assert not await admin.fetchval(beside, role, f"auditap.{table}")
    members = await admin.fetch(
        "SELECT m.rolname AS member, g.rolname AS role FROM pg_auth_members AS a"
        " JOIN pg_roles AS m ON m.oid = a.member JOIN pg_roles AS g ON g.oid = a.roleid WHERE m.rolname = ANY($1)",
        list(ROLES),
    )
    assert [tuple(row) for row in members] == [("auditap_operator", "auditap_writer")]


async def test_functions_that_run_as_the_owner_are_closed(admin: asyncpg.Connection) -> None:
    rows = await admin.fetch(
        "SELECT p.proname, p.proconfig::text AS config FROM pg_proc AS p"
        " WHERE p.pronamespace = 'auditap'::regnamespace AND p.prosecdef"
        " AND (has_function_privilege('public', p.oid, 'EXECUTE') OR p.proconfig IS NULL"
        " OR NOT 'search_path=pg_catalog, pg_temp' = ANY(p.proconfig))"
    )
    assert [row["proname"] for row in rows] == []


@pytest.mark.parametrize("version", ["4", "8", "0"])
async def test_an_id_that_is_no_uuidv7_is_refused(
    audit_database: AuditDatabase, postgres_store: PostgresStore, version: str
) -> None:
    good = record(now_ms())
    text = good.id.hex
    for bad in (text[:12] + version + text[13:], text[:16] + "c" + text[17:]):
        outcome = await postgres_store.store([good, record(now_ms(), id=UUID(bad))])
        assert [index for index, _ in outcome.refused] == [1]
    async with administrator(audit_database.writer_dsn) as writer:
        with pytest.raises(asyncpg.CheckViolationError):
            await writer.execute(
                "INSERT INTO auditap.audit_records (id, action_result, action_type, receipt, received_ms, event_digest,"
                " enrichment) VALUES ($1, 'success', 'view', '{}', 1, '', 'complete')",
                UUID(text[:12] + version + text[13:]),
            )


async def test_an_enrichment_adds_only_what_a_waiting_record_lacks(
    audit_database: AuditDatabase, postgres_store: PostgresStore, admin: asyncpg.Connection
) -> None:
    at_ms = now_ms()
    records = {
        "complete": record(at_ms, enrichment="complete", zone_id="z", actor_id="u", actor_type="user"),
        "no ids": record(at_ms),
        "own account": record(at_ms, account_id="own"),
        "zone": record(at_ms, zone_id="z", actor_id="u", actor_type="user", actor_token_id="t"),
        "named": record(
            at_ms,
            account_id="own",
            account_name="Own",
            zone_id="z",
            zone_name="own.example",
            actor_id="u",
            actor_type="user",
            actor_email="own@example.com",
            actor_token_id="t",
            actor_token_name="own",
        ),
    }
    await postgres_store.store(list(records.values()))
    ids = [each.id for each in records.values()] + [UUID(new_id(at_ms))]
    found = [[name] * len(ids) for name in ("acc", "Acc", "Zone", "mail", "Token", "complete")]
    async with administrator(audit_database.writer_dsn) as writer:
        await writer.execute(query("store_enrichments"), ids, *found, ids)
        # A second time, for all of them, changes nothing.
        await writer.execute(query("store_enrichments"), ids, *[["other"] * len(ids)] * 5, found[5], ids)
    rows = await admin.fetch(
        "SELECT id, account_id, account_name, zone_name, actor_email, actor_token_name FROM auditap.audit_enrichments"
    )
    assert {row["id"]: tuple(row)[1:] for row in rows} == {
        records["no ids"].id: (None, None, None, None, None),
        records["own account"].id: (None, "Acc", None, None, None),
        records["zone"].id: ("acc", "Acc", "Zone", "mail", "Token"),
        records["named"].id: (None, None, None, None, None),
    }
    assert await admin.fetchval("SELECT count(*) FROM auditap.partial_records") == 0


async def test_a_note_of_a_record_that_waits_cannot_be_deleted(
    audit_database: AuditDatabase, postgres_store: PostgresStore, admin: asyncpg.Connection
) -> None:
    waiting = record(now_ms(), zone_id="z")
    await postgres_store.store([waiting])
    async with administrator(audit_database.writer_dsn) as writer:
        await writer.execute(query("store_enrichments"), *[[]] * 7, [waiting.id])
    assert await admin.fetchval("SELECT count(*) FROM auditap.partial_records") == 1


async def test_the_writer_can_hide_no_note_of_a_record_that_waits(
    audit_database: AuditDatabase, postgres_store: PostgresStore, admin: asyncpg.Connection
) -> None:
    waiting = record(now_ms(), zone_id="z")
    await postgres_store.store([waiting])
    await assert_denied(
        audit_database.writer_dsn,
        "UPDATE auditap.partial_records SET id = gen_random_uuid()",
        "UPDATE auditap.partial_records SET due_at = 'infinity'",
        "UPDATE auditap.partial_records SET wait = '100 years'",
        "INSERT INTO auditap.partial_records (id, due_at) VALUES (gen_random_uuid(), 'infinity')",
        "DELETE FROM auditap.partial_records",
    )
    async with administrator(audit_database.writer_dsn) as writer:
        for _ in range(50):
            await writer.execute(query("postpone_partial"), [waiting.id, waiting.id])
    [row] = await admin.fetch(
        "SELECT id, due_at <= now() + interval '5 minutes' AS soon FROM auditap.partial_records"
    )
    assert tuple(row) == (waiting.id, True)


async def test_only_what_clamping_gives_is_noted(
    audit_database: AuditDatabase, admin: asyncpg.Connection
) -> None:
    at_ms = now_ms()
    event_id = UUID(new_id(at_ms + 3_600_000))
    wrong = [
        UUID(new_id(at_ms)),  # another event's
        with_ms(event_id, at_ms + 3_700_000),  # later
        with_ms(event_id, at_ms + 1_200_000),  # ahead of the database
        with_ms(event_id, at_ms - 3_700 * DAY_MS),  # earlier than any partition
        event_id,
    ]
    async with administrator(audit_database.writer_dsn) as writer:
        for clamped_id in wrong:
            await writer.execute("SELECT auditap.note_clamped_ids($1, $2)", [event_id], [clamped_id])
        other = UUID(event_id.hex[:12] + "4" + event_id.hex[13:])
        await writer.execute("SELECT auditap.note_clamped_ids($1, $2)", [other], [with_ms(other, at_ms)])
        assert await admin.fetchval("SELECT count(*) FROM auditap.clamped_ids") == 0
        right = with_ms(event_id, at_ms)
        await writer.execute("SELECT auditap.note_clamped_ids($1, $2)", [event_id], [right])
    [row] = await admin.fetch("SELECT clamped_id, noted_by, noted_at FROM auditap.clamped_ids")
    assert (row["clamped_id"], row["noted_by"]) == (right, "auditap_writer")
    assert row["noted_at"] is not None


async def test_a_decision_about_a_dead_letter_is_the_login_s_and_stays(
    audit_database: AuditDatabase, admin: asyncpg.Connection
) -> None:
    columns = "source_log, source_partition, source_offset, reason, path, event, received_ms"
    insert = f"INSERT INTO auditap.dead_letters ({columns}"
    await assert_denied(
        audit_database.writer_dsn,
        f"{insert}, discarded_at, discarded_by) VALUES ('l', 0, 1, 'r', '', '', 1, now(), 'ada')",
    )
    async with administrator(audit_database.writer_dsn) as writer:
        await writer.execute(f"{insert}) VALUES ('l', 0, 1, 'r', '', '', 1)")
    async with administrator(audit_database.operator_dsn) as operator:
        await operator.execute(
            "UPDATE auditap.dead_letters SET discarded_by = 'ada', discarded_at = '2001-01-01', retries = -1"
        )
        for change in ("discarded_at = NULL", "discarded_by = 'ben'", "stored_at = now()", "reason = 'x'"):
            with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError):
                await operator.execute(f"UPDATE auditap.dead_letters SET {change}")
    [row] = await admin.fetch(
        "SELECT *, discarded_at > now() - interval '1 day' AS fresh FROM auditap.dead_letters"
    )
    assert (row["discarded_by"], row["fresh"], row["retries"]) == ("auditap_operator", True, 0)


async def test_a_range_of_lost_offsets_cannot_be_hidden_by_a_shorter_one(
    audit_database: AuditDatabase, admin: asyncpg.Connection
) -> None:
    async with administrator(audit_database.writer_dsn) as writer:
        for last in (5, 90, 40):
            await writer.execute("SELECT auditap.note_lost_offsets('l', 0, 1, $1, NULL, 9)", last)
    assert await admin.fetchval("SELECT last FROM auditap.lost_offsets") == 90


async def test_a_range_of_lost_offsets_hides_none_of_another_log(
    audit_database: AuditDatabase, admin: asyncpg.Connection
) -> None:
    """A topic that was made again under its name, and ingestors of a release that knew no ids."""
    async with administrator(audit_database.writer_dsn) as writer:
        await writer.execute("SELECT auditap.note_lost_offsets('l', 0, 1, 90, NULL, 9)")
        for log_id, last in (("first", 50), ("second", 20), ("second", 30), (None, 80)):
            await writer.execute("SELECT auditap.note_lost_offsets('l', 0, 1, $1, NULL, 9, $2)", last, log_id)
    noted = await admin.fetch("SELECT log_id, last FROM auditap.lost_offsets ORDER BY log_id")
    assert [tuple(row) for row in noted] == [("", 90), ("first", 50), ("second", 30)]
    gaps = await admin.fetchval("SELECT sum(count) FROM auditap.completeness_gaps")
    assert gaps == 90 + 50 + 30


async def test_alerting_gives_an_alert_the_account_that_was_found_and_no_other(
    audit_database: AuditDatabase, postgres_store: PostgresStore, admin: asyncpg.Connection
) -> None:
    of_zone = record(now_ms(), zone_id="z")
    await postgres_store.store([of_zone])
    alert = (
        "INSERT INTO auditap.alerts (id, rule, severity, title, account_id, key, key_digest, window_start_ms, window_ms,"
        " records, record_id, record{more}) VALUES (gen_random_uuid(), 'r', 'low', 't', NULL, '{{}}',"
        " decode(md5($1::uuid::text), 'hex'), 1, 1, 1, $1, '{{}}'{values})"
    )
    async with administrator(audit_database.alerting_dsn) as alerting:
        forged = alert.format(more=", acknowledged_at, acknowledged_by", values=", now(), 'ada'")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await alerting.execute(forged, of_zone.id)
        await alerting.execute(alert.format(more="", values=""), of_zone.id)
        await alerting.execute(query("alerting_set_accounts"), 10)
        assert await admin.fetchval("SELECT account_id FROM auditap.alerts") is None
        async with administrator(audit_database.writer_dsn) as writer:
            names: list[list[str | None]] = [["acc"], [None], [None], [None], [None], ["complete"]]
            await writer.execute(query("store_enrichments"), [of_zone.id], *names, [of_zone.id])
        await alerting.execute(query("alerting_set_accounts"), 10)
    assert await admin.fetchval("SELECT account_id FROM auditap.alerts") == "acc"


@pytest.mark.parametrize("alerts_max", [None, 2_000_000_000, -1])
async def test_a_call_sets_the_accounts_of_a_thousand_alerts_at_most(
    audit_database: AuditDatabase, admin: asyncpg.Connection, alerts_max: int | None
) -> None:
    await admin.execute("SELECT auditap.ensure_partitions($1, $1)", now_ms())
    record_id = UUID(new_id(now_ms()))
    await admin.execute(
        "INSERT INTO auditap.audit_enrichments (id, account_id, state) VALUES ($1, 'acc', 'complete')",
        record_id,
    )
    await admin.execute(
        "INSERT INTO auditap.alerts (id, rule, severity, title, key, key_digest, window_start_ms, window_ms, records,"
        " record_id, record) SELECT gen_random_uuid(), 'r', 'low', 't', '{}', decode(md5(''), 'hex'), at_ms, 1, 1, $1, '{}'"
        " FROM generate_series(1, 1100) AS at_ms",
        record_id,
    )
    async with administrator(audit_database.alerting_dsn) as alerting:
        await alerting.execute(query("alerting_set_accounts"), alerts_max)
    changed = await admin.fetchval("SELECT count(*) FROM auditap.alerts WHERE account_id IS NOT NULL")
    assert changed == (1_000 if alerts_max and alerts_max > 0 else 0)


@pytest.mark.parametrize("rows_max", [None, 2_000_000_000, -1])
async def test_a_call_prunes_five_thousand_rows_at_most(
    audit_database: AuditDatabase, admin: asyncpg.Connection, rows_max: int | None
) -> None:
    await admin.execute(
        "INSERT INTO auditap.closed_gaps (cause, gaps, closed_at) SELECT 'c', 1, '2001-01-01' FROM generate_series(1, 5100)"
    )
    async with administrator(audit_database.maintainer_dsn) as maintainer:
        pruned = await maintainer.fetchval("SELECT auditap.prune_beside_log($1, 1, $2)", now_ms(), rows_max)
    assert pruned == (5_000 if rows_max and rows_max > 0 else 0)
