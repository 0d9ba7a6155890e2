"""A watcher that is well, killed, frozen, refused by its database, or waits for a webhook that hangs."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress

from auditap.database import administrator
from tests.e2e.pipeline import Pipeline, Process, free_port, until

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
EXPECTED = """
SELECT count(DISTINCT (account_id, actor_id, resource_id, auditap_ms - auditap_ms % 600000))
FROM auditap.audit_records,
    LATERAL (SELECT ('x' || left(replace(id::text, '-', ''), 12))::bit(48)::bigint AS auditap_ms) AS at
WHERE action_type = 'delete'
"""
"""How many alerts the rule above has to raise: one for each account, actor, resource and window of ten minutes."""
_TAKEN = b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n"


class AilingWatcher:
    """`auditap watch` beside a pipeline on Kafka; each method keeps it in one state for the length of a block."""

    def __init__(self, pipeline: Pipeline, group: str) -> None:
        self._pipeline = pipeline
        self._group = group
        self._may_answer = asyncio.Event()
        self._may_answer.set()
        self._hook: asyncio.Server | None = None
        self._asked: set[asyncio.Task[None]] = set()
        self.process: Process
        self.restarts = 0
        """How often it had ended by itself."""

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
        (folder / "hook.key").write_text("for tests only")
        port = self._hook.sockets[0].getsockname()[1]
        (folder / "rules.yaml").write_text(RULES.format(port=port, secret=folder / "hook.key"))
        await self._start_process()

    async def stop(self) -> None:
        self._may_answer.set()
        await self.process.stop(signal.SIGKILL)
        if self._hook is not None:
            self._hook.close()
        for task in self._asked:
            task.cancel()
        await asyncio.gather(*self._asked, return_exceptions=True)

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
        os.kill(self.process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.process.pid, signal.SIGCONT)

    @asynccontextmanager
    async def refused(self) -> AsyncIterator[None]:
        """Its role may do nothing any more, and its connections are ended."""
        await self._as_administrator("REVOKE USAGE ON SCHEMA auditap FROM auditap_watcher")
        await self._as_administrator(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE usename = 'auditap_watcher' AND datname = current_database()"
        )
        try:
            yield
        finally:
            await self._as_administrator("GRANT USAGE ON SCHEMA auditap TO auditap_watcher")

    @asynccontextmanager
    async def hanging(self) -> AsyncIterator[None]:
        """Who is told takes the connection and never answers."""
        self._may_answer.clear()
        try:
            yield
        finally:
            self._may_answer.set()

    async def watched(self) -> int:
        """Return how many records are judged, each as often as it was."""
        rows = await self._pipeline.fetch(
            "SELECT coalesce(sum(events), 0) FROM auditap.trends WHERE width_ms = 3600000"
        )
        return int(rows[0][0])

    async def catches_up(self, records: int) -> None:
        async def there() -> bool:
            if self.process.ended:  # as whoever supervises it does
                self.restarts += 1
                await self._start_process()
            return await self.watched() >= records

        await until(there, 120, f"{records} records watched", self.process.log)

    async def _start_process(self) -> None:
        port = free_port()
        self.process = self._pipeline.process(
            "watch",
            AUDITAP_POSTGRES__WATCHER_DSN=self._pipeline.database.watcher_dsn,
            AUDITAP_WATCH__ADDRESS__PORT=str(port),
            AUDITAP_WATCH__GROUP=self._group,
            AUDITAP_WATCH__RULES=str(self._pipeline.folder / "rules.yaml"),
            AUDITAP_WATCH__DELIVERY__TIMEOUT_MS="2000",
            AUDITAP_WATCH__DELIVERY__RETRY_WAIT_MS_MAX="1000",
            AUDITAP_WATCH__DELIVERY__ATTEMPTS_MAX="1000",
        )
        await self.process.start(port)

    async def _as_administrator(self, statement: str) -> None:
        async with administrator(self._pipeline.database.admin_dsn) as connection:
            await connection.execute(statement)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._asked.add(task)
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                head = await reader.readuntil(b"\r\n\r\n")
                await self._may_answer.wait()
                length = head.lower().partition(b"content-length:")[2].split()[0]
                await reader.readexactly(int(length))
                writer.write(_TAKEN)
                await writer.drain()
        finally:
            self._asked.discard(task)
            writer.close()
