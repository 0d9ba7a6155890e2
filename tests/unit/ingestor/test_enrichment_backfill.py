from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from ingestor import enrichment_backfill
from ingestor.enrichment_backfill import EnrichmentBackfill
from schemas.metric_defs import Metrics
from schemas.record import EnrichmentResult, EnrichmentState, PartialRecord
from tests.fakes.clock import Clock
from tests.fakes.record_store import MemoryRecordStore
from tests.records import record

NOW = 1_769_192_714_749


class SlowResolver:
    """Takes `took_s` for each call; finds nothing out while `away`, or while ids are `unknown`."""

    def __init__(self, clock: Clock, took_s: float) -> None:
        self.clock = clock
        self.took_s = took_s
        self.away = False
        self.unknown = False
        self.calls = 0

    async def resolve(self, records: Sequence[PartialRecord]) -> list[EnrichmentResult]:
        self.calls += 1
        self.clock.now_s += self.took_s
        state = EnrichmentState.PARTIAL if self.away or self.unknown else EnrichmentState.COMPLETE
        return [
            EnrichmentResult(each.id, None, "Acme", None, None, None, state, lookup_failed=self.away)
            for each in records
        ]


class Setting:
    def __init__(self, count: int, took_s: float, **bounds: float) -> None:
        self.store = MemoryRecordStore()
        self.count = count
        self.clock = Clock()
        self.store.timer = self.clock
        self.resolver = SlowResolver(self.clock, took_s)
        self.metrics = Metrics()
        self.backfill = EnrichmentBackfill(
            store=self.store,
            resolver=self.resolver,
            metrics=self.metrics,
            records_max=10,
            timer=self.clock,
            share_max=bounds.get("share_max", 0.2),
        )

    async def filled(self) -> Setting:
        await self.store.store([record(NOW + number) for number in range(self.count)])
        return self


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    taken: list[float] = []

    async def pause(_stop: asyncio.Event, pause_s: float) -> None:
        taken.append(pause_s)
        await asyncio.sleep(0)

    monkeypatch.setattr(enrichment_backfill, "_pause", pause)
    return taken


async def test_a_pass_enriches_all_and_works_for_its_share_of_the_time(pauses: list[float]) -> None:
    setting = await Setting(35, took_s=0.5, share_max=0.2).filled()
    assert await setting.backfill.pass_over(asyncio.Event()) == 35
    assert pauses == pytest.approx([2.0] * 4)
    worked_s = setting.clock.now_s
    assert worked_s / (worked_s + sum(pauses)) == pytest.approx(0.2)
    assert (
        setting.metrics.registry.get_sample_value("auditap_records_backfilled_total", {"state": "complete"})
        == 35
    )


async def test_pauses_grow_within_a_bound_while_steps_find_nothing(
    pauses: list[float],
) -> None:
    setting = await Setting(120, took_s=0.0).filled()
    setting.resolver.away = True
    assert await setting.backfill.pass_over(asyncio.Event()) == 0
    assert pauses == sorted(pauses)
    assert pauses[0] == pytest.approx(0.02)
    assert pauses[-1] == pytest.approx(1.0)


async def test_a_successful_step_resets_the_pause(pauses: list[float]) -> None:
    setting = await Setting(30, took_s=0.0).filled()
    setting.resolver.away = True
    await setting.backfill.pass_over(asyncio.Event())
    setting.clock.now_s += 5
    setting.resolver.away = False
    pauses.clear()
    assert await setting.backfill.pass_over(asyncio.Event()) == 30
    assert pauses == [0.0] * 3


async def test_ids_that_are_not_yet_known_do_not_slow_a_pass(pauses: list[float]) -> None:
    setting = await Setting(30, took_s=0.0).filled()
    setting.resolver.unknown = True
    assert await setting.backfill.pass_over(asyncio.Event()) == 0
    assert pauses == [0.0] * 3


async def test_a_pass_reads_only_what_is_due_and_that_less_and_less_often(pauses: list[float]) -> None:
    setting = await Setting(10, took_s=0.0).filled()
    setting.resolver.unknown = True
    calls = []
    for _ in range(720):  # an hour of passes
        before = setting.resolver.calls
        await setting.backfill.pass_over(asyncio.Event())
        calls.append(setting.resolver.calls - before)
        setting.clock.now_s += 5
    assert [number * 5 for number, count in enumerate(calls) if count][:9] == [
        0,
        5,
        15,
        35,
        75,
        155,
        315,
        615,
        915,
    ]
    assert sum(calls) == 17


async def test_stop_ends_the_run_between_steps() -> None:
    setting = await Setting(100, took_s=0.0).filled()
    stop = asyncio.Event()
    stop.set()
    assert await setting.backfill.pass_over(stop) == 0
    await asyncio.wait_for(setting.backfill.run(stop), 120)
    assert setting.resolver.calls == 0


async def test_a_store_that_is_away_is_retried(pauses: list[float]) -> None:
    setting = await Setting(1, took_s=0.0).filled()
    setting.store.away = True
    stop = asyncio.Event()
    run = asyncio.create_task(setting.backfill.run(stop))
    while len(pauses) < 3:
        await asyncio.sleep(0)
    stop.set()
    await run
    assert set(pauses) == {5.0}
