"""Cases that need the whole pipeline, a database or a broker of their own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shutil
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from alerting.channels import Channels
from alerting.delivery import Deliverer, DeliveryLimits
from alerting.postgres_store import PostgresAlertStore
from alerting.rules_parser import parse_rules
from auditap.database.connection import administrator
from ingestor.postgres_store import PostgresStore
from schemas.errors import StartupError
from schemas.identity import rfc3339_ms
from schemas.metric_defs import Metrics
from tests.alert_cases import action, raised
from tests.audit_database import AuditDatabase, migrated
from tests.cases.case import Bench, counted, database
from tests.cases.redaction import ANY_PATH
from tests.e2e.pipeline import Directory, Pipeline, until
from tests.event_logs import Assignments, KafkaLog, read, values
from tests.fakes.clock import Clock
from tests.fakes.refusing_postgres import refusing
from tests.ports import free_port
from tests.unit.auditap.commands import run

_HOUR_MS = 3_600_000


class CaseDirectory(Directory):
    """The directory of a case: its own server, at a port that is free, and its own settings by their present names."""

    def __init__(self, inputs: Path, port_of_case: str) -> None:
        # Not the base class's constructor, which opens the port for its own server.
        self.port = free_port()
        self._settings = (inputs / "auditap.toml").read_text().replace(port_of_case, str(self.port))
        self._program = (inputs / "srv.py").read_text().replace(port_of_case, str(self.port))
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self._process = await started(self._program, self.port)

    async def stop(self) -> None:
        await ended(self._process)

    def settings(self) -> str:
        return self._settings.replace("look_ups", "http_lookups")


async def started(program: str, port: int, folder: Path | None = None) -> asyncio.subprocess.Process:
    """Start a case's server, and return once it listens."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program), cwd=folder, stdout=asyncio.subprocess.DEVNULL
    )

    async def listens() -> bool:
        assert process.returncode is None, "the case's server ended"
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return True
        return False

    await until(listens, 120, "the case's server listens")
    return process


async def ended(process: asyncio.subprocess.Process | None) -> None:
    if process is not None and process.returncode is None:
        process.kill()
        await process.wait()


@asynccontextmanager
async def pipeline(
    bench: Bench, spec: Path | None = None, directory: Directory | None = None
) -> AsyncIterator[Pipeline]:
    """Run collector, ingestor and log API on a database of their own, for a document or for `ANY_PATH`."""
    if spec is None:
        spec = bench.scratch / "any.yaml"
        spec.write_text(ANY_PATH)
    async with database(bench.postgres) as dsn:
        whole = Pipeline(
            bench.scratch,
            await migrated(dsn),
            bootstrap=None,
            topic="case",
            documents=f'[redaction]\ndocuments = [{{path = "{spec}"}}]',
            directory=directory,
        )
        try:
            await whole.start()
            yield whole
        finally:
            await whole.stop()


def capture(url: str, **more: Any) -> dict[str, Any]:
    """Return a capture of now; its id is derived from its request id."""
    headers = {"content-type": "application/json", "cf-ray": f"{time.monotonic_ns():016x}"}
    return {
        "captured_at": datetime.now(UTC).isoformat(),
        "request": {"method": "POST", "url": url, "headers": headers, "body": "{}"},
        "response": {"status": 200},
        **more,
    }


async def listed(whole: Pipeline, account: str, **filters: str) -> list[dict[str, Any]]:
    """Return the account's records of the last hour."""
    now_ms = time.time_ns() // 1_000_000
    since, before = rfc3339_ms(now_ms - _HOUR_MS), rfc3339_ms(now_ms + _HOUR_MS)
    return await whole.list_records(account, since, before, **filters)


async def mapped_address(bench: Bench) -> str:
    """The address filter, and the case's rules on the stored record."""
    async with pipeline(bench) as whole:
        await whole.send([capture("/accounts/a1/items", client_ip="::ffff:10.0.0.1")])
        await whole.until_processed(1)
        found = await listed(whole, "a1", actor_ip_address="10.0.0.1")
        rules = str(bench.inputs / "rules.yaml")
        arguments = ("rules", "test", "--rules", rules, "--since", "1h", "--json")
        _, out, errors = await run(bench.scratch, whole.database.admin_dsn, *arguments)
    fired = [name for name in ("from-office", "from-outside") if name in out]
    return f"{len(found)} found, alert {' '.join(fired) or errors}"


async def foreign_encoding(bench: Bench) -> str:
    options = "ENCODING 'LATIN1' TEMPLATE template0 LOCALE_PROVIDER libc LC_COLLATE 'C' LC_CTYPE 'C'"
    async with database(bench.postgres, options) as dsn:
        code, out, errors = await run(bench.scratch, dsn, "migrate")
    said = " ".join((out + errors).split())
    named = "encoding is LATIN1" in said and "ENCODING 'UTF8'" in said
    return f"{'refused' if code else 'migrated'}, {'naming' if named else 'not naming'} both encodings"


async def late_directory(bench: Bench) -> str:
    """Actions of a zone that the directory does not know yet, the later ones while its answer is cached."""
    directory = CaseDirectory(bench.inputs, "9970")
    async with pipeline(bench, bench.inputs / "spec2.yaml", directory) as whole:
        for number in range(1, 4):
            await whole.send([capture("/zones/znew/items")])
            await whole.until_processed(number)

        async def all_listed() -> bool:
            return len(await listed(whole, "accZ")) == 3

        with contextlib.suppress(AssertionError):
            await until(all_listed, 180, "three records in the account's list")
        found = await listed(whole, "accZ")
        states = Counter(each["auditap"]["enrichment"] for each in found)
    return f"{counted(len(found), 3, 'listed')}, {states['complete']} complete"


async def busy_channel(bench: Bench) -> str:
    """The channel named chat asks to wait 60 s: what it gets within 50 s of it, each delivery being due all the time."""
    port, folder = free_port(), bench.scratch / "case"
    (folder / "hook").mkdir(parents=True)
    (folder / "hook" / "slack.url").write_text(f"http://127.0.0.1:{port}/slack")
    (folder / "hook" / "key").write_text("k" * 32)
    text = (bench.inputs / "rules.yaml").read_text().replace("9990", str(port))
    rules = parse_rules(text.encode(), str(folder / "rules.yaml"))
    server = await started((bench.inputs / "srv.py").read_text().replace("9990", str(port)), port, folder)
    try:
        async with database(bench.postgres) as dsn, httpx.AsyncClient(timeout=120) as client:
            audit = await migrated(dsn)
            store = await PostgresAlertStore.connect(
                audit.alerting_dsn, "case", connections_max=4, command_timeout_ms=60_000
            )
            actions = [action(action_type="create", resource_id=str(number)) for number in range(31)]
            await raised(rules, actions, store)
            chat = {"chat": rules.channels["chat"]}
            channels = Channels(client, lambda: chat, print, time.time)
            # No more connections at once than the case's server takes.
            clock, limits = Clock(1_000.0), DeliveryLimits(in_flight_max=4)
            deliverer = Deliverer(store, channels.find, limits, Metrics(), clock)
            while await deliverer.deliver():
                pass
            first = _posts_to_slack(folder)
            for _ in range(10):
                clock.now_s += 5
                await _make_due(audit)
                await deliverer.deliver()
            attempts = await _attempts_of_chat(audit)
            await store.close()
    finally:
        await ended(server)
    bound = "bounded" if 0 < first <= limits.in_flight_max else f"{first}"
    return f"first POSTs {bound}, {_posts_to_slack(folder) - first} more in 50 s, {attempts} attempts counted"


def _posts_to_slack(folder: Path) -> int:
    return (folder / "hook" / "log").read_text().count(" /slack ")


async def _make_due(audit: AuditDatabase) -> None:
    async with administrator(audit.admin_dsn) as connection:
        await connection.execute("UPDATE auditap.alert_deliveries SET due_at = now() WHERE state = 'due'")


async def _attempts_of_chat(audit: AuditDatabase) -> int:
    async with administrator(audit.admin_dsn) as connection:
        counted_attempts: int = await connection.fetchval(
            "SELECT sum(attempts) FROM auditap.alert_deliveries WHERE channel = 'chat'"
        )
    return counted_attempts


async def pooler(bench: Bench) -> str:
    """PgBouncer's answer to auditap's parameters, by its words in the case: a stand-in speaks them."""
    words = re.search(r"unsupported startup parameter: \w+", (bench.inputs / "README").read_text())
    assert words is not None
    async with refusing("08P01", words[0]) as dsn:
        store = await PostgresStore.connect(dsn, connections_max=1, command_timeout_ms=60_000)
        try:
            await store.check_login()
        except StartupError as refusal:
            named = "pooler" in str(refusal) and "pool_mode = session" in str(refusal)
            return f"refused at start, {'naming' if named else 'not naming'} the pooler and its mode"
        await store.close()
    return "not refused at start"


async def transaction_markers(bench: Bench) -> str:
    """The case's transactional producer, read in batches that begin behind a marker."""
    log = KafkaLog(bench.kafka, f"case-{bench.scratch.name}.")
    await log.make_topics(1)
    for name in ("kt.py", "ev.bin"):
        shutil.copyfile(bench.inputs / name, bench.scratch / name)
    (bench.scratch / "kafka.addr").write_text(bench.kafka)
    await _succeed("kt.py", "tx", log.topic, folder=bench.scratch)
    source = log.source("case", Assignments())
    await source.start()
    try:
        # One by one, so that batches begin behind markers.
        batches = await read(source, 6, events_max=1)
    finally:
        await source.stop()
    lost = [batch.lost for batch in batches if batch.lost]
    ids = {json.loads(value)["id"] for value in values(batches)}
    return f"{len(ids)} events, {len(lost)} losses reported"


async def _succeed(*arguments: str, folder: Path) -> None:
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, cwd=folder)
    assert await process.wait() == 0
