"""`auditap completeness`: what is not there, a table for people and JSON for programs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import click
import httpx
import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from auditap.log_client import Reading, away, check, for_people, moment, reading
from auditap.settings import load_settings
from schemas.errors import RetryableError

_TIMEOUT_S = 30


@click.command("completeness")
@click.option(
    "--account", help="Any account the token is good for; by default the example's of `auditap up`."
)
@click.option("--since", default="24h", show_default=True, help="A date, an RFC 3339 time, or 2h, 7d ago.")
@click.option("--before", default="now", show_default=True, help="The same, or now.")
@click.option("--api", help="The log API, such as https://audit.internal/client/v4.")
@click.option("--token-file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON, as into a pipe.")
def completeness_command(
    *,
    account: str | None,
    since: str,
    before: str,
    api: str | None,
    token_file: Path | None,
    as_json: bool,
) -> None:
    """Show before when the log is complete, and every gap of a time: which tap, which numbers, when and why."""
    now = datetime.now(UTC)
    query = [("since", moment(since, now)), ("before", moment(before, now + timedelta(seconds=1)))]
    body = _asked(reading(load_settings(), account, api, token_file), query)
    found = msgspec.json.decode(body)
    if not for_people(as_json=as_json):
        click.echo(msgspec.json.encode({name: found[name] for name in ("result", "result_info")}))
        return
    console = Console()
    for line in summary(found["result_info"]):
        console.print(line)
    if found["result"]:
        console.print(table(found["result"]))


def summary(info: dict[str, Any]) -> list[str]:
    """Return an answer's sums as lines for people."""
    taps = info["taps"]
    complete = info["complete_before"]
    lines = [
        f"Complete before {complete}, but for the gaps."
        if complete
        else "No tap numbers its captures: nobody can say what is complete.",
        f"Taps: {taps['alive']} heard, {taps['expired']} cut off, {taps['unnumbered']} without numbers.",
        f"Gaps: {info['gaps']}, with {info['missing']} captures." if info["gaps"] else "No gaps.",
    ]
    if not info["complete"]:
        lines.append(f"The first {info['count']} of them, earliest first; ask for a shorter time.")
    return lines


def table(gaps: list[dict[str, Any]]) -> Table:
    """Return gaps as a table for people."""
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


def _asked(source: Reading, query: list[tuple[str, str]]) -> bytes:
    try:
        answer = httpx.get(
            f"{source.url}/completeness?{urlencode(query)}", headers=dict(source.headers), timeout=_TIMEOUT_S
        )
    except httpx.HTTPError:
        raise RetryableError(away(source.url)) from None
    check(answer.status_code, answer.content)
    return answer.content
