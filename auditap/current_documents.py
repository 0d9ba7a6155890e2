"""The documents as they are on disk: a changed one is taken up while running, a broken one is not."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

import structlog

from redactor.config import RedactionConfig
from redactor.redact import Redactor
from schemas.errors import StartupError
from schemas.metric_defs import Metrics

log = structlog.get_logger("documents")


class _Stamp(NamedTuple):
    """What tells one state of a file from another; all zero where there is no file."""

    inode: int = 0
    modified_ns: int = 0
    size_bytes: int = 0


class CurrentDocuments:
    """The redactor that decides now. It is exchanged as a whole, so that a pair is redacted by one of them alone.

    Documents are taken up together, once their files have kept still from one look to the next: what is still being
    written may lack a denial. If one of them cannot be used, or lacks an operation that a setting names, all stay as
    they were; that is logged, counted, and told by `stale` until it is mended.
    """

    def __init__(self, config: RedactionConfig, metrics: Metrics) -> None:
        """Load the documents. Raises StartupError, one sentence, where one cannot be used."""
        self._config = config
        self._metrics = metrics
        self._stale = False
        # Looked at first: what changes while it is read is read again.
        self._seen = self._taken = self._stamps()
        self.redactor = self._load()

    @property
    def stale(self) -> bool:
        """Whether the documents on disk could not be taken up."""
        return self._stale

    async def watch(self, interval_ms: int) -> None:
        """Look for changed documents every `interval_ms` until cancelled; never, if it is 0."""
        while interval_ms:
            await asyncio.sleep(interval_ms / 1000)
            await self.look()

    async def look(self) -> None:
        """Take up changed documents that have kept still since the last look. Never raises."""
        stamps = await asyncio.to_thread(self._stamps)
        is_still, self._seen = stamps == self._seen, stamps
        if not is_still or stamps == self._taken:
            return
        self._taken = stamps
        try:
            redactor = await asyncio.to_thread(self._load)
        except StartupError as error:
            self._refuse(str(error))
        except Exception as error:  # noqa: BLE001  whatever is wrong with a document, the old one runs on
            self._refuse(f"A document cannot be used ({type(error).__name__}).")
        else:
            # Written to meanwhile: it is taken up at the next look that finds it still.
            if await asyncio.to_thread(self._stamps) == stamps:
                self._take(redactor)
            else:
                self._taken = ()

    def _stamps(self) -> Sequence[_Stamp]:
        stamps = []
        for document in self._config.documents:
            try:
                found = document.path.stat()
            except OSError:
                stamps.append(_Stamp())
            else:
                stamps.append(_Stamp(found.st_ino, found.st_mtime_ns, found.st_size))
        return tuple(stamps)

    def _load(self) -> Redactor:
        return Redactor.from_config(self._config, self._metrics.redact_failures.inc)

    def _take(self, redactor: Redactor) -> None:
        digests = [each.digest for each in redactor.documents]
        was_stale, self._stale = self._stale, False
        if digests == [each.digest for each in self.redactor.documents] and not was_stale:
            return
        self.redactor = redactor
        self._metrics.documents_reloaded.inc()
        log.info("documents_reloaded", digests=digests)

    def _refuse(self, reason: str) -> None:
        self._stale = True
        self._metrics.documents_refused.inc()
        digests = [each.digest for each in self.redactor.documents]
        log.error("documents_not_reloaded", reason=reason, still=digests)
