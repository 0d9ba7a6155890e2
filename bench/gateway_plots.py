"""The pictures of RESULTS-gateways.md."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from bench.results import BENCH

_WITHOUT, _WITH, _COLLECTOR = "#9aa5b1", "#3b6ea5", "#d08a3c"
_WIDTH = 0.38


def draw(
    latencies_ms: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    cpu_us: Mapping[str, tuple[float, float, float]],
    memory_mb: Mapping[str, Sequence[tuple[float, float]]],
) -> None:
    """Draw gateways.png and gateways-memory.png, by gateway.

    `latencies_ms`: of each request without the tap, and with it. `cpu_us`: the gateway's a request without and with it, and the
    collector's. `memory_mb`: seconds and MB.
    """
    figure, (latency, cpu) = plt.subplots(1, 2, figsize=(11, 4.2))
    _draw_latency(latency, latencies_ms)
    _draw_cpu(cpu, cpu_us)
    figure.tight_layout()
    figure.savefig(BENCH / "gateways.png", dpi=100)
    plt.close(figure)
    figure, axes = plt.subplots(figsize=(9, 4.5))
    for name, curve in memory_mb.items():
        axes.plot([at_s for at_s, _ in curve], [mb for _, mb in curve], label=name)
    axes.set_xlabel("s since the collector was frozen")
    axes.set_ylabel("memory of the gateway, MB")
    axes.set_ylim(bottom=0)
    axes.legend()
    figure.tight_layout()
    figure.savefig(BENCH / "gateways-memory.png", dpi=100)
    plt.close(figure)


def _draw_latency(axes: Axes, latencies_ms: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> None:
    for side, (label, colour) in enumerate((("without tap", _WITHOUT), ("with tap", _WITH))):
        at = [place + (side - 0.5) * _WIDTH for place in range(len(latencies_ms))]
        medians = [statistics.median(both[side]) for both in latencies_ms.values()]
        bars = axes.bar(at, medians, _WIDTH, color=colour, label=label)
        axes.bar_label(bars, fmt="%.2f", fontsize=8)
    axes.set_ylabel("ms, median of a request")
    _finish(axes, list(latencies_ms))


def _draw_cpu(axes: Axes, cpu_us: Mapping[str, tuple[float, float, float]]) -> None:
    places = range(len(cpu_us))
    without, tapped, collector = (list(each) for each in zip(*cpu_us.values(), strict=True))
    bars = axes.bar(
        [place - _WIDTH / 2 for place in places], without, _WIDTH, color=_WITHOUT, label="without tap"
    )
    axes.bar_label(bars, fmt="%.0f", fontsize=8)
    right = [place + _WIDTH / 2 for place in places]
    bars = axes.bar(right, tapped, _WIDTH, color=_WITH, label="with tap")
    axes.bar_label(bars, fmt="%.0f", fontsize=8, label_type="center", color="white")
    bars = axes.bar(right, collector, _WIDTH, bottom=tapped, color=_COLLECTOR, label="its collector")
    axes.bar_label(bars, labels=[f"{value:.0f}" for value in collector], fontsize=8)
    axes.set_ylabel("CPU µs a request")
    _finish(axes, list(cpu_us))


def _finish(axes: Axes, names: list[str]) -> None:
    axes.set_xticks(range(len(names)), names, rotation=20)
    axes.margins(y=0.15)
    axes.legend()
