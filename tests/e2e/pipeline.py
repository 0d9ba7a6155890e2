"""The whole pipeline as its users start it: real processes, a real Postgres, and a log of either kind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import asyncpg
import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from auditap.database.connection import administrator
from auditap.database.tokens import create_token
from auditap.runtime.http_server import HttpServer, bind_tcp_socket
from tests.audit_database import AuditDatabase
from tests.e2e.with_constants import PROGRAM, constants, has_constants
from tests.ports import free_port

_READY_WITHIN_S = 600
_STORED_WITHIN_S = 240
# Limits that a busy machine, or a fast one, would meet. A batch that is not durable in time is sent again, and counts twice.
_UNHURRIED = {
    "AUDITAP_KAFKA__PUBLISH_DEADLINE_MS": "120000",
    "AUDITAP_API__REQUESTS_BURST": "100000",
}
_BUSY = ("Kafka does not answer", "The log does not answer in time")
"""What commands say of a server that has no time for them."""


class Directory:
    """The service that names ids: counts how often each key is asked for; `away` makes it fail, `unknown` know no id."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.away = self.unknown = False
        self.names = {"accounts": "Example Industries", "zones": "example.com", "tokens": "ci"}
        self.port = free_port()
        routes = [Route("/{kind}/{key}", self._answer)]
        self._server = HttpServer(Starlette(routes=routes), [bind_tcp_socket("127.0.0.1", self.port)])

    async def _answer(self, request: Request) -> Response:
        kind, key = request.path_params["kind"], request.path_params["key"]
        self.asked[f"{kind}/{key}"] += 1
        if self.away:
            return Response(status_code=503)
        if self.unknown:
            return Response(status_code=404)
        found = {"name": self.names.get(kind), "email": f"{key[:8]}@example.com", "account": {"id": "a" * 32}}
        return JSONResponse({"result": found})

    async def start(self) -> None:
        await self._server.start()

    async def stop(self) -> None:
        await self._server.stop()

    def settings(self) -> str:
        at = f"http://127.0.0.1:{self.port}"
        kinds = {
            "account": ("accounts", '{name = "/result/name"}'),
            "zone": ("zones", '{name = "/result/name", account_id = "/result/account/id"}'),
            "user": ("users", '{email = "/result/email"}'),
            "token": ("tokens", '{name = "/result/name"}'),
        }
        # On a busy machine the usual 2 s are too short, and what timed out is asked again; so is what is five minutes old.
        return "\n".join(
            f'[[enrich.http_lookups]]\nkind = "{kind}"\nurl = "{at}/{path}/{{key}}"\npointers = {pointers}\n'
            "timeout_ms = 60000\ncache = {ttl_ms = 3600000}\n"
            for kind, (path, pointers) in kinds.items()
        )


class Process:
    """One `auditap …` as a user starts it."""

    def __init__(self, arguments: Sequence[str], environment: dict[str, str], log_file: Path) -> None:
        self._arguments = arguments
        self._environment = environment
        self.log_file = log_file
        self._process: asyncio.subprocess.Process | None = None
        self.port: int | None = None

    async def start(self, ready_port: int | None) -> None:
        self.port = ready_port
        program = (PROGRAM,) if has_constants(self._environment) else ("-m", "auditap")
        with self.log_file.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *program,
                *self._arguments,
                env=self._environment,
                stdout=log,
                stderr=log,
            )
        if ready_port is not None:
            await until(self.ready, _READY_WITHIN_S, f"{self._arguments[0]} ready", self.log)

    async def ready(self) -> bool:
        """Return whether the process says that it is; fails where it has ended."""
        assert self._process is not None
        if self._process.returncode is not None:
            raise AssertionError(f"{self._arguments[0]} ended: {self.log()}")
        try:
            async with httpx.AsyncClient() as client:
                return (await client.get(f"http://127.0.0.1:{self.port}/readyz")).status_code == 200
        except httpx.TransportError:
            return False

    async def metric(self, name: str) -> float:
        """Return the value of a metric without labels."""
        async with httpx.AsyncClient(timeout=120) as client:
            exposition = (await client.get(f"http://127.0.0.1:{self.port}/metrics")).text
        return next(float(line.split()[1]) for line in exposition.splitlines() if line.startswith(f"{name} "))

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def runs(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.returncode is None

    @property
    def ended(self) -> bool:
        return self._process is not None and self._process.returncode is not None

    async def wait(self) -> int:
        assert self._process is not None
        return await self._process.wait()

    async def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        if self._process is None:
            return 0
        if self._process.returncode is None:
            self._process.send_signal(how)
        async with asyncio.timeout(120):
            return await self._process.wait()

    def output(self) -> str:
        """Return everything that it has written."""
        return self.log_file.read_text(errors="replace")

    def log(self) -> str:
        """Return the end of its output, to explain a failure."""
        return self.output()[-4000:]


class Pipeline:
    """Collector, ingestors and log API around one database and one log."""

    def __init__(
        self,
        folder: Path,
        database: AuditDatabase,
        *,
        bootstrap: str | None,
        topic: str,
        documents: str,
        extra: str = "",
        directory: Directory | None = None,
        other_constants: dict[str, dict[str, Any]] | None = None,
    ) -> None:
        self.folder = folder
        self.database = database
        self.directory = directory or Directory()
        self.collector_port, self.api_port = free_port(), free_port()
        self.topic = topic
        """How the names of its topics begin."""
        self._bootstrap = bootstrap
        self._constants = constants(**other_constants) if other_constants else {}
        self._processes: list[Process] = []
        self.collector: Process | None = None
        self.ingestors: list[Process] = []
        self.api: Process | None = None
        (folder / "auditap.toml").write_text(f"{documents}\n{self.directory.settings()}\n{extra}")

    @property
    def socket(self) -> Path:
        return self.folder / "collector.sock"

    def environment(self, **more: str) -> dict[str, str]:
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("AUDITAP_")},
            **_UNHURRIED,
            "AUDITAP_CONFIG": str(self.folder / "auditap.toml"),
            "AUDITAP_DATA_DIR": str(self.folder),
            "AUDITAP_LOG_FORMAT": "json",
            "AUDITAP_POSTGRES__WRITER_DSN": self.database.writer_dsn,
            "AUDITAP_POSTGRES__READER_DSN": self.database.reader_dsn,
            "AUDITAP_POSTGRES__ADMIN_DSN": self.database.admin_dsn,
        }
        if self._bootstrap:
            environment |= {
                "AUDITAP_KAFKA__BOOTSTRAP_SERVERS": self._bootstrap,
                "AUDITAP_KAFKA__TOPIC": f"{self.topic}events",
                "AUDITAP_KAFKA__DEAD_LETTER_TOPIC": f"{self.topic}dead-letters",
                "AUDITAP_KAFKA__GROUP": f"{self.topic}group",
                "AUDITAP_KAFKA__REPLICATION_FACTOR": "1",
                "AUDITAP_KAFKA__MIN_INSYNC_REPLICAS": "1",
                "AUDITAP_KAFKA__PARTITIONS": "4",
            }
        return environment | self._constants | more

    async def start(self, ingestors: int = 1, *, with_topics: bool = True) -> None:
        """Start all parts; `with_topics`: with topics as `auditap topics` makes them, else they are there already."""
        await self.directory.start()
        if self._bootstrap and with_topics:
            await self.run_command("topics")
        await self.start_collector()
        for _ in range(ingestors):
            await self.start_ingestor()
        await self.start_api()

    def process(self, *arguments: str, **environment: str) -> Process:
        log_file = self.folder / f"{arguments[0]}-{len(self._processes)}.log"
        process = Process(arguments, self.environment(**environment), log_file)
        self._processes.append(process)
        return process

    async def run_command(self, *arguments: str, **environment: str) -> str:
        """Run a command until it has succeeded, and return its output.

        It runs again where a server had no time for it. With any other failure the test fails.
        """
        async with asyncio.timeout(_STORED_WITHIN_S):
            while True:
                command = self.process(*arguments, **environment)
                await command.start(None)
                if await command.wait() == 0:
                    return command.output()
                assert any(each in command.output() for each in _BUSY), command.log()

    async def start_collector(self, **environment: str) -> Process:
        port = str(self.collector_port)
        self.collector = self.process("collect", AUDITAP_COLLECTOR__ADDRESS__PORT=port, **environment)
        await self.collector.start(self.collector_port)
        return self.collector

    async def start_ingestor(self, **environment: str) -> Process:
        port = free_port()
        ingestor = self.process("ingest", AUDITAP_INGEST__ADDRESS__PORT=str(port), **environment)
        self.ingestors.append(ingestor)
        await ingestor.start(port)
        return ingestor

    async def start_api(self) -> Process:
        self.api = self.process("serve", AUDITAP_API__ADDRESS__PORT=str(self.api_port))
        await self.api.start(self.api_port)
        return self.api

    async def start_alerting(self, *, wait: bool = True, **environment: str) -> Process:
        """Start `auditap alerting`; with `wait`, return once it is ready."""
        port = free_port()
        defaults = {
            "AUDITAP_POSTGRES__ALERTING_DSN": self.database.alerting_dsn,
            "AUDITAP_ALERTING__ADDRESS__PORT": str(port),
            "AUDITAP_ALERTING__GROUP": f"{self.topic}alerting",
            "AUDITAP_ALERTING__RULES": str(files("alerting").joinpath("cloudflare_rules.yaml")),
        }
        alerting = self.process("alerting", **(defaults | environment))
        await alerting.start(port if wait else None)
        return alerting

    async def stop_processes(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End all processes, the last one started first."""
        for process in reversed(self._processes):
            await process.stop(how)

    async def stop(self) -> None:
        await self.stop_processes()
        await self.directory.stop()

    async def send(
        self, captures: Iterable[dict[str, Any] | bytes], batch: int = 100
    ) -> tuple[int, list[dict[str, Any]]]:
        """Send captures over the Unix socket; return how many were accepted, and the refusals by index.

        As a tap does, it sends a batch again that a busy collector does not take.
        """
        lines = [each if isinstance(each, bytes) else json.dumps(each).encode() for each in captures]
        accepted, refused = 0, []
        transport = httpx.AsyncHTTPTransport(uds=str(self.socket))
        async with httpx.AsyncClient(transport=transport, base_url="http://collector", timeout=120) as client:
            for first in range(0, len(lines), batch):
                answer = await _accepted(client, b"\n".join(lines[first : first + batch]))
                accepted += answer.json()["accepted"]
                refused += [{**each, "index": each["index"] + first} for each in answer.json()["refused"]]
        return accepted, refused

    async def fetch(self, statement: str, *arguments: Any) -> list[asyncpg.Record]:
        async with administrator(self.database.admin_dsn) as connection:
            rows: list[asyncpg.Record] = await connection.fetch(statement, *arguments)
            return rows

    async def count(self, table: str) -> int:
        return int((await self.fetch(f"SELECT count(*) FROM auditap.{table}"))[0][0])

    async def until_processed(self, total: int) -> tuple[int, int]:
        """Wait until records and dead letters are `total` together; return both."""
        found = (0, 0)

        async def complete() -> bool:
            nonlocal found
            found = (await self.count("audit_records"), await self.count("dead_letters"))
            return sum(found) >= total

        await until(complete, _STORED_WITHIN_S, f"{total} records", lambda: f"{found} {self._logs()}")
        return found

    async def list_records(
        self, account: str, since: str, before: str, **filters: str
    ) -> list[dict[str, Any]]:
        return await self._list(f"accounts/{account}/logs/audit", None, since, before, filters)

    async def list_requests(
        self,
        account: str,
        since: str,
        before: str,
        query: dict[str, str],
        *,
        accounts: list[str] | None = None,
    ) -> list[dict[str, Any]]:
        """Return the lines of the request log that a token for `accounts` gets (None: for every account)."""
        return await self._list(f"accounts/{account}/logs/requests", accounts, since, before, query)

    async def _list(
        self, path: str, accounts: list[str] | None, since: str, before: str, filters: dict[str, str]
    ) -> list[dict[str, Any]]:
        async with administrator(self.database.admin_dsn) as connection:
            expires = await connection.fetchval("SELECT now() + interval '1 hour'")
            _, token = await create_token(connection, "test", accounts, ["audit_logs:read"], expires)
        url = f"http://127.0.0.1:{self.api_port}/client/v4/{path}"
        async with httpx.AsyncClient(headers={"authorization": f"Bearer {token}"}, timeout=120) as client:
            pages = all_pages(client, url, {"since": since, "before": before, **filters})
            return [record async for page in pages for record in page.json()["result"]]

    def _logs(self) -> str:
        return "\n".join(process.log() for process in self._processes)


async def answered(client: httpx.AsyncClient, url: str, query: dict[str, str]) -> httpx.Response:
    """Get from the log API, again where its database has no time at the moment."""
    async with asyncio.timeout(_STORED_WITHIN_S):
        while (answer := await client.get(url, params=query)).status_code == 503:
            await asyncio.sleep(0.1)
    return answer


async def all_pages(
    client: httpx.AsyncClient, url: str, query: dict[str, str]
) -> AsyncIterator[httpx.Response]:
    """Yield every page of a list of the log API: a page ends early where the database is slow."""
    more: dict[str, str] = {}
    while True:
        page = await answered(client, url, query | more)
        assert page.status_code == 200, page.text
        yield page
        cursor = page.json()["result_info"].get("cursor")
        if not cursor:
            return
        more = {"cursor": cursor}


async def _accepted(client: httpx.AsyncClient, body: bytes) -> httpx.Response:
    async with asyncio.timeout(_STORED_WITHIN_S):
        while True:
            headers = {"content-type": "application/x-ndjson"}
            answer = await client.post("/v1/captures", content=body, headers=headers)
            if answer.status_code != 503:
                assert answer.status_code == 200, answer.text
                return answer
            await asyncio.sleep(0.1)


async def until(
    condition: Callable[[], Any], within_s: float, what: str, explain: Callable[[], str] = lambda: ""
) -> None:
    """Wait until an async condition holds."""
    deadline = time.monotonic() + within_s
    while not await condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within_s} s: {what}\n{explain()}")
        await asyncio.sleep(0.1)
