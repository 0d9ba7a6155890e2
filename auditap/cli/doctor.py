"""`auditap doctor`: one request through the gateway, followed hop by hop to its record."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any, Final, NamedTuple

import click
import httpx
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.table import Table

from auditap.cli.log_client import LogReader, is_interactive, now_rfc3339, reading_the_log
from auditap.plain_text import plain
from auditap.settings import Address, Settings, load_settings
from log_api.path_segments import ALL_ACCOUNTS
from schemas.errors import RetryableError, StartupError
from schemas.identity import new_id

_POLL_S: Final = 0.5
_TIMEOUT_S: Final = 30.0
_REQUEST_ID: Final = "x-request-id"
_Metrics = Mapping[str, float]


class Hop(NamedTuple):
    """One hop. `passed`: whether the request passed it; None if nobody can tell. `what` says what was seen, or what to do."""

    name: str
    passed: bool | None
    what: str


class Seen(NamedTuple):
    """What was seen of the request: the gateway's status (None: no response), how each metric rose, and the record.

    `collector` and `ingestor` are None where their metrics could not be read. `log_answers`: whether the log API could be asked.
    """

    status: int | None
    collector: _Metrics | None
    ingestor: _Metrics | None
    record: Mapping[str, Any] | None
    log_answers: bool = True


@click.command("doctor")
@click.argument("url")
@click.option("-X", "--request", "method", default="POST", show_default=True, help="Method of the request.")
@click.option(
    "-H", "--header", "headers", multiple=True, metavar="NAME: VALUE", help="A header of the request."
)
@click.option("-d", "--data", default="{}", show_default=True, help="Body of the request.")
@click.option(
    "--wait",
    "wait_s",
    type=click.IntRange(1, 600),
    default=20,
    show_default=True,
    help="Seconds to wait for the record.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the hops as JSON.")
@reading_the_log(default_account=ALL_ACCOUNTS)
def doctor_command(
    *,
    source: LogReader,
    url: str,
    method: str,
    headers: tuple[str, ...],
    data: str,
    wait_s: int,
    as_json: bool,
) -> None:
    """Send a request to URL, through the gateway, and follow it to its record.

    The service gets this request: choose one that does no harm. It has a request id of its own, by which its record is
    found. Exit codes: 0 if the record is there; 1 if the request was lost, or its operation is not known.
    """
    settings = load_settings()
    if _REQUEST_ID not in settings.redaction.headers.request_ids:
        raise StartupError(
            f"The doctor finds its record by {_REQUEST_ID}: add it to redaction.headers.request_ids."
        )
    request_id, since = f"doctor-{new_id(int(time.time() * 1000))}", now_rfc3339()
    before = _counters(settings)
    status = _send(url, method, {**_parsed(headers), _REQUEST_ID: request_id}, data)
    interactive = is_interactive(as_json=as_json)
    record, log_answers = None, True
    if status is not None:
        with Console(stderr=True).status("Waiting for the record …") if interactive else nullcontext():
            record, log_answers = _record(source, request_id, since, wait_s)
    collector, ingestor = (_rise(*each) for each in zip(before, _counters(settings), strict=True))
    hops = diagnose(Seen(status, collector, ingestor, record, log_answers))
    if interactive:
        _show(hops, record)
    else:
        click.echo(json.dumps({"request_id": request_id, "hops": [hop._asdict() for hop in hops]}))
    sys.exit(0 if all(hop.passed for hop in hops) else 1)


def diagnose(seen: Seen) -> list[Hop]:
    """Return the hops up to the one where the request was lost."""
    hops = [_gateway(seen)]
    if seen.record is not None:
        reached = "its record is there"
        hops += [Hop(name, True, reached) for name in ("tap", "collector", "ingestor", "record")]
        hops.append(_operation(seen.record))
        return hops
    if hops[-1].passed and not seen.log_answers:
        hops.append(
            Hop(
                "log API",
                None,
                "it does not answer, so the record cannot be looked for: is `auditap up` or `auditap serve` running, with the settings of this folder?",
            )
        )
        return hops
    for hop in (_tap(seen), _collector(seen), _ingestor(seen), _last(seen)):
        if hops[-1].passed is False:
            break
        hops.append(hop)
    return hops


def _gateway(seen: Seen) -> Hop:
    if seen.status is None:
        return Hop("gateway", False, "no response: is the gateway running, and the address right?")
    failed = (
        " (the gateway or the service failed; that, too, has to be recorded)" if seen.status >= 500 else ""
    )
    return Hop("gateway", True, f"responded with {seen.status}{failed}")


def _tap(seen: Seen) -> Hop:
    rise = seen.collector
    if rise is None:
        return Hop(
            "tap",
            None,
            "the collector's metrics cannot be read: is `auditap collect` or `auditap up` running?",
        )
    if not any(rise.get(name) for name in ("captures_accepted", "captures_refused", "captures_unavailable")):
        return Hop(
            "tap",
            False,
            "no capture reached the collector: is the tap in the gateway's configuration, and may it connect to the collector?"
            " `auditap completeness taps` lists the taps that are heard of",
        )
    return Hop("tap", True, "captures reach the collector")


def _collector(seen: Seen) -> Hop:
    rise = seen.collector or {}
    if rise.get("captures_refused"):
        return Hop(
            "collector", False, "it refused a capture: auditap_captures_refused_total names the reason"
        )
    if rise.get("captures_unavailable") and not rise.get("captures_accepted"):
        return Hop(
            "collector", False, "the event log is away: its captures stay in the taps until it is back"
        )
    if rise.get("captures_excluded"):
        return Hop("collector", False, "the operation is excluded by redaction.excluded_operations")
    if seen.collector is None:
        return Hop("collector", None, "its metrics cannot be read")
    return Hop("collector", True, "captures are accepted")


def _ingestor(seen: Seen) -> Hop:
    rise = seen.ingestor
    if rise is None:
        return Hop(
            "ingestor", None, "its metrics cannot be read: is `auditap ingest` or `auditap up` running?"
        )
    if rise.get("dead_letters"):
        return Hop(
            "ingestor", False, "an event was dead-lettered: `auditap dead-letters list` names the reason"
        )
    if not rise.get("events_consumed"):
        return Hop("ingestor", False, "it reads nothing: its log, and /readyz, say what it waits for")
    return Hop("ingestor", True, "events are stored")


def _last(_: Seen) -> Hop:
    return Hop(
        "record",
        False,
        f"no record has the request's id. Does the gateway, or a proxy before it, replace {_REQUEST_ID}? Is the token for every account?",
    )


def _operation(record: Mapping[str, Any]) -> Hop:
    unmatched = record["auditap"]["receipt"].get("unmatched")
    if unmatched == "invalid_path":
        return Hop(
            "operation", False, "its path has a trailing slash, an empty segment or `..`, and matches nothing"
        )
    method, uri = record["raw"]["method"], record["raw"]["uri"]
    if unmatched == "no_method":
        return Hop(
            "operation", False, f"the OpenAPI document has no {method} for {uri}: choose another method by -X"
        )
    if unmatched:
        return Hop(
            "operation",
            False,
            f"no operation of the OpenAPI document matches {method} {uri} ({unmatched}): compare"
            " the document's paths, and the base paths of its servers, with the URL",
        )
    action = record["action"].get("description") or record["action"]["type"]
    return Hop("operation", True, action)


def _send(url: str, method: str, headers: Mapping[str, str], data: str) -> int | None:
    """Return the status of the response; None without one. Raises StartupError for what is no URL."""
    content = {} if method.upper() in {"GET", "HEAD"} else {"content": data.encode()}
    try:
        with httpx.Client(timeout=_TIMEOUT_S, verify=False, trust_env=False) as client:  # noqa: S501  the gateway's certificate is not what is examined
            return client.request(method, url, headers=dict(headers), **content).status_code  # type: ignore[arg-type]
    except (httpx.InvalidURL, httpx.UnsupportedProtocol):
        raise StartupError(
            "Give the address of an operation, such as http://127.0.0.1:8408/orders."
        ) from None
    except httpx.HTTPError:
        return None


def _parsed(headers: tuple[str, ...]) -> dict[str, str]:
    parsed = {"content-type": "application/json"}
    for header in headers:
        name, colon, value = header.partition(":")
        if not colon or not name.strip():
            raise click.UsageError("A header is written 'name: value'.")
        parsed[name.strip().lower()] = value.strip()
    return parsed


def _record(
    source: LogReader, request_id: str, since: str, wait_s: int
) -> tuple[Mapping[str, Any] | None, bool]:
    """Return the record once it is there, and whether the log API could be asked. None if it does not come in time.

    Raises StartupError.
    """
    # A request that takes long has an earlier time than its record.
    query = [("raw_cf_ray_id", request_id), ("since", since[:10]), ("limit", "1")]
    until_s, answers = time.monotonic() + wait_s, False
    while time.monotonic() < until_s:
        try:
            found = json.loads(source.fetch("", [*query, ("before", _tomorrow())]))["result"]
        except RetryableError:
            found = []
        else:
            answers = True
        if found:
            return found[0], True
        time.sleep(_POLL_S)
    return None, answers


def _tomorrow() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 86_400))


def _counters(settings: Settings) -> tuple[_Metrics | None, _Metrics | None]:
    """Return the metrics of the collector and of the ingestor; None where they cannot be read."""
    collector = settings.collector.health_address or settings.collector.address
    return _metrics(collector), _metrics(settings.ingest.address)


def _metrics(address: Address) -> _Metrics | None:
    """Return each counter, summed over its labels, by its name without `auditap_` and `_total`."""
    host = f"[{address.host}]" if ":" in address.host else address.host
    scheme = "http" if address.tls is None else "https"
    try:
        with httpx.Client(timeout=_TIMEOUT_S, verify=False, trust_env=False) as client:  # noqa: S501  its own machine
            page = client.get(f"{scheme}://{host}:{address.port}/metrics")
    except httpx.HTTPError:
        return None
    if page.status_code != 200:
        return None
    sums: dict[str, float] = {}
    for family in text_string_to_metric_families(page.text):
        if family.type == "counter":
            total = sum(sample.value for sample in family.samples if sample.name.endswith("_total"))
            sums[family.name.removeprefix("auditap_")] = total
    return sums


def _rise(before: _Metrics | None, after: _Metrics | None) -> _Metrics | None:
    if after is None:
        return None
    return {name: value - (before or {}).get(name, 0.0) for name, value in after.items()}


def _show(hops: list[Hop], record: Mapping[str, Any] | None) -> None:
    console = Console()
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for hop in hops:
        table.add_row(hop.name, _mark(hop), plain(hop.what))
    console.print(table)
    if record is not None:
        console.print(
            f"\nSee it: auditap query --all-accounts id={record['id']} --json", highlight=False, markup=False
        )


def _mark(hop: Hop) -> str:
    if hop.passed is None:
        return "[yellow]unknown[/yellow]"
    if hop.passed:
        return "[green]ok[/green]"
    return "[red]not found[/red]" if hop.name == "operation" else "[red]lost here[/red]"
