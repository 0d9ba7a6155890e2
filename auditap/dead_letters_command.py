"""`auditap dead-letters`: look at what could not become a record, try it again, or let it go."""

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

from auditap.log_client import for_people, moment
from auditap.logs import configure_logs
from auditap.plain_text import plain
from auditap.settings import Settings, admin_dsn, load_settings
from ingestor.dead_letters import BuriedLetter, LetterBox, LetterState, Retried, Retrier, Wanted, each_letter
from schemas.errors import DeadLetterReason, StartupError
from schemas.identity import rfc3339_ms

_T = TypeVar("_T")
_Command = TypeVar("_Command", bound=Callable[..., Any])
_OPEN = str(LetterState.OPEN)
_ANY = "all"
_NUMBER = click.IntRange(1, 2**63 - 1)


@click.group("dead-letters")
def dead_letters() -> None:
    """Look at what could not become a record, try it again, or let it go."""


def _selecting(command: _Command) -> _Command:
    """Add what says which letters are meant."""
    for option in (
        click.option(
            "--id", "event_ids", type=click.UUID, multiple=True, help="An event's id; repeat for several."
        ),
        click.option("--before", help="Buried before: the same."),
        click.option("--since", help="Buried since: a date, an RFC 3339 time, or 2h, 7d ago."),
        click.option(
            "--reason",
            "reasons",
            type=click.Choice([str(each) for each in DeadLetterReason]),
            multiple=True,
            help="Why they were buried.",
        ),
        click.argument("numbers", type=_NUMBER, nargs=-1),
    ):
        command = option(command)
    return command


@dead_letters.command("list")
@_selecting
@click.option(
    "--state",
    type=click.Choice([*(str(each) for each in LetterState), _ANY]),
    default=_OPEN,
    show_default=True,
)
@click.option(
    "--limit", type=click.IntRange(1), default=50, show_default=True, help="For people; NDJSON has all."
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print NDJSON with the redacted events, as into a pipe."
)
def dead_letters_list(*, state: str, limit: int, as_json: bool, **given: Any) -> None:
    """List dead letters, oldest first."""
    wanted = _wanted(given, None if state == _ANY else LetterState(state))
    if not for_people(as_json=as_json):
        _with_box(lambda box: _print_all(box, wanted))
        return
    _with_box(lambda box: _show_table(box, wanted, limit))


async def _print_all(box: LetterBox, wanted: Wanted) -> None:
    async for page in each_letter(box, wanted, with_events=True):
        for letter in page:
            _print(letter)


async def _show_table(box: LetterBox, wanted: Wanted, limit: int) -> None:
    table = Table("number", "buried", "reason", "where it does not fit", "event", "state", box=None)
    async for page in each_letter(box, wanted, with_events=False):
        for letter in page[: limit - table.row_count]:
            table.add_row(
                str(letter.number),
                f"{letter.buried_at:%Y-%m-%d %H:%M:%S}",
                plain(letter.reason),
                plain(letter.path),
                letter.event_id.hex if letter.event_id else "",
                f"{letter.state}, tried {letter.retries}x" if letter.retries else str(letter.state),
            )
        if table.row_count >= limit:
            break
    total, _ = await box.count(wanted)
    Console().print(table if table.row_count else "No dead letters.")
    if total > table.row_count:
        click.echo(f"{table.row_count} of {total}: --limit shows more.")


@dead_letters.command("show")
@click.argument("number", type=_NUMBER)
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON, as into a pipe.")
def dead_letters_show(*, number: int, as_json: bool) -> None:
    """Show one dead letter: why, where it stood, and the redacted event."""

    async def find(box: LetterBox) -> BuriedLetter:
        found = await box.letters(Wanted(numbers=(number,)), 0, 1, with_events=True)
        if not found:
            raise _unknown([number])
        return found[0]

    letter = _with_box(find)
    if not for_people(as_json=as_json):
        _print(letter)
        return
    table = Table.grid(padding=(0, 2))
    for name, value in _described(letter).items():
        if not name.startswith("event_base64") and name != "event" and value is not None:
            table.add_row(name, plain(value if isinstance(value, str) else json.dumps(value)))
    console = Console()
    console.print(table)
    try:
        event = msgspec.json.decode(letter.value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        console.print("[yellow]The event is not JSON:[/yellow]", plain(repr(letter.value)))
        return
    # Escaped: what the event holds is shown, never obeyed.
    click.echo(json.dumps(event, indent=2))


@dead_letters.command("retry")
@_selecting
@click.option("--all", "every", is_flag=True, help="Every open one.")
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each, as into a pipe.")
def dead_letters_retry(*, every: bool, as_json: bool, **given: Any) -> None:
    """Try to make records of open dead letters once more; what fails again is kept with the reason it fails for now."""
    wanted = _wanted(given, LetterState.OPEN)
    _require_choice(wanted, every=every)
    _with_box(lambda box: _require_known(box, wanted))
    people = for_people(as_json=as_json)
    stored = kept = 0

    async def run(box: LetterBox, retrier: Retrier) -> None:
        nonlocal stored, kept
        _, last = await box.count(wanted)
        async for page in each_letter(box, wanted._replace(up_to=last), with_events=True):
            for number, refused in await retrier.retry(page):
                stored, kept = stored + (refused is None), kept + (refused is not None)
                _tell(Retried(number, refused), people=people)

    _with_retrier(run)
    if people:
        click.echo(f"{stored} stored, {kept} kept")
    if kept:
        sys.exit(1)


@dead_letters.command("discard")
@_selecting
@click.option("--all", "every", is_flag=True, help="Every open one.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def dead_letters_discard(*, every: bool, yes: bool, **given: Any) -> None:
    """Let go of open dead letters. Who did so and when is kept with them."""
    wanted = _wanted(given, LetterState.OPEN)
    _require_choice(wanted, every=every)
    _with_box(lambda box: _require_known(box, wanted))
    count, last = _with_box(lambda box: box.count(wanted))
    if count and not yes:
        click.confirm(f"Discard {count} dead letters?", abort=True, err=True)
    # What was buried while somebody was asked is not meant.
    discarded = _with_box(lambda box: box.discard(wanted._replace(up_to=last))) if count else 0
    click.echo(f"{discarded} discarded")


async def _require_known(box: LetterBox, wanted: Wanted) -> None:
    """Raise StartupError where a number that was given is no letter's, in whatever state."""
    known: set[int] = set()
    if wanted.numbers:
        async for page in each_letter(box, Wanted(numbers=wanted.numbers), with_events=False):
            known.update(letter.number for letter in page)
    if missing := sorted(set(wanted.numbers) - known):
        raise _unknown(missing)


def _unknown(numbers: Sequence[int]) -> StartupError:
    said = ", ".join(map(str, numbers))
    return StartupError(f"There is no dead letter {said}: see `auditap dead-letters list --state all`.")


def _require_choice(wanted: Wanted, *, every: bool) -> None:
    chosen = wanted != Wanted(state=LetterState.OPEN)
    if chosen == every:
        raise click.UsageError("Say which: numbers, --reason, --since, --before or --id; or --all.")


def _wanted(given: dict[str, Any], state: LetterState | None) -> Wanted:
    return Wanted(
        numbers=given["numbers"],
        reasons=tuple(map(str, given["reasons"])),
        event_ids=given["event_ids"],
        since=_moment(given["since"]),
        before=_moment(given["before"]),
        state=state,
    )


def _moment(text: str | None) -> datetime | None:
    if text is None:
        return None
    now = datetime.now(UTC)
    try:
        found = datetime.fromisoformat(moment(text, now))
    except ValueError:
        raise click.UsageError("Give a time as 2026-01-23, 2026-01-23T18:25:14Z, 2h or 7d.") from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _tell(retried: Retried, *, people: bool) -> None:
    number, refused = retried
    if not people:
        outcome = {"number": number, "state": "open" if refused else "stored"}
        if refused:
            outcome |= {"reason": str(refused.reason), "path": refused.path}
        click.echo(json.dumps(outcome))
    elif refused is not None:
        click.echo(f"{number}: {refused}")


def _print(letter: BuriedLetter) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(_described(letter)) + b"\n")


def _described(letter: BuriedLetter) -> dict[str, Any]:
    described: dict[str, Any] = {
        "number": letter.number,
        "state": str(letter.state),
        "reason": letter.reason,
        "path": letter.path,
        "source": {
            "log": letter.partition.log,
            "partition": letter.partition.number,
            "offset": letter.offset,
        },
        "event_id": letter.event_id.hex if letter.event_id else None,
        "received_at": rfc3339_ms(letter.received_ms),
        "buried_at": letter.buried_at,
        "retries": letter.retries,
        "retried_at": letter.retried_at,
        "stored_at": letter.stored_at,
        "discarded_at": letter.discarded_at,
        "discarded_by": letter.discarded_by,
    }
    described = {
        name: value.isoformat() if isinstance(value, datetime) else value for name, value in described.items()
    }
    return described | _event(letter.value)


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


def _with_box(act: Callable[[LetterBox], Awaitable[_T]]) -> _T:
    async def run() -> _T:
        async with AsyncExitStack() as stack:
            return await act(await _box(stack, _settings()))

    return asyncio.run(run())


def _with_retrier(act: Callable[[LetterBox, Retrier], Awaitable[_T]]) -> _T:
    from auditap.waiting import clock_ms  # noqa: PLC0415  the command line starts without its parts
    from ingestor.postgres_store import PostgresStore  # noqa: PLC0415

    async def run() -> _T:
        settings = _settings()
        async with AsyncExitStack() as stack:
            box = await _box(stack, settings)
            store = await PostgresStore.connect(
                _dsn(settings), connections_max=1, command_timeout_ms=settings.postgres.command_timeout_ms
            )
            stack.push_async_callback(store.close)
            retrier = Retrier(
                box=box, store=store, completeness=store, config=settings.ingest.bounds, clock_ms=clock_ms
            )
            return await act(box, retrier)

    return asyncio.run(run())


async def _box(stack: AsyncExitStack, settings: Settings) -> LetterBox:
    from auditap.database import administrator  # noqa: PLC0415
    from ingestor.postgres_letters import PostgresLetterBox  # noqa: PLC0415

    return PostgresLetterBox(await stack.enter_async_context(administrator(_dsn(settings))))


def _settings() -> Settings:
    settings = load_settings()
    configure_logs(settings.log_level, settings.log_format)
    return settings


def _dsn(settings: Settings) -> str:
    given = settings.postgres.operator_dsn
    return given.get_secret_value() if given is not None else admin_dsn(settings)
