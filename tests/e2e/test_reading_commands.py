"""`auditap query` and `auditap tail` against a served log, and the records of reading itself."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import httpx
import pytest
from pydantic import SecretStr

from auditap.database.connection import administrator
from auditap.database.tokens import create_token
from auditap.runtime import serve
from auditap.runtime.serve import LogApiProcess, log_api_config
from auditap.settings import ReadAuditSettings, Settings, load_settings
from log_api.config import LogApiConfig
from log_api.ports import Permission
from tests.audit_database import migrated
from tests.e2e.pipeline import until
from tests.ports import free_port
from tests.records import record
from tests.unit.log_api.stored_log import StoredLog, unhurried

ACCOUNT = "a" * 32


class Reader(NamedTuple):
    """A folder with a token in it as `auditap up` keeps it, the settings of a running log API, and its log."""

    folder: Path
    settings: Settings
    log: StoredLog

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        port = self.settings.api.address.port
        environment = {"PATH": "/usr/bin:/bin", "AUDITAP_API__ADDRESS__PORT": str(port)}
        return subprocess.Popen(
            [sys.executable, "-m", "auditap", *arguments],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    async def run(self, *arguments: str) -> tuple[int, list[bytes], str]:
        output, errors = await asyncio.to_thread(self.start(*arguments).communicate, timeout=300)
        process_output = output.splitlines()
        return (1 if errors else 0), process_output, errors.decode()


def unhurried_config(*arguments: Any) -> LogApiConfig:
    config = log_api_config(*arguments)
    return replace(config, limits=unhurried(config.limits), statement_timeout_ms=120_000)


@asynccontextmanager
async def served(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """Run the log API, which waits for a busy database, and return a client of it once it answers."""
    stop = asyncio.Event()
    with mock.patch.object(serve, "log_api_config", unhurried_config):
        process = LogApiProcess(settings)
    running = asyncio.create_task(process.run(stop))
    base = f"http://127.0.0.1:{settings.api.address.port}"
    async with httpx.AsyncClient(base_url=base, timeout=120) as client:

        async def answered() -> bool:
            try:
                return (await client.get("/healthz")).status_code == 200
            except httpx.HTTPError:
                return False

        try:
            await until(answered, 120, "the log API")
            yield client
        finally:
            stop.set()
            await running


@pytest.fixture
async def reader(database: str, tmp_path: Path) -> AsyncIterator[Reader]:
    audit = await migrated(database)
    data_dir = tmp_path / "auditap-data"
    settings = load_settings(
        data_dir=data_dir,
        api={"address": {"port": free_port()}, "tail_interval_ms": 50},
        postgres={"reader_dsn": SecretStr(audit.reader_dsn)},
    )
    async with served(settings), administrator(audit.admin_dsn) as owner:
        _, token = await create_token(
            owner, "up", None, list(Permission), datetime.now(UTC) + timedelta(days=1)
        )
        (data_dir / "api.token").write_text(token)
        yield Reader(tmp_path, settings, StoredLog(owner))


def now_ms() -> int:
    return time.time_ns() // 1_000_000


async def test_query_prints_ndjson_into_a_pipe(reader: Reader) -> None:
    began_ms = now_ms() - 60_000
    records = [
        record(
            began_ms + number,
            account_id=ACCOUNT,
            action_type="delete" if number % 2 else "update",
            resource_request='{"price":1.10}',
        )
        for number in range(40)
    ]
    await reader.log.add(records)
    failed, lines, _ = await reader.run(
        "query", "--account", ACCOUNT, "--limit", "15", "--since", "2h", "action_type=delete"
    )
    assert not failed
    assert [json.loads(line)["id"] for line in lines] == [one.id.hex for one in records[1::2]][::-1][:15]
    assert b'"request":{"price":1.10}' in lines[0]
    _, lines, _ = await reader.run(
        "query", "--account", ACCOUNT, "--oldest-first", "action_type.not=delete", "--limit", "1000"
    )
    assert [json.loads(line)["id"] for line in lines] == [one.id.hex for one in records[::2]]


async def test_query_prints_request_logs(reader: Reader) -> None:
    records = [
        record(now_ms() - 60_000 + number, account_id=ACCOUNT, raw_method=method, exchange_host="a.example")
        for number, method in enumerate(("GET", "PUT", "GET"))
    ]
    await reader.log.add(records)
    failed, lines, _ = await reader.run("query", "--requests", "--account", ACCOUNT, "raw_method=GET")
    assert not failed
    found = [json.loads(line) for line in lines]
    assert [each["auditap"]["id"] for each in found] == [records[2].id.hex, records[0].id.hex]
    assert {each["ClientRequestHost"] for each in found} == {"a.example"}


async def test_without_an_account_the_accounts_are_named(reader: Reader) -> None:
    (reader.folder / "auditap.toml").write_text('[[redaction.documents]]\npath = "openapi.yaml"\n')
    first, second, nobodys = (
        record(now_ms() - 60_000 + number, account_id=account)
        for number, account in enumerate(("acme", "beta", None))
    )
    await reader.log.add([first])
    _, lines, errors = await reader.run("query")
    assert ([json.loads(line)["id"] for line in lines], errors) == ([first.id.hex], "")
    await reader.log.add([second, nobodys])
    for command in ("query", "tail"):
        failed, _, errors = await reader.run(command)
        assert failed
        assert "Give --account or --all-accounts: there are acme, beta." in errors
    _, lines, _ = await reader.run("query", "--all-accounts", "--oldest-first")
    assert [json.loads(line)["id"] for line in lines] == [each.id.hex for each in (first, second, nobodys)]
    _, lines, _ = await reader.run("tail", "--all-accounts", "--since", "1h", "--count", "3")
    assert len(lines) == 3
    failed, lines, _ = await reader.run("completeness")
    assert (failed, json.loads(lines[0])["result"]) == (0, [])


async def test_query_without_anything_reads_the_example_s_log(reader: Reader) -> None:
    failed, lines, _ = await reader.run("query")
    assert (failed, lines) == (0, [])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["query", "--account", ACCOUNT, "action_type=teapot"], "action_type: each one of"),
        (["query", "--account", ACCOUNT, "--since", "yesterday"], "--since is no time: write 2026-01-23"),
        (["query", "action_type"], "name=value"),
        (["query", "--account", "x" * 257], "no such account"),
        (["tail", "--account", ACCOUNT, "action_type=teapot"], "action_type: each one of"),
        (["query", "--api", "http://127.0.0.1:1/client/v4"], "does not respond"),
        (["tail", "--api", "http://127.0.0.1:1/client/v4"], "does not respond"),
    ],
)
async def test_what_is_wrong_is_one_sentence(reader: Reader, arguments: list[str], sentence: str) -> None:
    failed, _, errors = await reader.run(*arguments)
    assert failed
    assert sentence in errors
    assert "Traceback" not in errors


async def test_without_a_token_it_says_where_one_is_expected(reader: Reader) -> None:
    (reader.folder / "auditap-data" / "api.token").unlink()
    failed, _, errors = await reader.run("query")
    assert failed
    assert "api.token holds no token" in errors


async def test_tail_prints_what_arrives(reader: Reader) -> None:
    present = record(now_ms() - 1_000, account_id=ACCOUNT, action_type="delete")
    await reader.log.add([present])
    process = reader.start(
        "tail", "--account", ACCOUNT, "--since", "1h", "--count", "3", "action_type=delete"
    )
    ended = asyncio.create_task(asyncio.to_thread(process.communicate, timeout=300))
    arrived = []
    while not ended.done():
        await asyncio.sleep(0.2)
        arrived.append(record(now_ms(), account_id=ACCOUNT, action_type="delete"))
        await reader.log.add([arrived[-1], record(now_ms(), account_id=ACCOUNT)])
    output, errors = await ended
    assert errors == b""
    expected = [one.id.hex for one in [present, *arrived]][:3]
    assert [json.loads(line)["id"] for line in output.splitlines()] == expected


class Collector:
    """Takes captures and keeps them, each once: a tap that gets no answer in time sends a batch again."""

    def __init__(self) -> None:
        self._by_id: dict[str, dict[str, Any]] = {}
        self.heartbeats = 0

    @property
    def captures(self) -> list[dict[str, Any]]:
        return list(self._by_id.values())

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                body = await reader.readexactly(length)
                if head.startswith(b"POST /v1/captures "):
                    self._by_id |= {each["id"]: each for each in map(json.loads, body.splitlines())}
                else:
                    self.heartbeats += 1
                answer = json.dumps({"accepted": len(body.splitlines()), "refused": []}).encode()
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                    b"Content-Length: %d\r\n\r\n%b" % (len(answer), answer)
                )
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


async def test_reading_is_recorded(database: str, tmp_path: Path) -> None:
    audit = await migrated(database)
    collector = Collector()
    socket = tmp_path / "collector.sock"
    listening = await asyncio.start_unix_server(collector.serve, str(socket))
    settings = load_settings(
        data_dir=tmp_path / "data",
        api={"address": {"port": free_port()}},
        postgres={"reader_dsn": SecretStr(audit.reader_dsn)},
    )
    api = settings.api.model_copy(update={"read_audit": ReadAuditSettings(collector=f"unix:{socket}")})
    async with administrator(audit.admin_dsn) as owner:
        token_id, token = await create_token(
            owner,
            "siem",
            [ACCOUNT],
            [Permission.AUDIT_LOGS],
            datetime.now(UTC) + timedelta(days=1),
            email="one@example.com",
        )
    path = f"/client/v4/accounts/{ACCOUNT}/logs/audit?since=2026-01-23&before=2026-01-24"

    async def heard() -> bool:
        return collector.heartbeats > 0

    async def captured() -> bool:
        return len(collector.captures) >= 2

    async with served(settings.model_copy(update={"api": api})) as client:
        # A log API that nobody reads from is a tap as well.
        await until(heard, 120, "a heartbeat before the first read")
        answer = await client.get(path, headers={"Authorization": f"Bearer {token}"})
        await client.get(path)
        assert answer.status_code == 200
        assert not [name for name in answer.headers if name.startswith(("x-actor", "x-account"))]
        await until(captured, 120, "captures of the reads")
    listening.close()
    await listening.wait_closed()
    text = json.dumps(collector.captures)
    assert token not in text
    first, second = collector.captures
    assert first["request"]["url"].endswith(path)
    headers = first["response"]["headers"]
    received = {name: value if isinstance(value, str) else value[0] for name, value in headers.items()}
    assert received["x-actor-token-id"] == token_id.hex
    assert received["x-actor-email"] == "one@example.com"
    assert received["x-account-id"] == ACCOUNT
    assert received["x-actor-token-name"] == "siem"
    assert second["response"]["status"] == 401


async def test_a_collector_that_is_away_blocks_no_query(database: str, tmp_path: Path) -> None:
    audit = await migrated(database)
    settings = load_settings(
        data_dir=tmp_path / "data",
        api={
            "address": {"port": free_port()},
            "read_audit": {"collector": f"unix:{tmp_path}/none.sock", "queue_bytes_max": 2000},
        },
        postgres={"reader_dsn": SecretStr(audit.reader_dsn)},
    )
    async with served(settings) as client:
        statuses = [(await client.get("/client/v4/user/tokens/verify")).status_code for _ in range(50)]
    assert statuses == [401] * 50
