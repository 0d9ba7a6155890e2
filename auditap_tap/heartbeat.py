"""Heartbeats: what a run reports of itself every few seconds, and once for each crashed run before it."""

from __future__ import annotations

import json
import math
import time
from typing import Any

from .client import HEARTBEATS_PATH, CollectorClient
from .config import TapConfig
from .sequence import SequenceNumbers
from .state_file import CrashedRun


class Heartbeats:
    """Sends the heartbeats of one run: `heartbeat.schema.json`. Belongs to the run's thread."""

    def __init__(
        self, config: TapConfig, client: CollectorClient, numbers: SequenceNumbers, started_ms: int
    ) -> None:
        self._config = config
        self._client = client
        self._numbers = numbers
        self._started_ms = started_ms
        self._sent = 0
        self._due_s = 0.0
        self.crashed_runs: list[CrashedRun] = []
        """Runs that are still to be reported."""

    def seconds_until_due(self) -> float | None:
        """Return in how many seconds the next one is due; None if none will be."""
        return None if self._due_s == math.inf else max(self._due_s - time.monotonic(), 0.0)

    def send_if_due(self) -> None:
        # A clock that went back far makes times go back, of which the collector must hear first.
        if time.monotonic() < self._due_s and not self._numbers.clock_stepped_back:
            return
        self._due_s = time.monotonic() + self._config.heartbeat_s
        self.send("alive")

    def send(self, state: str) -> bool:
        """Send a heartbeat in this state, with those of crashed runs. Return whether the collector accepted it."""
        self._sent += 1
        fields = self._numbers.heartbeat_fields()
        own = {
            "tap": {"id": self._config.tap_id, "epoch": self._numbers.epoch},
            "beat": self._sent,
            # If the clock went back, captures may be of earlier times than the start.
            "started_ms": min(self._started_ms, fields["pending_since_ms"]),
            "lease_ms": self._config.lease_ms,
            "state": state,
            **fields,
        }
        heartbeats = [own, *(_of_crashed_run(run, self._config.tap_id) for run in self.crashed_runs)]
        reply = self._client.post(HEARTBEATS_PATH, self._client.pack([_line(each) for each in heartbeats]))
        if reply.status == 404:
            # This collector is older than heartbeats.
            self._due_s = math.inf
        if reply.may_succeed_later:
            return False
        # Refused or not, this was the last time: what a collector refuses now, it will refuse again.
        self._numbers.forget_delivered(len(fields["dropped"]))
        for run in self.crashed_runs:
            run.forget()
        self.crashed_runs = []
        return reply.is_success and not reply.refused_indexes()


def _line(heartbeat: dict[str, Any]) -> bytes:
    return json.dumps(heartbeat, separators=(",", ":")).encode() + b"\n"


def _of_crashed_run(run: CrashedRun, tap_id: str) -> dict[str, Any]:
    return {
        "tap": {"id": tap_id, "epoch": run.epoch},
        "beat": 0,  # orders it before all that the crashed run sent itself
        "at_ms": time.time_ns() // 1_000_000,
        "started_ms": run.started_ms,
        "highest": run.highest,
        "pending_from": run.highest + 1,
        "pending_since_ms": run.started_ms,
        "lease_ms": run.lease_ms,
        # A machine that goes down loses the last changes of its files, so the file may be behind.
        "state": "killed" if run.same_boot else "lost",
    }
