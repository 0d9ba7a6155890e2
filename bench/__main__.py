"""All parts, one after the other: `make bench`."""

from __future__ import annotations

import os

from bench import redactor
from bench.results import BENCH

if __name__ == "__main__":
    os.chdir(BENCH.parent)
    redactor.run()
