"""The process of alerting: on the embedded log, and without its extra."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from alerting.memory_store import MemoryAlertStore
from alerting.ports import TREND_WIDTHS_MS
from alerting.processor import AlertingLimits, AlertProcessor
from auditap.runtime.alerting import EmbeddedConsumer, event_builder
from auditap.runtime.lifecycle import clock_ms
from auditap.settings import Settings
from eventlog.embedded.log import EmbeddedLog, EmbeddedLogSettings
from schemas.event import EncodedEvent
from schemas.metric_defs import Metrics
from tests.alert_cases import rules
from tests.e2e.pipeline import until
from tests.e2e.planted_incidents import encoded, event

NOTHING = rules({"when": {"action.type": "create"}})
LIMITS = {"bytes_max": 80 * 8_192, "trim_records_max": 10}


def events(count: int) -> Sequence[EncodedEvent]:
    at_ms = clock_ms()
    return [encoded(event(at_ms, account="a" * 32, kind="update", id="x" * 4_000)) for _ in range(count)]


async def test_events_removed_unread_are_counted_and_consuming_goes_on(tmp_path: Path) -> None:
    settings, metrics, store = Settings(data_dir=tmp_path), Metrics(), MemoryAlertStore()
    log = EmbeddedLog(
        EmbeddedLogSettings(
            path=tmp_path / "events.sqlite", best_effort_groups=frozenset({settings.alerting.group}), **LIMITS
        )
    )
    await log.open()
    await log.committed(settings.alerting.group)
    position = await log.attach("ingestor")
    for _ in range(40):
        await log.append(events(5))
        position += 5
        await log.commit("ingestor", position)
        await log.flush()
    alerting = AlertProcessor(
        store=store,
        build=event_builder(settings),
        rules=lambda: NOTHING,
        limits=AlertingLimits(),
        metrics=metrics,
        clock_ms=clock_ms,
    )
    stop = asyncio.Event()
    running = asyncio.create_task(
        EmbeddedConsumer(log, settings.alerting.group, alerting, AlertingLimits(), metrics).run(stop)
    )

    async def done() -> bool:
        return list(store.stored_positions.values()) == [201]

    await until(done, 120, "everything evaluated")
    stop.set()
    await running
    await log.close()
    removed = metrics.registry.get_sample_value(
        "auditap_alerting_events_skipped_total", {"reason": "removed"}
    )
    assert removed
    assert removed + sum(store.trends.values()) / len(TREND_WIDTHS_MS) == 200
    assert metrics.registry.get_sample_value("auditap_alerting_lag_events") == 0


async def test_the_lag_falls_to_zero_although_the_last_batch_comes_soon_after_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lag before that batch was shown until there was another."""
    settings, metrics, limits = Settings(data_dir=tmp_path), Metrics(), AlertingLimits(batch_events_max=10)
    alerting = AlertProcessor(
        store=MemoryAlertStore(),
        build=event_builder(settings),
        rules=lambda: NOTHING,
        limits=limits,
        metrics=metrics,
        clock_ms=clock_ms,
    )
    log = EmbeddedLog(EmbeddedLogSettings(tmp_path / "events.sqlite"))
    await log.open()
    await log.append(events(20))
    lags: list[float] = []
    monkeypatch.setattr(metrics.alerting_lag_events, "set", lags.append)
    stop = asyncio.Event()
    consumer = EmbeddedConsumer(log, settings.alerting.group, alerting, limits, metrics)
    running = asyncio.create_task(consumer.run(stop))
    async with asyncio.timeout(120):
        while lags[-1:] != [0]:
            await asyncio.sleep(0.01)
    stop.set()
    await running
    await log.close()
    assert lags[0] == 10


async def test_another_file_under_the_name_of_the_log_is_read_from_its_beginning(tmp_path: Path) -> None:
    """Positions are in the database, which outlives the file."""
    settings, metrics, store = Settings(data_dir=tmp_path), Metrics(), MemoryAlertStore()
    for number, count in enumerate((30, 10, 20)):
        path = tmp_path / str(number) / "events.sqlite"
        log = EmbeddedLog(EmbeddedLogSettings(path))
        await log.open()
        await log.append(events(count))
        alerting = AlertProcessor(
            store=store,
            build=event_builder(settings),
            rules=lambda: NOTHING,
            limits=AlertingLimits(),
            metrics=metrics,
            clock_ms=clock_ms,
        )
        stop = asyncio.Event()
        consumer = EmbeddedConsumer(log, settings.alerting.group, alerting, AlertingLimits(), metrics)
        running = asyncio.create_task(consumer.run(stop))
        async with asyncio.timeout(120):
            while len(store.stored_positions) <= number:
                await asyncio.sleep(0.01)
        stop.set()
        await running
        await log.close()
    assert list(store.stored_positions.values()) == [31, 11, 21]
    assert sum(store.trends.values()) / len(TREND_WIDTHS_MS) == 60


@pytest.mark.processes
async def test_without_its_extra_alerting_names_what_to_install(tmp_path: Path) -> None:
    code = "import sys; sys.modules['faust'] = None; sys.argv[1:] = ['alerting']; from auditap.cli.main import main; main()"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code),
        cwd=tmp_path,
        env={
            "PATH": "/usr/bin:/bin",
            "AUDITAP_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1",
            "AUDITAP_POSTGRES__ALERTING_DSN": "postgresql://nobody@127.0.0.1:1/none",
            "AUDITAP_ALERTING__ADDRESS__PORT": "0",
            "AUDITAP_DATA_DIR": str(tmp_path / "data"),
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await asyncio.wait_for(process.communicate(), 300)
    assert process.returncode == 1
    assert out.decode().splitlines()[-1].endswith("install auditap with its extra, as `auditap[alerting]`.")
    assert "Traceback" not in out.decode()
