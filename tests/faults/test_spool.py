"""Collectors with `durability = spool`: Kafka is away from the start, in the middle, and while they end."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpx
import pytest

from tests.e2e.pipeline import Process, free_port, until
from tests.faults.faults import ready
from tests.faults.ledger import Count, settled
from tests.faults.load import Load
from tests.faults.system import System

_SETTINGS = {
    "AUDITAP_COLLECTOR__DURABILITY": "spool",
    "AUDITAP_COLLECTOR__SPOOL__ADOPT_INTERVAL_MS": "300",
    "AUDITAP_COLLECTOR__SPOOL__STOP_WAIT_MS": "1000",
    "AUDITAP_KAFKA__PUBLISH_DEADLINE_MS": "2000",
}
Balanced = Callable[[Load], Awaitable[None]]


@pytest.fixture(scope="module")
async def spooling_system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    system = System(tmp_path_factory.mktemp("spool"), _SETTINGS)
    try:
        await system.start()
        yield system
    finally:
        await system.stop()


@pytest.fixture
async def system(spooling_system: System) -> System:
    await ready(spooling_system)
    return spooling_system


@pytest.fixture
async def balanced(system: System, report: Callable[[Count], None]) -> Balanced:
    async def check(load: Load) -> None:
        """Everything accepted is a record, once."""
        found = await settled(system, load)
        report(found)
        assert found.balanced, found
        assert not found.dead_letters
        assert not load.refused

    return check


async def readiness(collector: Process) -> dict[str, object]:
    async with httpx.AsyncClient(timeout=30) as client:
        answer: dict[str, object] = (await client.get(f"http://127.0.0.1:{collector.port}/readyz")).json()
        return answer


async def started_beside(system: System, folder: Path) -> Process:
    """Start a second collector, which shares the spool's folder with the first."""
    port = free_port()
    other = system.pipeline.process(
        "collect",
        AUDITAP_COLLECTOR__ADDRESS__PORT=str(port),
        AUDITAP_COLLECTOR__SOCKET=str(folder / "other.sock"),
    )
    await other.start(port)
    return other


async def drained(system: System, collector: Process) -> None:
    folder = system.pipeline.folder / "spool"

    async def nothing_left() -> bool:
        return "degraded" not in await readiness(collector) and len(list(folder.glob("*.spool"))) <= 1

    await until(nothing_left, 60, "an empty spool", collector.log)


async def test_a_kafka_killed_in_the_middle_keeps_no_sender_waiting(
    system: System, balanced: Balanced
) -> None:
    load = system.load()
    await load.start()
    await load.accepts(200)
    await system.kafka.kill()
    await load.accepts(1_000)
    assert await readiness(system.collector) == {
        "ready": True,
        "parts": {"log": True},
        "degraded": ["spooling"],
    }
    assert await system.collector.metric("auditap_spool_events") > 0
    await system.kafka.start()
    await load.accepts(200)
    await load.finish()
    await drained(system, system.collector)

    await balanced(load)
    assert set(load.answers) == {"200"}


async def test_a_collector_killed_while_kafka_is_down_is_inherited_by_another(
    system: System, balanced: Balanced, tmp_path: Path
) -> None:
    load = system.load()
    await load.start()
    await load.accepts(100)
    await system.kafka.kill()
    await load.accepts(500)
    other = await started_beside(system, tmp_path)
    await system.collector.stop(signal.SIGKILL)
    await load.abandon()
    assert len(load.accepted) >= 600

    async def adopted() -> bool:
        return await other.metric("auditap_spool_adopted_total") == 1

    await until(adopted, 20, "adoption", other.log)
    await system.kafka.start()
    await balanced(load)
    await drained(system, other)
    assert await other.stop() == 0
    await system.pipeline.start_collector()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
async def test_a_collector_ended_while_kafka_is_down_goes_on_where_it_was(
    system: System, balanced: Balanced, how: signal.Signals
) -> None:
    load = system.load()
    await load.start()
    await load.accepts(100)
    await system.kafka.kill()
    await load.accepts(500)
    await system.collector.stop(how)
    # Without Kafka from its start on.
    await system.pipeline.start_collector()
    await load.accepts(500)
    await system.kafka.start()
    await load.finish()

    await balanced(load)
    await drained(system, system.collector)


async def test_a_full_spool_refuses_and_keeps_what_it_took(system: System, balanced: Balanced) -> None:
    await system.collector.stop()
    await system.pipeline.start_collector(AUDITAP_COLLECTOR__SPOOL__BYTES_MAX="500000")
    load = system.load()
    await load.start()
    await load.accepts(100)
    await system.kafka.kill()

    async def refused() -> bool:
        return load.answers["503"] > 3

    await until(refused, 60, "a full spool", load.describe)
    assert not (await readiness(system.collector))["ready"]
    await system.kafka.start()
    await load.finish()
    await balanced(load)
    await system.collector.stop()
    await system.pipeline.start_collector()
