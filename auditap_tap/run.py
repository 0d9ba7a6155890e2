"""One run of the tap in one process: where its parts are joined, and the thread that does everything but copying."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable

from .buffer import PairBuffer
from .client import CollectorClient
from .config import TapConfig
from .heartbeat import Heartbeats
from .sender import Sender, Shutdown
from .sequence import DropCause, SequenceNumbers, new_epoch
from .state_file import StateFile

_log = logging.getLogger("auditap.tap")


class TapRun:
    """The run: an epoch with its sequence numbers, a buffer, and the thread that sends.

    A thread and not a task: encoding and a slow collector stay off the application's event loop, whichever loop it is.
    """

    def __init__(self, config: TapConfig) -> None:
        self.config = config
        self.pid = os.getpid()
        self.closed = False
        self.buffer = PairBuffer(config.queue_bytes_max)
        self._started_ms = time.time_ns() // 1_000_000
        self.numbers = SequenceNumbers(new_epoch(self._started_ms))
        self._shutdown = Shutdown()
        self._state_file: StateFile | None = None
        self._client = CollectorClient(config.address, config.headers, compress=config.compress)
        self._heartbeats = Heartbeats(config, self._client, self.numbers, self._started_ms)
        self._sender = Sender(
            config,
            client=self._client,
            buffer=self.buffer,
            numbers=self.numbers,
            heartbeats=self._heartbeats,
            shutdown=self._shutdown,
        )
        # A daemon, so that it cannot keep the process from ending; `atexit` closes the run first.
        self._thread = threading.Thread(target=self._work, name="auditap-tap", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the run. Waits until what is left is sent, `close_s_max` at most."""
        if not self.closed:
            self._shutdown.begin(self.config.close_s_max)
            self.closed = True
            self.buffer.filled.set()
        self._thread.join(self.config.close_s_max)

    def detach_from_parent(self) -> None:
        """In a forked process: leave this run, and the lock on its state file, to the parent."""
        self.numbers.detach()
        if self._state_file is not None:
            self._state_file.close()

    def _work(self) -> None:
        # In the thread, because no request may wait for a disk.
        self._swallow_failure(self._open_state_file)
        while not self._shutdown.begun:
            self._swallow_failure(self._heartbeats.send_if_due)
            if self.buffer.filled.wait(self._heartbeats.seconds_until_due()):
                self._shutdown.wait(self.config.linger_s)
                # Before sending: what is put meanwhile sets it again.
                self.buffer.filled.clear()
                self._swallow_failure(self._sender.send_all)
        self._swallow_failure(self._sender.send_all)
        # In this order: from here on nothing is queued, then every number that is left has a cause, and then the last
        # heartbeat has them all.
        self.buffer.close()
        self.numbers.drop_all(DropCause.CLOSING)
        self._swallow_failure(self._report_end)
        self._client.close()

    def _swallow_failure(self, step: Callable[[], None]) -> None:
        try:
            step()
        except Exception:  # noqa: BLE001  # the thread must live on
            self.buffer.count_failed()

    def _open_state_file(self) -> None:
        """Create the state file, and find those of crashed runs. Without a usable folder, do neither and warn."""
        folder = self.config.state_dir
        if folder is None:
            return
        try:
            state_file = StateFile(folder.expanduser(), self.config.tap_id)
            lease_ms = self.config.lease_ms
            while (state := state_file.create(self.numbers.epoch, self._started_ms, lease_ms)) is None:
                # Nothing has been sent under this epoch yet, so it can still change.
                self.numbers.epoch = new_epoch(self._started_ms)
            self.numbers.persist_in(state)
            self._state_file = state_file
            self._heartbeats.crashed_runs = state_file.find_crashed_runs()
        except (OSError, RuntimeError) as error:
            _log.warning(
                "the audit tap keeps its sequence numbers in memory alone: its state folder cannot be used (%s)",
                type(error).__name__,
            )

    def _report_end(self) -> None:
        """Report that the run has ended. If the collector does not accept that, leave it to the next run."""
        accepted = self._heartbeats.send("ended")
        if self._state_file is None:
            return
        self.numbers.detach()
        if accepted:
            self._state_file.remove()
        else:
            self._state_file.close()
