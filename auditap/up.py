"""`auditap up`: the whole pipeline in one process, with an embedded log and an embedded Postgres.

Beside it runs an example API behind the tap with a trickle of traffic, unless documents of one's own are configured.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import cycle
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table

from auditap.collect import Collector
from auditap.database import (
    Connection,
    administrator,
    create_token,
    ensure_database,
    let_role_log_in,
    migrate,
    token_works,
)
from auditap.embedded_postgres import EmbeddedPostgres
from auditap.event_log import event_log
from auditap.example_api.app import example_app
from auditap.example_api.cast import accounts
from auditap.example_api.directory import directory_app
from auditap.example_api.document import base_path, document_file
from auditap.example_api.traffic import capture_example, trickle
from auditap.http_server import HttpServer, bind_tcp_socket
from auditap.ingest import IngestorProcess
from auditap.serve import LogApiProcess
from auditap.settings import EMBEDDED_DATABASE, Settings, TapToken
from enricher.config import EnricherConfig, LookUpConfig
from enricher.ports import Kind
from gateway_tap.middleware import AuditTapMiddleware
from redactor.config import DocumentConfig, RedactionConfig

EXAMPLE_PORT = 8403
DIRECTORY_PORT = 8404
_TRAFFIC_PER_S = 4.0
_TOKEN_DAYS = 365
_TOKEN_DAYS_LEFT_MIN = 1


async def up(
    settings: Settings, stop: asyncio.Event, console: Console, *, traffic_per_s: float | None = None
) -> None:
    """Run everything until `stop` is set. Raises StartupError."""
    began = time.monotonic()
    with_example = not settings.redaction.documents
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    async with AsyncExitStack() as stack:
        postgres = await stack.enter_async_context(EmbeddedPostgres(settings.data_dir / "postgres"))
        settings, api_token = await _prepared(settings, postgres)
        settings = _with_tap_token(settings)
        if with_example:
            settings = await _with_example_settings(settings, stack)
        log = event_log(settings)
        stack.push_async_callback(log.close)
        runs: list[Callable[[asyncio.Event], Coroutine[Any, Any, None]]] = [
            LogApiProcess(settings).run,
            IngestorProcess(settings, log).run,
            Collector(settings, log).run,
        ]
        tasks = [await stack.enter_async_context(_running(run)) for run in runs]
        if with_example:
            tasks.append(
                await stack.enter_async_context(_running(_example(settings, traffic_per_s or _TRAFFIC_PER_S)))
            )
        _greet(console, settings, with_example=with_example)
        tasks.append(
            await stack.enter_async_context(_running(_first_record(console, settings, api_token, began)))
        )
        await _until(stop, tasks[:-1])
        console.print("Stopping …")
    console.print(f"Stopped. What was accepted is in {settings.data_dir}; the next start goes on from there.")


async def _prepared(settings: Settings, postgres: EmbeddedPostgres) -> tuple[Settings, str]:
    """Migrate the embedded database; return settings with its addresses, and a token of the log API."""
    async with administrator(postgres.dsn()) as connection:
        await ensure_database(connection, EMBEDDED_DATABASE)
    dsns = {
        role: postgres.dsn(role, EMBEDDED_DATABASE)
        for role in ("postgres", "auditap_writer", "auditap_reader")
    }
    async with administrator(dsns["postgres"]) as connection:
        await migrate(connection)
        for role in ("auditap_writer", "auditap_reader"):
            await let_role_log_in(connection, role, postgres.password(role))
        token = await _api_token(connection, settings.data_dir / "api.token")
    addresses = settings.postgres.model_copy(
        update={
            "admin_dsn": SecretStr(dsns["postgres"]),
            "writer_dsn": SecretStr(dsns["auditap_writer"]),
            "reader_dsn": SecretStr(dsns["auditap_reader"]),
        }
    )
    return settings.model_copy(update={"postgres": addresses}), token


async def _api_token(connection: Connection, path: Path) -> str:
    """Return the token kept in `path` if it still works, else a new one for every account."""
    kept = _read(path)
    if kept is not None and await token_works(connection, kept, _TOKEN_DAYS_LEFT_MIN):
        return kept
    expires_at = datetime.now(UTC) + timedelta(days=_TOKEN_DAYS)
    _, token = await create_token(connection, "auditap up", None, ["audit_logs:read"], expires_at)
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


async def _with_example_settings(settings: Settings, stack: AsyncExitStack) -> Settings:
    """Start the directory that names the example's ids; return settings for the example's document and look-ups."""
    directory = HttpServer(directory_app(), [bind_tcp_socket("127.0.0.1", DIRECTORY_PORT)])
    await directory.start()
    stack.push_async_callback(directory.stop)
    at = f"http://127.0.0.1:{DIRECTORY_PORT}"
    look_ups = (
        LookUpConfig(Kind.ACCOUNT, f"{at}/accounts/{{key}}", {"name": "/result/name"}),
        LookUpConfig(
            Kind.ZONE, f"{at}/zones/{{key}}", {"name": "/result/name", "account_id": "/result/account_id"}
        ),
        LookUpConfig(Kind.USER, f"{at}/users/{{key}}", {"email": "/result/email"}),
        LookUpConfig(Kind.TOKEN, f"{at}/tokens/{{key}}", {"name": "/result/name"}),
    )
    documents = (DocumentConfig(Path(str(document_file())), envelope="result"),)
    return settings.model_copy(
        update={
            "redaction": RedactionConfig(documents=documents),
            "enrich": EnricherConfig(look_ups=look_ups),
        }
    )


def _example(settings: Settings, per_s: float) -> Callable[[asyncio.Event], Coroutine[Any, Any, None]]:
    """Return what runs the example API behind the tap, and the traffic to it."""

    async def run(stop: asyncio.Event) -> None:
        tapped = AuditTapMiddleware(
            example_app(), collector=f"unix:{settings.collector_socket.absolute()}", tap_id="example-api"
        )
        server = HttpServer(tapped, [bind_tcp_socket("127.0.0.1", EXAMPLE_PORT)])
        await server.start()
        try:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{EXAMPLE_PORT}", timeout=5) as client:
                await trickle(client, per_second=per_s, stop=stop, seed=1)
        finally:
            await server.stop()
            await asyncio.to_thread(tapped.close)

    return run


def _first_record(
    console: Console, settings: Settings, token: str, began: float
) -> Callable[[asyncio.Event], Coroutine[Any, Any, None]]:
    """Return what waits for the first record to be queryable and shows it."""

    async def run(stop: asyncio.Event) -> None:
        async with httpx.AsyncClient(headers={"Authorization": f"Bearer {token}"}, timeout=5) as client:
            for account in cycle(accounts()):
                if stop.is_set():
                    return
                answer = await client.get(_list_url(settings, account.id), params={**_today(), "limit": 1})
                if answer.status_code == 200 and answer.json()["result"]:
                    took = time.monotonic() - began
                    console.print(f"[green]First record[/green] after {took:.1f} s:")
                    console.print_json(json.dumps(answer.json()["result"][0]))
                    return
                await asyncio.sleep(0.05)

    return run


def _greet(console: Console, settings: Settings, *, with_example: bool) -> None:
    table = Table(
        title="auditap is up", title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0)
    )
    table.add_row("collector", f"http://127.0.0.1:{settings.collector.address.port}/v1/captures")
    table.add_row("", str(settings.collector_socket))
    table.add_row("log API", f"http://127.0.0.1:{settings.api.address.port}{settings.api.prefix}")
    table.add_row("ingestor", f"http://127.0.0.1:{settings.ingest.address.port}/metrics")
    if with_example:
        table.add_row("example API", f"http://127.0.0.1:{EXAMPLE_PORT}{base_path()}")
    table.add_row("data", str(settings.data_dir))
    console.print(table)
    capture = json.dumps(capture_example(), separators=(",", ":")).replace("'", "'\\''")
    console.print("\nSend a capture:", style="bold")
    console.print(
        f"curl -sS http://127.0.0.1:{settings.collector.address.port}/v1/captures -H 'Content-Type: application/x-ndjson'"
        f" -H \"Authorization: Bearer $(cat {settings.data_dir}/tap.token)\" -d '{capture}'",
        soft_wrap=True,
        markup=False,
        highlight=False,
    )
    console.print("\nRead the newest records:", style="bold")
    today = "&".join(f"{name}={quote(value)}" for name, value in _today().items())
    console.print(
        f"curl -sS '{_list_url(settings, accounts()[0].id)}?{today}&limit=3'"
        f' -H "Authorization: Bearer $(cat {settings.data_dir}/api.token)"\n',
        soft_wrap=True,
        markup=False,
        highlight=False,
    )


def _list_url(settings: Settings, account_id: str) -> str:
    return (
        f"http://127.0.0.1:{settings.api.address.port}{settings.api.prefix}/accounts/{account_id}/logs/audit"
    )


def _today() -> dict[str, str]:
    now = datetime.now(UTC)
    return {"since": f"{now - timedelta(days=1):%Y-%m-%d}", "before": f"{now + timedelta(days=2):%Y-%m-%d}"}


@asynccontextmanager
async def _running(
    run: Callable[[asyncio.Event], Coroutine[Any, Any, None]],
) -> AsyncIterator[asyncio.Task[None]]:
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
