"""Whether this process has hung lately, as it does when a scheduler freezes it."""

from __future__ import annotations

import asyncio
import time
from typing import Final

_INTERVAL_S: Final = 0.1
_SUSPECT_S: Final = 2.0
"""How long after a hang this process still finds connections that their other ends have given up."""


class LoopWatch:
    """Notices when the event loop has not run for `hang_s`, the time after which peers give up a connection."""

    def __init__(self, hang_s: float) -> None:
        self._hang_s = hang_s
        self._seen_s = time.monotonic()
        self._suspect_until_s = 0.0

    @property
    def has_hung(self) -> bool:
        """Whether the loop hung just before, or within the last seconds."""
        self._look()
        return time.monotonic() < self._suspect_until_s

    async def run(self) -> None:
        """Watch until cancelled."""
        self._seen_s = time.monotonic()
        while True:
            await asyncio.sleep(_INTERVAL_S)
            self._look()

    def _look(self) -> None:
        now_s = time.monotonic()
        if now_s - self._seen_s > self._hang_s:
            self._suspect_until_s = now_s + _SUSPECT_S
        self._seen_s = now_s
