"""The whole system as its users start it, on servers of its own that can be hurt."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg

from auditap.database.connection import administrator
from auditap.runtime.embedded_postgres import EmbeddedPostgres
from tests.audit_database import AuditDatabase, migrated
from tests.e2e.golden import DOCUMENT
from tests.e2e.pipeline import Pipeline, Process
from tests.e2e.with_constants import constants
from tests.faults.directory import FaultyDirectory
from tests.faults.load import Load
from tests.faults.small_disk import SmallDisk
from tests.faults.tcp_proxy import TcpProxy
from tests.kafka_broker import KafkaBroker

INGESTORS = 2
PARTITIONS = 4
_TOPICS = "faults."
TOPIC = f"{_TOPICS}events"
_POSTGRES = {
    "fsync": "off",  # servers are killed here, machines are not
    "max_connections": "40",
    "max_wal_size": "256MB",
    "shared_buffers": "64MB",
    "track_commit_timestamp": "on",  # for the time at which a record was stored
}
_STORING_MS = """
SELECT percentile_cont(ARRAY[0.5, 0.9, 0.99, 1.0]) WITHIN GROUP (
    ORDER BY extract(epoch FROM pg_xact_commit_timestamp(xmin)) * 1000 - received_ms
)
FROM auditap.audit_records WHERE tap_id = $1
"""
# What a fault takes to be noticed; an operator's values are longer.
_CONSTANTS: dict[str, dict[str, Any]] = {
    "collector": {
        "report_interval_ms": 1_000,
        "spool": {"adopt_interval_ms": 300, "append_deadline_ms": 60_000},
    },
    "ingest": {"backfill_interval_ms": 1_000, "gauge_interval_ms": 1_000},
    "postgres": {"command_timeout_ms": 5_000},
}
# Of an ingestor that keeps its place in the group even where the machine stands still.
LONG_SESSION = constants(**_CONSTANTS, kafka_source={"session_timeout_ms": 60_000})
_SETTINGS = {
    "AUDITAP_KAFKA__PUBLISH_DEADLINE_MS": "3000",
    "AUDITAP_INGEST__GAP_LEDGER__WATERMARK_LAG_MS": "2000",
    **constants(**_CONSTANTS),
}
_CLOCK = Path(__file__).parent / "clock"


class System:
    """Collector, two ingestors and log API around a Kafka, a Postgres (behind a proxy) and a directory.

    Both servers keep their data on small disks, where this user may mount them and `small_disks` asks for it; else
    Postgres writes through to a real one.
    """

    def __init__(
        self, folder: Path, settings: Mapping[str, str] | None = None, *, small_disks: bool = True
    ) -> None:
        self._settings = {**_SETTINGS, **(settings or {})}
        self._folder = folder
        self._small_disks = small_disks
        self.kafka_disk = SmallDisk(_made(folder / "kafka"))
        self.postgres_disk = SmallDisk(_made(folder / "postgres"))
        self.spool_disk = SmallDisk(_made(folder / "auditap" / "spool"))
        self.disks = (self.kafka_disk, self.postgres_disk, self.spool_disk)
        self.kafka = KafkaBroker(self.kafka_disk.path)
        self.postgres = EmbeddedPostgres(
            self.postgres_disk.path / "server", settings=_POSTGRES | ({} if small_disks else {"fsync": "on"})
        )
        self.proxy = TcpProxy(lambda: self.postgres.port)
        self.directory = FaultyDirectory()
        self.pipeline: Pipeline
        self.loads: list[Load] = []
        """Whose captures count; tests forget those of the tests before."""
        self._loads_made = 0

    @property
    def collector(self) -> Process:
        assert self.pipeline.collector is not None
        return self.pipeline.collector

    @property
    def ingestors(self) -> list[Process]:
        return self.pipeline.ingestors

    @property
    def api(self) -> Process:
        assert self.pipeline.api is not None
        return self.pipeline.api

    @property
    def socket(self) -> Path:
        return self.pipeline.socket

    @property
    def processes(self) -> dict[str, Process]:
        """The processes of auditap by their part."""
        ingestors = {f"ingestor {number}": each for number, each in enumerate(self.ingestors, start=1)}
        return {"collector": self.collector, **ingestors, "log API": self.api}

    async def start(self) -> None:
        if self._small_disks:
            for disk in self.disks:
                disk.mount()
        await asyncio.gather(self.kafka.start(), self.postgres.start(), self.proxy.start())
        direct = await migrated(self.postgres.dsn())
        database = AuditDatabase(
            direct.admin_dsn,
            self._through_proxy(direct.writer_dsn),
            self._through_proxy(direct.reader_dsn),
            self._through_proxy(direct.maintainer_dsn),
        )
        documents = f'[redaction]\ndocuments = [{{path = "{DOCUMENT}", envelope = "result"}}]'
        self.pipeline = pipeline = _Configured(
            _made(self._folder / "auditap"),
            database,
            bootstrap=self.kafka.bootstrap,
            topic=_TOPICS,
            documents=documents,
            directory=self.directory,
        )
        pipeline.settings, pipeline.admin_dsn = self._settings, self.postgres.dsn
        await pipeline.start(INGESTORS)

    async def stop(self) -> None:
        """End everything, at once, however far the start came, and whatever else fails to end."""
        async with contextlib.AsyncExitStack() as ending:
            for disk in self.disks:
                ending.callback(shutil.rmtree, disk.path, ignore_errors=True)
                ending.callback(disk.unmount)
            for server in (self.kafka.kill, self.postgres.stop, self.proxy.stop):
                ending.push_async_callback(server)
            self.directory.mode = "well"
            if hasattr(self, "pipeline"):
                ending.push_async_callback(self.pipeline.stop)
                await self.pipeline.stop_processes(signal.SIGKILL)

    def load(
        self,
        *,
        rate_per_s: int = 300,
        batch: int = 50,
        clock_ahead_ms: int = 0,
        accounts: int | None = None,
    ) -> Load:
        """A load of its own tap, not yet started."""
        load = Load(
            self.socket,
            tap=tap_name(self._loads_made),
            rate_per_s=rate_per_s,
            batch=batch,
            clock_ahead_ms=clock_ahead_ms,
            accounts=accounts,
        )
        self.loads.append(load)
        self._loads_made += 1
        return load

    async def loading(self, accepted: int) -> Load:
        """Start a load, and return it once so many of its captures are accepted."""
        load = self.load()
        await load.start()
        await load.accepts(accepted)
        return load

    async def replace_ingestors(self, **environment: str) -> None:
        """End every ingestor in good order, and start others with this environment."""
        while self.ingestors:
            await self.end_ingestor(0, signal.SIGTERM)
        for _ in range(INGESTORS):
            await self.pipeline.start_ingestor(**environment)

    async def end_ingestor(self, index: int, how: signal.Signals) -> int:
        return await self.ingestors.pop(index).stop(how)

    async def storing_ms(self, tap: str) -> dict[str, float]:
        """Return how long it took from accepting a capture until its record was there to be read."""
        (row,) = await self.pipeline.fetch(_STORING_MS, tap)
        return dict(zip(("p50", "p90", "p99", "max"), row[0], strict=True)) if row[0] else {}

    async def pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def _through_proxy(self, dsn: str) -> str:
        parts = urlsplit(dsn)
        login = parts.netloc.rpartition("@")[0]
        return parts._replace(netloc=f"{login}@127.0.0.1:{self.proxy.port}").geturl()


class _Configured(Pipeline):
    """A pipeline with further settings for every process, and a database that may come back on another port."""

    settings: Mapping[str, str] = {}
    admin_dsn: Callable[[], str]

    def environment(self, **more: str) -> dict[str, str]:
        return super().environment(**{**self.settings, **more})

    async def fetch(self, statement: str, *arguments: Any) -> list[asyncpg.Record]:
        async with administrator(self.admin_dsn()) as connection:
            rows: list[asyncpg.Record] = await connection.fetch(statement, *arguments)
            return rows


@contextlib.asynccontextmanager
async def running(system: System) -> AsyncIterator[System]:
    """Start the system, and end it however the block ends."""
    try:
        await system.start()
        yield system
    finally:
        await system.stop()


def tap_name(load: int) -> str:
    """Return the tap of a system's load, counted from 0."""
    return f"tap-{load + 1:04d}"


def wrong_clock(ahead_s: int) -> dict[str, str]:
    """Return the environment of a process whose clock is so many seconds ahead."""
    return {"PYTHONPATH": str(_CLOCK), "AUDITAP_TEST_CLOCK_AHEAD_S": str(ahead_s)}


def cancelled_by_signal() -> None:
    """Let SIGTERM cancel the running task, which then ends what it has started."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)


def processes_of(pid: int) -> list[int]:
    """Return a process and all that descend from it, parents first."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                status = (entry / "stat").read_text()
            except OSError:
                continue
            children.setdefault(int(status.rpartition(")")[2].split()[1]), []).append(int(entry.name))
    found = [pid]
    for each in found:
        found += children.get(each, [])
    return found


def signal_all(pid: int, how: signal.Signals) -> None:
    """Send a signal to a process and to all that descend from it."""
    for each in processes_of(pid):
        try:
            os.kill(each, how)
        except ProcessLookupError:
            continue


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
