"""One thing done to one part, and undone: each fault is in force for the length of a block."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum

import asyncpg

from auditap.database.connection import administrator
from tests.e2e.pipeline import Process, until
from tests.faults.small_disk import SmallDisk
from tests.faults.system import INGESTORS, System, processes_of, signal_all
from tests.freezing import freeze

Inflict = Callable[[System], AbstractAsyncContextManager[None]]
Act = Callable[[System], Awaitable[object]]


def frozen(pid_of: Callable[[System], int | None]) -> Inflict:
    """Stop a process and all that descend from it, and let them go on."""

    @asynccontextmanager
    async def inflict(system: System) -> AsyncIterator[None]:
        pid = pid_of(system)
        assert pid is not None
        try:
            _freeze_all(pid)
            yield
        finally:
            signal_all(pid, signal.SIGCONT)

    return inflict


def _freeze_all(pid: int) -> None:
    """Freeze a process and all that descend from it, those included that it starts meanwhile."""
    frozen_so_far: set[int] = set()
    while waiting := [each for each in processes_of(pid) if each not in frozen_so_far]:
        for each in waiting:
            with contextlib.suppress(ProcessLookupError):
                freeze(each)
        frozen_so_far.update(waiting)


def away(end: Act, start: Act) -> Inflict:
    """End a part, and start it again."""

    @asynccontextmanager
    async def inflict(system: System) -> AsyncIterator[None]:
        await end(system)
        yield
        await start(system)

    return inflict


def disk_full(disk_of: Callable[[System], SmallDisk], restart: Act) -> Inflict:
    """Fill a server's disk, then empty it and start the server again, which has ended or is about to."""

    @asynccontextmanager
    async def inflict(system: System) -> AsyncIterator[None]:
        disk_of(system).fill()
        yield
        disk_of(system).empty()
        await restart(system)

    return inflict


def lasting_until(inflict: Inflict, condition: Callable[[], Awaitable[bool]], what: str) -> Inflict:
    """The same fault, in force at least until the condition holds."""

    @asynccontextmanager
    async def lasting(system: System) -> AsyncIterator[None]:
        async with inflict(system):
            yield
            await until(condition, 120, what)

    return lasting


async def _terminate(process: Process) -> None:
    assert await process.stop() == 0


async def _start_collector(system: System) -> None:
    await system.pipeline.start_collector()


async def _start_ingestor(system: System) -> None:
    await system.pipeline.start_ingestor()


async def _terminate_last_ingestor(system: System) -> None:
    await _terminate(system.ingestors.pop())


async def _kill_all_ingestors(system: System) -> None:
    while system.ingestors:
        await system.end_ingestor(0, signal.SIGKILL)


async def _start_all_ingestors(system: System) -> None:
    while len(system.ingestors) < INGESTORS:
        await system.pipeline.start_ingestor()


async def _kill_postgres(system: System) -> None:
    assert system.postgres.pid is not None
    signal_all(system.postgres.pid, signal.SIGKILL)


async def _restart_kafka(system: System) -> None:
    await system.kafka.kill()
    await system.kafka.start()


async def _restart_postgres(system: System) -> None:
    await system.postgres.stop()
    await system.postgres.start()


collector_killed = away(lambda system: system.collector.stop(signal.SIGKILL), _start_collector)
collector_terminated = away(lambda system: _terminate(system.collector), _start_collector)
collector_frozen = frozen(lambda system: system.collector.pid)

ingestor_killed = away(lambda system: system.end_ingestor(0, signal.SIGKILL), _start_ingestor)
ingestor_terminated = away(lambda system: _terminate(system.ingestors.pop(0)), _start_ingestor)
ingestor_frozen = frozen(lambda system: system.ingestors[0].pid)
"""Long enough, the group gives its partitions to others, and it wakes up in the belief that they are its own."""
all_ingestors_killed = away(_kill_all_ingestors, _start_all_ingestors)
more_ingestors = away(_start_ingestor, _terminate_last_ingestor)
"""One more joins, and one shuts down cleanly at the end."""

api_killed = away(lambda system: system.api.stop(signal.SIGKILL), lambda system: system.pipeline.start_api())

kafka_frozen = frozen(lambda system: system.kafka.pid)
kafka_disk_full = disk_full(lambda system: system.kafka_disk, _restart_kafka)
"""The broker gives up a log folder that it cannot write, and with its only one itself."""
kafka_killed = away(lambda system: system.kafka.kill(), lambda system: system.kafka.start())


@asynccontextmanager
async def spool_disk_full(system: System) -> AsyncIterator[None]:
    """Nothing ends: a collector that must write to its spool refuses batches."""
    system.spool_disk.fill()
    yield
    system.spool_disk.empty()


postgres_disk_full = disk_full(lambda system: system.postgres_disk, _restart_postgres)
postgres_frozen = frozen(lambda system: system.postgres.pid)
postgres_killed = away(_kill_postgres, _restart_postgres)
postgres_stopped = away(lambda system: system.postgres.stop(), lambda system: system.postgres.start())


@asynccontextmanager
async def kafka_and_collector_killed(system: System) -> AsyncIterator[None]:
    """The collector ends while Kafka is away, with whatever it has accepted by then."""
    async with kafka_killed(system):
        yield
        await system.collector.stop(signal.SIGKILL)
    await system.pipeline.start_collector()


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
    try:
        yield
    finally:
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


def trigger(when: str, body: str) -> Inflict:
    """A trigger of this PL/pgSQL before insertion into the table of records; the body may draw from a sequence."""

    @asynccontextmanager
    async def inflict(system: System) -> AsyncIterator[None]:
        async with administrator(system.postgres.dsn()) as admin:
            await admin.execute(
                "CREATE SEQUENCE public.faults_turns; GRANT USAGE ON SEQUENCE public.faults_turns TO PUBLIC;"
                f"CREATE FUNCTION public.faults_trigger() RETURNS trigger LANGUAGE plpgsql AS $${body}$$;"
                f"CREATE TRIGGER faults BEFORE INSERT ON auditap.audit_records FOR EACH {when}"
                " EXECUTE FUNCTION public.faults_trigger()"
            )
        yield
        await _drop_trigger(system)

    return inflict


async def _drop_trigger(system: System) -> None:
    async with administrator(system.postgres.dsn()) as admin, admin.transaction():
        # Before the partitions, as everybody locks them: dropping a trigger would lock them first, and be the victim of a deadlock.
        await admin.execute("LOCK TABLE auditap.audit_records IN ACCESS EXCLUSIVE MODE")
        await admin.execute(
            "DROP FUNCTION IF EXISTS public.faults_trigger() CASCADE; DROP SEQUENCE IF EXISTS public.faults_turns"
        )


postgres_conflicts = trigger(
    "STATEMENT",
    " DECLARE turn bigint := nextval('public.faults_turns'); BEGIN"
    " IF turn % 3 = 0 THEN RAISE EXCEPTION 'deadlock detected' USING ERRCODE = '40P01';"
    " ELSIF turn % 3 = 1 THEN RAISE EXCEPTION 'could not serialize' USING ERRCODE = '40001'; END IF;"
    " RETURN NULL; END ",
)
"""Every third batch is the victim of a deadlock, every third of a serialization failure."""
rows_refused = trigger(
    "ROW",
    " BEGIN IF NEW.tap_seq % 7 = 0 THEN RAISE EXCEPTION 'bad' USING ERRCODE = '22P02'; END IF; RETURN NEW; END ",
)
"""Every seventh row is one that the database refuses."""


@asynccontextmanager
async def postgres_locked(system: System) -> AsyncIterator[None]:
    """Somebody holds a lock on the table: what is staged by COPY waits to be inserted."""
    async with administrator(system.postgres.dsn()) as admin, admin.transaction():
        await admin.execute("LOCK TABLE auditap.audit_records IN SHARE ROW EXCLUSIVE MODE")
        yield


@asynccontextmanager
async def revoked_in_the_middle(system: System) -> AsyncIterator[None]:
    """Partitions are revoked while their batches wait inside the database."""
    async with postgres_locked(system):
        await _batches_in_flight(system)
        await system.pipeline.start_ingestor()
        yield
    await _terminate_last_ingestor(system)


@asynccontextmanager
async def ingestors_killed_in_the_middle(system: System) -> AsyncIterator[None]:
    """They end with batches in their hands that no transaction has stored."""
    async with postgres_locked(system):
        await _batches_in_flight(system)
        await _kill_all_ingestors(system)
    yield
    await _start_all_ingestors(system)


async def _batches_in_flight(system: System) -> None:
    async def in_flight() -> bool:
        return all([await each.metric("auditap_batches_in_flight") > 0 for each in system.ingestors])

    await until(in_flight, 120, "a batch in every ingestor's hands")


def enrichment(mode: str) -> Inflict:
    @asynccontextmanager
    async def inflict(system: System) -> AsyncIterator[None]:
        system.directory.mode = mode
        yield
        system.directory.mode = "well"

    return inflict


class Part(StrEnum):
    """What a fault hurts; two faults that hurt one part do not overlap."""

    TAP = "tap"
    COLLECTOR = "collector"
    SPOOL = "spool"
    KAFKA = "Kafka"
    INGESTORS = "ingestors"
    POSTGRES = "Postgres"
    API = "log API"
    ENRICHMENT = "enrichment"


LOG_TO_STORE = frozenset({Part.COLLECTOR, Part.KAFKA, Part.INGESTORS, Part.POSTGRES})
"""Parts of a fault that waits until events are under way between them."""
# Without these a process is not ready.
_NEEDED = {
    Part.COLLECTOR: {Part.KAFKA, Part.SPOOL},
    Part.INGESTORS: {Part.KAFKA, Part.POSTGRES},
    Part.API: {Part.POSTGRES},
}


@dataclass(frozen=True)
class Fault:
    """A fault of the random sequence, which parts it hurts, and between how many seconds it lasts."""

    name: str
    inflict: Inflict
    parts: frozenset[Part]
    seconds_min: float
    seconds_max: float
    disk_of: Callable[[System], SmallDisk] | None = None
    """The disk that it fills."""


def _fault(
    part: Part | frozenset[Part],
    name: str,
    inflict: Inflict,
    lasting_s: tuple[float, float],
    disk_of: Callable[[System], SmallDisk] | None = None,
) -> Fault:
    parts = part if isinstance(part, frozenset) else frozenset({part})
    return Fault(name, inflict, parts, *lasting_s, disk_of)


FAULTS = (
    _fault(Part.COLLECTOR, "collector killed", collector_killed, (0, 10)),
    _fault(Part.COLLECTOR, "collector terminated", collector_terminated, (0, 5)),
    _fault(Part.COLLECTOR, "collector frozen", collector_frozen, (1, 15)),
    _fault(Part.INGESTORS, "an ingestor killed", ingestor_killed, (0, 15)),
    _fault(Part.INGESTORS, "an ingestor terminated", ingestor_terminated, (0, 10)),
    _fault(Part.INGESTORS, "an ingestor frozen", ingestor_frozen, (1, 20)),
    _fault(Part.INGESTORS, "all ingestors killed", all_ingestors_killed, (0, 15)),
    _fault(Part.INGESTORS, "one more ingestor", more_ingestors, (3, 15)),
    _fault(Part.API, "log API killed", api_killed, (0, 5)),
    _fault(Part.KAFKA, "Kafka frozen", kafka_frozen, (1, 15)),
    _fault(Part.KAFKA, "Kafka killed", kafka_killed, (0, 15)),
    _fault(
        frozenset({Part.KAFKA, Part.COLLECTOR}),
        "Kafka killed, then the collector",
        kafka_and_collector_killed,
        (1, 10),
    ),
    _fault(Part.KAFKA, "Kafka's disk full", kafka_disk_full, (2, 15), lambda system: system.kafka_disk),
    _fault(Part.SPOOL, "the spool's disk full", spool_disk_full, (5, 15), lambda system: system.spool_disk),
    _fault(Part.POSTGRES, "Postgres killed", postgres_killed, (0, 10)),
    _fault(Part.POSTGRES, "Postgres stopped", postgres_stopped, (5, 20)),
    _fault(Part.POSTGRES, "Postgres frozen", postgres_frozen, (1, 15)),
    _fault(Part.POSTGRES, "Postgres behind a silent network", postgres_silent, (1, 15)),
    _fault(Part.POSTGRES, "connections to Postgres cut", postgres_connections_cut, (2, 15)),
    _fault(Part.POSTGRES, "Postgres out of connections", postgres_out_of_connections, (2, 15)),
    _fault(
        Part.POSTGRES, "Postgres' disk full", postgres_disk_full, (2, 15), lambda system: system.postgres_disk
    ),
    _fault(Part.POSTGRES, "deadlocks and serialization failures", postgres_conflicts, (2, 15)),
    _fault(Part.POSTGRES, "the table locked", postgres_locked, (2, 15)),
    _fault(LOG_TO_STORE, "partitions revoked in the middle of a batch", revoked_in_the_middle, (1, 15)),
    _fault(
        LOG_TO_STORE, "ingestors killed in the middle of a batch", ingestors_killed_in_the_middle, (0, 10)
    ),
    _fault(Part.ENRICHMENT, "enrichment hung", enrichment("hung"), (2, 15)),
    _fault(Part.ENRICHMENT, "enrichment failing", enrichment("failing"), (2, 15)),
    _fault(Part.ENRICHMENT, "enrichment slow", enrichment("slow"), (2, 15)),
    _fault(Part.ENRICHMENT, "enrichment lying", enrichment("lying"), (2, 15)),
)


BY_NAME = {fault.name: fault.inflict for fault in FAULTS}


def part_of(name: str) -> Part:
    """Return the part that a process of `System.processes` belongs to."""
    return Part.INGESTORS if name.startswith("ingestor") else Part(name)


async def ready(
    system: System,
    within_s: float = 120,
    parts: Collection[Part] = frozenset(Part),
    hurt: Callable[[], Collection[Part]] = frozenset,
) -> None:
    """Wait until every process of these parts says that it is ready, but for those that a fault hurts, or what they need."""

    async def all_ready() -> bool:
        for name, process in system.processes.items():
            part = part_of(name)
            if part not in parts:
                continue
            away = not process.runs or not await process.ready()
            if away and not {part, *_NEEDED[part]} & set(hurt()):
                return False
        return True

    await until(all_ready, within_s, "every process ready", lambda: _last_lines(system))


def _last_lines(system: System) -> str:
    return "\n".join(f"{name}: {_last_line(process)}" for name, process in system.processes.items())


def _last_line(process: Process) -> str:
    return (process.log().splitlines() or ["nothing logged"])[-1][:3000]


async def revived(system: System, parts: Collection[Part] = frozenset(Part)) -> list[str]:
    """Start again what ended without a signal, as a supervisor would; return what that was, and why."""
    ended = []
    for name, process in list(system.processes.items()):
        if process.ended and part_of(name) in parts:
            ended.append(f"{name}: {_last_line(process)}")
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
    for disk in system.disks:
        if disk.mounted:
            disk.empty()
    for load in system.loads:
        load.resume()
    for process in system.processes.values():
        signal_all(process.pid, signal.SIGCONT)
    await _restart_kafka(system)
    await _restart_postgres(system)
    await _drop_trigger(system)
    await revived(system)
    await _start_all_ingestors(system)
    while len(system.ingestors) > INGESTORS:
        await system.end_ingestor(-1, signal.SIGTERM)
