from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from click.testing import CliRunner, Result

from auditap.cli.main import cli
from auditap.database.connection import administrator
from eventlog.ports import Partition
from ingestor.config import DAY_MS
from ingestor.dead_letters.ports import DeadLetter
from ingestor.postgres_store import PostgresStore
from schemas.errors import DeadLetterReason, StartupError, UnprocessableEvent
from schemas.event import Resource, encode_event
from tests.audit_database import AuditDatabase
from tests.records import event

Run = Callable[..., Awaitable[Result]]
NOW_MS = time.time_ns() // 1_000_000


@pytest.fixture
async def run(audit_database: AuditDatabase, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("AUDITAP_POSTGRES__OPERATOR_DSN", audit_database.operator_dsn)

    async def run(*arguments: str, **more: Any) -> Result:
        return await asyncio.to_thread(CliRunner().invoke, cli, ["dead-letters", *arguments], **more)

    return run


@pytest.fixture
def at_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("auditap.cli.dead_letters.is_interactive", lambda *, as_json: not as_json)
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
async def dead_lettered(audit_database: AuditDatabase) -> Any:
    """Dead-letter three events: one that can be stored now, one that never can, and one that is no JSON."""
    store = await PostgresStore.connect(
        audit_database.writer_dsn, connections_max=1, command_timeout_ms=60_000
    )
    values = [
        (encode_event(event(NOW_MS, resource=Resource(id="\x1b[31mred"))), DeadLetterReason.CLOCK_AHEAD),
        (encode_event(event(NOW_MS - 90 * DAY_MS)), DeadLetterReason.EXPIRED),
        (b"no\x1b[2J json", DeadLetterReason.MALFORMED),
    ]
    await store.write_dead_letters(
        [
            DeadLetter(Partition("log", 0), at, NOW_MS, value, UnprocessableEvent(why))
            for at, (value, why) in enumerate(values)
        ]
    )
    await store.close()
    return values


async def records(audit_database: AuditDatabase) -> int:
    async with administrator(audit_database.admin_dsn) as connection:
        return int(await connection.fetchval("SELECT count(*) FROM auditap.audit_records"))


def lines(result: Result) -> list[dict[str, Any]]:
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return [json.loads(line) for line in result.stdout.splitlines()]


async def test_ndjson_has_every_dead_letter_with_its_event(run: Run, dead_lettered: Any) -> None:
    found = lines(await run("list"))

    assert [each["reason"] for each in found] == ["clock_ahead", "expired", "malformed"]
    assert found[0]["event"] == json.loads(dead_lettered[0][0])
    assert found[0]["source"] == {"log": "log", "partition": 0, "offset": 0}
    assert found[0]["state"] == "unresolved"
    assert "event" not in found[2]
    assert found[2]["event_base64"]


async def test_the_list_is_chosen_by_reason_time_number_and_id(run: Run, dead_lettered: Any) -> None:
    async def reasons(*arguments: str) -> list[str]:
        return [each["reason"] for each in lines(await run("list", "--json", *arguments))]

    assert await reasons("--reason", "expired", "--reason", "malformed") == ["expired", "malformed"]
    assert await reasons("--since", "1h") == ["clock_ahead", "expired", "malformed"]
    assert await reasons("--before", "1h") == []
    assert await reasons("2") == ["expired"]
    assert await reasons("--id", json.loads(dead_lettered[0][0])["id"]) == ["clock_ahead"]
    assert await reasons("--state", "stored") == []
    wrong = await run("list", "--since", "yesterday")
    assert wrong.exit_code == 2


async def test_people_see_a_table(run: Run, dead_lettered: Any, at_a_terminal: None) -> None:
    shown = (await run("list", "--limit", "2")).output
    assert "clock_ahead" in shown
    assert "malformed" not in shown
    assert "2 of 3" in shown


async def test_show_prints_reason_position_and_event_with_control_characters_escaped(
    run: Run, dead_lettered: Any, at_a_terminal: None
) -> None:
    event_shown = (await run("show", "1")).output
    assert "clock_ahead" in event_shown
    assert '"offset": 0' in event_shown
    assert "[31mred" in event_shown
    no_json = (await run("show", "3")).output
    assert "not JSON" in no_json
    assert "\x1b[2J" not in no_json + event_shown
    assert "\x1b[31m" not in event_shown


async def test_show_prints_a_hostile_event_as_it_is(
    run: Run, audit_database: AuditDatabase, at_a_terminal: None
) -> None:
    """Of equal keys only the last was shown, and numbers lost their digits: what made the event malformed was not to be seen."""
    value = '{"id":"x\u009b2J\x7f\u202e","id":1.10,"n":123456789012345678901234567890,"deep":'.encode()
    value += b"[" * 400 + b"]" * 400 + b"}"
    store = await PostgresStore.connect(
        audit_database.writer_dsn, connections_max=1, command_timeout_ms=60_000
    )
    why = UnprocessableEvent(DeadLetterReason.MALFORMED)
    await store.write_dead_letters([DeadLetter(Partition("log", 0), 0, NOW_MS, value, why)])
    await store.close()
    shown = await run("show", "1")
    assert shown.exception is None
    for piece in (
        r'"id": "x\u009b2J\u007f\u202e"',
        '"id": 1.10',
        '"n": 123456789012345678901234567890',
    ):
        assert piece in shown.output
    assert shown.output.isascii()


async def test_retry_stores_what_can_be_stored_once_and_says_why_not(
    run: Run, dead_lettered: Any, audit_database: AuditDatabase
) -> None:
    first = await run("retry", "--all")
    assert first.exit_code == 1
    assert lines(first) == [
        {"number": 1, "state": "stored"},
        {"number": 2, "state": "unresolved", "reason": "expired", "path": ""},
        {"number": 3, "state": "unresolved", "reason": "malformed", "path": ""},
    ]
    again = await run("retry", "1")
    assert (again.exit_code, again.stdout) == (0, "")
    assert await records(audit_database) == 1
    assert [each["retries"] for each in lines(await run("list", "--state", "all"))] == [1, 1, 1]


async def test_discard_asks_and_keeps_who_did_it(
    run: Run, dead_lettered: Any, audit_database: AuditDatabase
) -> None:
    refused = await run("discard", "--reason", "expired", input="n\n")
    assert isinstance(refused.exception, SystemExit)
    assert len(lines(await run("list"))) == 3

    assert (await run("discard", "--reason", "expired", input="y\n")).stdout.endswith("1 discarded\n")
    assert (await run("discard", "--all", "--yes")).stdout == "2 discarded\n"
    assert (await run("discard", "--all", "--yes")).stdout == "0 discarded\n"

    kept = lines(await run("list", "--state", "discarded"))
    assert len(kept) == 3
    assert {each["discarded_by"] for each in kept} == {"auditap_operator"}
    assert all(each["discarded_at"] for each in kept)


@pytest.mark.parametrize("command", ["retry", "discard"])
async def test_nothing_is_meant_by_accident(run: Run, dead_lettered: Any, command: str) -> None:
    assert (await run(command)).exit_code == 2
    assert (await run(command, "--all", "1")).exit_code == 2


async def test_a_role_without_privileges_gets_an_error(
    run: Run, audit_database: AuditDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUDITAP_POSTGRES__OPERATOR_DSN", audit_database.reader_dsn)
    refused = await run("list")
    assert isinstance(refused.exception, StartupError)
    assert "operator_dsn" in str(refused.exception)


@pytest.mark.parametrize(
    "arguments",
    [("show", "99"), ("retry", "2", "99"), ("discard", "--yes", "1", "99"), ("show", str(2**63 - 1))],
)
async def test_a_number_that_no_dead_letter_has_is_reported_and_nothing_is_done(
    run: Run, dead_lettered: Any, audit_database: AuditDatabase, arguments: tuple[str, ...]
) -> None:
    # What the command line makes a sentence and exit code 1.
    unknown = await run(*arguments)
    assert isinstance(unknown.exception, StartupError)
    assert f"no dead letter {arguments[-1]}:" in str(unknown.exception)
    assert [each["state"] for each in lines(await run("list", "--state", "all"))] == ["unresolved"] * 3
    assert {each["retries"] for each in lines(await run("list"))} == {0}


async def test_a_number_that_no_dead_letter_can_have_is_refused(run: Run, dead_lettered: Any) -> None:
    assert (await run("show", str(2**63))).exit_code == 2
    assert (await run("retry", str(2**63))).exit_code == 2


async def test_a_resolved_dead_letter_is_known(run: Run, dead_lettered: Any) -> None:
    assert (await run("discard", "--yes", "3")).stdout == "1 discarded\n"
    again = await run("discard", "--yes", "3")
    assert (again.exit_code, again.stdout) == (0, "0 discarded\n")
