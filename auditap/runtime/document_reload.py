"""Reloading of OpenAPI documents: a changed file replaces the redactor while running, an unusable one does not."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import structlog

from auditap.runtime.redaction_metrics import RedactionMetrics
from redactor.config import RedactionConfig
from redactor.identity.tokens import TokenVerifier
from redactor.openapi.document import EXTERNAL_REFERENCE, OpenApiDocument
from redactor.pipeline.redactor import Redactor
from redactor.report.mark_checks import misspelt_keywords
from schemas.errors import StartupError
from schemas.metric_defs import Metrics

log = structlog.get_logger("documents")

_SWITCH_INTERVAL_S = 0.0005
"""How long compiling may hold the interpreter before captures go on: a tenth of the default."""


class _Stamp(NamedTuple):
    """A file's state on disk, to notice changes by; all zero where there is no file."""

    inode: int = 0
    modified_ns: int = 0
    size_bytes: int = 0


@contextmanager
def _in_short_slices() -> Iterator[None]:
    """Let other threads run often while this one computes for seconds.

    Garbage collection is paused: each pass would hold the interpreter for longer than all else, and what compiling makes
    stays alive.
    """
    interval, collects = sys.getswitchinterval(), gc.isenabled()
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    gc.disable()
    try:
        yield
    finally:
        sys.setswitchinterval(interval)
        if collects:
            gc.enable()


def _warn_of_findings(document: OpenApiDocument) -> None:
    """Log how many parts of a document are denied because they cannot be trusted, and how many marks are misspelt.

    These are the findings of lint that take no time to find.
    """
    misspelt = sum(1 for _ in misspelt_keywords(document))
    if not (document.findings or misspelt):
        return
    external = sum(each.code == EXTERNAL_REFERENCE for each in document.findings)
    advice = "bundle it into one file first; " if external else ""
    log.warning(
        "document_has_findings",
        document=str(document.config.path),
        findings=len(document.findings) + misspelt,
        misspelt_marks=misspelt,
        references_to_other_files=external,
        remedy=f"{advice}`auditap lint` lists them",
    )


_NOTHING_MATCHES = (
    "no request can match any of its operations: check its servers and paths, and hosts in the settings"
)


class DocumentReloader:
    """Holds the redactor in use and replaces it as a whole, so that one pair is never redacted by two versions.

    All documents are reloaded together, once their files are unchanged from one check to the next: a file that is still
    being written may lack a denial. If one of them cannot be used, or lacks an operation that a setting names, all stay as
    they were; that is logged, counted, and `stale` is true until a later reload succeeds.

    All operations of the new documents are compiled before they replace the old ones, in a thread beside the captures,
    so that no capture waits for compiling.
    """

    def __init__(
        self, config: RedactionConfig, metrics: Metrics, verifier: TokenVerifier | None = None
    ) -> None:
        """Load the documents. Raises StartupError, one sentence, where one cannot be used.

        `verifier`: of the configured issuers' tokens, the same for all versions of the documents.
        """
        self._config = config
        self._verifier = verifier
        self._metrics = metrics
        self._stale = False
        # Before loading, so that a change during it is noticed by the next check.
        self._seen = self._loaded = self._stamps()
        self.redactor = self._load()

    @property
    def stale(self) -> bool:
        """Whether the documents on disk differ from those in use because they cannot be used."""
        return self._stale

    async def run(self, interval_ms: int) -> None:
        """Check for changed documents every `interval_ms` milliseconds until cancelled."""
        while True:
            await asyncio.sleep(interval_ms / 1000)
            await self.check()

    async def check(self) -> None:
        """Reload changed documents whose files are the same as at the last check. Never raises."""
        stamps = await asyncio.to_thread(self._stamps)
        is_unchanged, self._seen = stamps == self._seen, stamps
        if not is_unchanged or stamps == self._loaded:
            return
        self._loaded = stamps
        try:
            redactor = await asyncio.to_thread(self._load)
        except StartupError as error:
            self._refuse(str(error))
        except Exception as error:  # noqa: BLE001  whatever is wrong with a document, the old one stays in use
            self._refuse(f"A document cannot be used ({type(error).__name__}).")
        else:
            # A file that changed meanwhile is reloaded by the next check that finds it unchanged.
            if await asyncio.to_thread(self._stamps) == stamps:
                self._replace(redactor)
            else:
                self._loaded = ()

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
        with _in_short_slices():
            redactor = Redactor.from_config(
                self._config,
                self._metrics.redaction_failures.inc,
                RedactionMetrics(self._metrics),
                self._verifier,
            )
            redactor.prepare()
            for document in redactor.documents:
                _warn_of_findings(document)
                if not redactor.routes.serves(document):
                    log.warning(
                        "document_matches_nothing",
                        document=str(document.config.path),
                        remedy=_NOTHING_MATCHES,
                    )
        return redactor

    def _replace(self, redactor: Redactor) -> None:
        digests = [each.digest for each in redactor.documents]
        was_stale, self._stale = self._stale, False
        if digests == [each.digest for each in self.redactor.documents] and not was_stale:
            return
        self.redactor = redactor
        self._metrics.openapi_documents_reloaded.inc()
        log.info("documents_reloaded", digests=digests)

    def _refuse(self, reason: str) -> None:
        self._stale = True
        self._metrics.openapi_documents_refused.inc()
        digests = [each.digest for each in self.redactor.documents]
        log.error("documents_not_reloaded", reason=reason, still=digests)
