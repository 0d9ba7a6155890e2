"""A collector in a process of its own, which tests may freeze and kill.

    python -m tests.gateways.journal SOCKET JOURNAL [FORMAT RECEIVER_SOCKET STATE_DIR]

With the last three, it has a receiver for a gateway, whose format is the tap's id as well.
It redacts what it accepts and writes it to an embedded log, as a collector does, and then to a journal, one line each, before it answers.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import msgspec

from auditap.runtime.lifecycle import clock_ms
from auditap.runtime.receivers import receiver_of
from auditap.runtime.redacting_sink import RedactingSink
from auditap.settings import ReceiverSettings
from eventlog.embedded.log import EmbeddedLog, EmbeddedLogSettings
from eventlog.embedded.publisher import EmbeddedPublisher
from gateway_tap.collector import collector_app
from gateway_tap.limits import IntakeLimits
from gateway_tap.ports import CaptureSink, IdentifiedCapture
from gateway_tap.receivers.received_tap import ReceivedTap
from gateway_tap.unix_socket import bind_unix_socket
from redactor.config import DocumentConfig, RedactionConfig
from redactor.pipeline.redactor import Redactor
from schemas.capture import TapPosition
from schemas.heartbeat import Heartbeat
from schemas.metric_defs import Metrics
from tests.unit.gateway_tap.servers import serving

_DOCUMENT = Path(__file__).with_name("openapi.yaml")


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

    def gaps(self) -> dict[tuple[Run, str], set[int]]:
        """Return the numbers of each run that heartbeats report as dropped and that did not arrive, by cause."""
        causes = {
            drop.cause for beats in self.heartbeats().values() for beat in beats for drop in beat.dropped
        }
        arrived = self.numbers()
        found = {
            (run, cause): numbers - arrived.get(run, set())
            for cause in causes
            for run, numbers in self.dropped(cause).items()
        }
        return {key: numbers for key, numbers in found.items() if numbers}


def log_file(journal: Path) -> Path:
    """Return the embedded log of the collector that writes this journal."""
    return journal.with_name("log") / "events.sqlite"


class _JournalSink:
    def __init__(self, path: Path, sink: CaptureSink) -> None:
        self._path = path
        self._sink = sink

    async def accept(
        self, captures: Sequence[IdentifiedCapture], received_ms: int, refused: Sequence[TapPosition] = ()
    ) -> None:
        await self._sink.accept(captures, received_ms, refused)
        markers = ((each.capture.tap, each.capture.request.headers.get("x-request-id")) for each in captures)
        self._note([Noted(position, str(marker)) for position, marker in markers])

    async def report(self, heartbeats: Sequence[Heartbeat], received_ms: int) -> None:
        await self._sink.report(heartbeats, received_ms)
        self._note([Noted(heartbeat=each) for each in heartbeats])

    def _note(self, lines: Sequence[Noted]) -> None:
        with self._path.open("ab") as journal:
            journal.write(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))


async def _collect(socket: Path, journal: Path, receiving: Sequence[str]) -> None:
    log = EmbeddedLog(EmbeddedLogSettings(log_file(journal)))
    publisher = EmbeddedPublisher(log)
    await publisher.start()
    redactor = Redactor.from_config(RedactionConfig(documents=(DocumentConfig(_DOCUMENT),)))
    sink = RedactingSink(lambda: redactor, publisher, Metrics())
    app = collector_app(
        _JournalSink(journal, sink),
        identity_key=b"k",
        limits=IntakeLimits(),
        tokens=None,
        metrics=Metrics(),
        clock_ms=clock_ms,
    )
    async with serving(app, bind_unix_socket(socket)):
        if receiving:
            await _receive(socket, *receiving)
        await asyncio.Event().wait()


async def _receive(collector_socket: Path, name: str, socket: str, state_dir: str) -> None:
    place = "file" if name == "caddy" else "socket"
    settings = ReceiverSettings.model_validate({"format": name, place: socket, "tap_id": name})
    tap = ReceivedTap(
        name,
        collector_socket=collector_socket,
        state_dir=Path(state_dir),
    )
    await asyncio.gather(receiver_of(settings).run(tap), tap.keep_watching())


if __name__ == "__main__":
    asyncio.run(_collect(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]))
