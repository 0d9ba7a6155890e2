"""Puts the clock of a process wrong: Python imports this at start where its folder is on PYTHONPATH."""

from __future__ import annotations

import os
import time

_AHEAD_S = int(os.environ.get("AUDITAP_TEST_CLOCK_AHEAD_S", "0"))
_time, _time_ns = time.time, time.time_ns


def _wrong_time() -> float:
    return _time() + _AHEAD_S


def _wrong_time_ns() -> int:
    return _time_ns() + _AHEAD_S * 1_000_000_000


time.time = _wrong_time
time.time_ns = _wrong_time_ns
