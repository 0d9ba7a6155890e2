"""`auditap tail`: records as they arrive."""

from __future__ import annotations

import sys
import time
from collections import OrderedDict
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlencode

import click
import httpx
import msgspec
from rich.console import Console
from rich.text import Text

from auditap.log_client import Reading, away, cells, check, filters, for_people, moment, now_text, reading
from auditap.settings import load_settings
from schemas.errors import RetryableError

_SEEN_MAX = 20_000
_RETRY_S = 1.0
# Longer than the server's heartbeat.
_SILENCE_S = 60.0


@click.command("tail")
@click.argument("given", metavar="[FILTER=VALUE]...", nargs=-1)
@click.option("--account", help="Whose log; by default the example's of `auditap up`.")
@click.option("--since", help="Begin there: a date, an RFC 3339 time, or 2h, 7d ago.  [default: now]")
@click.option("--count", type=click.IntRange(1), help="End after so many records.")
@click.option("--api", help="The log API, such as https://audit.internal/client/v4.")
@click.option("--token-file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print NDJSON, as into a pipe.")
def tail_command(
    *,
    given: tuple[str, ...],
    account: str | None,
    since: str | None,
    count: int | None,
    api: str | None,
    token_file: Path | None,
    as_json: bool,
) -> None:
    """Follow the log until Ctrl-C, through every restart of the log API. Filters are those of `auditap query`."""
    begin = now_text() if since is None else moment(since, datetime.now(UTC))
    source = reading(load_settings(), account, api, token_file)
    people = for_people(as_json=as_json)
    console = Console()
    for number, record in enumerate(_followed(source, [*filters(given), ("since", begin)]), 1):
        if people:
            console.print(Text("  ").join(cells(msgspec.json.decode(record))), soft_wrap=True)
        else:
            sys.stdout.buffer.write(record + b"\n")
            sys.stdout.buffer.flush()
        if number == count:
            return


def _followed(source: Reading, query: list[tuple[str, str]]) -> Iterator[bytes]:
    """Yield each record once. Raises StartupError, and RetryableError where the API was never there."""
    seen: OrderedDict[str, None] = OrderedDict()
    connected = False
    while True:
        headers = dict(source.headers)
        if seen:
            headers["Last-Event-ID"] = next(reversed(seen))
        try:
            for event_id, record in _events(source, query, headers):
                connected = True
                if event_id and event_id not in seen:
                    seen[event_id] = None
                    if len(seen) > _SEEN_MAX:
                        seen.popitem(last=False)
                    yield record
        except (httpx.HTTPError, RetryableError):
            if not connected:
                raise RetryableError(away(source.url)) from None
        time.sleep(_RETRY_S)


def _events(
    source: Reading, query: list[tuple[str, str]], headers: dict[str, str]
) -> Iterator[tuple[str, bytes]]:
    """Yield id and record of each event of one connection, and ("", b"") for each sign of life."""
    timeout = httpx.Timeout(_SILENCE_S, connect=5)
    with httpx.stream(
        "GET", f"{source.url}/tail", params=urlencode(query), headers=headers, timeout=timeout
    ) as answer:
        if answer.status_code != 200:
            check(answer.status_code, answer.read())
        event_id = ""
        for line in answer.iter_lines():
            name, _, value = line.partition(": ")
            if name == "id":
                event_id = value
            elif name == "data":
                yield event_id, value.encode()
            elif line.startswith(":"):
                yield "", b""
