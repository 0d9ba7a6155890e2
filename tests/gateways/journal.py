"""A collector in a process of its own, which tests may freeze and kill: `python -m tests.gateways.journal SOCKET JOURNAL`.

It writes what it has accepted to a journal, one line each, before it answers.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import msgspec

from gateway_tap.collector import collector_app
from gateway_tap.limits import IntakeLimits
from gateway_tap.ports import IdentifiedCapture
from gateway_tap.unix_socket import bind_unix_socket
from schemas.capture import TapPosition
from schemas.heartbeat import Heartbeat
from schemas.metric_defs import Metrics
from tests.unit.gateway_tap.servers import serving


class Noted(msgspec.Struct):
    """A line of the journal: a capture's position and request id, or a heartbeat."""

    position: TapPosition | None = None
    marker: str = ""
    heartbeat: Heartbeat | None = None


class Run(NamedTuple):
    """A run of a tap: its id and its epoch."""

    tap: str
    epoch: int


@dataclass(frozen=True)
class Journal:
    """What a journal holds so far."""

    path: Path

    def lines(self) -> list[Noted]:
        if not self.path.exists():
            return []
        whole = self.path.read_bytes().rpartition(b"\n")[0]
        return [msgspec.json.decode(line, type=Noted) for line in whole.splitlines()]

    def markers(self) -> set[str]:
        return {line.marker for line in self.lines() if line.marker}

    def numbers(self) -> dict[Run, set[int]]:
        """Return the sequence numbers that arrived."""
        arrived: dict[Run, set[int]] = {}
        for line in self.lines():
            if line.position is not None:
                run = Run(line.position.id, line.position.epoch or 0)
                arrived.setdefault(run, set()).add(line.position.seq or 0)
        return arrived

    def heartbeats(self) -> dict[Run, list[Heartbeat]]:
        beats: dict[Run, list[Heartbeat]] = {}
        for line in self.lines():
            if line.heartbeat is not None:
                tap = line.heartbeat.tap
                beats.setdefault(Run(tap.id, tap.epoch), []).append(line.heartbeat)
        return beats

    def dropped(self, cause: str | None = None) -> dict[Run, set[int]]:
        """Return the numbers that heartbeats report as dropped, for this cause or any."""
        return {
            run: {
                number
                for beat in beats
                for each in beat.dropped
                if cause in (None, each.cause)
                for number in range(each.first, each.last + 1)
            }
            for run, beats in self.heartbeats().items()
        }


class _JournalSink:
    def __init__(self, path: Path) -> None:
        self._path = path

    async def accept(
        self, captures: Sequence[IdentifiedCapture], received_ms: int, refused: Sequence[TapPosition] = ()
    ) -> None:
        markers = ((each.capture.tap, each.capture.request.headers.get("x-request-id")) for each in captures)
        self._note([Noted(position, str(marker)) for position, marker in markers])

    async def report(self, heartbeats: Sequence[Heartbeat], received_ms: int) -> None:
        self._note([Noted(heartbeat=each) for each in heartbeats])

    def _note(self, lines: Sequence[Noted]) -> None:
        with self._path.open("ab") as journal:
            journal.write(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))


async def _collect(socket: Path, journal: Path) -> None:
    app = collector_app(
        _JournalSink(journal),
        identity_key=b"k",
        limits=IntakeLimits(),
        tokens=None,
        metrics=Metrics(),
        clock_ms=lambda: 0,
    )
    async with serving(app, bind_unix_socket(socket)):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_collect(Path(sys.argv[1]), Path(sys.argv[2])))
