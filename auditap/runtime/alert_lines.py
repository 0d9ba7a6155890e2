"""Alerts on the terminal of `auditap up`: a line each, at a bounded rate, so that many of them hide nothing else."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from rich.text import Text

from auditap.plain_text import plain_line

_STYLES = {"high": "bold red", "medium": "bold yellow", "low": "cyan", "info": "dim"}
_MINUTE_S = 60
_SEE_ALL = "`auditap alerts list` shows all"


class AlertLines:
    """Shows at most `lines_per_minute` alerts. Where it leaves some out, it says so, and later how many.

    `timer`: seconds, monotonic.
    """

    def __init__(
        self, show: Callable[[Text], None], lines_per_minute: int, timer: Callable[[], float]
    ) -> None:
        self._show = show
        self._lines_per_minute = lines_per_minute
        self._timer = timer
        self._shown_at_s: deque[float] = deque()
        self._left_out = 0

    def add(self, payload: Mapping[str, Any]) -> None:
        """Show an alert, or count it as left out."""
        now_s = self._timer()
        while self._shown_at_s and now_s - self._shown_at_s[0] >= _MINUTE_S:
            self._shown_at_s.popleft()
        if len(self._shown_at_s) >= self._lines_per_minute:
            if not self._left_out:
                self._show(Text(f"More alerts are raised than are shown here: {_SEE_ALL}.", style="dim"))
            self._left_out += 1
            return
        if self._left_out:
            self._show(Text(f"{self._left_out} alerts were not shown: {_SEE_ALL}.", style="dim"))
            self._left_out = 0
        self._shown_at_s.append(now_s)
        self._show(_line(payload))


def _line(payload: Mapping[str, Any]) -> Text:
    severity = payload["severity"]
    actor = payload["record"].get("actor", {})
    who = actor.get("email") or actor.get("id") or actor.get("type") or "unknown"
    line = Text("ALERT ", style=_STYLES[severity])
    line.append(f"{severity}: {payload['title']}", style="default")
    line.append(f" ({plain_line(str(who))}) {payload['id']}", style="dim")
    return line
