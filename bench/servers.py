"""A real Kafka and a real Postgres for benchmarks, and the CPU time and memory of processes."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from auditap.database.connection import administrator
from auditap.database.schema import ensure_database
from auditap.runtime.embedded_postgres import EmbeddedPostgres
from eventlog.kafka.client import KafkaConnection
from eventlog.kafka.topics import TopicSettings, ensure_topics
from tests.audit_database import AuditDatabase, migrated
from tests.kafka_broker import KafkaBroker

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Servers:
    """Both servers and their folder."""

    folder: Path
    kafka: KafkaBroker
    postgres: EmbeddedPostgres

    async def database(self, name: str) -> AuditDatabase:
        """Return a fresh, migrated database."""
        async with administrator(self.postgres.dsn()) as connection:
            await ensure_database(connection, name)
        return await migrated(self.postgres.dsn("postgres", name))

    async def topic(self, name: str, partitions: int) -> str:
        """Return a new topic for events."""
        await ensure_topics(
            TopicSettings(
                KafkaConnection(self.kafka.bootstrap),
                name,
                f"{name}-dead-letters",
                partitions=partitions,
                replication_factor=1,
                min_insync_replicas=1,
                retention_ms=86_400_000,
            )
        )
        return name

    @property
    def postmaster_pid(self) -> int:
        found = next(self.folder.glob("**/postmaster.pid"))
        return int(found.read_text().splitlines()[0])


@asynccontextmanager
async def servers() -> AsyncIterator[Servers]:
    """Start both, with their default settings."""
    with tempfile.TemporaryDirectory(prefix="auditap-bench-") as made:
        folder = _prepared(Path(made))
        async with KafkaBroker(folder / "kafka") as kafka, EmbeddedPostgres(folder / "postgres") as postgres:
            yield Servers(folder, kafka, postgres)


def _prepared(folder: Path) -> Path:
    folder.chmod(0o755)
    (folder / "kafka").mkdir()
    return folder


def cpu_s(pid: int) -> float:
    """Return the CPU seconds of a process and its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    # Its own, and that of children that have ended.
    return sum(map(int, fields[11:15])) / _TICKS_PER_S + sum(map(child_cpu_s, map(int, children)))


def child_cpu_s(pid: int) -> float:
    """Return the same of a child; 0 if it has ended meanwhile, as Postgres' workers do at any time."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return cpu_s(pid)
    return 0.0


def peak_mb(pid: int) -> float:
    """Return the peak memory of a process in MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1000
    return 0.0
