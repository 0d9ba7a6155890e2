"""The fields of an operation: its bodies by status and media type, each as a tree of positions.

What is recorded of them is asked of the same parts that redact pairs. Lint and explain show it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from functools import reduce
from typing import Any, NamedTuple

from redactor.compile.compiled_operation import BodyPlan, CompiledOperation
from redactor.compile.compiler import Compiler
from redactor.compile.denied_headers import NO_HEADERS, DeniedHeaders
from redactor.compile.plan import DROP, is_too_complex
from redactor.config import RedactionConfig
from redactor.decode.media_types import is_form
from redactor.decode.url import Segments, Url
from redactor.openapi.document import OpenApiDocument, Place
from redactor.openapi.marks import is_denied
from redactor.openapi.operations import LITERAL, TEMPLATED, Operation, Segment, operations_of
from redactor.openapi.routes import Match, Route, Routes
from redactor.pipeline.event_template import never_read
from redactor.pipeline.resolved_operation import ResolvedOperation
from redactor.report.decisions import Decision, denial_reason, dropped
from redactor.report.schema_tree import InheritedContext, Position, SchemaTree
from schemas.capture import Capture, CapturedRequest, CapturedResponse
from schemas.event import BodyReason

SAMPLE_TEXT = "\u00a7"
"""Used for any text when a path is matched by way of trial: no document has it among its literals."""
_STATUS_KEY = re.compile(r"[1-5][0-9]{2}|[1-5](?:XX|xx)|default")
_VARIABLE = re.compile(r"\{[^{}]+\}")
_REASONS: Mapping[BodyReason, tuple[int, str]] = {
    BodyReason.OPTED_OUT: (5, "the operation, or one that matches the same URLs, is denied"),
    BodyReason.NO_SCHEMA: (1, "the document has no schema for it"),
    BodyReason.MEDIA_TYPE: (9, "bodies of this media type are not read"),
}

_TOO_COMPLEX = "the schema leads to more schemas than can be compiled"


class Side(StrEnum):
    """Which part of a pair. The values are names in the JSON reports."""

    REQUEST = "request"
    RESPONSE = "response"
    """The body of a response below 400."""
    ERROR = "error"
    """The body of a response from 400 on; that of `default` too, if a success has a status of its own."""
    QUERY = "query"
    PATH = "path"


BODY_SIDES = (Side.REQUEST, Side.RESPONSE, Side.ERROR)


class Body(NamedTuple):
    """One body that the document describes, in one media type."""

    side: Side
    status: str | None
    """The key under `responses`; None for a request."""
    media_type: str
    pointer: str
    root: Position | None
    """None if the document has no schema for the body."""
    closed: Decision | None
    """Why nothing of the whole body is recorded, whatever its schema says."""
    envelope: str | None = None
    """The property of its root that is recorded in place of the whole (rule 12)."""


class _ListedResponse(NamedTuple):
    """A key under `responses`, and a status that it applies to; None if there is no such status."""

    key: str
    status: int | None
    side: Side


class DocumentFields:
    """The operations of one document, and the fields of each."""

    def __init__(self, document: OpenApiDocument, config: RedactionConfig) -> None:
        self.document = document
        self.config = config
        self.compiler = Compiler(document, config.limits)
        self.operations: Sequence[Operation] = operations_of(document)
        self._tree = SchemaTree(document)
        self._routes = Routes([document], trailing_slash_allowed=config.trailing_slash_allowed)
        self._compiled: dict[tuple[str, str], CompiledOperation] = {}
        self._known: dict[tuple[Route, ...], OperationFields] = {}

    def match(self, url: Url, host: str | None, method: str, segments: Segments) -> Match:
        """Return the operations that apply to a request, as `Routes.match` does."""
        return self._routes.match(url, host, method, segments)

    @property
    def are_served(self) -> bool:
        """Whether some request can match an operation of the document, as far as hosts decide."""
        return self._routes.serves(self.document)

    def of(self, operation: Operation) -> OperationFields | None:
        """Return the fields of an operation, as far as those that match the same URLs agree.

        None if no request can match the operation: others, more literal ones, match all its URLs.
        """
        # The router is asked with a sample path: comparing templates here would repeat its rules of precedence.
        for server in operation.servers:
            sample = tuple(map(_sample_segment, (*server.base, *operation.segments)))
            host = (operation.document.config.hosts or (server.host,))[0]
            match = self._routes.match(
                Url(None, "", ""), host, operation.method, Segments(sample, is_complete=True)
            )
            if any(_is_same(route.operation, operation) for route in match.routes):
                return self.of_routes(match.routes, operation)
        return None

    def of_routes(self, routes: tuple[Route, ...], operation: Operation | None = None) -> OperationFields:
        """Return the fields of the operations that apply to one request.

        Their schemas may differ; the tree shows those of `operation`, or of the first route.
        """
        shown = operation or routes[0].operation
        # Sorting is stable and puts the operation to be shown first; which of the others follow makes no difference.
        ordered = tuple(sorted(routes, key=lambda route: not _is_same(route.operation, shown)))
        known = self._known.get(ordered)
        if known is None:
            compiled = [self._compile(route.operation) for route in ordered]
            resolved = ResolvedOperation(compiled, ordered, self.config)
            known = self._known[ordered] = OperationFields(self, ordered, resolved)
        return known

    def denied_headers(self, operations: Iterable[Operation], status: int) -> DeniedHeaders:
        """Return the headers that some of these operations denies in a pair with this status."""
        denied = [self._compile(each).denied_headers(status) for each in operations]
        return reduce(DeniedHeaders.combined_with, denied, NO_HEADERS)

    def body_root(self, schema: Place, body_plan: BodyPlan | None, context: InheritedContext) -> Position:
        """Return the root of a body's tree."""
        plan = DROP if body_plan is None or context.forced_drop is not None else body_plan.plan
        return self._tree.root(schema, plan, context)

    def parameter_root(self, schema: Place, context: InheritedContext, *, marked: bool) -> Position:
        """Return the root of a parameter's tree. `marked`: the parameter itself is, not only its schema."""
        plan = DROP if context.forced_drop else self.compiler.compile(schema, strict=False, marked=marked)
        return self._tree.root(schema, plan, context)

    def _compile(self, operation: Operation) -> CompiledOperation:
        key = (operation.method, operation.template)
        compiled = self._compiled.get(key)
        if compiled is None:
            compiled = self._compiled[key] = CompiledOperation(operation, self.compiler, self.config)
        return compiled


def _is_same(one: Operation, other: Operation) -> bool:
    return (one.method, one.template) == (other.method, other.template)


def _sample_segment(segment: Segment) -> str:
    """Return a text that a segment of a path template matches, and no literal segment does."""
    if segment.rank == LITERAL:
        return segment.literal
    return SAMPLE_TEXT if segment.rank == TEMPLATED else _VARIABLE.sub(SAMPLE_TEXT, segment.text)


class OperationFields:
    """The fields of one operation, as far as the operations that match the same URLs agree."""

    def __init__(
        self, document_fields: DocumentFields, routes: Sequence[Route], resolved: ResolvedOperation
    ) -> None:
        self.document_fields = document_fields
        self.operations = tuple(route.operation for route in routes)
        self.operation = routes[0].operation
        """The one whose schemas are shown."""
        self.base_length = routes[0].base_length
        self.resolved = resolved
        # Rule 8 is asked of the function that decides for pairs, so that the two cannot differ.
        sample = Capture(CapturedRequest(self.operation.method, "/"), CapturedResponse(200))
        self.reads_requests = not never_read(sample)
        self.reads_responses = self.reads_requests or resolved.keeps_get_response

    def sample_path(self) -> list[str]:
        """Return the segments of a path that matches the operation, without those of the base path."""
        return [_sample_segment(segment) for segment in self.operation.segments]

    def bodies(self) -> Iterator[Body]:
        """Yield every body that the document describes, in document order."""
        yield from self.request_bodies()
        for response in self._listed_responses():
            yield from self._bodies_of(response)

    def request_bodies(self, *, strict: bool = False) -> Iterator[Body]:
        """Yield the request's body in each of its media types. `strict`: the status is 400 or above (rule 6)."""
        place = self.operation.place.child("requestBody")
        unread = None if self.reads_requests else self._never_read()
        for media_type, listed, denied in self._media_types(place):
            body_plan = self.resolved.request(_essence(media_type), strict=strict)
            closed = denied or unread or _refusal(body_plan, listed)
            body = Body(Side.REQUEST, None, media_type, listed.pointer, None, closed)
            yield self._with_root(body, listed, body_plan, strict=strict)

    def response_bodies(self, status: int) -> Iterator[Body]:
        """Yield the body of a response with this status in each of its media types."""
        side = Side.ERROR if status >= 400 else Side.RESPONSE
        return self._bodies_of(_ListedResponse(self._key_for(status), status, side))

    def _bodies_of(self, response: _ListedResponse) -> Iterator[Body]:
        place = self.operation.place.child("responses", response.key)
        # After 101 the connection carries another protocol.
        unread = None if self.reads_responses and response.status != 101 else self._never_read()
        for media_type, listed, denied in self._media_types(place):
            body_plan: BodyPlan | BodyReason = BodyReason.NO_SCHEMA
            if response.status is not None:
                body_plan = self.resolved.response(response.status, _essence(media_type))
            closed = denied or unread or _refusal(body_plan, listed)
            body = Body(response.side, response.key, media_type, listed.pointer, None, closed)
            yield self._with_root(body, listed, body_plan, strict=(response.status or 0) >= 400)

    def _with_root(
        self, body: Body, listed: Place, body_plan: BodyPlan | BodyReason, *, strict: bool
    ) -> Body:
        schema = listed.child("schema")
        if not isinstance(schema.node, dict):
            return body
        if not isinstance(body_plan, BodyPlan):
            context = InheritedContext(body.closed, strict=strict)
            return body._replace(root=self.document_fields.body_root(schema, None, context))
        # A schema that forms and JSON share has fields that only a form cannot hold.
        is_read_as_form = is_form(_essence(body.media_type))
        unread = body_plan.form_encoding.dropped if is_read_as_form else None
        context = InheritedContext(
            body.closed, envelope=body_plan.envelope, strict=strict, unread_properties=unread
        )
        root = self.document_fields.body_root(schema, body_plan, context)
        return body._replace(root=root, envelope=body_plan.envelope)

    def _never_read(self) -> Decision:
        return dropped(8, f"bodies of {self.operation.method} are never read", self.operation.place.pointer)

    def _media_types(self, place: Place) -> Iterator[tuple[str, Place, Decision | None]]:
        """Yield the media types of a requestBody or response, each with the denial at or above it."""
        chain = self.operation.document.follow(place) if isinstance(place.node, dict) else ()
        content = chain[-1].child("content") if chain else Place(None, "")
        if not isinstance(content.node, dict):
            return
        denial = self._denial_above(place, chain, content)
        for name in content.node:
            media_type = content.child(name)
            yield str(name), media_type, denial or _own_denial(media_type)

    def _denial_above(self, place: Place, chain: Sequence[Place], content: Place) -> Decision | None:
        """Return the outermost denial around the media types of a body; `chain`: what `place` refers to."""
        above = [*self.operation.path_items, self.operation.place, place, *chain, content]
        responses = self.operation.place.child("responses")
        if place.pointer.startswith(responses.pointer):
            above.append(responses)
        return next(filter(None, map(_own_denial, above)), None)

    def _listed_responses(self) -> Iterator[_ListedResponse]:
        """Yield the responses in document order, each with the first status that it applies to."""
        keys = [key for key in self._responses() if _STATUS_KEY.fullmatch(key)]
        # Where no success is listed, `default` describes it.
        default_first = 500 if any(key.startswith("2") for key in keys) else 200
        for key in keys:
            candidates = _statuses_of(key, default_first)
            status = next((each for each in candidates if self._key_for(each) == key), None)
            is_error = key[0] in "45"
            if key == "default":
                is_error = status is None or status >= 400
            yield _ListedResponse(key, status, Side.ERROR if is_error else Side.RESPONSE)

    def _key_for(self, status: int) -> str:
        """Return which key under `responses` applies to a status (rule 16)."""
        listed = self._responses()
        candidates = (str(status), f"{status // 100}XX", f"{status // 100}xx")
        return next((key for key in candidates if key in listed), "default")

    def _responses(self) -> Mapping[str, Any]:
        responses = self.operation.place.child("responses").node
        return responses if isinstance(responses, dict) else {}


def _own_denial(place: Place) -> Decision | None:
    if not is_denied(place.node):
        return None
    return dropped(5, denial_reason(place.node), place.pointer)


def _statuses_of(key: str, default_first: int) -> Sequence[int]:
    """Return the statuses that a key under `responses` may apply to, in the order in which they are tried."""
    if key == "default":
        return (default_first, 500, 400, 200, *range(100, 600))
    if key.isdecimal():
        return (int(key),)
    first = int(key[0]) * 100
    return range(first, first + 100)


def _essence(media_type: str) -> str:
    """Return the media type by which a listed body is read; a range such as `*/*` is read as JSON."""
    essence = media_type.partition(";")[0].strip().lower()
    if "*" not in essence:
        return essence
    kind, _, subtype = essence.replace("*", "vnd.any").partition("/")
    # Any media type that the redactor reads as JSON will do: a range has one schema for all of them.
    kind = kind if kind != "vnd.any" else "application"
    return f"{kind}/{subtype}" if "+" in subtype else f"{kind}/{subtype}+json"


def _refusal(body_plan: BodyPlan | BodyReason, listed: Place) -> Decision | None:
    if isinstance(body_plan, BodyPlan):
        return dropped(1, _TOO_COMPLEX, listed.pointer) if is_too_complex(body_plan.plan) else None
    rule, reason = _REASONS.get(body_plan, (9, "the body is not read"))
    return dropped(rule, reason, listed.pointer)
