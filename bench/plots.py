"""The tables of RESULTS.md as pictures: `python -m bench.plots`."""

from __future__ import annotations

import os
import re

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt

from bench.results import BENCH, RESULTS

_PLOTS = {
    "redactor.png": ("(a)", "pairs/s on one core"),
    "ingestor.png": ("(b)", "rows/s"),
    "pipeline.png": ("(c)", "stored/s, to the last row"),
    "scaling.png": ("(d)", "stored/s"),
}


def tables(section: str) -> list[list[list[str]]]:
    """The tables of a section, each a list of rows, the head first."""
    found = re.findall(r"(?m)(?:^\|.*\|$\n?)+", section)
    rows = [
        [[cell.strip() for cell in line.strip("|").split("|")] for line in each.strip().split("\n")]
        for each in found
    ]
    return [[each[0], *each[2:]] for each in rows]


def run() -> None:
    sections = re.split(r"(?m)^(?=## )", RESULTS.read_text())
    for name, (mark, column) in _PLOTS.items():
        found = [each for each in sections if each.startswith(f"## {mark}")]
        shown = [each for each in tables(found[0]) if column in each[0]] if found else []
        if shown:
            _bars(name, shown[0], shown[0][0].index(column))


def _bars(name: str, rows: list[list[str]], at: int) -> None:
    labels = [row[0] for row in rows[1:]]
    values = [float(row[at].replace(",", "")) for row in rows[1:]]
    figure, axes = plt.subplots(figsize=(9, 0.6 + 0.5 * len(values)))
    bars = axes.barh(labels, values, color="#3b6ea5")
    axes.bar_label(bars, labels=[row[at] for row in rows[1:]], padding=3)
    axes.set_xlabel(rows[0][at])
    axes.margins(x=0.15)
    axes.invert_yaxis()
    figure.tight_layout()
    figure.savefig(BENCH / name, dpi=100)
    plt.close(figure)


if __name__ == "__main__":
    os.chdir(BENCH.parent)
    run()
