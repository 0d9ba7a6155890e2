"""`auditap tail`: follows the log through the log API's event stream."""

from __future__ import annotations

import sys
import time
from collections import OrderedDict
from collections.abc import Iterator
from datetime import UTC, datetime
from urllib.parse import urlencode

import click
import httpx
from rich.console import Console
from rich.text import Text

from auditap.cli.log_client import (
    LogReader,
    is_interactive,
    now_rfc3339,
    parse_filters,
    parse_time,
    raise_for_status,
    reading_the_log,
    table_cells,
    unreachable,
)
from auditap.plain_text import print_json
from schemas.errors import RetryableError
from schemas.retry_after import asked_to_wait_s

# A tail that reconnects looks back and sends records again; these ids are how the second copy is known.
_SEEN_MAX = 20_000
_RETRY_S = 1.0
_ASKED_WAIT_S_MAX = 300.0
# Longer than the interval of the server's heartbeats.
_READ_TIMEOUT_S = 60.0


@click.command("tail")
@click.argument("filters", metavar="[FILTER=VALUE]...", nargs=-1)
@reading_the_log()
@click.option("--since", help="Start time: a date, an RFC 3339 time, or 2h, 7d ago.  [default: now]")
@click.option("--count", type=click.IntRange(1), help="Stop after this many records.")
@click.option("--json", "as_json", is_flag=True, help="Print NDJSON, as in a pipe.")
def tail_command(
    *,
    source: LogReader,
    filters: tuple[str, ...],
    since: str | None,
    count: int | None,
    as_json: bool,
) -> None:
    """Follow the log until Ctrl-C, and reconnect when the log API restarts. Filters are those of `auditap query`."""
    start = now_rfc3339() if since is None else parse_time(since, datetime.now(UTC))
    interactive = is_interactive(as_json=as_json)
    console = Console()
    for number, record in enumerate(_followed(source, [*parse_filters(filters), ("since", start)]), 1):
        if interactive:
            console.print(Text("  ").join(table_cells(record)), soft_wrap=True)
        else:
            print_json(record)
            sys.stdout.buffer.flush()
        if number == count:
            return


def _followed(source: LogReader, query: list[tuple[str, str]]) -> Iterator[bytes]:
    """Yield each record once, and reconnect after errors.

    Raises StartupError if the API rejects the request, RetryableError if the first connection fails.
    """
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
        except (httpx.HTTPError, RetryableError) as error:
            # A wrong address should end the command; an API that has responded once is expected back.
            if not connected:
                raise RetryableError(unreachable(source.url)) from None
            asked_s = getattr(error, "asked_to_wait_s", None) or 0.0
            time.sleep(max(_RETRY_S, min(asked_s, _ASKED_WAIT_S_MAX)))
        else:
            time.sleep(_RETRY_S)


def _events(
    source: LogReader, query: list[tuple[str, str]], headers: dict[str, str]
) -> Iterator[tuple[str, bytes]]:
    """Yield the id and the record of each event of one connection, and ("", b"") for each heartbeat."""
    timeout = httpx.Timeout(_READ_TIMEOUT_S, connect=5)
    with httpx.stream(
        "GET", f"{source.url}/tail", params=urlencode(query), headers=headers, timeout=timeout
    ) as response:
        if response.status_code != 200:
            wait_s = asked_to_wait_s(response.status_code, response.headers, time.time())
            raise_for_status(response.status_code, response.read(), wait_s)
        event_id = ""
        for line in response.iter_lines():
            name, _, value = line.partition(": ")
            if name == "id":
                event_id = value
            elif name == "data":
                yield event_id, value.encode()
            elif line.startswith(":"):
                yield "", b""
