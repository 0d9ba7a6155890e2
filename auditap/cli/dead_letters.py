"""`auditap dead-letters`: list, show, retry and discard dead letters."""

from __future__ import annotations

import asyncio
import json
import sys
from base64 import b64encode
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any, TypeVar

import click
import msgspec
from rich.console import Console
from rich.table import Table

from auditap.cli.administration import operator, operator_dsn
from auditap.cli.log_client import is_interactive, parse_time
from auditap.cli.options import choice_option, number_option
from auditap.plain_text import counted, plain, plain_json, plain_line, print_json
from auditap.runtime.lifecycle import clock_ms
from auditap.runtime.logs import configure_logs
from auditap.settings import Settings, load_settings
from ingestor.dead_letters.ports import (
    DeadLetterFilter,
    DeadLetterState,
    DeadLetterStore,
    RetryOutcome,
    StoredDeadLetter,
)
from ingestor.dead_letters.postgres import PostgresDeadLetterStore
from ingestor.dead_letters.retry import DeadLetterRetrier, dead_letter_pages
from ingestor.postgres_store import PostgresStore
from schemas.errors import DeadLetterReason, StartupError
from schemas.identity import rfc3339_ms

_T = TypeVar("_T")
_Command = TypeVar("_Command", bound=Callable[..., Any])
_UNRESOLVED = str(DeadLetterState.UNRESOLVED)
_ANY = "all"
_NUMBER = click.IntRange(1, 2**63 - 1)


@click.group("dead-letters")
def dead_letters() -> None:
    """List, show, retry or discard events that could not become records."""


def _selecting(command: _Command) -> _Command:
    """Add the options and arguments that select dead letters."""
    for option in (
        click.option(
            "--id", "event_ids", type=click.UUID, multiple=True, help="An event's id; repeat for several."
        ),
        click.option("--before", help="Dead-lettered before this time."),
        click.option("--since", help="Dead-lettered since a date, an RFC 3339 time, or 2h, 7d ago."),
        click.option(
            "--reason",
            "reasons",
            type=click.Choice([str(each) for each in DeadLetterReason]),
            multiple=True,
            help="Why they were dead-lettered; repeat for several.",
        ),
        click.argument("numbers", type=_NUMBER, nargs=-1),
    ):
        command = option(command)
    return command


@dead_letters.command("list")
@_selecting
@choice_option("--state", [*map(str, DeadLetterState), _ANY], default=_UNRESOLVED)
@number_option("--limit", default=50, meaning="Rows in the table; NDJSON has all.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print NDJSON with the redacted events, as into a pipe."
)
def dead_letters_list(*, state: str, limit: int, as_json: bool, **given: Any) -> None:
    """List dead letters, oldest first."""
    chosen = _filter(given, None if state == _ANY else DeadLetterState(state))
    if not is_interactive(as_json=as_json):
        _with_store(lambda store: _print_all(store, chosen))
        return
    _with_store(lambda store: _show_table(store, chosen, limit))


def _state(dead_letter: StoredDeadLetter) -> str:
    if dead_letter.retries == 0:
        return str(dead_letter.state)
    return f"{dead_letter.state}, {dead_letter.retries} retries"


async def _print_all(store: DeadLetterStore, chosen: DeadLetterFilter) -> None:
    async for page in dead_letter_pages(store, chosen, with_events=True):
        for dead_letter in page:
            _print(dead_letter)


async def _show_table(store: DeadLetterStore, chosen: DeadLetterFilter, limit: int) -> None:
    table = Table("number", "dead-lettered", "reason", "schema path", "event", "state", box=None)
    async for page in dead_letter_pages(store, chosen, with_events=False):
        for dead_letter in page[: limit - table.row_count]:
            table.add_row(
                str(dead_letter.number),
                f"{dead_letter.dead_lettered_at:%Y-%m-%d %H:%M:%S}",
                plain(dead_letter.reason),
                plain(dead_letter.path),
                dead_letter.event_id.hex if dead_letter.event_id else "",
                _state(dead_letter),
            )
        if table.row_count >= limit:
            break
    total, _ = await store.count(chosen)
    Console().print(table if table.row_count else "No dead letters.")
    if total > table.row_count:
        click.echo(f"{table.row_count} of {total}: --limit shows more.")


@dead_letters.command("show")
@click.argument("number", type=_NUMBER)
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON, as into a pipe.")
def dead_letters_show(*, number: int, as_json: bool) -> None:
    """Show one dead letter: its reason, its position in the log, and the redacted event."""

    async def find(store: DeadLetterStore) -> StoredDeadLetter:
        found = await store.select(DeadLetterFilter(numbers=(number,)), 0, 1, with_events=True)
        if not found:
            raise _no_such_dead_letter([number])
        return found[0]

    dead_letter = _with_store(find)
    if not is_interactive(as_json=as_json):
        _print(dead_letter)
        return
    table = Table.grid(padding=(0, 2))
    for name, value in _described(dead_letter).items():
        if not name.startswith("event_base64") and name != "event" and value is not None:
            table.add_row(name, plain(value if isinstance(value, str) else json.dumps(value)))
    console = Console()
    console.print(table)
    try:
        # As it is: decoded, it would lose all but the last of equal keys, and digits of numbers.
        event = msgspec.json.format(dead_letter.value, indent=2).decode()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        console.print("[yellow]The event is not JSON:[/yellow]", plain(repr(dead_letter.value)))
        return
    # The terminal must not execute control sequences in the event.
    click.echo(plain_json(event))


@dead_letters.command("retry")
@_selecting
@click.option("--all", "every", is_flag=True, help="All unresolved dead letters.")
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each, as into a pipe.")
def dead_letters_retry(*, every: bool, as_json: bool, **given: Any) -> None:
    """Retry unresolved dead letters. What fails again stays unresolved, with its present reason."""
    chosen = _filter(given, DeadLetterState.UNRESOLVED)
    _require_choice(chosen, every=every)
    _with_store(lambda store: _require_known(store, chosen))
    people = is_interactive(as_json=as_json)
    stored = refused = 0

    async def run(store: DeadLetterStore, retrier: DeadLetterRetrier) -> None:
        nonlocal stored, refused
        # What is dead-lettered meanwhile is left out, so that the command ends.
        _, last = await store.count(chosen)
        async for page in dead_letter_pages(store, chosen._replace(number_max=last), with_events=True):
            for outcome in await retrier.retry(page):
                if outcome.refused is None:
                    stored += 1
                else:
                    refused += 1
                _print_outcome(outcome, people=people)

    _with_retrier(run)
    if people:
        click.echo(f"{stored} stored, {refused} unresolved")
    if refused:
        sys.exit(1)


@dead_letters.command("discard")
@_selecting
@click.option("--all", "every", is_flag=True, help="All unresolved dead letters.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def dead_letters_discard(*, every: bool, yes: bool, **given: Any) -> None:
    """Discard unresolved dead letters. They are kept with the time and the database user who discarded them."""
    chosen = _filter(given, DeadLetterState.UNRESOLVED)
    _require_choice(chosen, every=every)
    _with_store(lambda store: _require_known(store, chosen))
    count, last = _with_store(lambda store: store.count(chosen))
    if count and not yes:
        click.confirm(f"Discard {counted(count, 'dead letter')}?", abort=True, err=True)
    # Dead letters that arrived while the operator was deciding are not discarded.
    discarded = _with_store(lambda store: store.discard(chosen._replace(number_max=last))) if count else 0
    click.echo(f"{discarded} discarded")


async def _require_known(store: DeadLetterStore, chosen: DeadLetterFilter) -> None:
    """Raise StartupError if a number is no dead letter's, whatever its state."""
    known: set[int] = set()
    if chosen.numbers:
        async for page in dead_letter_pages(
            store, DeadLetterFilter(numbers=chosen.numbers), with_events=False
        ):
            known.update(dead_letter.number for dead_letter in page)
    if missing := sorted(set(chosen.numbers) - known):
        raise _no_such_dead_letter(missing)


def _no_such_dead_letter(numbers: Sequence[int]) -> StartupError:
    listed = ", ".join(map(str, numbers))
    return StartupError(f"There is no dead letter {listed}: see `auditap dead-letters list --state all`.")


def _require_choice(chosen: DeadLetterFilter, *, every: bool) -> None:
    selective = chosen != DeadLetterFilter(state=DeadLetterState.UNRESOLVED)
    if selective == every:
        raise click.UsageError("Give numbers, --reason, --since, --before or --id; or --all.")


def _filter(given: dict[str, Any], state: DeadLetterState | None) -> DeadLetterFilter:
    return DeadLetterFilter(
        numbers=given["numbers"],
        reasons=tuple(map(str, given["reasons"])),
        event_ids=given["event_ids"],
        since=_timestamp(given["since"]),
        before=_timestamp(given["before"]),
        state=state,
    )


def _timestamp(text: str | None) -> datetime | None:
    if text is None:
        return None
    now = datetime.now(UTC)
    try:
        found = datetime.fromisoformat(parse_time(text, now))
    except ValueError:
        raise click.UsageError("Give a time as 2026-01-23, 2026-01-23T18:25:14Z, 2h or 7d.") from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _print_outcome(retried: RetryOutcome, *, people: bool) -> None:
    number, refused = retried
    if not people:
        outcome = {"number": number, "state": "unresolved" if refused else "stored"}
        if refused:
            outcome |= {"reason": str(refused.reason), "path": refused.path}
        click.echo(json.dumps(outcome))
    elif refused is not None:
        click.echo(f"{number}: {plain_line(str(refused))}")


def _print(dead_letter: StoredDeadLetter) -> None:
    print_json(msgspec.json.encode(_described(dead_letter)))


def _described(dead_letter: StoredDeadLetter) -> dict[str, Any]:
    described: dict[str, Any] = {
        "number": dead_letter.number,
        "state": str(dead_letter.state),
        "reason": dead_letter.reason,
        "path": dead_letter.path,
        "source": {
            "log": dead_letter.partition.log,
            "partition": dead_letter.partition.number,
            "offset": dead_letter.offset,
        },
        "event_id": dead_letter.event_id.hex if dead_letter.event_id else None,
        "received_at": rfc3339_ms(dead_letter.received_ms),
        "dead_lettered_at": dead_letter.dead_lettered_at,
        "retries": dead_letter.retries,
        "retried_at": dead_letter.retried_at,
        "stored_at": dead_letter.stored_at,
        "discarded_at": dead_letter.discarded_at,
        "discarded_by": dead_letter.discarded_by,
    }
    described = {
        name: value.isoformat() if isinstance(value, datetime) else value for name, value in described.items()
    }
    return described | _event(dead_letter.value)


def _event(value: bytes) -> dict[str, Any]:
    """Return the event as the JSON it is, byte for byte; else encoded."""
    try:
        msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {"event_base64": b64encode(value).decode()}
    # A line must stay a line.
    if b"\n" in value or b"\r" in value:
        return {"event_base64": b64encode(value).decode()}
    return {"event": msgspec.Raw(value)}


def _with_store(act: Callable[[DeadLetterStore], Awaitable[_T]]) -> _T:
    async def run() -> _T:
        async with AsyncExitStack() as stack:
            return await act(await _operator_store(stack, _settings()))

    return asyncio.run(run())


def _with_retrier(act: Callable[[DeadLetterStore, DeadLetterRetrier], Awaitable[_T]]) -> _T:
    async def run() -> _T:
        settings = _settings()
        async with AsyncExitStack() as stack:
            dead_letters = await _operator_store(stack, settings)
            records = await PostgresStore.connect(
                operator_dsn(settings),
                connections_max=1,
                command_timeout_ms=settings.postgres.command_timeout_ms,
            )
            stack.push_async_callback(records.close)
            retrier = DeadLetterRetrier(
                dead_letters=dead_letters,
                records=records,
                gap_ledger=records,
                config=settings.ingest.bounds,
                clock_ms=clock_ms,
            )
            return await act(dead_letters, retrier)

    return asyncio.run(run())


async def _operator_store(stack: AsyncExitStack, settings: Settings) -> DeadLetterStore:
    return PostgresDeadLetterStore(await stack.enter_async_context(operator(settings)))


def _settings() -> Settings:
    settings = load_settings()
    configure_logs(settings.log_level, settings.log_format)
    return settings
