"""`auditap completeness`: shows the completeness watermark and the gaps, as a table or as JSON; lists and retires taps."""

from __future__ import annotations

from typing import Any

import click
import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from auditap.cli.administration import as_operator, current_user
from auditap.cli.log_client import (
    LogReader,
    is_interactive,
    reading_the_log,
    time_range,
)
from auditap.database.completeness import (
    BOUNDS_MAX,
    REASON_CHARACTERS_MAX,
    WHO_CHARACTERS_MAX,
    WatermarkBound,
    list_watermark_bounds,
    retire_tap,
)
from auditap.plain_text import counted, plain_line, print_json
from log_api.path_segments import ALL_ACCOUNTS
from schemas.errors import StartupError
from schemas.identity import rfc3339_ms


@click.group("completeness", invoke_without_command=True)
@reading_the_log(default_account=ALL_ACCOUNTS)
@click.option("--since", default="24h", show_default=True, help="A date, an RFC 3339 time, or 2h, 7d ago.")
@click.option("--before", default="now", show_default=True, help="The same, or now.")
@click.option("--json", "as_json", is_flag=True, help="Print the response as JSON, as in a pipe.")
def completeness_command(
    *,
    source: LogReader,
    since: str,
    before: str,
    as_json: bool,
) -> None:
    """Show the completeness watermark and the gaps in a time range: tap, sequence numbers, time and cause.

    Taps serve all accounts, so the response is the same for each.
    """
    body = source.fetch("/completeness", time_range(since, before))
    found = msgspec.json.decode(body)
    if not is_interactive(as_json=as_json):
        print_json(msgspec.json.encode({name: found[name] for name in ("result", "result_info")}))
        return
    console = Console()
    for line in summary(found["result_info"]):
        console.print(line)
    if found["result"]:
        console.print(table(found["result"]))


@completeness_command.command("retire")
@click.argument("tap")
@click.option("--reason", required=True, help="Why; it is stored.")
@click.option("--by", "who", default=current_user, help="Who retires it; by default you.")
def retire_command(tap: str, reason: str, who: str) -> None:
    """Stop a tap that is gone, or reports wrong times, from holding the watermark.

    This applies to the runs that the tap has had so far; a later run counts again. Its gaps stay.
    """
    if not who.strip() or not reason.strip():
        raise click.UsageError("--by and --reason must not be empty.")
    if len(who) > WHO_CHARACTERS_MAX or len(reason) > REASON_CHARACTERS_MAX:
        raise click.UsageError(
            f"--by has {WHO_CHARACTERS_MAX} characters at most, --reason {REASON_CHARACTERS_MAX:,}."
        )
    epochs = as_operator(lambda connection: retire_tap(connection, tap, who, reason))
    if epochs == 0:
        Console(stderr=True).print(bounds_table(as_operator(list_watermark_bounds)))
        raise StartupError(
            "No tap has this id, or it is retired already: choose one that holds the watermark."
        )
    click.echo(f"retired {plain_line(tap)}, epochs: {epochs}")


@completeness_command.command("taps")
@click.option("--json", "as_json", is_flag=True, help="Print NDJSON, the default for pipes.")
def taps_command(*, as_json: bool) -> None:
    r"""List what holds the watermark, earliest first, then the epochs that are left out: surplus or retired ones.

    An epoch that holds nothing is not listed. Reads the database with an operator's login. 1,000 lines at most.

    \b
    States:
      alive         it sends heartbeats
      silent        it sends sequence numbers, and no heartbeat so far
      expired       it stopped sending heartbeats, and its lease is over
      ended         it ended properly, and not all of its captures are stored
      killed, lost  it crashed, and not all of its captures are stored
      late          what came late, of any tap
    """
    bounds = as_operator(list_watermark_bounds)
    if is_interactive(as_json=as_json):
        Console().print(bounds_table(bounds) if bounds else "Nothing holds the watermark.")
    else:
        for bound in bounds:
            print_json(msgspec.json.encode(_bound_json(bound)))
    if len(bounds) == BOUNDS_MAX:
        click.echo(f"The first {BOUNDS_MAX:,} are listed; there may be more.", err=True)


def bounds_table(bounds: list[WatermarkBound]) -> Table:
    """Return what holds the watermark as a table for a terminal."""
    rows = Table("holds at", "tap", "epoch", "state", "left out", box=None, padding=(0, 2, 0, 0))
    rows.columns[0].no_wrap = True
    for bound in bounds:
        held = "-" if bound.bound_ms is None else rfc3339_ms(bound.bound_ms)
        left_out = "retired" if bound.retired else "surplus" if bound.surplus else ""
        epoch = "" if bound.epoch is None else str(bound.epoch)
        rows.add_row(
            *(Text(each) for each in (held, plain_line(bound.tap_id or ""), epoch, bound.state, left_out))
        )
    return rows


def _bound_json(bound: WatermarkBound) -> dict[str, Any]:
    return {
        "tap": None if bound.tap_id is None else {"id": bound.tap_id, "epoch": bound.epoch},
        "state": bound.state,
        "holds_at": None if bound.bound_ms is None else rfc3339_ms(bound.bound_ms),
        "surplus": bound.surplus,
        "retired": bound.retired,
    }


def summary(info: dict[str, Any]) -> list[str]:
    """Return the totals of a response as lines for a terminal."""
    taps = info["taps"]
    complete = info["complete_before"]
    gone = f"{taps['expired']} gone (expired, killed or lost)"
    lines = [
        f"Complete before {complete}, except for the gaps."
        if complete
        else "No tap sends sequence numbers, or all such taps are retired, so completeness is unknown.",
        f"Taps: {taps['alive']} alive, {gone}, {taps['unnumbered']} without sequence numbers.",
        f"Gaps: {info['gaps']}, with {counted(info['missing'], 'capture')}." if info["gaps"] else "No gaps.",
    ]
    # An older log API does not count them.
    surplus, retired = taps.get("surplus", 0), taps.get("retired", 0)
    if surplus or retired:
        lines.insert(
            2, f"The watermark does not wait for {surplus} surplus and {counted(retired, 'retired epoch')}."
        )
    if not info["complete"]:
        lines.append(
            f"The first {info['count']} of them are listed, earliest first; choose a shorter time range."
        )
    return lines


def table(gaps: list[dict[str, Any]]) -> Table:
    """Return gaps as a table for a terminal."""
    rows = Table("from", "to", "tap", "numbers", "count", "cause", box=None, padding=(0, 2, 0, 0))
    for gap in gaps:
        place = f"{gap['tap']['id']} {gap['tap']['epoch']}" if gap["tap"] else _offsets(gap["log"])
        last = "…" if gap["last"] is None else gap["last"]
        numbers = f"{gap['first']}" if gap["first"] == gap["last"] else f"{gap['first']}-{last}"
        count = "?" if gap["count"] is None else str(gap["count"])
        rows.add_row(
            *(
                Text(each)
                for each in (gap["from"] or "?", gap["to"] or "…", place, numbers, count, gap["cause"])
            )
        )
    return rows


def _offsets(log: dict[str, Any]) -> str:
    return f"{log['name']}/{log['partition']}"
