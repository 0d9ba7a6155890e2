"""`auditap up`: the whole pipeline in one process, with an embedded log and an embedded Postgres.

Unless OpenAPI documents are configured, an example API with a trickle of traffic runs behind a tap beside it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import secrets
import socket
import time
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog
from pydantic import SecretStr
from rich.console import Console

from auditap.database.connection import Connection, administrator
from auditap.database.roles import ROLES, set_role_password
from auditap.database.schema import ensure_database, migrate, set_log_layout
from auditap.database.tokens import create_token, token_works
from auditap.runtime.alert_lines import AlertLines
from auditap.runtime.alerting import AlertingProcess
from auditap.runtime.collect import Collector
from auditap.runtime.embedded_log import event_log
from auditap.runtime.embedded_postgres import EmbeddedPostgres
from auditap.runtime.example import Example, with_example
from auditap.runtime.front_gateway import FrontGateway
from auditap.runtime.http_server import bind_tcp_socket
from auditap.runtime.ingest import IngestorProcess
from auditap.runtime.lifecycle import Run, running, until_stopped
from auditap.runtime.serve import LogApiProcess
from auditap.runtime.up_greeting import Greeting, first_record, lint_findings
from auditap.settings import EMBEDDED_DATABASE, Address, Settings, TapToken, ensure_data_dir, require_distinct
from eventlog.embedded.log import EmbeddedLog
from log_api.ports import Permission
from schemas.errors import StartupError
from schemas.private_files import create_private_file, read_secret, replace_private_file

logger = structlog.get_logger("up")
_ALERTING_RESTART_S = 5
_TOKEN_DAYS = 365
_TOKEN_DAYS_LEFT_MIN = 1


async def up(settings: Settings, stop: asyncio.Event, console: Console) -> None:
    """Run everything until `stop` is set. Raises StartupError."""
    began = time.time()
    _refuse_addresses(settings)
    has_example = not settings.redaction.documents
    if has_example and settings.up.upstream is not None:
        raise StartupError(
            "Give --spec, the OpenAPI document of your service, or set redaction.documents: without one, records would show"
            " only that a request happened."
        )
    if has_example:
        settings = with_example(settings)
    _refuse_second(settings)
    _check_ports(settings, has_example=has_example)
    gateway = None if settings.up.upstream is None else FrontGateway(settings)
    data_dir = ensure_data_dir(settings)
    async with AsyncExitStack() as stack:
        postgres = await stack.enter_async_context(EmbeddedPostgres(data_dir / "postgres", socket_only=True))
        settings, api_token = await _prepare_database(settings, postgres)
        settings = _with_tap_token(settings)
        log = event_log(settings)
        stack.push_async_callback(log.close)
        runs: list[Run] = [
            postgres.keep_running,
            LogApiProcess(settings).run,
            IngestorProcess(settings, log).run,
            Collector(settings, log).run,
        ]
        if settings.up.alerting:
            runs.append(_alerting_beside(settings, log, console))
        else:
            # Alerting is off: drop its offset, so that it cannot block trimming.
            await log.open()
            await log.drop_group(settings.alerting.group)
        if has_example:
            runs.append(Example(settings).run)
        # Stopped in reverse order, so that each part still has those that it hands on to.
        tasks = [await stack.enter_async_context(running(run)) for run in runs]
        if gateway is not None:
            await stack.enter_async_context(gateway)
            tasks.append(await stack.enter_async_context(running(gateway.keep_running)))
        Greeting(console, settings, has_example=has_example).show()
        await stack.enter_async_context(running(first_record(console, settings, api_token, began)))
        if not has_example:
            await stack.enter_async_context(running(lint_findings(console, settings)))
        await until_stopped(stop, tasks)
        console.print("Stopping …")
    console.print(f"Stopped. All accepted captures are in {data_dir}; the next start continues there.")


def _alerting_beside(settings: Settings, log: EmbeddedLog, console: Console) -> Run:
    """Return the alerting process, restarted when it fails: no other part depends on it.

    Raises StartupError where the rules cannot be used.
    """
    lines = AlertLines(
        lambda line: console.print(line, soft_wrap=True),
        settings.up.alert_lines_per_minute,
        time.monotonic,
    )
    first = AlertingProcess(settings, log, lines.add)

    async def run(stop: asyncio.Event) -> None:
        process: AlertingProcess | None = first
        while not stop.is_set():
            try:
                # Made anew in here, because the rules may have become unusable since.
                process = process or AlertingProcess(settings, log, lines.add)
                await process.run(stop)
            except Exception as fault:  # noqa: BLE001  no failure of alerting may end the pipeline
                logger.error("alerting_failed", fault=type(fault).__name__)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), _ALERTING_RESTART_S)
            process = None

    return run


def _refuse_addresses(settings: Settings) -> None:
    if not settings.embedded_log or not settings.embedded_postgres:
        raise StartupError(
            "`auditap up` runs with an embedded log and database: unset kafka.bootstrap_servers and the DSNs of Postgres,"
            " or use them with `auditap collect`, `ingest` and `serve`."
        )


def _refuse_second(settings: Settings) -> None:
    """Raise StartupError if a collector runs in the same folder: every other address would only say that it is in use."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(settings.collector_socket))
        except OSError:
            return
    raise StartupError(
        f"auditap runs in {settings.data_dir.absolute()} already: stop it, or give this one a folder by data_dir"
        " (AUDITAP_DATA_DIR) and ports of its own."
    )


def _check_ports(settings: Settings, *, has_example: bool) -> None:
    """Raise StartupError, naming the setting, where an address is in use or stands twice: before anything is created."""
    addresses: dict[str, Address] = {
        "collector.address": settings.collector.address,
        "api.address": settings.api.address,
        "ingest.address": settings.ingest.address,
    }
    for name, part in (("collector", settings.collector), ("api", settings.api)):
        if part.health_address is not None:
            addresses[f"{name}.health_address"] = part.health_address
    if settings.up.alerting:
        addresses["alerting.address"] = settings.alerting.address
    if settings.up.upstream is not None:
        addresses["up.gateway_port"] = Address(port=settings.up.gateway_port)
    if has_example:
        addresses["up.example_port"] = Address(port=settings.up.example_port)
        addresses["up.directory_port"] = Address(port=settings.up.directory_port)
    require_distinct(addresses)
    for name, address in addresses.items():
        bind_tcp_socket(address.host, address.port, name).close()


async def _prepare_database(settings: Settings, postgres: EmbeddedPostgres) -> tuple[Settings, str]:
    """Create and migrate the embedded database. Return the settings with its DSNs, and a token of the log API."""
    async with administrator(postgres.socket_dsn()) as connection:
        await ensure_database(connection, EMBEDDED_DATABASE)
    dsns = {role: postgres.socket_dsn(role, EMBEDDED_DATABASE) for role in ("postgres", *ROLES)}
    async with administrator(dsns["postgres"]) as connection:
        await migrate(connection)
        await set_log_layout(
            connection, settings.postgres.partition_interval, settings.ingest.bounds.retention_days
        )
        for role in ROLES:
            await set_role_password(connection, role, postgres.password(role))
        token = await _api_token(connection, settings.data_dir / "api.token")
    addresses = settings.postgres.model_copy(
        update={
            "admin_dsn": SecretStr(dsns["postgres"]),
            "writer_dsn": SecretStr(dsns["auditap_writer"]),
            "reader_dsn": SecretStr(dsns["auditap_reader"]),
            "maintainer_dsn": SecretStr(dsns["auditap_maintainer"]),
            "alerting_dsn": SecretStr(dsns["auditap_alerting"]),
            "operator_dsn": SecretStr(dsns["auditap_operator"]),
        }
    )
    return settings.model_copy(update={"postgres": addresses}), token


async def _api_token(connection: Connection, path: Path) -> str:
    """Return the token in `path` if it is still valid, with every permission that there is now, else a new one for every
    account, written there.
    """
    token = _kept_token(path)
    if token is not None and await token_works(connection, token, list(Permission), _TOKEN_DAYS_LEFT_MIN):
        return token
    expires_at = datetime.now(UTC) + timedelta(days=_TOKEN_DAYS)
    _, token = await create_token(connection, "auditap up", None, list(Permission), expires_at)
    replace_private_file(path, token)
    return token


def _with_tap_token(settings: Settings) -> Settings:
    path = settings.data_dir / "tap.token"
    if not path.exists():
        create_private_file(path, secrets.token_urlsafe(32))
    token = read_secret(path, "remove it, so that the next start makes a new token")
    tap_token = TapToken(sha256=hashlib.sha256(token.encode()).hexdigest(), taps=("*",))
    collector = settings.collector.model_copy(update={"tokens": (*settings.collector.tokens, tap_token)})
    return settings.model_copy(update={"collector": collector})


def _kept_token(path: Path) -> str | None:
    """Return the token in `path`; None if it is missing or no whole token, because another one can be made."""
    try:
        return read_secret(path, "")
    except (FileNotFoundError, StartupError):
        return None
