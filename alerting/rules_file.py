"""The rules in force: read at start, and again whenever their file changes. A file that cannot be used changes nothing."""

from __future__ import annotations

import asyncio
from importlib.resources import files
from pathlib import Path

import structlog

from alerting.rules import RuleSet
from alerting.rules_parser import parse_rules
from alerting.yaml_source import BYTES_MAX, RulesRefused
from schemas.errors import StartupError
from schemas.metric_defs import Metrics

log = structlog.get_logger("alerting.rules")
_SHIPPED = "shipped_rules.yaml"
_POLL_MS = 2_000


class RulesFile:
    """The rules of a file; without a path, the shipped ones. Raises StartupError where the file cannot be used."""

    def __init__(self, path: Path | None, metrics: Metrics, poll_ms: int = _POLL_MS) -> None:
        self._path = path
        self._metrics = metrics
        self._poll_ms = poll_ms
        try:
            self._handled = self._last_read = self._read()
            self._current = parse_rules(self._handled, self.name)
        except RulesRefused as refused:
            raise StartupError(f"The rules cannot be used: {refused}") from None
        except OSError as error:
            raise StartupError(
                f"The rules file {self.name} cannot be read ({error.strerror}): correct alerting.rules."
            ) from None

    @property
    def name(self) -> str:
        """What errors call the file."""
        return _SHIPPED if self._path is None else str(self._path)

    def current(self) -> RuleSet:
        return self._current

    async def follow(self) -> None:
        """Poll the file until cancelled; return at once for the shipped rules."""
        while self._path is not None:
            await asyncio.sleep(self._poll_ms / 1000)
            # In a thread: parsing a large file takes seconds, in which Kafka would miss our heartbeats.
            await asyncio.to_thread(self.poll)

    def poll(self) -> None:
        """Load the file if it has changed and can be used; otherwise report why not and keep the rules in force.

        A change is loaded only if two successive polls read the same bytes: half a file that is still being written may
        be valid, with fewer rules.
        """
        try:
            found = self._read()
        except OSError as error:
            # Reported once, and not at every poll.
            if self._handled != b"":
                self._refuse(f"{self.name} cannot be read ({error.strerror})")
            self._handled = b""
            return
        is_stable, self._last_read = found == self._last_read, found
        if found == self._handled or not is_stable:
            return
        self._handled = found
        try:
            self._current = parse_rules(found, self.name)
        except RulesRefused as refused:
            self._refuse(str(refused))
        else:
            self._metrics.alert_rules_loaded.labels("loaded").inc()
            log.info("rules_reloaded", rules=len(self._current.rules), digest=self._current.digest)

    def _refuse(self, reason: str) -> None:
        self._metrics.alert_rules_loaded.labels("refused").inc()
        log.error("rules_refused", reason=reason, in_force=self._current.digest)

    def _read(self) -> bytes:
        if self._path is None:
            return files("alerting").joinpath(_SHIPPED).read_bytes()
        with self._path.open("rb") as file:
            # One byte more than is allowed, so that the parser can refuse what is too large.
            return file.read(BYTES_MAX + 1)
