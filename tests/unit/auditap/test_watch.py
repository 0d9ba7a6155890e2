"""The watcher's process: its embedded log, and what it says where it cannot start."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from auditap.settings import Settings
from auditap.waiting import clock_ms
from auditap.watch import EmbeddedWatch, event_builder
from redactor.event_log import EventLog, EventLogSettings
from schemas.event import EncodedEvent
from schemas.metric_defs import Metrics
from tests.e2e.pipeline import until
from tests.e2e.watched import encoded, event
from tests.watching import rules
from watcher.memory_store import MemoryWatchStore
from watcher.ports import TREND_WIDTHS_MS
from watcher.watch import Watcher

NOTHING = rules({"when": {"action.type": "create"}})
LIMITS = {"bytes_max": 80 * 8_192, "trim_records_max": 10}


def events(count: int) -> Sequence[EncodedEvent]:
    at_ms = clock_ms()
    return [encoded(event(at_ms, account="a" * 32, kind="update", id="x" * 4_000)) for _ in range(count)]


async def test_what_was_removed_unwatched_is_counted_and_the_watch_goes_on(tmp_path: Path) -> None:
    settings, metrics, store = Settings(data_dir=tmp_path), Metrics(), MemoryWatchStore()
    log = EventLog(
        EventLogSettings(
            path=tmp_path / "events.sqlite", dispensable=frozenset({settings.watch.group}), **LIMITS
        )
    )
    await log.open()
    await log.position(settings.watch.group)
    position = await log.attach("ingestor")
    for _ in range(40):
        await log.append(events(5))
        position += 5
        await log.commit("ingestor", position)
        await log.settle()
    watcher = Watcher(
        store=store,
        build=event_builder(settings),
        rules=lambda: NOTHING,
        limits=settings.watch.limits,
        metrics=metrics,
        clock_ms=clock_ms,
    )
    stop = asyncio.Event()
    watching = asyncio.create_task(EmbeddedWatch(log, settings, watcher, metrics).run(stop))

    async def done() -> bool:
        return list(store.kept_positions.values()) == [201]

    await until(done, 30, "everything watched")
    stop.set()
    await watching
    await log.close()
    removed = metrics.registry.get_sample_value("auditap_watch_passed_over_total", {"reason": "removed"})
    assert removed
    assert removed + sum(store.trends.values()) / len(TREND_WIDTHS_MS) == 200
    assert metrics.registry.get_sample_value("auditap_watch_lag_events") == 0


async def test_without_its_extra_the_watcher_says_what_to_install(tmp_path: Path) -> None:
    code = "import sys; sys.modules['faust'] = None; sys.argv[1:] = ['watch']; from auditap.cli import main; main()"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code),
        cwd=tmp_path,
        env={
            "PATH": "/usr/bin:/bin",
            "AUDITAP_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1",
            "AUDITAP_POSTGRES__WATCHER_DSN": "postgresql://nobody@127.0.0.1:1/none",
            "AUDITAP_WATCH__ADDRESS__PORT": "0",
            "AUDITAP_DATA_DIR": str(tmp_path / "data"),
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 1
    assert out.decode().splitlines()[-1].endswith("install auditap with its extra, as `auditap[watch]`.")
    assert "Traceback" not in out.decode()
