"""Log what repeats once a second, with the number of lines left out: a full disk fails every batch."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_INTERVAL_S = 1.0
_KEYS_MAX = 1_000
# Differ from line to line of one fault; texts that structlog adds, not the caller.
_OWN_TEXTS = frozenset({"timestamp"})

_Key = tuple[object, ...]


@dataclass(slots=True)
class _Window:
    """What came since a line was written."""

    until_s: float
    left_out: int = 0
    last: logging.LogRecord | None = None
    """The last line left out."""


class RepeatsHandler(logging.StreamHandler[Any]):
    """Writes each warning or error once a second at most; the next line like it has `more_like_it`, how many were left out.

    Lines are alike that have the same logger, level, event and texts; their numbers may differ, but for a
    partition's. What was left out is written, as one line, before the next line of any kind that comes after that
    second, or at the end of the process. Lower levels pass as they are.
    """

    def __init__(self, stream: Any = None, clock_s: Callable[[], float] = time.monotonic) -> None:
        super().__init__(stream)
        self._clock_s = clock_s
        # In the order in which the seconds end.
        self._windows: OrderedDict[_Key, _Window] = OrderedDict()

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler.emit`; the caller holds the handler's lock."""
        now_s = self._clock_s()
        key = _key(record) if record.levelno >= logging.WARNING else None
        window = None if key is None else self._windows.get(key)
        if window is not None and now_s < window.until_s:
            window.left_out += 1
            window.last = record
            return
        if window is not None and key is not None:
            del self._windows[key]
        self._write_overdue(now_s)
        super().emit(_counted(record, 0 if window is None else window.left_out))
        if key is not None:
            self._windows[key] = _Window(now_s + _INTERVAL_S)
            if len(self._windows) > _KEYS_MAX:
                self._write_oldest()

    def close(self) -> None:
        """Write what was left out so far. See `logging.Handler.close`."""
        self.acquire()
        try:
            while self._windows:
                self._write_oldest()
        finally:
            self.release()
        super().close()

    def _write_overdue(self, now_s: float) -> None:
        written = []
        while self._windows:
            key, window = next(iter(self._windows.items()))
            if now_s < window.until_s:
                break
            del self._windows[key]
            if self._write_last(window):
                written.append(key)
        # Those like it may come at once.
        for key in written:
            self._windows[key] = _Window(now_s + _INTERVAL_S)

    def _write_oldest(self) -> None:
        _, window = self._windows.popitem(last=False)
        self._write_last(window)

    def _write_last(self, window: _Window) -> bool:
        if window.last is None:
            return False
        super().emit(_counted(window.last, window.left_out - 1))
        return True


def _key(record: logging.LogRecord) -> _Key:
    """Return what lines that are alike have in common. A library's message counts before its arguments are put in."""
    said = record.msg
    if not isinstance(said, dict):
        return record.name, record.levelno, str(said)
    texts = (
        (name, value) for name, value in said.items() if isinstance(value, str) and name not in _OWN_TEXTS
    )
    return record.name, record.levelno, said.get("partition"), *texts


def _counted(record: logging.LogRecord, left_out: int) -> logging.LogRecord:
    if not left_out:
        return record
    if isinstance(record.msg, dict):
        record.msg["more_like_it"] = left_out
    else:
        record.msg, record.args = f"{record.getMessage()} (and {left_out} more like it)", None
    return record
