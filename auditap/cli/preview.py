"""What `auditap redact` and `auditap explain` share: what a collector with the same settings would do with captures."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar

import click

from auditap.cli.options import envelope_option
from auditap.cli.startup import configured_settings
from auditap.runtime.redaction_metrics import NO_ACCOUNT
from auditap.runtime.signing_keys import SigningKeyFetcher
from auditap.settings import Settings, load_or_create_key
from gateway_tap.capture_file import Line, read_lines
from redactor.config import DocumentConfig, RedactionConfig
from redactor.identity.tokens import TokenVerifier
from redactor.openapi.document import OpenApiDocument, load_document
from redactor.pipeline.redactor import Redactor
from schemas.errors import RefusalReason, RefusedCapture, StartupError
from schemas.event import TokenReason, UnmatchedReason
from schemas.metric_defs import Metrics

_Command = TypeVar("_Command", bound=Callable[..., None])
# Where no collector has run: ids are then those of no record.
_NO_KEY = b"auditap redact"


def spec_options(command: _Command) -> _Command:
    """Add the options that name a document in place of those in the settings."""
    spec_option = click.option(
        "--spec",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="The OpenAPI document.  [default: those in the settings]",
    )
    return spec_option(envelope_option(command))


class Preview(NamedTuple):
    """A redactor as the collector has it, its documents, and the bounds and the key of the collector."""

    redactor: Redactor
    documents: Sequence[OpenApiDocument]
    config: RedactionConfig
    identity_key: bytes
    line_bytes_max: int

    @classmethod
    def load(cls, spec: Path | None, envelope: str | None) -> Preview:
        """Read the settings and the documents; `spec` and `envelope` go before the documents there. Raises StartupError."""
        settings = configured_settings()
        config = settings.redaction
        observer = _Hints()
        verifier = _verifier(config)
        if spec is None:
            if envelope is not None:
                raise click.UsageError("--envelope is for the document that --spec names.")
            if not config.documents:
                raise StartupError("Give --spec, the OpenAPI document, or set redaction.documents.")
            redactor = Redactor.from_config(config, observer=observer, verifier=verifier)
        else:
            config = replace(config, documents=(document_at(config, spec, envelope),))
            # Settings may name operations of other documents.
            documents = [load_document(each) for each in config.documents]
            redactor = Redactor(documents, config, observer=observer, verifier=verifier)
        key, line_bytes_max = _identity_key(settings), settings.intake_limits.line_bytes_max
        return cls(redactor, redactor.documents, config, key, line_bytes_max)

    def captures(self, file: BinaryIO, on_refused: Callable[[int, RefusedCapture], None]) -> Iterator[Line]:
        """Yield the texts in a file that are not too long for a collector; `on_refused` gets the number of each other one.

        Raises StartupError.
        """
        for line in read_lines(file, self.line_bytes_max):
            if len(line.text) > self.line_bytes_max:
                on_refused(line.number, RefusedCapture(RefusalReason.TOO_LARGE))
            else:
                yield line


class _Hints:
    """An `Observer` that says what a collector would log. Not a subclass of one, which compiled code would not allow."""

    def __init__(self) -> None:
        self._is_account_missed = False

    def unmatched(self, reason: UnmatchedReason, *, altered: bool) -> None:
        """See `Observer.unmatched`."""

    def refused(self, fields: Sequence[str]) -> None:
        """See `Observer.refused`."""

    def token(self, reason: TokenReason | None) -> None:
        """See `Observer.token`."""

    def without_account(self) -> None:
        """See `Observer.without_account`."""
        if not self._is_account_missed:
            self._is_account_missed = True
            click.echo(f"There are captures without an account: {NO_ACCOUNT}.", err=True)


def _verifier(config: RedactionConfig) -> TokenVerifier | None:
    """Return the verifier of the issuers' tokens with the keys that they have now. Raises StartupError.

    Tokens of an issuer whose keys cannot be fetched are not verified; a sentence says so.
    """
    if not config.issuers:
        return None
    verifier = TokenVerifier(config.issuers)
    asyncio.run(_fetch_keys(config, verifier))
    for each in config.issuers:
        if not verifier.keys.has_any(each.issuer):
            click.echo(
                f"The keys of {each.issuer} cannot be fetched: none of its tokens is verified.", err=True
            )
    return verifier


async def _fetch_keys(config: RedactionConfig, verifier: TokenVerifier) -> None:
    fetcher = SigningKeyFetcher(config.issuers, verifier.keys, Metrics())
    fetcher.check_files()
    await fetcher.fetch()
    await fetcher.stop()


def document_at(config: RedactionConfig, spec: Path, envelope: str | None = None) -> DocumentConfig:
    """Return the document at `spec` as the settings have it, if they do."""
    configured = (each for each in config.documents if each.path.resolve() == spec.resolve())
    document = next(configured, DocumentConfig(spec))
    return document if envelope is None else replace(document, envelope=envelope)


def _identity_key(settings: Settings) -> bytes:
    given = settings.collector.identity_key
    if given is None and not os.access(settings.data_dir / "identity.key", os.R_OK):
        return _NO_KEY
    return load_or_create_key(settings, "identity.key", given)
