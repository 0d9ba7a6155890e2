"""A alerting that is well, killed, frozen, refused by its database, or waits for a webhook that hangs."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress

from auditap.database.connection import administrator
from tests.e2e.pipeline import Pipeline, Process, until
from tests.e2e.with_constants import constants
from tests.freezing import frozen

RULES = """
channels:
  hook: {{type: webhook, url: "http://127.0.0.1:{port}/", secret_file: {secret}}}
rules:
  - name: deletions
    title: Something was deleted
    severity: low
    when: {{action.type: delete}}
    key: [actor.id, resource.id]
"""
# Alerting sees records before enrichment: the account that the test's directory adds (32 times `a`) is no account to it, and
# on a slow machine the stored record may lack it, too.
EXPECTED = """
SELECT count(DISTINCT (nullif(account_id, repeat('a', 32)), actor_id, resource_id, ms - ms % 600000))
FROM auditap.audit_records,
    LATERAL (SELECT ('x' || left(replace(id::text, '-', ''), 12))::bit(48)::bigint AS ms) AS at
WHERE action_type = 'delete'
"""
"""How many alerts the rule above has to raise: one for each account, actor, resource and window of ten minutes.

The account of 32 a's is the one that the tests' directory gives to zones. The enricher adds it to records, but alerting
evaluates events as they were published, without it.
"""
# A delivery never dies, however long a block takes, and is tried again soon after it.
_DELIVERY = {"timeout_ms": 2_000, "retry_wait_ms_max": 1_000, "attempts_max": 1_000}
_ACCEPTED = b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n"


class FaultyAlerting:
    """`auditap alerting` beside a pipeline on Kafka; each method keeps it in one state for the length of a block."""

    def __init__(self, pipeline: Pipeline, group: str) -> None:
        self._pipeline = pipeline
        self._group = group
        self._may_respond = asyncio.Event()
        self._may_respond.set()
        self._hook: asyncio.Server | None = None
        self._requests: set[asyncio.Task[None]] = set()
        self.process: Process
        self.restarts = 0
        """How often the process ended by itself."""

    @property
    def states(self) -> Mapping[str, Callable[[], AbstractAsyncContextManager[None]]]:
        return {
            "running": self.running,
            "killed": self.killed,
            "frozen": self.frozen,
            "refused": self.refused,
            "hanging": self.hanging,
        }

    async def start(self) -> None:
        self._hook = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        folder = self._pipeline.folder
        (folder / "hook.key").write_text("for these tests only")
        port = self._hook.sockets[0].getsockname()[1]
        (folder / "rules.yaml").write_text(RULES.format(port=port, secret=folder / "hook.key"))
        await self._start_process()

    async def stop(self) -> None:
        self._may_respond.set()
        await self.process.stop(signal.SIGKILL)
        if self._hook is not None:
            self._hook.close()
        for task in self._requests:
            task.cancel()
        await asyncio.gather(*self._requests, return_exceptions=True)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        yield

    @asynccontextmanager
    async def killed(self) -> AsyncIterator[None]:
        await self.process.stop(signal.SIGKILL)
        try:
            yield
        finally:
            await self._start_process()

    @asynccontextmanager
    async def frozen(self) -> AsyncIterator[None]:
        with frozen(self.process.pid):
            yield

    @asynccontextmanager
    async def refused(self) -> AsyncIterator[None]:
        """Its role loses its rights, and its connections are cut."""
        await self._as_administrator("REVOKE USAGE ON SCHEMA auditap FROM auditap_alerting")
        await self._as_administrator(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE usename = 'auditap_alerting' AND datname = current_database()"
        )
        try:
            yield
        finally:
            await self._as_administrator("GRANT USAGE ON SCHEMA auditap TO auditap_alerting")

    @asynccontextmanager
    async def hanging(self) -> AsyncIterator[None]:
        """The webhook accepts connections and never responds."""
        self._may_respond.clear()
        try:
            yield
        finally:
            self._may_respond.set()

    async def evaluated(self) -> int:
        """Return how many records were evaluated; a repeated one counts again."""
        rows = await self._pipeline.fetch(
            "SELECT coalesce(sum(events), 0) FROM auditap.trends WHERE width_ms = 3600000"
        )
        return int(rows[0][0])

    async def catches_up(self, records: int) -> None:
        async def there() -> bool:
            if self.process.ended:  # as a supervisor does
                self.restarts += 1
                await self._start_process()
            return await self.evaluated() >= records

        await until(there, 240, f"{records} records evaluated", self.process.log)

    async def _start_process(self) -> None:
        self.process = await self._pipeline.start_alerting(
            wait=True,
            AUDITAP_ALERTING__GROUP=self._group,
            AUDITAP_ALERTING__RULES=str(self._pipeline.folder / "rules.yaml"),
            **constants(alerting={"delivery": _DELIVERY}),
        )

    async def _as_administrator(self, statement: str) -> None:
        async with administrator(self._pipeline.database.admin_dsn) as connection:
            await connection.execute(statement)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._requests.add(task)
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                head = await reader.readuntil(b"\r\n\r\n")
                await self._may_respond.wait()
                length = head.lower().partition(b"content-length:")[2].split()[0]
                await reader.readexactly(int(length))
                writer.write(_ACCEPTED)
                await writer.drain()
        finally:
            self._requests.discard(task)
            writer.close()
