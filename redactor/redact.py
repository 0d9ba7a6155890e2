"""From a captured pair to one audit event: the redactor's public face."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from redactor.assemble import Matched, bare_event, matched_event, never_read, unmatched_event
from redactor.bodies import ABSENT, NEVER_READ, Body, Content, body_asks_for_method, is_absent, redact_body
from redactor.compiled import CompiledOperation
from redactor.compiler import Compiler
from redactor.config import RedactionConfig
from redactor.document import LoadedDocument, load_document
from redactor.fast_path import FastPath
from redactor.governing import Governing
from redactor.headers import Fields, HeaderReader, media_type, overrides_method
from redactor.operations import Operation, operations_of
from redactor.routes import Match, Route, Routes
from redactor.url import asks_for_method, read_host, split_path, split_query, split_url
from schemas.capture import Capture, decode_capture
from schemas.errors import RefusalReason, RefusedCapture, StartupError
from schemas.event import AuditEvent, UnmatchedReason, encode_event
from schemas.identity import MS_MAX, derive_id, new_id, parse_id, parse_rfc3339_ms


class Redactor:
    """Keeps of a pair exactly what the documents mark and the configuration allows. Pure; never raises on input.

    `on_failure` is told, without arguments, of each pair that had to be recorded bare because redacting it failed.
    """

    def __init__(
        self,
        documents: Sequence[LoadedDocument],
        config: RedactionConfig,
        on_failure: Callable[[], None] | None = None,
    ) -> None:
        self._documents = tuple(documents)
        self._config = config
        self._on_failure = on_failure
        self._headers = HeaderReader(config.headers)
        self._routes = Routes(documents, trailing_slash_allowed=config.trailing_slash_allowed)
        self._compilers = {id(each): Compiler(each, config.limits) for each in documents}
        self._compiled: dict[tuple[int, bool], CompiledOperation] = {}
        self._governing: dict[tuple[int, ...], Governing] = {}
        self._fast = FastPath(config, self._routes, self._headers, self._governed_by)

    @classmethod
    def from_config(cls, config: RedactionConfig, on_failure: Callable[[], None] | None = None) -> Redactor:
        """Load the configured documents.

        Raises StartupError, one sentence, for one that cannot be read, or a setting that names no operation of theirs.
        """
        documents = [load_document(each) for each in config.documents]
        _check_operations(documents, config)
        return cls(documents, config, on_failure)

    @property
    def documents(self) -> tuple[LoadedDocument, ...]:
        """The documents that decide; their findings grow as operations are compiled."""
        return self._documents

    @property
    def config(self) -> RedactionConfig:
        """What the redactor decides by, beside the documents."""
        return self._config

    @property
    def routes(self) -> Routes:
        """What finds the operations of a request."""
        return self._routes

    def redact(self, capture: Capture, event_id: str) -> bytes | None:
        """Return the audit event's JSON, or None where the operation is excluded by configuration.

        `event_id` is a UUIDv7 of 32 hex digits; its milliseconds become the action's time.
        """
        try:
            found = self._fast.event(capture, event_id)
            return self.redact_generally(capture, event_id) if found is None else found
        except Exception:  # noqa: BLE001, S110  whatever it was may hold the body, so it is neither logged nor raised
            pass
        if self._on_failure is not None:
            self._on_failure()
        return encode_event(bare_event(capture, event_id))

    def redact_generally(self, capture: Capture, event_id: str) -> bytes | None:
        """Return what `redact` does, on the way that defines it and without its care: raises where it fails."""
        event = self._event(capture, event_id)
        return None if event is None else encode_event(event)

    def _event(self, capture: Capture, event_id: str) -> AuditEvent | None:
        url = split_url(capture.request.url)
        segments = split_path(url.path)
        request = self._headers.of_request(capture.request.headers)
        response = self._headers.of_response(capture.response.headers)
        pairs = split_query(url.query)
        host = read_host(request.once("host") or "") if request.present("host") else None
        sent = Content(capture.request, request, self._config.limits.body_bytes_max)
        match = self._routes.match(url, host, capture.request.method, segments)
        if (
            overrides_method(capture.request.headers)
            or asks_for_method(url.query)
            # The frameworks that heed a body's field do so for POST alone.
            or (capture.request.method == "POST" and not never_read(capture) and body_asks_for_method(sent))
        ):
            match = Match((), UnmatchedReason.METHOD_OVERRIDE, self._routes.known_path(url, host, segments))
        known = self._headers.known(request, response)
        if match.unmatched is not None:
            return unmatched_event(capture, event_id, match, known)
        governing = self._governed_by(match.routes)
        if governing.is_excluded:
            return None
        strict = capture.response.status >= 400
        path = governing.path(segments.decoded, strict=strict)
        matched = Matched(
            governing,
            path,
            governing.uri(path, pairs, strict=strict),
            self._request_body(capture, sent, governing),
            self._response_body(capture, response, governing),
        )
        return matched_event(capture, event_id, matched, known)

    def _governed_by(self, routes: tuple[Route, ...]) -> Governing:
        key = tuple(id(route) for route in routes)
        governing = self._governing.get(key)
        if governing is None:
            alone = len(routes) == 1
            operations = [self._compile(route.operation, alone=alone) for route in routes]
            governing = self._governing[key] = Governing(operations, routes, self._config)
        return governing

    def _compile(self, operation: Operation, *, alone: bool) -> CompiledOperation:
        key = id(operation), alone
        compiled = self._compiled.get(key)
        if compiled is None:
            compiler = self._compilers[id(operation.document)]
            compiled = CompiledOperation(operation, compiler, self._config, alone=alone)
            self._compiled[key] = compiled
        return compiled

    def _request_body(self, capture: Capture, sent: Content, governing: Governing) -> Body:
        if never_read(capture):
            return NEVER_READ
        if is_absent(capture.request):
            return ABSENT
        media = governing.request(media_type(sent.fields), strict=capture.response.status >= 400)
        return redact_body(sent, media, self._config.limits)

    def _response_body(self, capture: Capture, fields: Fields, governing: Governing) -> Body:
        granted = capture.request.method == "GET" and governing.keeps_get_response
        if never_read(capture) and not (granted and capture.response.status != 101):
            return NEVER_READ
        if is_absent(capture.response):
            return ABSENT
        media = governing.response(capture.response.status, media_type(fields))
        content = Content(capture.response, fields, self._config.limits.body_bytes_max)
        return redact_body(content, media, self._config.limits)


def _check_operations(documents: Sequence[LoadedDocument], config: RedactionConfig) -> None:
    """Raise StartupError where a setting names an operation that there is not: it would silently do nothing."""
    if not (config.get_responses_kept or config.excluded_operations):
        return
    declared = [operation for document in documents for operation in operations_of(document)]
    excludable = {each.id for each in declared}
    readable = {each.id for each in declared if each.has_own_id and each.method == "GET"}
    for setting, what, named, known in (
        ("excluded_operations", "an operation", config.excluded_operations, excludable),
        ("get_responses_kept", "the id of a GET operation", config.get_responses_kept, readable),
    ):
        unknown = sorted(named - known)
        if unknown:
            raise StartupError(
                f"redaction.{setting} names {', '.join(unknown[:5])}, which is not {what} of the documents: correct it or remove it."
            )


def redact_lines(
    redactor: Redactor,
    lines: Iterable[bytes],
    on_refused: Callable[[int, RefusedCapture], None] | None = None,
    id_key: bytes = b"auditap redact",
    now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
) -> Iterator[bytes]:
    """Yield the audit event of each line's capture, in order; nothing for an excluded operation.

    A line that is no capture yields nothing and is reported with its index. Ids: the capture's own, else derived
    from its time and its tap's count, so that the same line gives the same event, else random.
    """
    for index, line in enumerate(lines):
        try:
            capture = _decode(line, redactor.config.limits.capture_bytes_max)
        except RefusedCapture as refused:
            if on_refused is not None:
                on_refused(index, refused)
            continue
        event = redactor.redact(capture, _id_of(capture, id_key, now_ms))
        if event is not None:
            yield event


def _decode(line: bytes, bytes_max: int) -> Capture:
    if len(line) > bytes_max:
        raise RefusedCapture(RefusalReason.TOO_LARGE)
    return decode_capture(line)


def _id_of(capture: Capture, key: bytes, now_ms: Callable[[], int]) -> str:
    own = parse_id(capture.id) if capture.id is not None else None
    if own is not None:
        return own
    at_ms = parse_rfc3339_ms(capture.captured_at) if capture.captured_at is not None else None
    if at_ms is None or not 0 <= at_ms <= MS_MAX:
        return new_id(now_ms())
    if capture.tap is None or capture.tap.seq is None:
        return new_id(at_ms)
    return derive_id(key, at_ms, capture.tap.id, capture.tap.epoch or 0, str(capture.tap.seq))
