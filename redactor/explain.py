"""Why a pair is recorded as it is: its match, path, query, headers and bodies, each part with its rule.

Names are the document's and the configuration's alone: no value, and no name that only the traffic has, is ever in
an explanation. What it calls kept is counted in the event that the redactor really gives.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import msgspec

from redactor.assemble import METHODS
from redactor.compiled import Media, select_media
from redactor.config import HeaderNames
from redactor.decisions import Decision, Verdict, dropped
from redactor.encodings import decode_content
from redactor.explain_tree import Node, node_of_form, node_of_schema, node_of_values
from redactor.headers import Fields, HeaderReader, content_codings, media_type
from redactor.media_types import Format, format_of
from redactor.operations import Operation
from redactor.parameter_surface import ParameterLeaf, parameter_leaves
from redactor.plan import DROP
from redactor.redact import Redactor
from redactor.schema_tree import Position
from redactor.surface import Body, OperationSurface, Side, Surface
from redactor.url import read_host, split_path, split_query, split_url
from redactor.wellformed import Json, read_json, read_json_lines
from schemas.capture import Capture, CapturedRequest, CapturedResponse, body_bytes
from schemas.event import AuditEvent, BodyReceipt, Receipt, UnmatchedReason, decode_event

_HEADER_WORDS = "a configured header that stands once and looks as it should"


@dataclass(frozen=True)
class MatchShown:
    """Which operations govern, and their document; or why none does, and what of the path is in the table."""

    method: str
    operations: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    document: str | None = None
    unmatched: UnmatchedReason | None = None
    known_path: str | None = None


@dataclass(frozen=True)
class Part:
    """A path variable, query parameter or header. `present` is None where no pair is explained."""

    label: str
    decision: Decision
    present: bool | None = None


@dataclass(frozen=True)
class BodyShown:
    """One body: where it is declared, its tree, and for a pair what the receipt says of it."""

    side: Side
    status: str | None
    media_type: str | None
    pointer: str | None = None
    closed: Decision | None = None
    tree: Node | None = None
    receipt: BodyReceipt | None = None


@dataclass(frozen=True)
class Explanation:
    """All that is told of a pair or an operation."""

    match: MatchShown
    path: tuple[Part, ...] = ()
    query: tuple[Part, ...] = ()
    headers: tuple[Part, ...] = ()
    bodies: tuple[BodyShown, ...] = ()
    receipt: Receipt | None = None


def find_operation(surface: Surface, name: str) -> Operation | None:
    """Return the operation with this id, or of this `METHOD /path/{template}`."""
    for operation in surface.operations:
        if name in (operation.id, f"{operation.method} {operation.template}"):
            return operation
    return None


def explain_operation(surface: Surface, operation: Operation) -> Explanation:
    """Return what may be kept of an operation's pairs, whatever they hold."""
    found = surface.of(operation)
    if found is None:
        return Explanation(MatchShown(operation.method, unmatched=UnmatchedReason.NO_PATH))
    leaves = list(parameter_leaves(found))
    return Explanation(
        match=_matched(found),
        path=tuple(Part(each.path, each.decision) for each in leaves if each.side is Side.PATH),
        query=tuple(Part(each.path, each.decision) for each in leaves if each.side is Side.QUERY),
        headers=tuple(_headers_read(surface.config.headers)),
        bodies=tuple(
            BodyShown(
                body.side,
                body.status,
                body.media_type,
                body.pointer,
                body.closed,
                None if body.root is None else node_of_schema(body.root),
            )
            for body in found.bodies()
        ),
    )


def _matched(found: OperationSurface) -> MatchShown:
    declared = found.operations
    return MatchShown(
        found.operation.method,
        tuple(each.id for each in declared),
        tuple(each.template for each in declared),
        found.governing.digest,
    )


def _headers_read(names: HeaderNames) -> Iterator[Part]:
    for label, _ in _header_labels(names):
        yield Part(label, Decision(Verdict.KEPT, 14, "configured", ""))
    yield Part("any other header", dropped(14, "never leaves", ""))


def _header_labels(names: HeaderNames) -> Iterator[tuple[str, str]]:
    """Yield how each header that may be recorded is shown, and which of the known values it gives."""
    if names.user_agent:
        yield f"request: {names.user_agent}", "user_agent"
    if any(names.request_ids):
        yield f"request, response: {', '.join(filter(None, names.request_ids))}", "request_id"
    responses = (name for name in names.__slots__ if name not in ("user_agent", "request_ids"))
    yield from ((f"response: {getattr(names, name)}", name) for name in responses if getattr(names, name))


def explain_capture(surface: Surface, redactor: Redactor, capture: Capture, event_id: str) -> Explanation:
    """Return what `redactor` records of a pair, and why. Both know one document, and the same configuration.

    No operation may be excluded by the configuration.
    """
    value = redactor.redact(capture, event_id)
    event = decode_event(value or b"")
    return _Explaining(surface, capture, event).explanation()


class _Explaining:
    """One pair beside its event."""

    def __init__(self, surface: Surface, capture: Capture, event: AuditEvent) -> None:
        self._surface = surface
        self._capture = capture
        self._event = event
        self._reader = HeaderReader(surface.config.headers)
        self._request = self._reader.of_request(capture.request.headers)
        self._response = self._reader.of_response(capture.response.headers)
        self._url = split_url(capture.request.url)
        self._segments = split_path(self._url.path)
        self._status = capture.response.status

    def explanation(self) -> Explanation:
        """Return the explanation of the pair."""
        method = self._capture.request.method if self._capture.request.method in METHODS else "OTHER"
        found = self._found()
        if found is None:
            receipt = self._event.receipt
            known_path = self._event.raw.uri
            return Explanation(
                match=MatchShown(method, unmatched=receipt.unmatched, known_path=known_path),
                headers=tuple(self._headers(None)),
                bodies=(
                    BodyShown(Side.REQUEST, None, None, receipt=receipt.request),
                    BodyShown(self._answer_side(), str(self._status), None, receipt=receipt.response),
                ),
                receipt=receipt,
            )
        leaves = list(parameter_leaves(found))
        return Explanation(
            match=_matched(found),
            path=tuple(self._path(found, leaves)),
            query=tuple(self._query(leaves)),
            headers=tuple(self._headers(found)),
            bodies=(self._request_body(found), self._response_body(found)),
            receipt=self._event.receipt,
        )

    def _found(self) -> OperationSurface | None:
        if self._event.receipt.operation is None:
            return None
        host = read_host(self._request.once("host") or "") if self._request.present("host") else None
        match = self._surface.match(self._url, host, self._capture.request.method, self._segments)
        return self._surface.of_routes(match.routes)

    def _answer_side(self) -> Side:
        return Side.ERROR if self._status >= 400 else Side.RESPONSE

    def _path(self, found: OperationSurface, leaves: Sequence[ParameterLeaf]) -> Iterator[Part]:
        strict = self._status >= 400
        recorded = found.governing.path(self._segments.decoded, strict=strict).text.split("/")[1:]
        by_label = {each.path: each for each in leaves if each.side is Side.PATH}
        for segment, text in zip(found.operation.segments, recorded, strict=False):
            for name in segment.names:
                leaf = by_label[f"{{{name}}}"]
                # A value that looks like a template is encoded in the record, so the two differ.
                yield Part(leaf.path, _observed(leaf.decision, is_kept=text != segment.text), present=True)

    def _query(self, leaves: Sequence[ParameterLeaf]) -> Iterator[Part]:
        given = split_query(self._url.query)
        kept = split_query((self._event.raw.uri or "").partition("?")[2])
        declared = [each for each in leaves if each.side is Side.QUERY]
        for leaf in declared:
            present = leaf.pair in given
            is_kept = any(
                leaf.inner is None or _has_name(pair.value, leaf.inner) for pair in kept.get(leaf.pair, ())
            )
            decision = _observed(leaf.decision, is_kept=is_kept) if present else leaf.decision
            yield Part(leaf.path, decision, present=present)
        if given.keys() - {each.pair for each in declared}:
            yield Part("(not declared)", dropped(13, "not declared", ""), present=True)

    def _headers(self, found: OperationSurface | None) -> Iterator[Part]:
        names = self._surface.config.headers
        known = self._reader.known(self._request, self._response)
        for label, name in _header_labels(names):
            present = self._stands(name)
            is_kept = getattr(known, name) is not None
            decision = Decision(Verdict.KEPT, 14, _HEADER_WORDS, "")
            if present and not is_kept:
                decision = dropped(14, "does not stand exactly once, or does not look as it should", "")
            elif name == "account_id" and is_kept and self._path_names_account(found):
                decision = dropped(15, "the path names the account", "")
            yield Part(label, decision, present=present)
        yield Part("any other header", dropped(14, "never leaves", ""))

    def _stands(self, name: str) -> bool:
        headers = self._surface.config.headers
        if name == "user_agent":
            return self._request.present(headers.user_agent)
        if name == "request_id":
            return any(
                fields.present(each)
                for fields in (self._request, self._response)
                for each in filter(None, headers.request_ids)
            )
        return self._response.present(getattr(headers, name))

    def _path_names_account(self, found: OperationSurface | None) -> bool:
        if found is None:
            return False
        path = found.governing.path(self._segments.decoded, strict=self._status >= 400)
        return found.governing.account_id(path) is not None

    def _request_body(self, found: OperationSurface) -> BodyShown:
        bodies = list(found.request_bodies(strict=self._status >= 400))
        shown = BodyShown(Side.REQUEST, None, None, receipt=self._event.receipt.request)
        recorded = _tree_of(self._event.resource.request)
        return self._body(shown, bodies, self._capture.request, self._request, recorded)

    def _response_body(self, found: OperationSurface) -> BodyShown:
        bodies = list(found.response_bodies(self._status))
        shown = BodyShown(self._answer_side(), str(self._status), None, receipt=self._event.receipt.response)
        recorded = _tree_of(self._event.resource.response)
        return self._body(shown, bodies, self._capture.response, self._response, recorded)

    def _body(
        self,
        shown: BodyShown,
        bodies: Sequence[Body],
        message: CapturedRequest | CapturedResponse,
        fields: Fields,
        recorded: tuple[Json] | None,
    ) -> BodyShown:
        body = _governing_body(bodies, media_type(fields))
        if body is None:
            return shown
        shown = replace(
            shown, status=body.status, media_type=body.media_type, pointer=body.pointer, closed=body.closed
        )
        # Where the receipt has a reason, or there was no body, nothing was looked into, and nothing is here.
        if body.root is None or shown.receipt is None or shown.receipt.kept is None:
            return shown
        contents = [] if recorded is None else [recorded[0]]
        if format_of(media_type(fields) or body.media_type) is Format.LINES:
            contents = [line for whole in contents if isinstance(whole, list) for line in whole]
        if body.envelope is not None:
            contents = [{body.envelope: content} for content in contents]
        return replace(shown, tree=self._tree(body.root, message, fields, contents))

    def _tree(
        self,
        root: Position,
        message: CapturedRequest | CapturedResponse,
        fields: Fields,
        recorded: Sequence[Json],
    ) -> Node:
        """Return the tree of a body that was read, by its format: what stood in it and what is recorded."""
        limits = self._surface.config.limits
        form = format_of(media_type(fields) or "application/json")
        if form in (Format.FORM, Format.MULTIPART):
            # A form is read only as far as it is kept, so what else stood in it is not known here either.
            return node_of_form(root, recorded)
        text = decode_content(body_bytes(message) or b"", content_codings(fields), limits.body_bytes_max)
        if form is Format.LINES:
            return node_of_values(root, read_json_lines(text, limits.depth_max, limits.lines_max), recorded)
        return node_of_values(root, [read_json(text, limits.depth_max)], recorded)


def _tree_of(raw: msgspec.Raw | msgspec.UnsetType) -> tuple[Json] | None:
    return None if isinstance(raw, msgspec.UnsetType) else (read_json(bytes(raw), 256),)


def _governing_body(bodies: Sequence[Body], essence: str | None) -> Body | None:
    """Return the body of the media type that counts; the redactor is asked which."""
    by_essence = {each.media_type.partition(";")[0].strip().lower(): each for each in bodies}
    content = {name: Media(DROP, name) for name in by_essence}
    chosen = select_media(content, essence)
    return by_essence[chosen.envelope or ""] if isinstance(chosen, Media) else None


def _observed(decision: Decision, *, is_kept: bool) -> Decision:
    """Return what became of a part in this pair, where that is not what its declaration alone lets expect."""
    if is_kept:
        return (
            decision if decision.verdict is not Verdict.DROPPED else decision._replace(verdict=Verdict.KEPT)
        )
    if decision.verdict is Verdict.DROPPED:
        return decision
    return dropped(13, "the value does not fit its schema, its style or the size limit", decision.pointer)


def _has_name(value: str | None, name: str) -> bool:
    return value is not None and name in value.split(",")[::2]
