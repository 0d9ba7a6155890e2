"""All that an operation's traffic may carry, as trees of positions: the bodies by status and media type.

For lint and explain. What is kept is asked of the same parts that redact pairs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

from redactor.assemble import never_read
from redactor.branches import is_denied
from redactor.compiled import CompiledOperation, Media
from redactor.compiler import Compiler
from redactor.config import RedactionConfig
from redactor.decisions import Decision, denial_words, dropped
from redactor.document import LoadedDocument, Place
from redactor.governing import Governing
from redactor.media_types import is_form
from redactor.operations import LITERAL, TEMPLATED, Operation, Segment, operations_of
from redactor.plan import DROP
from redactor.routes import Match, Route, Routes
from redactor.schema_tree import Around, Position, SchemaTree
from redactor.url import Segments, Url
from schemas.capture import Capture, CapturedRequest, CapturedResponse
from schemas.event import BodyReason

ANY_TEXT = "\u00a7"
"""Stands for any text where a path is tried: no document has it among its literals."""
_STATUS_KEY = re.compile(r"[1-5][0-9]{2}|[1-5](?:XX|xx)|default")
_VARIABLE = re.compile(r"\{[^{}]+\}")
_STATUSES_TRIED = (500, 400, 200, *range(100, 600))
_REASONS: Mapping[BodyReason, tuple[int, str]] = {
    BodyReason.OPTED_OUT: (5, "the operation, or one that always ties with it, is denied"),
    BodyReason.NO_SCHEMA: (1, "there is no schema to go by"),
    BodyReason.MEDIA_TYPE: (9, "bodies of this media type are not read"),
}


class Side(StrEnum):
    """Which part of a pair."""

    REQUEST = "request"
    RESPONSE = "response"
    """The body of a response below 400."""
    ERROR = "error"
    """The body of a response from 400 on; `default` too, where a success has a status of its own."""
    QUERY = "query"
    PATH = "path"


BODY_SIDES = (Side.REQUEST, Side.RESPONSE, Side.ERROR)


class Body(NamedTuple):
    """One body that the document describes: of a status (None: the request's), in one media type."""

    side: Side
    status: str | None
    media_type: str
    pointer: str
    root: Position | None
    """None where the document gives no schema."""
    closed: Decision | None
    """Why nothing of the whole body can be kept."""
    envelope: str | None = None
    """The property of its root that is recorded in its place (rule 12)."""


class _Answer(NamedTuple):
    """A response as the document lists it, and a status that it governs (None: there is none)."""

    key: str
    status: int | None
    side: Side


class Surface:
    """The operations of one document, and what each may carry."""

    def __init__(self, document: LoadedDocument, config: RedactionConfig) -> None:
        self.document = document
        self.config = config
        self.compiler = Compiler(document, config.limits)
        self.operations: Sequence[Operation] = operations_of(document)
        self._tree = SchemaTree(document)
        self._routes = Routes([document], trailing_slash_allowed=config.trailing_slash_allowed)
        self._compiled: dict[tuple[str, str], CompiledOperation] = {}
        self._known: dict[tuple[Route, ...], OperationSurface] = {}

    def match(self, url: Url, host: str | None, method: str, segments: Segments) -> Match:
        """Return what governs a request; as `Routes.match`."""
        return self._routes.match(url, host, method, segments)

    def known_path(self, url: Url, host: str | None, segments: Segments) -> str:
        """Return the literal prefix that the table has; as `Routes.known_path`."""
        return self._routes.known_path(url, host, segments)

    def of(self, operation: Operation) -> OperationSurface | None:
        """Return what an operation may carry, together with those that tie with it on every URL.

        None where no request can ever reach it.
        """
        for server in operation.servers:
            tried = tuple(map(_tried, (*server.base, *operation.segments)))
            host = (operation.document.config.hosts or (server.host,))[0]
            found = self._routes.match(
                Url(None, "", ""), host, operation.method, Segments(tried, are_all=True)
            )
            if any(_is_same(route.operation, operation) for route in found.routes):
                return self.of_routes(found.routes, operation)
        return None

    def of_routes(self, routes: tuple[Route, ...], operation: Operation | None = None) -> OperationSurface:
        """Return what the operations that govern a request may carry, shown by the schemas of one of them."""
        shown = operation or routes[0].operation
        ordered = tuple(sorted(routes, key=lambda route: not _is_same(route.operation, shown)))
        known = self._known.get(ordered)
        if known is None:
            compiled = [self._compile(route.operation) for route in ordered]
            governing = Governing(compiled, ordered, self.config)
            known = self._known[ordered] = OperationSurface(self, ordered, governing)
        return known

    def body_root(self, schema: Place, media: Media | None, around: Around) -> Position:
        """Return the position of a whole body."""
        plan = media.plan if media is not None and around.decided is None else DROP
        return self._tree.root(schema, plan, around)

    def parameter_root(self, schema: Place, around: Around, *, marked: bool) -> Position:
        """Return the position of a parameter's value."""
        plan = DROP if around.decided else self.compiler.compile(schema, strict=False, marked=marked)
        return self._tree.root(schema, plan, around)

    def _compile(self, operation: Operation) -> CompiledOperation:
        key = (operation.method, operation.template)
        compiled = self._compiled.get(key)
        if compiled is None:
            compiled = self._compiled[key] = CompiledOperation(operation, self.compiler, self.config)
        return compiled


def _is_same(one: Operation, other: Operation) -> bool:
    return (one.method, one.template) == (other.method, other.template)


def _tried(segment: Segment) -> str:
    if segment.rank == LITERAL:
        return segment.literal
    return ANY_TEXT if segment.rank == TEMPLATED else _VARIABLE.sub(ANY_TEXT, segment.text)


class OperationSurface:
    """What one operation may carry, as far as those that tie with it agree."""

    def __init__(self, surface: Surface, routes: Sequence[Route], governing: Governing) -> None:
        self.surface = surface
        self.operations = tuple(route.operation for route in routes)
        self.operation = routes[0].operation
        """The one whose schemas show the parts."""
        self.base_length = routes[0].base_length
        self.governing = governing
        probe = Capture(CapturedRequest(self.operation.method, "/"), CapturedResponse(200))
        self.reads_requests = not never_read(probe)
        self.reads_responses = self.reads_requests or governing.keeps_get_response
        """Rule 8: whether bodies are read at all."""

    def tried_path(self) -> list[str]:
        """Return the segments, the base path's left out, of a path that the operation matches."""
        return [_tried(segment) for segment in self.operation.segments]

    def bodies(self) -> Iterator[Body]:
        """Yield every body that the document describes, in its order."""
        yield from self.request_bodies()
        for answer in self._answers():
            yield from self._response_bodies(answer)

    def request_bodies(self, *, strict: bool = False) -> Iterator[Body]:
        """Yield the request's body in each of its media types. `strict`: the status is 400 or above (rule 6)."""
        place = self.operation.place.child("requestBody")
        for media_type, listed, denied in self._contents(place):
            closed = denied or (None if self.reads_requests else self._never_read())
            media = self.governing.request(_essence(media_type), strict=strict)
            body = Body(
                Side.REQUEST, None, media_type, listed.pointer, None, closed or _refusal(media, listed)
            )
            yield self._with_root(body, listed, media, strict=strict)

    def response_bodies(self, status: int) -> Iterator[Body]:
        """Yield the body of a response with `status` in each of its media types."""
        key = self._key_of(status)
        side = Side.ERROR if status >= 400 else Side.RESPONSE
        return self._response_bodies(_Answer(key, status, side))

    def _response_bodies(self, answer: _Answer) -> Iterator[Body]:
        place = self.operation.place.child("responses", answer.key)
        unread = None if self.reads_responses and answer.status != 101 else self._never_read()
        for media_type, listed, denied in self._contents(place):
            media: Media | BodyReason = BodyReason.NO_SCHEMA
            if answer.status is not None:
                media = self.governing.response(answer.status, _essence(media_type))
            closed = denied or unread or _refusal(media, listed)
            body = Body(answer.side, answer.key, media_type, listed.pointer, None, closed)
            yield self._with_root(body, listed, media, strict=(answer.status or 0) >= 400)

    def _with_root(self, body: Body, listed: Place, media: Media | BodyReason, *, strict: bool) -> Body:
        schema = listed.child("schema")
        if not isinstance(schema.node, dict):
            return body
        known = media if isinstance(media, Media) else None
        envelope = None if known is None else known.envelope
        # Of JSON every field is read, whatever is said of the fields of forms.
        unread = known.fields.dropped if known is not None and is_form(_essence(body.media_type)) else None
        around = Around(body.closed, envelope=envelope, strict=strict, unread=unread)
        return body._replace(root=self.surface.body_root(schema, known, around), envelope=envelope)

    def _never_read(self) -> Decision:
        return dropped(8, f"bodies of {self.operation.method} are never read", self.operation.place.pointer)

    def _contents(self, place: Place) -> Iterator[tuple[str, Place, Decision | None]]:
        """Yield the media types of a requestBody or response, and the denial that stands around them."""
        chain = self.operation.document.follow(place) if isinstance(place.node, dict) else ()
        listed = chain[-1].child("content") if chain else Place(None, "")
        around = [*self.operation.path_items, self.operation.place, place, *chain, listed]
        if place.pointer.startswith(self.operation.place.pointer + "/responses"):
            around.append(self.operation.place.child("responses"))
        denied = next((each for each in around if is_denied(each.node)), None)
        for name in listed.node if isinstance(listed.node, dict) else ():
            media = listed.child(name)
            at = denied or (media if is_denied(media.node) else None)
            yield str(name), media, None if at is None else dropped(5, denial_words(at.node), at.pointer)

    def _answers(self) -> Iterator[_Answer]:
        """Yield the listed responses, each with a status that it governs."""
        responses = self.operation.place.child("responses")
        keys = [key for key in responses.node if _STATUS_KEY.fullmatch(key)] if _is_mapping(responses) else []
        has_success = any(key.startswith("2") for key in keys)
        for key in keys:
            tried = _STATUSES_TRIED if has_success else (200, *_STATUSES_TRIED)
            if key != "default":
                first = int(key[0]) * 100
                tried = (int(key),) if key.isdecimal() else tuple(range(first, first + 100))
            status = next((each for each in tried if self._key_of(each) == key), None)
            is_error = key[0] in "45" or (key == "default" and (status is None or status >= 400))
            yield _Answer(key, status, Side.ERROR if is_error else Side.RESPONSE)

    def _key_of(self, status: int) -> str:
        """Return which listed response governs a status (rule 16)."""
        responses = self.operation.place.child("responses")
        listed = responses.node if _is_mapping(responses) else {}
        tried = (str(status), f"{status // 100}XX", f"{status // 100}xx")
        return next((key for key in tried if key in listed), "default")


def _is_mapping(place: Place) -> bool:
    return isinstance(place.node, dict)


def _essence(media_type: str) -> str:
    """Return the media type of a body that is listed so; a range stands for JSON."""
    essence = media_type.partition(";")[0].strip().lower()
    if "*" not in essence:
        return essence
    kind, _, subtype = essence.replace("*", "vnd.any").partition("/")
    kind = kind if kind != "vnd.any" else "application"
    return f"{kind}/{subtype}" if "+" in subtype else f"{kind}/{subtype}+json"


def _refusal(media: Media | BodyReason, listed: Place) -> Decision | None:
    if isinstance(media, Media):
        return None
    rule, words = _REASONS.get(media, (9, "the body is not read"))
    return dropped(rule, words, listed.pointer)
