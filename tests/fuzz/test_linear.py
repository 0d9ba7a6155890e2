"""Time grows no faster than the input, and memory does not grow from one input to the next.

What is asserted is a ratio of CPU times, with room for a busy machine. Under HYPOTHESIS_PROFILE=fuzz the milliseconds per
100 KB are printed, to be held against the bound of 50.
"""

from __future__ import annotations

import gc
import json
import time
import tracemalloc
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from redactor.redact import Redactor
from schemas.capture import Capture, decode_capture
from schemas.identity import new_id
from tests.canary.pairs import PairWriter, operations_of
from tests.canary.tally import ENVELOPE, a_redactor
from tests.canary.test_canary_redactor import FUZZING, example
from tests.canary.tokens import Mint
from tests.fuzz.shapes import SCALED, Scaled, capture, redactor

EVENT_ID = new_id(1_769_192_714_749)
SMALL_BYTES, TIMES = 15_000, 8
RATIO_MAX = 24
"""Linear is 8, quadratic is 64."""
NOISE_S = 0.002


@pytest.fixture(scope="module")
def any_redactor() -> Redactor:
    return redactor()


def pair_of(shape: Scaled, size_bytes: int) -> Capture:
    return capture(shape.make(size_bytes), media=shape.media, headers=shape.headers)


def cpu_s(redactor: Redactor, pair: Capture) -> float:
    """Return the least CPU time of a few runs."""
    least = float("inf")
    for _ in range(3):
        started = time.process_time()
        assert redactor.redact(pair, EVENT_ID) is not None
        least = min(least, time.process_time() - started)
    return least


@pytest.mark.parametrize("name", SCALED)
def test_time_is_linear(any_redactor: Redactor, name: str) -> None:
    shape = SCALED[name]
    cpu_s(any_redactor, pair_of(shape, 1_000))
    # The sizes go up until there is something to measure.
    for size_bytes in (SMALL_BYTES, SMALL_BYTES * TIMES):
        small, large = (cpu_s(any_redactor, pair_of(shape, n)) for n in (size_bytes, size_bytes * TIMES))
        assert large < RATIO_MAX * (small + NOISE_S)


@pytest.mark.skipif(not FUZZING, reason="prints figures for the long runs")
def test_what_100_kb_take(any_redactor: Redactor) -> None:
    table = Table("shape", "ms per 100 KB, of both bodies together")
    for name, shape in SCALED.items():
        pair = pair_of(shape, 900_000)
        table.add_row(name, f"{cpu_s(any_redactor, pair) * 1_000 / 18:.2f}")
    Console().print(table)


def test_memory_does_not_grow_from_pair_to_pair() -> None:
    root = example()
    redactor = a_redactor(root)
    operations = operations_of(root)
    mint = Mint()

    def redact_all(seed: int) -> None:
        writer = PairWriter(root, mint, seed, envelope=ENVELOPE)
        for operation in operations:
            for pair in writer.pairs(operation):
                url = pair.capture["request"]["url"].replace("/client/", f"/client{seed % 2 * seed}/")
                request = pair.capture["request"] | {"url": url}
                redactor.redact(
                    decode_capture(json.dumps(pair.capture | {"request": request}).encode()), EVENT_ID
                )
        mint.shown.clear()
        gc.collect()

    for seed in range(4):
        redact_all(seed)
    tracemalloc.start()
    try:
        redact_all(4)
        before = tracemalloc.take_snapshot()
        for seed in range(5, 9):
            redact_all(seed)
        after = tracemalloc.take_snapshot()
    finally:
        tracemalloc.stop()
    folder = str(Path("redactor"))
    grown = sum(
        each.size_diff
        for each in after.compare_to(before, "filename")
        if f"/{folder}/" in each.traceback[0].filename
    )
    assert grown < 100_000
