"""`auditap rules`: check a rules file, and test it against stored records."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.table import Table

from alerting.channels import why_unusable
from alerting.engine import evaluate, match_rules, required_state
from alerting.memory_store import MemoryAlertStore
from alerting.payload import raised_payload
from alerting.ports import UnitOfWork
from alerting.rules import RuleSet
from alerting.rules_parser import parse_rules
from alerting.yaml_source import BYTES_MAX, RulesRefused
from auditap.cli.administration import as_administrator
from auditap.cli.alerts import alerts_table
from auditap.cli.deliveries import since_option_ms
from auditap.cli.log_client import is_interactive
from auditap.database.alerts import records_between
from auditap.plain_text import counted, print_json
from schemas.errors import StartupError
from schemas.record import Record

_BATCH_RECORDS = 1_000
_SHOWN_MAX = 50
_File = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group()
def rules() -> None:
    """Check alert rules, and test them against stored records."""


@rules.command("check")
@click.argument("file", type=_File)
@click.option(
    "--without-files", is_flag=True, help="Do not read the files that channels name: they are elsewhere."
)
def rules_check(file: Path, *, without_files: bool) -> None:
    """Check FILE and its channels; for an error, name the line."""
    rule_set = _read(file)
    if not without_files:
        _check_channels(rule_set)
    drops = sum(rule.drops for rule in rule_set.rules)
    alerting, channels = (
        counted(len(rule_set.rules) - drops, "rule"),
        counted(len(rule_set.channels), "channel"),
    )
    click.echo(f"{alerting}, {counted(drops, 'that drops', 'that drop')}, {channels}")


@rules.command("test")
@click.option("--rules", "file", type=_File, required=True, help="The rules file.")
@click.option(
    "--since", default="24h", show_default=True, help="An RFC 3339 time, or an age such as 2h or 7d."
)
@click.option("--before", default="now", show_default=True, help="The same, or now.")
@click.option("--account", help="Only records of this account.")
@click.option("--json", "as_json", is_flag=True, help="Print NDJSON, the default for pipes.")
def rules_test(*, file: Path, since: str, before: str, account: str | None, as_json: bool) -> None:
    """Show the alerts that rules would have raised on stored records. Nothing is stored or sent."""
    rule_set = _read(file)
    since_ms, before_ms = since_option_ms(since), since_option_ms(before)

    async def run(connection: Any) -> Backtest:
        backtest = Backtest(rule_set)
        async for record in records_between(connection, account, since_ms, before_ms):
            await backtest.add(record)
        await backtest.flush()
        return backtest

    began = datetime.now(UTC)
    backtest = as_administrator(run)
    if not is_interactive(as_json=as_json):
        for payload in backtest.payloads:
            print_json(msgspec.json.encode(payload))
        return
    _show(rule_set, backtest, (datetime.now(UTC) - began).total_seconds())


class Backtest:
    """Rules on stored records: the engine that `auditap alerting` runs, with its state in memory.

    `payloads`: the alerts so far. `records`: how many records were added.
    """

    def __init__(self, rule_set: RuleSet) -> None:
        self._rule_set = rule_set
        self._store = MemoryAlertStore()
        self._pending: list[Record] = []
        self.payloads: list[dict[str, Any]] = []
        self.records = 0

    async def add(self, record: Record) -> None:
        """Add a record; records come in the order of their ids."""
        self.records += 1
        self._pending.append(record)
        if len(self._pending) >= _BATCH_RECORDS:
            await self.flush()

    async def flush(self) -> None:
        """Evaluate the records that were added."""
        matches = [match for record in self._pending for match in match_rules(self._rule_set, record)]
        self._pending = []
        alerts = await self._store.commit(UnitOfWork(required_state(matches), partial(evaluate, matches)))
        self.payloads += [raised_payload(alert) for alert in alerts]


def _check_channels(rule_set: RuleSet) -> None:
    unusable = []
    for name, channel in rule_set.channels.items():
        reason = why_unusable(channel)
        if reason is not None:
            unusable.append(f"channel {name}: {reason}")
    if unusable:
        raise StartupError(f"{'; '.join(unusable)}. Alerts cannot be delivered there.")


def _show(rule_set: RuleSet, backtest: Backtest, seconds: float) -> None:
    console = Console()
    counts = Counter(payload["rule"] for payload in backtest.payloads)
    table = Table("rule", "severity", "alerts")
    for rule in rule_set.rules:
        if not rule.drops:
            count = counts[rule.name]
            table.add_row(rule.name, rule.severity, str(count) if count else "[dim]0[/dim]")
    console.print(table)
    if backtest.payloads:
        console.print(alerts_table(backtest.payloads[:_SHOWN_MAX]))
    if len(backtest.payloads) > _SHOWN_MAX:
        console.print(f"… and {len(backtest.payloads) - _SHOWN_MAX} more: --json shows all.")
    console.print(f"{counted(backtest.records, 'record')} in {seconds:.1f} s. Nothing was stored or sent.")


def _read(file: Path) -> RuleSet:
    try:
        with file.open("rb") as opened:
            return parse_rules(opened.read(BYTES_MAX + 1), str(file))
    except RulesRefused as refused:
        raise StartupError(str(refused)) from None
