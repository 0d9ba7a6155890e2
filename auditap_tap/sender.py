"""Batches of pairs on their way to the collector: encoded, sent, retried, and dropped when their time is up."""

from __future__ import annotations

import math
import random
import threading
import time
from dataclasses import dataclass
from typing import Final, NamedTuple

from .buffer import PairBuffer
from .client import CAPTURES_PATH, CollectorClient, Reply
from .config import TapConfig
from .heartbeat import Heartbeats
from .sequence import DropCause, SequenceNumbers

_RETRY_DELAY_S: Final = 0.05
_RETRY_DELAY_S_MAX: Final = 5.0
_ASKED_WAIT_S_MAX: Final = 60.0  # meanwhile new captures fill the buffer


class Shutdown:
    """Whether the run is to end, and until when it may still send what is left."""

    def __init__(self) -> None:
        self._begun = threading.Event()
        self.deadline_s = math.inf
        """By `time.monotonic`."""

    @property
    def begun(self) -> bool:
        return self._begun.is_set()

    def begin(self, grace_s: float) -> None:
        self.deadline_s = time.monotonic() + grace_s
        self._begun.set()

    def wait(self, seconds: float) -> None:
        """Wait, but no longer than until the shutdown begins."""
        self._begun.wait(seconds)

    def pause(self, seconds: float) -> None:
        """Wait as `wait` does; once the shutdown has begun, wait all of the time."""
        if self.begun:
            time.sleep(seconds)
        else:
            self.wait(seconds)


class _Batch(NamedTuple):
    """Encoded pairs, their sequence numbers, and the bytes that the buffer has reserved for them."""

    lines: list[bytes]
    seqs: list[int]
    reserved_bytes: int


@dataclass(frozen=True)
class Sender:
    """Sends what the buffer holds. Belongs to the run's thread; heartbeats go out between batches and retries."""

    config: TapConfig
    client: CollectorClient
    buffer: PairBuffer
    numbers: SequenceNumbers
    heartbeats: Heartbeats
    shutdown: Shutdown

    def send_all(self) -> None:
        """Send batches until the buffer is empty and the collector knows of every drop, or the deadline has passed."""
        while time.monotonic() < self.shutdown.deadline_s:
            batch = self._next_batch()
            if not batch.lines and not self.buffer.drops_to_report():
                return
            delivered = self._deliver(batch)
            self.buffer.release(batch.reserved_bytes)
            if not delivered and not batch.lines:
                return
            self.heartbeats.send_if_due()

    def _next_batch(self) -> _Batch:
        """Take pairs out of the buffer until it is empty or the batch is full."""
        lines: list[bytes] = []
        seqs: list[int] = []
        reserved_bytes = encoded_bytes = 0
        while len(lines) < self.config.batch_pairs_max and encoded_bytes < self.config.batch_bytes_max:
            pair = self.buffer.get()
            if pair is None:
                break
            reserved_bytes += pair.size_bytes
            try:
                line = pair.encode(self.config.tap_id, self.numbers.epoch)
            except Exception:  # noqa: BLE001  # one pair that cannot be encoded must not cost the others
                self.buffer.count_failed()
                self.buffer.count_dropped(1)
                self.numbers.drop((pair.seq,), DropCause.FAILED)
                continue
            lines.append(line)
            seqs.append(pair.seq)
            encoded_bytes += len(line)
        return _Batch(lines, seqs, reserved_bytes)

    def _deliver(self, batch: _Batch) -> bool:
        """Send a batch until the collector accepts or rejects it, or the time for it is up. Return whether it accepted.

        A batch that is not accepted is dropped. An empty batch still reports the number of drops.
        """
        body = self.client.pack(batch.lines)
        dropped = self.buffer.drops_to_report()
        give_up_s = time.monotonic() + self.config.retry_s_max
        delay_s = _RETRY_DELAY_S
        while True:
            reply = self.client.post(CAPTURES_PATH, body, dropped)
            if reply.is_success:
                self._acknowledge(batch, reply, dropped)
                return True
            pause_s = self._pause_s(delay_s, reply, give_up_s)
            if pause_s is None:
                self._drop(batch, reply)
                return False
            self._pause(pause_s)
            delay_s *= 2

    def _pause_s(self, delay_s: float, reply: Reply, give_up_s: float) -> float | None:
        """Return how long to wait before the batch is sent again; None if that is of no use or the time is up."""
        # Drawn, so that taps do not all come back at once to a collector that was away.
        pause_s = min(delay_s * random.uniform(0.5, 1.5), _RETRY_DELAY_S_MAX)  # noqa: S311
        left_s = min(give_up_s, self.shutdown.deadline_s) - time.monotonic()
        asked_s = min(reply.retry_after_s, _ASKED_WAIT_S_MAX)
        if not reply.may_succeed_later or pause_s > left_s or (self.shutdown.begun and asked_s > left_s):
            return None
        # A collector that asks for longer than there is time gets the batch once more at the end of it.
        return max(pause_s, min(asked_s, left_s))

    def _pause(self, seconds: float) -> None:
        """Wait, no longer than until the shutdown begins. Heartbeats go on, because the tap's lease may be shorter."""
        until_s = time.monotonic() + seconds
        was_begun = self.shutdown.begun
        while (left_s := until_s - time.monotonic()) > 0 and self.shutdown.begun is was_begun:
            due_s = self.heartbeats.seconds_until_due()
            self.shutdown.pause(left_s if due_s is None else min(left_s, due_s))
            self.heartbeats.send_if_due()

    def _acknowledge(self, batch: _Batch, reply: Reply, dropped: int) -> None:
        refused = reply.refused_indexes()
        self.buffer.count_sent(len(batch.lines) - len(refused), len(refused), dropped)
        refused_seqs = [batch.seqs[index] for index in refused if index < len(batch.seqs)]
        # Before acknowledging, because only pending numbers can be dropped.
        self.numbers.drop(refused_seqs, DropCause.REFUSED)
        self.numbers.acknowledge(batch.seqs)

    def _drop(self, batch: _Batch, reply: Reply) -> None:
        self.buffer.count_dropped(len(batch.lines))
        cause = DropCause.COLLECTOR_AWAY if reply.may_succeed_later else DropCause.REJECTED
        self.numbers.drop(batch.seqs, cause)
