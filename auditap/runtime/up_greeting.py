"""What `auditap up` shows on the terminal: addresses, commands to try, and the first record."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table
from rich.text import Text

from auditap.plain_text import counted, plain_line
from auditap.runtime.lifecycle import Run
from auditap.settings import Address, Settings
from auditap_example.cast import accounts
from auditap_example.document import base_path
from auditap_example.traffic import capture_example
from redactor.openapi.document import load_document
from redactor.report.findings import Level
from redactor.report.lint import LintReport, lint
from schemas.errors import StartupError
from schemas.identity import rfc3339_ms

_DAY_MS = 86_400_000
_EVERY_ACCOUNT = "-"
_POLL_S = 0.2
_COMMANDS = (
    "auditap query          # the newest records",
    "auditap tail           # new records as they arrive",
)
_ALERTS_COMMAND = "auditap alerts list    # what the rules raised"


class Greeting:
    """What a person sees once everything runs: the addresses, and two commands to try."""

    def __init__(self, console: Console, settings: Settings, *, has_example: bool) -> None:
        self._console = console
        self._settings = settings
        self._has_example = has_example

    def show(self) -> None:
        settings = self._settings
        if settings.up.upstream is not None:
            self._console.print(
                f"Call your service at [bold]http://127.0.0.1:{settings.up.gateway_port}[/bold]"
                f" in place of {settings.up.upstream}\n",
                highlight=False,
                soft_wrap=True,
            )
        table = Table(
            title="auditap is up", title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0)
        )
        table.add_row("collector", f"{_url(settings.collector.address)}/v1/captures")
        table.add_row("", str(settings.collector_socket))
        for receiver in settings.collector.receivers:
            table.add_row(f"  for {receiver.format}", str(receiver.path.absolute()))
        self._add_health(table, settings.collector.health_address)
        table.add_row("log API", f"{_url(settings.api.address)}{settings.api.prefix}")
        self._add_health(table, settings.api.health_address)
        if settings.up.alerting:
            table.add_row("alerting", f"{_url(settings.alerting.address)}/metrics")
        table.add_row("ingestor", f"{_url(settings.ingest.address)}/metrics")
        if self._has_example:
            table.add_row("example API", f"http://127.0.0.1:{settings.up.example_port}{base_path()}")
        table.add_row("data", str(settings.data_dir))
        self._console.print(table)
        alerts = (_ALERTS_COMMAND,) if settings.up.alerting else ()
        self._show("Try in another terminal", *_COMMANDS, *alerts)
        if self._has_example:
            self._show("Send a capture by hand", self._send_line())
        account = accounts()[0].id if self._has_example else _EVERY_ACCOUNT
        self._show("Read records over HTTP", self._read_line(account))
        if not self._has_example:
            through = "your service" if settings.up.upstream else "a tap (docs/gateways)"
            self._console.print(f"\nWaiting for the first request through {through} …", highlight=False)

    def _add_health(self, table: Table, address: Address | None) -> None:
        """Add the health routes' own address, if they have one."""
        if address is not None:
            table.add_row("", f"{_url(address)}/metrics")

    def _send_line(self) -> str:
        capture = json.dumps(capture_example(), separators=(",", ":")).replace("'", "'\\''")
        return (
            f"curl -sS{_insecure(self._settings.collector.address)} {_url(self._settings.collector.address)}/v1/captures"
            f" -H 'Content-Type: application/x-ndjson' -H \"Authorization: Bearer $(cat {self._folder()}/tap.token)\""
            f" -d '{capture}'"
        )

    def _read_line(self, account: str) -> str:
        now = datetime.now(UTC)
        span = f"since={now - timedelta(days=1):%Y-%m-%d}&before={now + timedelta(days=2):%Y-%m-%d}"
        return (
            f"curl -sS{_insecure(self._settings.api.address)} '{_list_url(self._settings, account)}?{span}&limit=3'"
            f' -H "Authorization: Bearer $(cat {self._folder()}/api.token)" | python3 -m json.tool'
        )

    def _folder(self) -> Path:
        return self._settings.data_dir.absolute()

    def _show(self, title: str, *lines: str) -> None:
        self._console.print(f"\n{title}:", style="bold")
        for line in lines:
            self._console.print(line, soft_wrap=True, markup=False, highlight=False)


def first_record(console: Console, settings: Settings, token: str, began: float) -> Run:
    """Return a task that polls the log API for the first record since `began` (Unix seconds) and shows it."""
    since_ms = int(began * 1000)
    span = {
        "since": rfc3339_ms(since_ms),
        "before": rfc3339_ms(since_ms + _DAY_MS),
        "limit": "1",
        "direction": "asc",
    }
    headers = {"Authorization": f"Bearer {token}"}

    async def run(stop: asyncio.Event) -> None:
        # The request stays on this machine, whose certificate store need not know the log API's certificate.
        async with httpx.AsyncClient(headers=headers, timeout=5, verify=False) as client:  # noqa: S501
            while not stop.is_set():
                try:
                    response = await client.get(_list_url(settings, _EVERY_ACCOUNT), params=span)
                except httpx.HTTPError:
                    continue  # on a busy machine the first requests may time out
                if response.status_code == 200 and response.json()["result"]:
                    line = _record_line(response.json()["result"][0], time.time() - began)
                    console.print(line, soft_wrap=True)
                    return
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), _POLL_S)

    return run


def lint_findings(console: Console, settings: Settings) -> Run:
    """Return a task that says in one line for each OpenAPI document how much `auditap lint` has to say of it."""

    async def run(_stop: asyncio.Event) -> None:
        for document in settings.redaction.documents:
            with contextlib.suppress(StartupError):
                report = await asyncio.to_thread(lint, load_document(document), settings.redaction)
                if line := _findings_line(report, document.path):
                    console.print(line, soft_wrap=True)

    return run


def _findings_line(report: LintReport, path: Path) -> Text | None:
    counts = Counter(finding.level for finding in report.findings)
    told = [counted(counts[level], level.text) for level in (Level.ERROR, Level.WARNING) if counts[level]]
    if not told:
        return None
    return Text(f"The OpenAPI document has {' and '.join(told)}: auditap lint {path}", style="yellow")


def _record_line(record: Mapping[str, Any], seconds: float) -> Text:
    action, actor, resource = record["action"], record["actor"], record["resource"]
    what = action.get("description") or f"{action.get('type')} {resource.get('type') or ''}".strip()
    if record["auditap"]["receipt"].get("unmatched"):
        what += " (no operation of the OpenAPI document matches it)"
    who = actor.get("email") or actor.get("id") or actor.get("type") or "unknown"
    line = Text("First record ", style="green")
    line.append(f"{seconds:.1f} s after the start: ", style="default")
    line.append(plain_line(f"{what}, {action.get('result')}"), style="bold")
    line.append(f" ({plain_line(str(who))})", style="dim")
    return line


def _url(address: Address) -> str:
    host = f"[{address.host}]" if ":" in address.host else address.host
    return f"{'http' if address.tls is None else 'https'}://{host}:{address.port}"


def _insecure(address: Address) -> str:
    """Return the option by which curl accepts a certificate that this machine does not trust."""
    return "" if address.tls is None else "k"


def _list_url(settings: Settings, account_id: str) -> str:
    return f"{_url(settings.api.address)}{settings.api.prefix}/accounts/{account_id}/logs/audit"
