"""The tap of one receiver: gives what arrives sequence numbers, queues it, and accounts for what did not arrive."""

from __future__ import annotations

import asyncio
import mmap
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Protocol

import msgspec

from auditap_tap.capture import HeaderSelection
from auditap_tap.client import CollectorAddress
from auditap_tap.client import request_headers as headers_of_requests
from auditap_tap.config import METHODS_WITHOUT_BODIES, REQUEST_HEADERS, RESPONSE_HEADERS, TapConfig
from auditap_tap.run import TapRun
from auditap_tap.sequence import DropCause
from gateway_tap.receivers.loss_detector import PAGE_BYTES, LossDetector
from schemas.capture import Capture, Headers, TapPosition
from schemas.identity import new_id, parse_rfc3339_ms

QUEUE_BYTES_MAX: Final = 64 * 1024 * 1024
BODY_BYTES_MAX: Final = 256 * 1024
_PAIR_BYTES: Final = 2_048  # what a waiting pair takes besides its text
_LOSSES_EVERY_S: Final = 1.0
_ID_MS_RANGE: Final = range(1, 1 << 48)


class _ReceivedPair:
    """A capture that waits to be sent. Its repr shows nothing of it."""

    __slots__ = ("_capture", "_text_bytes", "seq", "size_bytes")

    def __init__(self, capture: Capture, seq: int, text_bytes: int) -> None:
        self._capture = capture
        self._text_bytes = text_bytes
        self.seq = seq
        self.size_bytes = 0

    def body_bytes(self) -> int:
        """See `QueuedPair.body_bytes`. Nothing of it is reserved before it is queued."""
        return 0

    def size_without_bodies(self) -> int:
        """See `QueuedPair.size_without_bodies`."""
        return self._text_bytes + _PAIR_BYTES

    def encode(self, tap_id: str, epoch: int) -> bytes:
        """See `QueuedPair.encode`."""
        numbered = msgspec.structs.replace(self._capture, tap=TapPosition(tap_id, epoch, self.seq))
        return msgspec.json.encode(numbered) + b"\n"


class ReceivedTap:
    """A tap for what a gateway sends to a receiver of this process.

    `run` is the tap's run, for receivers that number a pair when its request begins. `collector_socket`: the collector's Unix
    socket. `state_dir`: a folder on a local disk for what must survive a crash.
    `request_headers`, `response_headers`: names of headers that are passed on besides those that every tap sends, such as one
    with a signed token.
    """

    def __init__(
        self,
        tap_id: str,
        *,
        collector_socket: Path,
        state_dir: Path,
        request_headers: Iterable[str] = (),
        response_headers: Iterable[str] = (),
    ) -> None:
        """Start the run. Raises OSError where `state_dir` cannot be used."""
        self._losses = LossDetector(_page(state_dir / f"{tap_id}.gateway"))
        self.run = TapRun(
            TapConfig(
                address=CollectorAddress.parse(f"unix:{collector_socket}", None, timeout_s=5),
                tap_id=tap_id,
                headers=headers_of_requests(None, compress=False),
                queue_bytes_max=QUEUE_BYTES_MAX,
                body_bytes_max=BODY_BYTES_MAX,
                batch_pairs_max=100,
                batch_bytes_max=4 * 1024 * 1024,
                linger_s=0.05,
                retry_s_max=300,
                close_s_max=2,
                heartbeat_s=5,
                lease_ms=30_000,
                state_dir=state_dir,
                compress=False,
                request_headers=HeaderSelection((*REQUEST_HEADERS, *request_headers)),
                response_headers=HeaderSelection((*RESPONSE_HEADERS, *response_headers)),
                methods_without_bodies=frozenset(METHODS_WITHOUT_BODIES),
            )
        )

    def take(self, capture: Capture, text_bytes: int, position: TapPosition | None = None) -> None:
        """Number and queue a capture that arrived whole, or drop and count it. Never waits.

        `position` is the gateway's own number of the pair, if it has one.
        """
        run = self.run
        seq, now_ms = run.numbers.assign()
        if position is not None:
            self.observe(position, now_ms)
        if capture.id is None:
            at_ms = parse_rfc3339_ms(capture.captured_at or "") or now_ms
            capture = msgspec.structs.replace(capture, id=new_id(at_ms if at_ms in _ID_MS_RANGE else now_ms))
        capture = _with_listed_headers(capture, run.config)
        if not run.buffer.put(_ReceivedPair(capture, seq, text_bytes)):
            run.numbers.drop((seq,), DropCause.CLOSING if run.closed else DropCause.BUFFER_FULL)

    def refuse(self, position: TapPosition | None = None) -> None:
        """Number and drop what arrived and is no capture, so that it is a gap."""
        seq, now_ms = self.run.numbers.assign()
        if position is not None:
            self.observe(position, now_ms)
        self.run.numbers.drop((seq,), DropCause.REFUSED)

    def pass_over(self, position: TapPosition) -> None:
        """Note the gateway's own number of what arrived and is no pair: it is not lost."""
        self.observe(position, _now_ms())

    def observe(self, position: TapPosition, now_ms: int) -> None:
        """Note the gateway's own number of a pair that has arrived."""
        if position.epoch is not None and position.seq is not None:
            self._losses.observe(position.epoch, position.seq, now_ms)

    def lose_unknown(self, from_ms: int) -> None:
        """Count a loss of unknown size, from this time (Unix ms) until now, as one pair."""
        self.run.numbers.assign_dropped(1, DropCause.LOST, from_ms, _now_ms())

    async def keep_watching(self) -> None:
        """Count what is lost, until cancelled."""
        while True:
            self._losses.watch(_now_ms())
            self._report_losses()
            await asyncio.sleep(_LOSSES_EVERY_S)

    def close(self) -> None:
        """Count what is missing, and end the run as `TapRun.close` does."""
        self._report_losses(all_missing=True)
        self.run.close()

    def _report_losses(self, *, all_missing: bool = False) -> None:
        for loss in self._losses.losses(_now_ms(), all_missing=all_missing):
            self.run.numbers.assign_dropped(loss.pairs, DropCause.LOST, loss.from_ms, loss.to_ms)


def _with_listed_headers(capture: Capture, config: TapConfig) -> Capture:
    """Return the capture with only the headers of `config`: some gateways log all headers, credentials included."""
    replaced = msgspec.structs.replace
    request = replaced(capture.request, headers=_listed(capture.request.headers, config.request_headers))
    response = replaced(capture.response, headers=_listed(capture.response.headers, config.response_headers))
    return replaced(capture, request=request, response=response)


def _listed(headers: Headers, selection: HeaderSelection) -> Headers:
    chosen = selection.select([(name.encode("latin-1", "replace"), b"") for name in headers])
    names = {name.decode("latin-1") for name, _ in chosen}
    return {name: value for name, value in headers.items() if name.lower() in names}


class Receiver(Protocol):
    """Takes what a gateway sends to a socket or writes to a file, and hands it to a tap."""

    async def run(self, tap: ReceivedTap) -> None:
        """Hand pairs to `tap` until cancelled, without ever making the gateway wait. Raises StartupError."""


def _page(path: Path) -> mmap.mmap:
    """Return the memory of a file of one page, made where it is missing. Raises OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        # Writing to a mapped page that has no block on the disk would kill the process.
        os.posix_fallocate(descriptor, 0, PAGE_BYTES)
        return mmap.mmap(descriptor, PAGE_BYTES)
    finally:
        os.close(descriptor)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
