"""All parts, one after the other, in about twenty minutes: `make bench`."""

from __future__ import annotations

import os

from bench import gateways, ingestor, pipeline, plots, redactor, scaling, tap, workers
from bench.results import BENCH

if __name__ == "__main__":
    os.chdir(BENCH.parent)
    redactor.run()
    ingestor.run()
    pipeline.run()
    scaling.run()
    tap.run()
    workers.run()
    gateways.run()
    plots.run()
