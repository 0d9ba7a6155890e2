"""One thing done to one part, and undone: each fault is in force for the length of a block."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

import asyncpg

from auditap.database import administrator
from tests.e2e.pipeline import until
from tests.faults.system import INGESTORS, System, signal_all

Inflict = Callable[[System], AbstractAsyncContextManager[None]]


@asynccontextmanager
async def collector_killed(system: System) -> AsyncIterator[None]:
    await system.collector.stop(signal.SIGKILL)
    yield
    await system.pipeline.start_collector()


@asynccontextmanager
async def collector_terminated(system: System) -> AsyncIterator[None]:
    assert await system.collector.stop() == 0
    yield
    await system.pipeline.start_collector()


@asynccontextmanager
async def collector_frozen(system: System) -> AsyncIterator[None]:
    signal_all(system.collector.pid, signal.SIGSTOP)
    yield
    signal_all(system.collector.pid, signal.SIGCONT)


@asynccontextmanager
async def ingestor_killed(system: System) -> AsyncIterator[None]:
    await system.end_ingestor(0, signal.SIGKILL)
    yield
    await system.pipeline.start_ingestor()


@asynccontextmanager
async def ingestor_terminated(system: System) -> AsyncIterator[None]:
    assert await system.end_ingestor(0, signal.SIGTERM) == 0
    yield
    await system.pipeline.start_ingestor()


@asynccontextmanager
async def ingestor_frozen(system: System) -> AsyncIterator[None]:
    """Long enough, the group gives its partitions to others, and it wakes up in the belief that they are its own."""
    frozen = system.ingestors[0].pid
    signal_all(frozen, signal.SIGSTOP)
    yield
    signal_all(frozen, signal.SIGCONT)


@asynccontextmanager
async def all_ingestors_killed(system: System) -> AsyncIterator[None]:
    count = len(system.ingestors)
    for _ in range(count):
        await system.end_ingestor(0, signal.SIGKILL)
    yield
    for _ in range(count):
        await system.pipeline.start_ingestor()


@asynccontextmanager
async def more_ingestors(system: System) -> AsyncIterator[None]:
    """One more comes, and one leaves in good order at the end."""
    await system.pipeline.start_ingestor()
    yield
    assert await system.end_ingestor(-1, signal.SIGTERM) == 0


@asynccontextmanager
async def api_killed(system: System) -> AsyncIterator[None]:
    await system.api.stop(signal.SIGKILL)
    yield
    await system.pipeline.start_api()


@asynccontextmanager
async def kafka_frozen(system: System) -> AsyncIterator[None]:
    assert system.kafka.pid is not None
    signal_all(system.kafka.pid, signal.SIGSTOP)
    yield
    signal_all(system.kafka.pid, signal.SIGCONT)


@asynccontextmanager
async def kafka_killed(system: System) -> AsyncIterator[None]:
    await system.kafka.kill()
    yield
    await system.kafka.start()


@asynccontextmanager
async def kafka_and_collector_killed(system: System) -> AsyncIterator[None]:
    """The collector ends while Kafka is away, with whatever it has accepted by then."""
    await system.kafka.kill()
    yield
    await system.collector.stop(signal.SIGKILL)
    await system.kafka.start()
    await system.pipeline.start_collector()


@asynccontextmanager
async def kafka_disk_full(system: System) -> AsyncIterator[None]:
    """The broker gives up a log folder that it cannot write, and with its only one itself; it is started again."""
    system.kafka_disk.fill()
    yield
    system.kafka_disk.empty()
    await system.kafka.kill()
    await system.kafka.start()


@asynccontextmanager
async def postgres_killed(system: System) -> AsyncIterator[None]:
    assert system.postgres.pid is not None
    signal_all(system.postgres.pid, signal.SIGKILL)
    yield
    await system.postgres.stop()
    await system.postgres.start()


@asynccontextmanager
async def postgres_stopped(system: System) -> AsyncIterator[None]:
    await system.postgres.stop()
    yield
    await system.postgres.start()


@asynccontextmanager
async def postgres_frozen(system: System) -> AsyncIterator[None]:
    assert system.postgres.pid is not None
    signal_all(system.postgres.pid, signal.SIGSTOP)
    yield
    signal_all(system.postgres.pid, signal.SIGCONT)


@asynccontextmanager
async def postgres_silent(system: System) -> AsyncIterator[None]:
    """The network takes everything and delivers nothing."""
    system.proxy.silent = True
    yield
    system.proxy.silent = False


@asynccontextmanager
async def postgres_connections_cut(system: System) -> AsyncIterator[None]:
    """Every connection ends in the middle of what it sends, again and again."""
    drawn = random.Random(system.proxy.port)

    async def cut() -> None:
        while True:
            system.proxy.cut_after_bytes = drawn.randrange(20_000, 200_000)
            await asyncio.sleep(0.3)

    cutting = asyncio.create_task(cut(), name="proxy-cutting")
    yield
    cutting.cancel()
    await asyncio.wait({cutting})
    system.proxy.cut_after_bytes = None
    system.proxy.cut()


@asynccontextmanager
async def postgres_out_of_connections(system: System) -> AsyncIterator[None]:
    """Others take every connection there is, and those that were ours are ended."""
    async with contextlib.AsyncExitStack() as taken:
        admin = await taken.enter_async_context(administrator(system.postgres.dsn()))
        filling = asyncio.create_task(_take_connections(system, admin, taken), name="proxy-taking")
        try:
            yield
        finally:
            filling.cancel()
            await asyncio.wait({filling})


async def _take_connections(
    system: System, admin: asyncpg.Connection, taken: contextlib.AsyncExitStack
) -> None:
    """Keep taking what comes free."""
    while True:
        await admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename LIKE 'auditap_%'"
        )
        with contextlib.suppress(asyncpg.TooManyConnectionsError):
            while True:
                taker = await asyncpg.connect(system.postgres.dsn())
                taken.push_async_callback(taker.close)
        await asyncio.sleep(0.2)


@asynccontextmanager
async def postgres_disk_full(system: System) -> AsyncIterator[None]:
    system.postgres_disk.fill()
    yield
    system.postgres_disk.empty()
    # A server that could not write its log has ended, or is about to.
    await system.postgres.stop()
    await system.postgres.start()


@asynccontextmanager
async def postgres_conflicts(system: System) -> AsyncIterator[None]:
    """Every third batch is the victim of a deadlock or of a serialization failure."""
    async with administrator(system.postgres.dsn()) as admin:
        await admin.execute(
            "CREATE SEQUENCE public.faults_turns; GRANT USAGE ON SEQUENCE public.faults_turns TO PUBLIC;"
            "CREATE FUNCTION public.faults_conflict() RETURNS trigger LANGUAGE plpgsql AS $$"
            " DECLARE turn bigint := nextval('public.faults_turns'); BEGIN"
            " IF turn % 3 = 0 THEN RAISE EXCEPTION 'deadlock detected' USING ERRCODE = '40P01';"
            " ELSIF turn % 3 = 1 THEN RAISE EXCEPTION 'could not serialize' USING ERRCODE = '40001'; END IF;"
            " RETURN NULL; END $$;"
            "CREATE TRIGGER faults_conflict BEFORE INSERT ON auditap.audit_records"
            " FOR EACH STATEMENT EXECUTE FUNCTION public.faults_conflict()"
        )
    yield
    async with administrator(system.postgres.dsn()) as admin:
        await admin.execute(
            "DROP FUNCTION public.faults_conflict() CASCADE; DROP SEQUENCE public.faults_turns"
        )


@asynccontextmanager
async def postgres_locked(system: System) -> AsyncIterator[None]:
    """Somebody holds a lock on the table: what is staged by COPY waits to be inserted."""
    async with administrator(system.postgres.dsn()) as admin, admin.transaction():
        await admin.execute("LOCK TABLE auditap.audit_records IN SHARE ROW EXCLUSIVE MODE")
        yield


@asynccontextmanager
async def revoked_in_the_middle(system: System) -> AsyncIterator[None]:
    """Partitions are taken away while their batches wait inside the database."""
    async with postgres_locked(system):
        await asyncio.sleep(0.5)
        await system.pipeline.start_ingestor()
        yield
    assert await system.end_ingestor(-1, signal.SIGTERM) == 0


@asynccontextmanager
async def ingestors_killed_in_the_middle(system: System) -> AsyncIterator[None]:
    """They end with batches in their hands that no transaction has stored."""
    count = len(system.ingestors)
    async with postgres_locked(system):
        await asyncio.sleep(1.5)
        for _ in range(count):
            await system.end_ingestor(0, signal.SIGKILL)
    yield
    for _ in range(count):
        await system.pipeline.start_ingestor()


def enrichment(mode: str) -> Inflict:
    @asynccontextmanager
    async def inflict(system: System) -> AsyncIterator[None]:
        system.directory.mode = mode
        yield
        system.directory.mode = "well"

    return inflict


@dataclass(frozen=True)
class Fault:
    """A fault of the random sequence, and between how many seconds it lasts."""

    name: str
    inflict: Inflict
    seconds_min: float
    seconds_max: float
    needs_disk: bool = False


FAULTS = (
    Fault("collector killed", collector_killed, 0, 10),
    Fault("collector terminated", collector_terminated, 0, 5),
    Fault("collector frozen", collector_frozen, 1, 15),
    Fault("an ingestor killed", ingestor_killed, 0, 20),
    Fault("an ingestor terminated", ingestor_terminated, 0, 10),
    Fault("an ingestor frozen", ingestor_frozen, 1, 25),
    Fault("all ingestors killed", all_ingestors_killed, 0, 20),
    Fault("one more ingestor", more_ingestors, 3, 15),
    Fault("log API killed", api_killed, 0, 5),
    Fault("Kafka frozen", kafka_frozen, 1, 20),
    Fault("Kafka killed", kafka_killed, 0, 15),
    Fault("Kafka killed, then the collector", kafka_and_collector_killed, 1, 10),
    Fault("Kafka's disk full", kafka_disk_full, 2, 15, needs_disk=True),
    Fault("Postgres killed", postgres_killed, 0, 10),
    Fault("Postgres stopped", postgres_stopped, 5, 60),
    Fault("Postgres frozen", postgres_frozen, 1, 20),
    Fault("Postgres behind a silent network", postgres_silent, 1, 20),
    Fault("connections to Postgres cut", postgres_connections_cut, 2, 15),
    Fault("Postgres out of connections", postgres_out_of_connections, 2, 15),
    Fault("Postgres' disk full", postgres_disk_full, 2, 15, needs_disk=True),
    Fault("deadlocks and serialization failures", postgres_conflicts, 2, 15),
    Fault("the table locked", postgres_locked, 2, 20),
    Fault("partitions taken away in the middle of a batch", revoked_in_the_middle, 1, 15),
    Fault("ingestors killed in the middle of a batch", ingestors_killed_in_the_middle, 0, 10),
    Fault("enrichment hung", enrichment("hung"), 2, 15),
    Fault("enrichment failing", enrichment("failing"), 2, 15),
    Fault("enrichment slow", enrichment("slow"), 2, 15),
    Fault("enrichment lying", enrichment("lying"), 2, 15),
)


async def ready(system: System, within_s: float = 60) -> None:
    """Wait until every process says that it is ready."""
    for name, process in system.processes.items():
        await until(process.ready, within_s, f"{name} ready", process.log)


async def revived(system: System) -> list[str]:
    """Start again what ended without being told to, as a supervisor would; return what that was, and why."""
    ended = []
    for name, process in list(system.processes.items()):
        if process.ended:
            ended.append(f"{name}: {(process.log().splitlines() or ['no word'])[-1][:500]}")
            if process is system.collector:
                await system.pipeline.start_collector()
            elif process is system.api:
                await system.pipeline.start_api()
            else:
                system.ingestors.remove(process)
                await system.pipeline.start_ingestor()
    return ended


async def healed(system: System) -> None:
    """Take back whatever is in force, where a fault could not do so itself."""
    system.directory.mode = "well"
    system.proxy.silent, system.proxy.cut_after_bytes = False, None
    for disk in (system.kafka_disk, system.postgres_disk):
        if disk.mounted:
            disk.empty()
    for process in system.processes.values():
        signal_all(process.pid, signal.SIGCONT)
    await system.kafka.kill()
    await system.postgres.stop()
    await system.kafka.start()
    await system.postgres.start()
    async with administrator(system.postgres.dsn()) as admin:
        await admin.execute(
            "DROP FUNCTION IF EXISTS public.faults_conflict() CASCADE; DROP SEQUENCE IF EXISTS public.faults_turns"
        )
    await revived(system)
    while len(system.ingestors) < INGESTORS:
        await system.pipeline.start_ingestor()
    while len(system.ingestors) > INGESTORS:
        await system.end_ingestor(-1, signal.SIGTERM)
