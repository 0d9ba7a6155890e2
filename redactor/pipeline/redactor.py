"""The redactor's public interface: captured pairs in, audit events out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from redactor.compile.compiled_operation import CompiledOperation
from redactor.compile.compiler import Compiler
from redactor.config import RedactionConfig
from redactor.identity.tokens import TokenVerifier
from redactor.openapi.document import OpenApiDocument, load_document
from redactor.openapi.operations import Operation, operations_of
from redactor.openapi.routes import Route, Routes
from redactor.pipeline.events import bare_event
from redactor.pipeline.identities import Identities
from redactor.pipeline.pipeline import Observer, Pipeline, fast_stages, reference_stages
from redactor.pipeline.resolved_operation import ResolvedOperation
from schemas.capture import Capture, decode_capture
from schemas.capture_id import capture_id
from schemas.errors import RefusalReason, RefusedCapture, StartupError
from schemas.event import encode_event


class Redactor:
    """Keeps of a pair exactly what the documents mark and the configuration allows. Pure; never raises on input.

    `observer` is notified of pairs that match nothing as they are written, and of fields that were refused. A pair on which
    redaction fails is recorded without anything read from it, and `on_failure` is called. It gets no
    arguments, because whatever describes the failure may hold the body.
    """

    def __init__(
        self,
        documents: Sequence[OpenApiDocument],
        config: RedactionConfig,
        on_failure: Callable[[], None] | None = None,
        observer: Observer | None = None,
        verifier: TokenVerifier | None = None,
    ) -> None:
        """`verifier` has the keys of the issuers that are configured. Without one, none of their tokens is verified."""
        self._documents = tuple(documents)
        self._config = config
        self._on_failure = on_failure
        self._routes = Routes(documents, trailing_slash_allowed=config.trailing_slash_allowed)
        self._compilers = {id(each): Compiler(each, config.limits) for each in documents}
        self._compiled: dict[tuple[int, bool], CompiledOperation] = {}
        self._resolved: dict[tuple[int, ...], ResolvedOperation] = {}
        fast = fast_stages(config, self._routes, self._resolve)
        self._bodies = fast.bodies
        self.verifier = (verifier or TokenVerifier(config.issuers)) if config.issuers else None
        identities = None if self.verifier is None else Identities(self.verifier)
        self._pipeline = Pipeline(fast, observer, identities)
        reference = reference_stages(config, self._routes, self._resolve)
        self._reference = Pipeline(reference, identities=identities)

    @classmethod
    def from_config(
        cls,
        config: RedactionConfig,
        on_failure: Callable[[], None] | None = None,
        observer: Observer | None = None,
        verifier: TokenVerifier | None = None,
    ) -> Redactor:
        """Load the configured documents. Operations are compiled when they are first needed, or by `prepare`.

        Raises StartupError, one sentence, for one that cannot be read, or a setting that names no operation of theirs.
        """
        documents = [load_document(each) for each in config.documents]
        _check_names(documents, config)
        return cls(documents, config, on_failure, observer, verifier)

    @property
    def documents(self) -> tuple[OpenApiDocument, ...]:
        """The documents that decide; their findings grow as operations are compiled."""
        return self._documents

    @property
    def config(self) -> RedactionConfig:
        """The configuration, which decides together with the documents."""
        return self._config

    @property
    def routes(self) -> Routes:
        """The route table of all documents."""
        return self._routes

    def prepare(self) -> None:
        """Compile all operations, so that no pair has to wait for that. What is recorded is the same without it.

        Takes seconds for a document of thousands of schemas. Operations that only tie on unusual paths may be left out.
        """
        for routes in self._routes.combinations():
            key = tuple(id(route) for route in routes)
            if key not in self._resolved:
                for plan in self._resolve(routes).prepare():
                    self._bodies.prepare(plan)
        for compiler in self._compilers.values():
            compiler.forget()

    def redact(self, capture: Capture, event_id: str) -> bytes | None:
        """Return the audit event's JSON, or None where the operation is excluded by configuration.

        `event_id` is a UUIDv7 of 32 hex digits; its milliseconds become the action's time.
        """
        try:
            return self._pipeline.event(capture, event_id)
        except Exception:  # noqa: BLE001, S110  whatever it was may hold the body, so it is neither logged nor raised
            pass
        # Out here, so that what happens from here on does not have the error, and with it the body, as its context.
        if self._on_failure is not None:
            self._on_failure()
        return encode_event(bare_event(capture, event_id))

    def redact_by_reference(self, capture: Capture, event_id: str) -> bytes | None:
        """Return the same as `redact`, each stage by its reference implementation.

        Raises where `redact` records a bare event; the error may hold the pair.
        """
        return self._reference.event(capture, event_id)

    def _resolve(self, routes: tuple[Route, ...]) -> ResolvedOperation:
        key = tuple(id(route) for route in routes)
        resolved = self._resolved.get(key)
        if resolved is None:
            alone = len(routes) == 1
            operations = [self._compile(route.operation, alone=alone) for route in routes]
            resolved = self._resolved[key] = ResolvedOperation(operations, routes, self._config)
        return resolved

    def _compile(self, operation: Operation, *, alone: bool) -> CompiledOperation:
        key = id(operation), alone
        compiled = self._compiled.get(key)
        if compiled is None:
            compiler = self._compilers[id(operation.document)]
            compiled = CompiledOperation(operation, compiler, self._config, alone=alone)
            self._compiled[key] = compiled
        return compiled


def _check_names(documents: Sequence[OpenApiDocument], config: RedactionConfig) -> None:
    """Raise StartupError if a setting names what no document declares: it would silently have no effect."""
    if not (config.get_responses_kept or config.excluded_operations or config.path_parameters_kept):
        return
    operations = [operation for document in documents for operation in operations_of(document)]
    segments = [segment for operation in operations for segment in operation.segments]
    excludable = {each.id for each in operations}
    readable = {each.id for each in operations if each.has_own_id and each.method == "GET"}
    path_parameters = {name for segment in segments for name in segment.names}
    _check_known("path_parameters_kept", "a path parameter", config.path_parameters_kept - path_parameters)
    _check_known("excluded_operations", "an operation", config.excluded_operations - excludable)
    _check_known("get_responses_kept", "the id of a GET operation", config.get_responses_kept - readable)


def _check_known(setting: str, what: str, unknown: frozenset[str]) -> None:
    if unknown:
        names = ", ".join(sorted(unknown)[:5])
        raise StartupError(
            f"redaction.{setting} names {names}, which is not {what} of the documents: correct it or remove it."
        )


def redact_lines(
    redactor: Redactor,
    lines: Iterable[bytes],
    on_refused: Callable[[int, RefusedCapture], None] | None = None,
    id_key: bytes = b"auditap redact",
    now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
) -> Iterator[bytes]:
    """Yield the audit event of each line's capture, in order; nothing for an excluded operation.

    A line that is not a capture yields nothing; `on_refused` gets its index and the reason. Ids are the ones that a
    collector with the identity key `id_key` gives (`schemas.capture_id`); `now_ms` is its time of receipt (Unix ms).
    """
    for index, line in enumerate(lines):
        try:
            capture = _decode(line, redactor.config.limits.capture_bytes_max)
            event_id = capture_id(capture, id_key, now_ms())
        except RefusedCapture as refused:
            if on_refused is not None:
                on_refused(index, refused)
            continue
        event = redactor.redact(capture, event_id)
        if event is not None:
            yield event


def _decode(line: bytes, bytes_max: int) -> Capture:
    if len(line) > bytes_max:
        raise RefusedCapture(RefusalReason.TOO_LARGE)
    return decode_capture(line)
