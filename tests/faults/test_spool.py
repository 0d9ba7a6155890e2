"""Collectors with `durability = spool`: Kafka is away from the start, in the middle, and while they end."""

from __future__ import annotations

import json
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpx
import pytest

from tests.e2e.pipeline import Process, until
from tests.faults.faults import ready
from tests.faults.ledger import Count, count_when_stored
from tests.faults.load import Load
from tests.faults.system import System, running
from tests.ports import free_port

_SETTINGS = {
    "AUDITAP_COLLECTOR__DURABILITY": "spool",
    "AUDITAP_KAFKA__PUBLISH_DEADLINE_MS": "2000",
}
Balanced = Callable[[Load], Awaitable[None]]


@pytest.fixture(scope="module")
async def spooling_system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    async with running(System(tmp_path_factory.mktemp("spool"), _SETTINGS)) as system:
        yield system


@pytest.fixture
async def system(spooling_system: System) -> System:
    await ready(spooling_system)
    return spooling_system


@pytest.fixture
async def balanced(system: System, report: Callable[[Count], None]) -> Balanced:
    async def check(load: Load) -> None:
        """Everything accepted is a record, once."""
        found = await count_when_stored(system, load)
        report(found)
        assert found.balanced, found
        assert not found.dead_letters
        assert not load.refused

    return check


async def readiness(collector: Process) -> dict[str, object]:
    async with httpx.AsyncClient(timeout=120) as client:
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


async def loading_without_kafka(system: System, accepted: int) -> Load:
    """Return a load of which so many captures were accepted after Kafka ended."""
    load = await system.loading(100)
    await system.kafka.kill()
    await load.accepts(accepted)
    return load


async def started_without_being_ready(system: System) -> None:
    port = system.pipeline.collector_port
    system.pipeline.collector = collector = system.pipeline.process(
        "collect", AUDITAP_COLLECTOR__ADDRESS__PORT=str(port)
    )
    await collector.start(None)
    collector.port = port


async def drained(system: System, collector: Process) -> None:
    folder = system.pipeline.folder / "spool"

    async def nothing_left() -> bool:
        return "degraded" not in await readiness(collector) and len(list(folder.glob("*.spool"))) <= 1

    await until(nothing_left, 120, "an empty spool", collector.log)


async def test_a_kafka_killed_in_the_middle_keeps_no_sender_waiting(
    system: System, balanced: Balanced
) -> None:
    load = await loading_without_kafka(system, 1_000)
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
    load = await loading_without_kafka(system, 500)
    other = await started_beside(system, tmp_path)
    await system.collector.stop(signal.SIGKILL)
    await load.abandon()
    assert len(load.accepted) >= 600

    async def adopted() -> bool:
        return await other.metric("auditap_spool_files_adopted_total") == 1

    await until(adopted, 120, "adoption", other.log)
    await system.kafka.start()
    await balanced(load)
    await drained(system, other)
    assert await other.stop() == 0
    await system.pipeline.start_collector()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
async def test_a_collector_ended_while_kafka_is_down_goes_on_where_it_was(
    system: System, balanced: Balanced, how: signal.Signals
) -> None:
    load = await loading_without_kafka(system, 500)
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
    load = await system.loading(100)
    await system.kafka.kill()

    # A busy collector answers 503 as well, and stays ready.
    async def refused() -> bool:
        return load.answers["503"] > 3 and not (await readiness(system.collector))["ready"]

    await until(refused, 120, "a full spool", load.describe)
    await system.kafka.start()
    await load.finish()
    await balanced(load)
    await system.collector.stop()
    await system.pipeline.start_collector()


async def test_a_full_disk_refuses_batches_without_a_file_or_a_log_line_for_each(
    system: System, balanced: Balanced
) -> None:
    if not system.spool_disk.mounted:
        pytest.skip("this user may not mount small disks")
    await drained(system, system.collector)
    load = await system.loading(100)
    await system.kafka.kill()
    await load.accepts(100)
    # Its file is gone by the end, so that a full disk is asked for a new one.
    await system.collector.stop()
    system.spool_disk.fill()
    await started_without_being_ready(system)
    began_s, refused = time.monotonic(), load.answers["503"]
    load.rate_per_s = 1_000

    async def often_refused() -> bool:
        return load.answers["503"] > refused + 200

    await until(often_refused, 240, "refused batches", load.describe)
    took_s = time.monotonic() - began_s
    lines = Counter(json.loads(line)["event"] for line in system.collector.output().splitlines())
    assert lines["spool_not_opened"] > 0
    assert max(lines.values()) <= took_s + 2
    assert len(list((system.pipeline.folder / "spool").iterdir())) < 20
    system.spool_disk.empty()
    await load.accepts(100)
    await system.kafka.start()
    await load.finish()
    await balanced(load)
    await drained(system, system.collector)
