from __future__ import annotations

import time

import pytest

from gateway_tap.receivers.loop_watch import LoopWatch


def test_a_loop_that_did_not_run_for_long_has_hung_until_it_has_run_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    watch = LoopWatch(hang_s=0.4)
    hung = []
    for step_s in (0.3, 0.5, *[0.15] * 13, 0.15):
        now += step_s
        hung.append(watch.has_hung)
    assert hung == [False, *[True] * 14, False]
