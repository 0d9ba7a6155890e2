"""The rules of now: read at start, and again whenever their file changes; a wrong file changes nothing."""

from __future__ import annotations

import asyncio
from importlib.resources import files
from pathlib import Path

import structlog

from schemas.errors import StartupError
from schemas.metric_defs import Metrics
from watcher.rules import BYTES_MAX, RuleSet, RulesRefused, read_rules

log = structlog.get_logger("watcher.rules")
_SHIPPED = "shipped_rules.yaml"


class RuleBook:
    """The rules of a file, or the shipped ones. Raises StartupError where the file cannot be used."""

    def __init__(self, path: Path | None, metrics: Metrics, poll_ms: int) -> None:
        self._path = path
        self._metrics = metrics
        self._poll_ms = poll_ms
        try:
            self._known = self._seen = self._read()
            self._current = read_rules(self._known, self.name)
        except RulesRefused as refused:
            raise StartupError(f"The rules cannot be used: {refused}") from None
        except OSError as error:
            raise StartupError(
                f"The file of rules {self.name} cannot be read ({error.strerror}): correct watch.rules."
            ) from None

    @property
    def name(self) -> str:
        """What the rules are called where they are refused."""
        return _SHIPPED if self._path is None else str(self._path)

    def current(self) -> RuleSet:
        """Return the rules that are in force."""
        return self._current

    async def follow(self) -> None:
        """Look at the file again and again."""
        while self._path is not None:
            await asyncio.sleep(self._poll_ms / 1000)
            # In a thread: reading a large file takes seconds, and the log must hear of us meanwhile.
            await asyncio.to_thread(self.look)

    def look(self) -> None:
        """Take the file over if it has changed and is right; else say why not and keep what is in force.

        What has changed is taken at the next look, if it is the same by then: who writes may not have come to the end,
        and half a file may be one with fewer rules.
        """
        try:
            found = self._read()
        except OSError as error:
            if self._known != b"":
                self._refuse(f"{self.name} cannot be read ({error.strerror})")
            self._known = b""
            return
        is_settled, self._seen = found == self._seen, found
        if found == self._known or not is_settled:
            return
        self._known = found
        try:
            self._current = read_rules(found, self.name)
        except RulesRefused as refused:
            self._refuse(str(refused))
        else:
            self._metrics.rules_loaded.labels("taken").inc()
            log.info("rules_taken", rules=len(self._current.rules), digest=self._current.digest)

    def _refuse(self, reason: str) -> None:
        self._metrics.rules_loaded.labels("refused").inc()
        log.error("rules_refused", reason=reason, in_force=self._current.digest)

    def _read(self) -> bytes:
        if self._path is None:
            return files("watcher").joinpath(_SHIPPED).read_bytes()
        with self._path.open("rb") as file:
            return file.read(BYTES_MAX + 1)
