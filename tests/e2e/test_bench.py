"""Every part of the benchmarks runs, at its smallest size: what they measure is not looked at."""

from __future__ import annotations

import asyncio
import importlib
import os
import pkgutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import bench
from bench import gateways, ingestor, ledger, pipeline, redactor, scaling, tap, workers
from bench.servers import Servers, child_cpu_s, servers

# Importing it runs it.
_PARTS = sorted({each.name for each in pkgutil.iter_modules(bench.__path__)} - {"__main__"})
_RUN = pipeline.Run(
    sent=100,
    stored=100,
    sending_s=1.0,
    storing_s=2.0,
    latencies_ms=[1.0, 3.0],
    cpu_s=dict.fromkeys(("collector", "postgres"), 0.01),
    peak_mb=dict.fromkeys(("collector", "ingestor", "kafka"), 50.0),
)


@pytest.fixture(scope="module")
async def running() -> AsyncIterator[Servers]:
    async with servers() as started:
        yield started


@pytest.mark.parametrize("part", _PARTS)
def test_every_part_is_importable(part: str) -> None:
    importlib.import_module(f"bench.{part}")


@pytest.mark.kafka
async def test_the_ingestor_is_measured_beside_the_probe(running: Servers) -> None:
    found = await ingestor.compare(running, events=2_000, rounds=1)
    assert "| the ingestor, enriched from a warm cache |" in found
    assert "| a bare probe |" in found


@pytest.mark.kafka
async def test_a_filled_table_is_measured_beside_an_empty_one(
    running: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def once(of: Servers, name: str, **more: Any) -> pipeline.Run:
        return await pipeline.measured(of, name, **more) if "database" in more else _RUN

    monkeypatch.setattr(scaling, "measured", once)
    assert "1,000 rows" in await scaling.filled(running, 1_000, seconds=0.3, rounds=1)


@pytest.mark.kafka
async def test_workers_are_measured_beside_one_alone(running: Servers, tmp_path: Path) -> None:
    found = await workers.compare(running.kafka, tmp_path, seconds=0.2, rounds=1, counts=(1, 2))
    assert [found.count(f"| {count} | ") for count in (1, 2)] == [2, 2]


def test_runs_are_reported() -> None:
    assert "| smallest | 100 | 100 | 50 | 3 | 3 |" in pipeline.report({"smallest": _RUN})


def test_documents_and_batches_of_all_sizes_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "_PAIRS", 100)
    monkeypatch.setattr(scaling, "_OPERATIONS", (29, 140))
    assert "| 140 |" in scaling.documents()
    assert "| 500 |" in scaling.batch_sizes()


def test_the_redactor_is_measured_beside_its_baselines(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, smallest in (("_PAIRS", 100), ("_OPENAPI_PAIRS", 1), ("_ROUNDS", 1)):
        monkeypatch.setattr(redactor, name, smallest)
    assert "| auditap, from a line to the bytes of its event |" in redactor.example()


async def test_what_the_ledger_costs_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, smallest in (("_ROWS", 100), ("_BATCHES", [50]), ("_TURNS", 2)):
        monkeypatch.setattr(ledger, name, smallest)
    assert [line[1] for line in await ledger.measured()] == ["without", "with", "ratio"]


def test_a_child_that_ends_before_it_is_looked_at_costs_nothing() -> None:
    with subprocess.Popen(["true"]) as child:
        child.wait()
    assert child_cpu_s(child.pid) == 0.0


async def test_the_tap_is_measured() -> None:
    assert "20 pairs" in await tap.measure(turns=1, requests=20)


async def test_a_gateway_is_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    smallest = {
        "_ROUNDS": 1,
        "_PAIRS": 6,
        "_CPU_REQUESTS": 5,
        "_LARGE_REQUESTS": 6,
        "_WARM_UP": 4,
        "_FILLING_S": 0.5,
    }
    for name, value in smallest.items():
        monkeypatch.setattr(gateways, name, value)
    monkeypatch.setattr(gateways, "GATEWAYS", {"caddy": gateways.GATEWAYS["caddy"]})
    monkeypatch.setattr(gateways, "BENCH", tmp_path)
    monkeypatch.setattr(importlib.import_module("bench.gateway_plots"), "BENCH", tmp_path)
    await asyncio.to_thread(gateways.run)
    page = (tmp_path / "RESULTS-gateways.md").read_text()
    assert page.count("| caddy |") == 3
    assert "| 15 of 15 | 0 |" in page
    assert {"gateways.png", "gateways-memory.png"} < set(await asyncio.to_thread(os.listdir, tmp_path))


def test_results_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plots = importlib.import_module("bench.plots")
    (tmp_path / "RESULTS.md").write_text("## (b) One\n\n|  | rows/s |\n| --- | --- |\n| a | 1,000 |\n")
    monkeypatch.setattr(plots, "BENCH", tmp_path)
    monkeypatch.setattr(plots, "RESULTS", tmp_path / "RESULTS.md")
    plots.run()
    assert (tmp_path / "ingestor.png").exists()
