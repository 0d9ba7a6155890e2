"""A log in a real Postgres, behind a real `auditap serve`."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg

from auditap.database.tokens import create_token
from log_api.ports import Permission
from schemas.record import Record
from tests.audit_database import AuditDatabase
from tests.e2e.pipeline import Process
from tests.ports import free_port
from tests.unit.log_api.stored_log import StoredLog

ORGANIZATION = "acme"
ORGANIZATION_ACCOUNTS = ("a" * 32, "b" * 32)
DAY_MS = 86_400_000
# Midnight: some SDKs send dates alone.
NOW_MS = time.time_ns() // 1_000_000 // DAY_MS * DAY_MS
SINCE_MS = NOW_MS - 2 * DAY_MS


class ServedLog:
    """A log and its API. Tests share it: each has an account of its own."""

    def __init__(self, database: AuditDatabase, owner: asyncpg.Connection, folder: Path) -> None:
        self.log = StoredLog(owner)
        self._database = database
        self._owner = owner
        self._folder = folder
        self._process: Process | None = None

    async def start(self, **settings: str) -> None:
        """Start `auditap serve`; `settings` are environment variables."""
        port = free_port()
        config = self._folder / "auditap.toml"
        accounts = ", ".join(f'"{each}"' for each in ORGANIZATION_ACCOUNTS)
        config.write_text(f"[api.organizations]\n{ORGANIZATION} = [{accounts}]\n")
        plain = {name: value for name, value in os.environ.items() if not name.startswith("AUDITAP_")}
        environment = {
            **plain,
            "AUDITAP_CONFIG": str(config),
            "AUDITAP_DATA_DIR": str(self._folder),
            "AUDITAP_POSTGRES__READER_DSN": self._database.reader_dsn,
            "AUDITAP_API__ADDRESS__PORT": str(port),
            "AUDITAP_LOG_FORMAT": "json",
            "AUDITAP_API__REQUESTS_BURST": "100000",
            # A busy machine has no time for a short one, and a client that is told so counts it as a failure.
            "AUDITAP_API__STATEMENT_TIMEOUT_MS": "60000",
            **settings,
        }
        self._process = Process(["serve"], environment, self._folder / "serve.log")
        await self._process.start(port)

    async def stop(self) -> None:
        if self._process is not None:
            await self._process.stop()

    @property
    def base_url(self) -> str:
        assert self._process is not None
        return f"http://127.0.0.1:{self._process.port}/client/v4"

    def requests_refused(self) -> int:
        """Return how many requests were told to wait."""
        assert self._process is not None
        lines = map(json.loads, self._process.output().splitlines())
        return sum(line.get("status") == 429 for line in lines)

    async def token(
        self, *accounts: str, email: str | None = None, requests_per_s: float | None = None
    ) -> str:
        """Return a new token for the accounts, with every permission to read."""
        _, token = await create_token(
            self._owner,
            "client",
            accounts,
            [Permission.AUDIT_LOGS, Permission.ACCESS_LOGS],
            datetime.now(UTC) + timedelta(hours=1),
            email=email,
            requests_per_s=requests_per_s,
        )
        return token

    async def add(self, records: Sequence[Record]) -> None:
        await self.log.add(records)

    async def stored(self, account: str) -> list[str]:
        """Return the ids of all records of an account, in order."""
        rows = await self._owner.fetch(
            "SELECT id FROM auditap.audit_records WHERE account_id = $1 ORDER BY id", account
        )
        return [row["id"].hex for row in rows]

    async def add_gap(self) -> None:
        """Note a part of the event log as lost before it was read."""
        await self._owner.execute(
            "SELECT auditap.note_lost_offsets('events', 0, 10, 19, $1, $2)", SINCE_MS, SINCE_MS + DAY_MS
        )


def new_account() -> str:
    return uuid.uuid4().hex
