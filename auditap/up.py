"""`auditap up`: the whole pipeline in one process, with an embedded log and an embedded Postgres.

Beside it runs an example API behind the tap with a trickle of traffic, unless documents of one's own are configured.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import cycle
from pathlib import Path
from typing import Any

import httpx
import structlog
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table
from rich.text import Text

from auditap.alert_lines import AlertLines
from auditap.collect import Collector
from auditap.database import (
    ROLES,
    Connection,
    administrator,
    create_token,
    ensure_database,
    let_role_log_in,
    migrate,
    shape_log,
    token_works,
)
from auditap.embedded_postgres import EmbeddedPostgres
from auditap.event_log import event_log
from auditap.example import Example, with_example
from auditap.example_api.cast import accounts
from auditap.example_api.document import base_path
from auditap.example_api.traffic import capture_example
from auditap.http_server import bind_tcp_socket
from auditap.ingest import IngestorProcess
from auditap.plain_text import plain_line
from auditap.serve import LogApiProcess
from auditap.settings import EMBEDDED_DATABASE, Address, Settings, TapToken, made_data_dir
from auditap.watch import WatchProcess
from redactor.event_log import EventLog
from schemas.errors import StartupError
from schemas.identity import rfc3339_ms

logger = structlog.get_logger("up")
_WATCH_AGAIN_S = 5
_DAY_MS = 86_400_000
_TOKEN_DAYS = 365
_TOKEN_DAYS_LEFT_MIN = 1
_Run = Callable[[asyncio.Event], Coroutine[Any, Any, None]]


async def up(settings: Settings, stop: asyncio.Event, console: Console) -> None:
    """Run everything until `stop` is set. Raises StartupError."""
    began = time.time()
    _refuse_addresses(settings)
    has_example = not settings.redaction.documents
    if has_example:
        settings = with_example(settings)
    _check_ports(settings, has_example=has_example)
    data_dir = made_data_dir(settings)
    async with AsyncExitStack() as stack:
        postgres = await stack.enter_async_context(EmbeddedPostgres(data_dir / "postgres"))
        settings, api_token = await _prepared(settings, postgres)
        settings = _with_tap_token(settings)
        log = event_log(settings)
        stack.push_async_callback(log.close)
        runs: list[_Run] = [
            LogApiProcess(settings).run,
            IngestorProcess(settings, log).run,
            Collector(settings, log).run,
        ]
        if settings.up.watch:
            runs.append(_watch_beside(settings, log, console))
        else:
            # Nothing of the log is kept for a watcher that does not come.
            await log.open()
            await log.forget(settings.watch.group)
        if has_example:
            runs.append(Example(settings).run)
        tasks = [await stack.enter_async_context(_running(run)) for run in runs]
        _Greeting(console, settings, has_example=has_example).show()
        if has_example:
            await stack.enter_async_context(_running(_first_record(console, settings, api_token, began)))
        await _until(stop, tasks)
        console.print("Stopping …")
    console.print(f"Stopped. What was accepted is in {data_dir}; the next start goes on from there.")


def _watch_beside(settings: Settings, log: EventLog, console: Console) -> _Run:
    """Return the watcher, which is started again when it fails: nothing of the path depends on it.

    Raises StartupError where the rules cannot be used.
    """
    lines = AlertLines(
        lambda line: console.print(line, soft_wrap=True),
        settings.up.alert_lines_per_minute,
        time.monotonic,
    )
    first = WatchProcess(settings, log, lines.add)

    async def run(stop: asyncio.Event) -> None:
        process = first
        while True:
            try:
                await process.run(stop)
            except Exception as fault:  # noqa: BLE001  whatever it is, the path goes on
                logger.error("watch_failed", fault=type(fault).__name__)
                await asyncio.wait({asyncio.create_task(stop.wait())}, timeout=_WATCH_AGAIN_S)
            if stop.is_set():
                return
            process = WatchProcess(settings, log, lines.add)

    return run


def _refuse_addresses(settings: Settings) -> None:
    if not settings.embedded_log or not settings.embedded_postgres:
        raise StartupError(
            "`auditap up` runs on an embedded log and database: unset the addresses of Kafka and Postgres,"
            " or start `auditap collect`, `ingest` and `serve` with them."
        )


def _check_ports(settings: Settings, *, has_example: bool) -> None:
    """Find taken addresses before anything is made. Raises StartupError, naming the setting."""
    wanted = {
        "collector.address.port": settings.collector.address,
        "api.address.port": settings.api.address,
        "ingest.address.port": settings.ingest.address,
    }
    if settings.up.watch:
        wanted["watch.address.port"] = settings.watch.address
    if has_example:
        wanted["up.example_port"] = Address(port=settings.up.example_port)
        wanted["up.directory_port"] = Address(port=settings.up.directory_port)
    for name, address in wanted.items():
        try:
            probe: socket.socket = bind_tcp_socket(address.host, address.port)
        except StartupError as taken:
            raise StartupError(f"{taken} The setting is {name}.") from None
        probe.close()


async def _prepared(settings: Settings, postgres: EmbeddedPostgres) -> tuple[Settings, str]:
    """Migrate the embedded database; return settings with its addresses, and a token of the log API."""
    async with administrator(postgres.dsn()) as connection:
        await ensure_database(connection, EMBEDDED_DATABASE)
    dsns = {role: postgres.dsn(role, EMBEDDED_DATABASE) for role in ("postgres", *ROLES)}
    async with administrator(dsns["postgres"]) as connection:
        await migrate(connection)
        await shape_log(
            connection, settings.postgres.partition_interval, settings.ingest.bounds.retention_days
        )
        for role in ROLES:
            await let_role_log_in(connection, role, postgres.password(role))
        token = await _api_token(connection, settings.data_dir / "api.token")
    addresses = settings.postgres.model_copy(
        update={
            "admin_dsn": SecretStr(dsns["postgres"]),
            "writer_dsn": SecretStr(dsns["auditap_writer"]),
            "reader_dsn": SecretStr(dsns["auditap_reader"]),
            "maintainer_dsn": SecretStr(dsns["auditap_maintainer"]),
            "watcher_dsn": SecretStr(dsns["auditap_watcher"]),
            "operator_dsn": SecretStr(dsns["auditap_operator"]),
        }
    )
    return settings.model_copy(update={"postgres": addresses}), token


async def _api_token(connection: Connection, path: Path) -> str:
    """Return the token kept in `path` if it still works, else a new one for every account."""
    kept = _read(path)
    if kept is not None and await token_works(connection, kept, _TOKEN_DAYS_LEFT_MIN):
        return kept
    expires_at = datetime.now(UTC) + timedelta(days=_TOKEN_DAYS)
    _, token = await create_token(
        connection, "auditap up", None, ["audit_logs:read", "alerts:read", "alerts:acknowledge"], expires_at
    )
    _write_private(path, token)
    return token


def _with_tap_token(settings: Settings) -> Settings:
    path = settings.data_dir / "tap.token"
    token = _read(path)
    if token is None:
        token = secrets.token_urlsafe(32)
        _write_private(path, token)
    ours = TapToken(sha256=hashlib.sha256(token.encode()).hexdigest(), taps=("*",))
    collector = settings.collector.model_copy(update={"tokens": (*settings.collector.tokens, ours)})
    return settings.model_copy(update={"collector": collector})


def _read(path: Path) -> str | None:
    return path.read_text() if path.exists() else None


def _write_private(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_text(text)


def _first_record(console: Console, settings: Settings, token: str, began: float) -> _Run:
    """Return what waits for the first record of this run and shows it."""
    since_ms = int(began * 1000)
    span = {
        "since": rfc3339_ms(since_ms),
        "before": rfc3339_ms(since_ms + _DAY_MS),
        "limit": "1",
        "direction": "asc",
    }
    headers = {"Authorization": f"Bearer {token}"}

    async def run(stop: asyncio.Event) -> None:
        # The certificate is our own, and the address this machine's.
        async with httpx.AsyncClient(headers=headers, timeout=5, verify=False) as client:  # noqa: S501
            for account in cycle(accounts()):
                if stop.is_set():
                    return
                try:
                    answer = await client.get(_list_url(settings, account.id), params=span)
                except httpx.HTTPError:
                    continue  # a busy machine: the next answer may come in time
                if answer.status_code == 200 and answer.json()["result"]:
                    line = _record_line(answer.json()["result"][0], time.time() - began)
                    console.print(line, soft_wrap=True)
                    return
                await asyncio.sleep(0.05)

    return run


def _record_line(record: Mapping[str, Any], seconds: float) -> Text:
    """Return a record in one line; whoever wants all of it is told how to get it."""
    action, actor, resource = record["action"], record["actor"], record["resource"]
    what = action.get("description") or f"{action.get('type')} {resource.get('type') or ''}"
    who = actor.get("email") or actor.get("id") or actor.get("type") or "unknown"
    line = Text("First record ", style="green")
    line.append(f"{seconds:.1f} s after the start: ", style="default")
    line.append(plain_line(f"{what}, {action.get('result')}"), style="bold")
    line.append(
        f" ({plain_line(str(who))}); `auditap query` shows all, `auditap tail` the new ones", style="dim"
    )
    return line


class _Greeting:
    """What a person needs to go on: addresses, and two lines to try."""

    def __init__(self, console: Console, settings: Settings, *, has_example: bool) -> None:
        self._console = console
        self._settings = settings
        self._has_example = has_example

    def show(self) -> None:
        settings = self._settings
        table = Table(
            title="auditap is up", title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0)
        )
        table.add_row("collector", f"{_url(settings.collector.address)}/v1/captures")
        table.add_row("", str(settings.collector_socket))
        table.add_row("log API", f"{_url(settings.api.address)}{settings.api.prefix}")
        if settings.up.watch:
            table.add_row("watcher", f"{_url(settings.watch.address)}/metrics, auditap alerts list")
        table.add_row("ingestor", f"{_url(settings.ingest.address)}/metrics")
        if self._has_example:
            table.add_row("example API", f"http://127.0.0.1:{settings.up.example_port}{base_path()}")
        table.add_row("data", str(settings.data_dir))
        self._console.print(table)
        if self._has_example:
            self._show_line("Send a capture", self._send_line())
        account = accounts()[0].id if self._has_example else "ACCOUNT_ID"
        self._show_line("Read the newest records", self._read_line(account))

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

    def _show_line(self, title: str, line: str) -> None:
        self._console.print(f"\n{title}:", style="bold")
        self._console.print(line, soft_wrap=True, markup=False, highlight=False)


def _url(address: Address) -> str:
    host = f"[{address.host}]" if ":" in address.host else address.host
    return f"{'http' if address.tls is None else 'https'}://{host}:{address.port}"


def _insecure(address: Address) -> str:
    """Return what makes curl take a certificate that this machine does not know."""
    return "" if address.tls is None else "k"


def _list_url(settings: Settings, account_id: str) -> str:
    return f"{_url(settings.api.address)}{settings.api.prefix}/accounts/{account_id}/logs/audit"


@asynccontextmanager
async def _running(run: _Run) -> AsyncIterator[asyncio.Task[None]]:
    """Run a part for the length of a block, then tell it to stop and wait for it."""
    stop = asyncio.Event()
    task = asyncio.create_task(run(stop))
    try:
        yield task
    finally:
        stop.set()
        await asyncio.gather(task, return_exceptions=True)


async def _until(stop: asyncio.Event, tasks: list[asyncio.Task[None]]) -> None:
    """Wait for `stop`; a part that ends before is a failure, which is raised."""
    stopped = asyncio.create_task(stop.wait())
    try:
        done, _ = await asyncio.wait({stopped, *tasks}, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        stopped.cancel()
        await asyncio.gather(stopped, return_exceptions=True)
