"""Everything that left a running pipeline, decoded, as texts to search."""

from __future__ import annotations

import json
import re
import sqlite3
from base64 import b64decode
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
from aiokafka import AIOKafkaConsumer

from auditap.database.connection import administrator
from auditap.database.tokens import create_token
from tests.canary.tokens import secrets_in, shown_in
from tests.e2e.pipeline import all_pages, answered

API = "/client/v4"
_DAY = re.compile(r"_[0-9]{8}$")
_BYTEA = re.compile(r"\\x((?:[0-9a-f]{2})+)")


class Evidence:
    """What was found, by where it was found; texts are searched as they come and not kept."""

    def __init__(self) -> None:
        self.texts: dict[str, int] = {}
        """How many texts each place had."""
        self.secrets: dict[str, set[str]] = {}
        self.shown: dict[str, set[str]] = {}

    def add(self, place: str, text: bytes | str) -> None:
        """Search one text."""
        raw = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
        self.texts[place] = self.texts.get(place, 0) + 1
        self.shown.setdefault(place, set()).update(shown_in(raw))
        found = secrets_in(raw)
        if found:
            self.secrets.setdefault(place, set()).update(found)


async def kafka_records(bootstrap: str, prefix: str) -> AsyncIterator[tuple[str, bytes]]:
    """Yield every record of every topic whose name begins with `prefix`: its value as the consumer inflates it, what that
    holds encoded, and key and headers.
    """
    async with AIOKafkaConsumer(bootstrap_servers=bootstrap) as looking:
        topics = {name for name in await looking.topics() if name.startswith(prefix)}
    async with AIOKafkaConsumer(
        *topics, bootstrap_servers=bootstrap, auto_offset_reset="earliest", enable_auto_commit=False
    ) as consumer:
        partitions = consumer.assignment()
        assert {each.topic for each in partitions} == topics
        ends = await consumer.end_offsets(partitions)
        while any([await consumer.position(each) < end for each, end in ends.items()]):
            for partition, messages in (await consumer.getmany(timeout_ms=1_000)).items():
                place = f"kafka {partition.topic.removeprefix(prefix)}"
                for message in messages:
                    yield place, message.value or b""
                    for decoded in _decoded(message.value or b""):
                        yield f"{place} decoded", decoded
                    yield "kafka keys and headers", repr((message.key, message.headers)).encode()


def _decoded(value: bytes) -> Iterator[bytes]:
    """Yield what a JSON object holds as base64, as dead letters do."""
    for name, field in json.loads(value).items():
        if name.endswith("_base64"):
            yield b64decode(field, validate=True)


def files_below(folder: Path) -> list[Path]:
    """Return every file of a pipeline's data folder; that its processes logged to is among them."""
    return sorted(each for each in folder.rglob("*") if each.is_file())


def file_texts(file: Path) -> list[tuple[str, bytes]]:
    """Return a file's bytes, and what is in it if it is a database."""
    place = "logs" if file.suffix == ".log" else "files"
    return [(place, file.read_bytes()), *(sqlite_rows(file) if file.suffix == ".sqlite" else ())]


def sqlite_rows(path: Path) -> list[tuple[str, bytes]]:
    """Return every cell of every table of an SQLite file."""
    found: list[tuple[str, bytes]] = []
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        tables = [
            name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        ]
        for table in tables:
            for row in connection.execute(f'SELECT * FROM "{table}"'):
                for cell in row:
                    raw = cell if isinstance(cell, bytes) else str(cell).encode()
                    found.append((f"sqlite {table}", raw))
    return found


async def postgres_rows(dsn: str) -> list[tuple[str, str | bytes]]:
    """Return every row of every table and view of ours as text, as JSON and with its bytes decoded, and what the server
    knows of queries.
    """
    async with administrator(dsn) as connection:
        tables = await connection.fetch(
            "SELECT format('%I.%I', schemaname, relname) AS name FROM pg_stat_user_tables"
            " UNION SELECT format('%I.%I', schemaname, viewname) FROM pg_views WHERE schemaname = 'auditap'"
        )
        found: list[tuple[str, str | bytes]] = []
        for (table,) in tables:
            rows = await connection.fetch(f"SELECT t::text, row_to_json(t)::text FROM {table} t")
            place = f"postgres {_DAY.sub('', table)}"
            found += [(place, text) for row in rows for text in row if text]
            found += [
                (f"{place} decoded", bytes.fromhex(each[1]))
                for row in rows
                for each in _BYTEA.finditer(row[0])
            ]
        activity = await connection.fetch("SELECT query FROM pg_stat_activity")
        return found + [("postgres activity", row["query"] or "") for row in activity]


class ApiReader:
    """Asks the log API for everything that it shows of some accounts."""

    def __init__(self, port: int, admin_dsn: str) -> None:
        self._at = f"http://127.0.0.1:{port}{API}"
        self._admin_dsn = admin_dsn

    async def token(self) -> str:
        async with administrator(self._admin_dsn) as connection:
            expires = await connection.fetchval("SELECT now() + interval '1 hour'")
            permissions = ["audit_logs:read", "access_logs:read"]
            _, token = await create_token(connection, "canary", None, permissions, expires)
            return token

    async def answers(
        self, accounts: Sequence[str], since: str, before: str
    ) -> AsyncIterator[tuple[str, bytes]]:
        """Yield the answers for every account: pages, the stream, single records, counts."""
        span = {"since": since, "before": before}
        async with httpx.AsyncClient(
            headers={"authorization": f"Bearer {await self.token()}"}, timeout=120
        ) as client:
            for account in accounts:
                at = f"{self._at}/accounts/{account}"
                records: list[dict[str, Any]] = []
                async for page in all_pages(client, f"{at}/logs/audit", span | {"limit": "1000"}):
                    yield "api pages", page.content
                    records = page.json()["result"] or records
                for record in records[:5]:
                    one = f"{at}/logs/audit/{record['id']}"
                    yield "api history", (await answered(client, f"{one}/history", {})).content
                    yield "api records", (await answered(client, one, {})).content
                yield "api export", (await answered(client, f"{at}/logs/audit/export", span)).content
                yield "api summary", (await answered(client, f"{at}/logs/audit/summary", span)).content
                yield "api v1", (await answered(client, f"{at}/audit_logs", span)).content
                refused = await answered(client, f"{at}/logs/audit", span | {"limit": "x"})
                yield "api errors", refused.content
