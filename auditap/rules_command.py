"""`auditap rules`: check a file of rules, and see what it would have raised."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import click
import msgspec
from rich.console import Console
from rich.table import Table

from auditap.administer import as_administrator
from auditap.alerts_command import alerts_table
from auditap.deliveries_command import since_option_ms
from auditap.log_client import for_people
from schemas.errors import StartupError
from schemas.record import Record
from watcher.documents import raised_document
from watcher.engine import judge, needed, sightings
from watcher.memory_store import MemoryWatchStore
from watcher.ports import Work
from watcher.rules import BYTES_MAX, RuleSet, RulesRefused, read_rules

_BATCH_RECORDS = 1_000
_SHOWN_MAX = 50
_File = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group()
def rules() -> None:
    """Check rules, and try them on history."""


@rules.command("check")
@click.argument("file", type=_File)
@click.option(
    "--without-files", is_flag=True, help="Do not look into the files that channels name: they are elsewhere."
)
def rules_check(file: Path, *, without_files: bool) -> None:
    """Say whether FILE can be used, or on which line it cannot, and whether its channels can be told."""
    held = _read(file)
    if not without_files:
        _check_channels(held)
    drops = sum(rule.drops for rule in held.rules)
    click.echo(f"{len(held.rules) - drops} rules, {drops} that drop, {len(held.channels)} channels")


@rules.command("test")
@click.option("--rules", "file", type=_File, required=True, help="The file of rules.")
@click.option("--since", default="24h", show_default=True, help="An RFC 3339 time, or 2h, 7d ago.")
@click.option("--before", default="now", show_default=True, help="The same, or now.")
@click.option("--account", help="Only this account's records.")
@click.option("--json", "as_json", is_flag=True, help="Print NDJSON, as into a pipe.")
def rules_test(*, file: Path, since: str, before: str, account: str | None, as_json: bool) -> None:
    """Replay stored records through rules and show what they would have raised. Nothing is stored or told."""
    from auditap.database import records_between  # noqa: PLC0415  the command line starts without its parts

    held = _read(file)
    since_ms, before_ms = since_option_ms(since), since_option_ms(before)

    async def run(connection: Any) -> Rehearsal:
        rehearsal = Rehearsal(held)
        async for record in records_between(connection, account, since_ms, before_ms):
            await rehearsal.add(record)
        await rehearsal.settle()
        return rehearsal

    began = datetime.now(UTC)
    found = as_administrator(run)
    if not for_people(as_json=as_json):
        for document in found.documents:
            click.echo(msgspec.json.encode(document).decode())
        return
    _show(held, found, (datetime.now(UTC) - began).total_seconds())


def _check_channels(held: RuleSet) -> None:
    from watcher.channels import why_unusable  # noqa: PLC0415

    found = {name: why_unusable(channel) for name, channel in held.channels.items()}
    wrong = [f"channel {name}: {reason}" for name, reason in found.items() if reason is not None]
    if wrong:
        raise StartupError(f"{'; '.join(wrong)}. The watcher could not tell its alerts there.")


class Rehearsal:
    """Rules on history: the engine that the watcher runs, with its memory in memory."""

    def __init__(self, held: RuleSet) -> None:
        self._held = held
        self._store = MemoryWatchStore()
        self._waiting: list[Record] = []
        self.documents: list[dict[str, Any]] = []
        self.records = 0

    async def add(self, record: Record) -> None:
        """Take one record more, in the order of their ids."""
        self.records += 1
        self._waiting.append(record)
        if len(self._waiting) >= _BATCH_RECORDS:
            await self.settle()

    async def settle(self) -> None:
        """Judge what was taken."""
        found = [one for record in self._waiting for one in sightings(self._held, record)]
        self._waiting = []
        fresh = await self._store.settle(Work(needed(found), partial(judge, found)))
        self.documents += [raised_document(alert) for alert in fresh]


class _Line(NamedTuple):
    rule: str
    severity: str
    alerts: int


def _show(held: RuleSet, found: Rehearsal, seconds: float) -> None:
    console = Console()
    counted = Counter(document["rule"] for document in found.documents)
    table = Table("rule", "severity", "alerts")
    for line in _lines(held, counted):
        table.add_row(line.rule, line.severity, str(line.alerts) if line.alerts else "[dim]0[/dim]")
    console.print(table)
    if found.documents:
        console.print(alerts_table(found.documents[:_SHOWN_MAX]))
    if len(found.documents) > _SHOWN_MAX:
        console.print(f"… and {len(found.documents) - _SHOWN_MAX} more: --json shows all.")
    console.print(f"{found.records} records in {seconds:.1f} s. Nothing was stored or told.")


def _lines(held: RuleSet, counted: Counter[str]) -> Sequence[_Line]:
    return [_Line(rule.name, rule.severity, counted[rule.name]) for rule in held.rules if not rule.drops]


def _read(file: Path) -> RuleSet:
    try:
        with file.open("rb") as opened:
            return read_rules(opened.read(BYTES_MAX + 1), str(file))
    except RulesRefused as refused:
        raise StartupError(str(refused)) from None
