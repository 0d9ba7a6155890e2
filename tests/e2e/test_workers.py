"""A collector of two workers, as its users start it, on a real Kafka."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpx
import msgspec
import pytest
from aiokafka import AIOKafkaConsumer

from tests.audit_database import AuditDatabase
from tests.e2e.golden import DOCUMENT
from tests.e2e.pipeline import Pipeline, Process, until
from tests.faults.load import Load
from tests.freezing import freeze
from tests.kafka_broker import KafkaBroker

pytestmark = pytest.mark.kafka

WITHIN_S = 60
RECEIVERS = """
[[collector.receivers]]
format = "haproxy"
socket = "{folder}/one/receiver.sock"
tap_id = "one"
[[collector.receivers]]
format = "haproxy"
socket = "{folder}/two/receiver.sock"
tap_id = "two"
"""
Start = Callable[..., Awaitable[Pipeline]]


class _Tap(msgspec.Struct):
    seq: int | None = None


class _Event(msgspec.Struct):
    tap: _Tap | None = None


@pytest.fixture
async def load(tmp_path: Path) -> AsyncIterator[Load]:
    """A load for the collector, not yet started."""
    offered = Load(tmp_path / "collector.sock", tap="t", rate_per_s=500, batch=20, senders=7)
    yield offered
    await offered.abandon()


@pytest.fixture
async def start(tmp_path: Path, topic_prefix: str) -> AsyncIterator[Start]:
    """Start a collector of two workers: `await start(bootstrap)`. Nothing else runs of the pipeline."""
    started: list[Pipeline] = []

    async def two_workers(bootstrap: str, document: Path = DOCUMENT, **environment: str) -> Pipeline:
        pipeline = Pipeline(
            tmp_path,
            AuditDatabase(*["postgresql://nobody@127.0.0.1/none"] * 4),
            bootstrap=bootstrap,
            topic=topic_prefix,
            documents=f'[redaction]\ndocuments = [{{path = "{document}", envelope = "result"}}]',
            extra=RECEIVERS.format(folder=tmp_path),
            other_constants={"collector": {"reload_interval_ms": 100, "spool": {"adopt_interval_ms": 300}}},
        )
        started.append(pipeline)
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
        await pipeline.run_command("topics")
        await pipeline.start_collector(AUDITAP_COLLECTOR__WORKERS="2", **environment)
        return pipeline

    yield two_workers
    for pipeline in started:
        await pipeline.stop()


def collector_of(pipeline: Pipeline) -> Process:
    assert pipeline.collector is not None
    return pipeline.collector


def workers_of(pipeline: Pipeline) -> list[int]:
    pid = collector_of(pipeline).pid
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def ends_of(pid: int, folder: Path) -> int:
    """Return how many ends of the one Unix socket in a folder a process has: where it listens, and accepted connections.

    The kernel knows the socket by the name that it had before it was moved to its path.
    """
    lines = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()]
    inodes = {f"socket:[{fields[6]}]" for fields in lines if fields[-1].startswith(f"{folder}/.")}
    found = 0
    for each in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found += str(each.readlink()) in inodes
        except FileNotFoundError:
            continue
    return found


def tcp_ends_of(pid: int, port: int) -> int:
    """Return how many ends at a TCP port a process has: where it listens, and accepted connections."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
    inodes = {f"socket:[{fields[9]}]" for fields in lines if fields[1].endswith(f":{port:04X}")}
    return sum(str(each.readlink()) in inodes for each in Path(f"/proc/{pid}/fd").iterdir())


async def logged(pipeline: Pipeline, bootstrap: str) -> Counter[int]:
    """Return how often each sequence number is in the log."""
    consumer = AIOKafkaConsumer(
        f"{pipeline.topic}events", bootstrap_servers=bootstrap, auto_offset_reset="earliest"
    )
    await consumer.start()
    found: Counter[int] = Counter()
    try:
        ends = await consumer.end_offsets(consumer.assignment())
        while any([await consumer.position(partition) < end for partition, end in ends.items()]):
            for batch in (await consumer.getmany(timeout_ms=200)).values():
                events = [msgspec.json.decode(each.value, type=_Event) for each in batch]
                found.update(each.tap.seq for each in events if each.tap and each.tap.seq)
    finally:
        await consumer.stop()
    return found


async def status_of(pipeline: Pipeline) -> dict[str, object]:
    async with httpx.AsyncClient(timeout=WITHIN_S) as client:
        answer = await client.get(f"http://127.0.0.1:{pipeline.collector_port}/readyz")
    found: dict[str, object] = answer.json()
    assert (answer.status_code == 200) == found["ready"]
    return found


async def until_ready(pipeline: Pipeline) -> None:
    await until(collector_of(pipeline).ready, WITHIN_S, "ready", collector_of(pipeline).log)


def runs(pid: int) -> bool:
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


async def test_both_take_connections_and_each_capture_is_in_the_log_once(
    start: Start, load: Load, kafka_bootstrap: str, tmp_path: Path
) -> None:
    pipeline = await start(kafka_bootstrap)
    collector, workers = collector_of(pipeline), workers_of(pipeline)
    await load.start()
    await load.accepts(200)

    async def even() -> bool:
        # Of the ten connections, with those of the receivers; and it listens.
        return [ends_of(pid, tmp_path) for pid in workers] == [6, 6]

    await until(even, WITHIN_S, "as many connections at both", collector.log)
    assert [[ends_of(pid, tmp_path / name) for pid in workers] for name in ("one", "two")] in (
        [[1, 0], [0, 1]],
        [[0, 1], [1, 0]],
    )
    await load.pause()
    assert await collector.metric("auditap_captures_accepted_total") == len(load.accepted)
    assert await collector.metric("auditap_collector_workers") == 2
    assert await status_of(pipeline) == {"ready": True, "parts": {"workers": True, "log": True}}

    load.resume()
    await load.accepts(200)
    assert await collector.stop() == 0
    await load.abandon()
    found = await logged(pipeline, kafka_bootstrap)
    assert load.accepted <= set(found)
    assert set(found.values()) == {1}
    assert not any(map(runs, workers))
    assert not pipeline.socket.exists()
    assert "uncaught" not in collector.output()
    lines = map(json.loads, collector.output().splitlines())
    assert {each["worker"] for each in lines if each["event"] == "stopped"} == {1, 2}


async def test_connections_over_tcp_do_not_decide_who_takes_those_of_taps(
    start: Start, kafka_bootstrap: str, tmp_path: Path
) -> None:
    """Anybody who reaches the port may open some, and close those that the one worker has accepted."""
    pipeline = await start(kafka_bootstrap)
    collector, workers = collector_of(pipeline), workers_of(pipeline)

    async def accepted() -> bool:
        return sum(counts()) == listening + 20

    def counts() -> list[int]:
        return [tcp_ends_of(pid, pipeline.collector_port) for pid in workers]

    os.kill(workers[1], signal.SIGSTOP)
    listening = sum(counts())
    try:
        opened = [await asyncio.open_connection("127.0.0.1", pipeline.collector_port) for _ in range(20)]
        await until(accepted, WITHIN_S, "all at the first worker", collector.log)
    finally:
        os.kill(workers[1], signal.SIGCONT)
    taps = [await asyncio.open_unix_connection(str(pipeline.socket)) for _ in range(10)]

    for reader, writer in taps:
        writer.write(b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    # Where it listens, and two at least of the ten.
    assert all(ends_of(pid, tmp_path) >= 3 for pid in workers)
    for _, writer in (*opened, *taps):
        writer.close()


async def test_a_worker_killed_while_it_spools_loses_nothing_and_comes_back(
    start: Start, load: Load, own_kafka: KafkaBroker
) -> None:
    pipeline = await start(
        own_kafka.bootstrap,
        AUDITAP_COLLECTOR__DURABILITY="spool",
        AUDITAP_KAFKA__PUBLISH_DEADLINE_MS="1000",
    )
    collector = collector_of(pipeline)
    await load.start()
    await load.accepts(200)
    await own_kafka.kill()

    async def both_spool() -> bool:
        return (
            await collector.metric("auditap_spool_events") > 0
            and len(list((pipeline.folder / "spool").glob("*.spool"))) == 2
        )

    await until(both_spool, WITHIN_S, "a spool of each", collector.log)
    await load.accepts(1_000)
    os.kill(workers_of(pipeline)[0], signal.SIGKILL)
    counted = await collector.metric("auditap_captures_accepted_total")
    await load.accepts(500)
    await until_ready(pipeline)
    assert await collector.metric("auditap_captures_accepted_total") > counted
    assert await collector.metric("auditap_collector_workers_restarted_total") == 1
    assert await collector.metric("auditap_collector_workers") == 2

    await own_kafka.start()
    await load.finish()

    async def drained() -> bool:
        return "degraded" not in await status_of(pipeline)

    await until(drained, WITHIN_S, "empty spools", collector.log)
    assert await collector.metric("auditap_spool_files_adopted_total") >= 1
    assert load.accepted == set(await logged(pipeline, own_kafka.bootstrap))


async def test_what_a_worker_that_stands_still_makes_of_the_health_of_all(
    start: Start, kafka_bootstrap: str
) -> None:
    pipeline = await start(kafka_bootstrap)
    frozen = workers_of(pipeline)[0]
    assert await collector_of(pipeline).metric("auditap_collector_workers") == 2
    try:
        freeze(frozen)
        assert await status_of(pipeline) == {"ready": False, "parts": {"workers": False, "log": True}}
        # As it last said.
        assert await collector_of(pipeline).metric("auditap_collector_workers") == 2
    finally:
        os.kill(frozen, signal.SIGCONT)
    await until_ready(pipeline)


async def test_without_their_parent_workers_end_and_the_next_collector_takes_over(
    start: Start, kafka_bootstrap: str
) -> None:
    pipeline = await start(kafka_bootstrap)
    workers = workers_of(pipeline)
    await collector_of(pipeline).stop(signal.SIGKILL)

    async def gone() -> bool:
        return not any(map(runs, workers))

    await until(gone, WITHIN_S, "no worker", collector_of(pipeline).log)
    await pipeline.start_collector(AUDITAP_COLLECTOR__WORKERS="2")
    assert len(workers_of(pipeline)) == 2


async def test_a_changed_document_reaches_all_and_one_that_breaks_ends_none(
    start: Start, load: Load, kafka_bootstrap: str, tmp_path: Path
) -> None:
    document = tmp_path / "openapi.yaml"
    document.write_text(DOCUMENT.read_text())
    pipeline = await start(kafka_bootstrap, document)
    collector = collector_of(pipeline)
    document.write_text(DOCUMENT.read_text() + "\nx-changed: true\n")

    async def reloaded() -> bool:
        return await collector.metric("auditap_openapi_documents_reloaded_total") == 2

    await until(reloaded, WITHIN_S, "reloaded by both", collector.log)

    document.write_text("openapi: [")
    os.kill(workers_of(pipeline)[0], signal.SIGKILL)

    async def refused() -> bool:
        return '"status": 1, "reason": "' in collector.output()

    await until(refused, WITHIN_S, "a worker that cannot start", collector.log)
    await load.start()
    await load.accepts(100)
    await load.finish()
    document.write_text(DOCUMENT.read_text())
    await until_ready(pipeline)


async def test_what_no_worker_can_start_with_is_one_sentence(
    start: Start, kafka_bootstrap: str, tmp_path: Path
) -> None:
    pipeline = await start(kafka_bootstrap)
    await collector_of(pipeline).stop()
    (tmp_path / "broken.yaml").write_text("openapi: [")
    ended = pipeline.process(
        "collect",
        "--workers",
        "2",
        AUDITAP_REDACTION__DOCUMENTS=f'[{{"path": "{tmp_path}/broken.yaml"}}]',
        AUDITAP_COLLECTOR__ADDRESS__PORT=str(pipeline.collector_port),
    )
    await ended.start(None)
    assert await ended.wait() == 1
    (line,) = ended.output().splitlines()
    assert line.startswith("auditap: ")
    assert "broken.yaml" in line
