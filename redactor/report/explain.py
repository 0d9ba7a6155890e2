"""`auditap explain`: why a pair is recorded as it is, part by part, each with the rule that decided.

An explanation contains only names from the document and the configuration: no value of the pair, and no name that
occurs only in the pair. What it calls recorded is read from the event that the redactor makes of the pair.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec
from msgspec import structs

from redactor.compile.compiled_operation import BodyPlan, select_body_plan
from redactor.compile.denied_headers import NO_HEADERS, DeniedHeaders
from redactor.compile.plan import DROP
from redactor.decode.content_encodings import decode_content
from redactor.decode.headers import HeaderFields, HeaderReader, content_codings, media_type
from redactor.decode.json import Json, read_json, read_json_lines
from redactor.decode.media_types import Format, format_of
from redactor.decode.url import QueryPair, parse_host, split_path, split_query, split_url
from redactor.identity.tokens import TokenVerifier
from redactor.openapi.operations import Operation
from redactor.pipeline.events import METHODS
from redactor.pipeline.redactor import Redactor
from redactor.report.decisions import Decision, ExplainedPart, Outcome, dropped
from redactor.report.explain_headers import ExplainedField, PairHeaders, headers_of_operation
from redactor.report.explain_tree import Node, node_of_form, node_of_schema, node_of_values
from redactor.report.operation_fields import Body, DocumentFields, OperationFields, Side
from redactor.report.parameter_fields import ParameterField, parameter_fields
from redactor.report.schema_tree import Position
from schemas.capture import Capture, CapturedRequest, CapturedResponse, body_bytes
from schemas.event import AuditEvent, BodyReceipt, Identity, Receipt, UnmatchedReason, decode_event


@dataclass(frozen=True)
class ExplainedMatch:
    """Which operations apply and from which document; or why none does, and what is recorded of the path."""

    method: str
    operations: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    document: str | None = None
    unmatched: UnmatchedReason | None = None
    known_path: str | None = None
    attributed_to: str | None = None
    """The operation whose names and path are recorded because the request matches it when it is read leniently."""


@dataclass(frozen=True)
class ExplainedBody:
    """One body: where the document declares it, its tree, and for a pair its part of the receipt."""

    side: Side
    status: str | None
    media_type: str | None
    pointer: str | None = None
    closed: Decision | None = None
    """Why nothing of the whole body is recorded, whatever its schema says."""
    tree: Node | None = None
    receipt: BodyReceipt | None = None


@dataclass(frozen=True)
class Explanation:
    """The explanation of a pair or of an operation."""

    match: ExplainedMatch
    path: tuple[ExplainedPart, ...] = ()
    query: tuple[ExplainedPart, ...] = ()
    headers: tuple[ExplainedPart, ...] = ()
    bodies: tuple[ExplainedBody, ...] = ()
    receipt: Receipt | None = None
    fields: tuple[ExplainedField, ...] = ()
    """Where the event's account and actor come from; empty where an operation is explained and no pair."""


def find_operation(document_fields: DocumentFields, name: str) -> Operation | None:
    """Return the operation that is named by its id or as `METHOD /path/{template}`."""
    for operation in document_fields.operations:
        if name in (operation.id, f"{operation.method} {operation.template}"):
            return operation
    return None


def explain_operation(document_fields: DocumentFields, operation: Operation) -> Explanation:
    """Return what may be recorded of an operation's pairs, whatever their values."""
    operation_fields = document_fields.of(operation)
    if operation_fields is None:
        return Explanation(ExplainedMatch(operation.method, unmatched=UnmatchedReason.NO_PATH))
    parameters = list(parameter_fields(operation_fields))
    return Explanation(
        match=_match(operation_fields),
        path=tuple(ExplainedPart(each.path, each.decision) for each in parameters if each.side is Side.PATH),
        query=tuple(
            ExplainedPart(each.path, each.decision) for each in parameters if each.side is Side.QUERY
        ),
        headers=tuple(headers_of_operation(document_fields.config, operation_fields.resolved)),
        bodies=tuple(map(_declared_body, operation_fields.bodies())),
    )


def _match(operation_fields: OperationFields) -> ExplainedMatch:
    return ExplainedMatch(
        operation_fields.operation.method,
        tuple(each.id for each in operation_fields.operations),
        tuple(each.template for each in operation_fields.operations),
        operation_fields.resolved.digest,
    )


def _declared_body(body: Body) -> ExplainedBody:
    tree = None if body.root is None else node_of_schema(body.root)
    return ExplainedBody(body.side, body.status, body.media_type, body.pointer, body.closed, tree)


def explain_capture(
    document_fields: DocumentFields, redactor: Redactor, capture: Capture, event_id: str
) -> Explanation:
    """Return what `redactor` records of a pair, and why.

    `document_fields` and `redactor` must have the same document and configuration, and the configuration must not
    exclude any operation from recording.
    """
    # The real event says what is recorded: a second implementation here could differ from it.
    value = redactor.redact(capture, event_id)
    event = decode_event(value or b"")
    return _CaptureExplainer(document_fields, capture, event, redactor.verifier).explanation()


class _CaptureExplainer:
    """One pair and its event."""

    def __init__(
        self,
        document_fields: DocumentFields,
        capture: Capture,
        event: AuditEvent,
        verifier: TokenVerifier | None,
    ) -> None:
        self._document_fields = document_fields
        self._verifier = verifier
        self._capture = capture
        self._event = event
        self._reader = HeaderReader(document_fields.config.headers)
        self._request = self._reader.of_request(capture.request.headers)
        self._response = self._reader.of_response(capture.response.headers)
        self._url = split_url(capture.request.url)
        self._segments = split_path(self._url.path)
        self._status = capture.response.status
        self._strict = self._status >= 400
        """Rule 6: from status 400 on, `enum` and `const` are enforced."""

    def explanation(self) -> Explanation:
        """Return what became of each part of the pair, with the rule that decided; no value that is not recorded."""
        operation_fields = self._applicable()
        if operation_fields is None:
            return self._unmatched()
        parameters = list(parameter_fields(operation_fields))
        headers = self._headers(
            operation_fields.resolved.denied_headers(self._status),
            path_names_account=self._path_names_account(operation_fields),
        )
        return Explanation(
            match=_match(operation_fields),
            path=tuple(self._path(operation_fields, parameters)),
            query=tuple(self._query(parameters)),
            headers=tuple(headers.parts()),
            bodies=(self._request_body(operation_fields), self._response_body(operation_fields)),
            receipt=_without_values(self._event.receipt),
            fields=tuple(headers.fields()),
        )

    def _unmatched(self) -> Explanation:
        # A method that is not known is text from the traffic.
        method = self._capture.request.method if self._capture.request.method in METHODS else "OTHER"
        receipt = self._event.receipt
        headers = self._headers(self._denied_by_attribution(), path_names_account=False)
        return Explanation(
            match=ExplainedMatch(
                method,
                unmatched=receipt.unmatched,
                known_path=self._event.raw.uri,
                attributed_to=receipt.operation,
            ),
            headers=tuple(headers.parts()),
            bodies=(
                ExplainedBody(Side.REQUEST, None, None, receipt=receipt.request),
                ExplainedBody(self._response_side(), str(self._status), None, receipt=receipt.response),
            ),
            receipt=_without_values(receipt),
            fields=tuple(headers.fields()),
        )

    def _headers(self, denied: DeniedHeaders | None, *, path_names_account: bool) -> PairHeaders:
        return PairHeaders(
            self._document_fields.config,
            self._capture,
            self._event,
            denied or NO_HEADERS,
            self._verifier,
            path_names_account=path_names_account,
        )

    def _denied_by_attribution(self) -> DeniedHeaders:
        """Return the headers that the operations to which an unmatched request is attributed deny."""
        ids = f"|{self._event.receipt.operation}|"
        attributed = [each for each in self._document_fields.operations if f"|{each.id}|" in ids]
        return self._document_fields.denied_headers(attributed, self._status)

    def _applicable(self) -> OperationFields | None:
        """Return the fields of the operations that apply to the pair; None where none does."""
        if self._event.receipt.unmatched is not None:
            return None
        host = parse_host(self._request.once("host") or "") if self._request.present("host") else None
        match = self._document_fields.match(self._url, host, self._capture.request.method, self._segments)
        return self._document_fields.of_routes(match.routes)

    def _response_side(self) -> Side:
        return Side.ERROR if self._status >= 400 else Side.RESPONSE

    def _path(
        self, operation_fields: OperationFields, parameters: Sequence[ParameterField]
    ) -> Iterator[ExplainedPart]:
        resolved = operation_fields.resolved
        path = resolved.path(self._segments.decoded, strict=self._strict)
        refused = resolved.refused_ids(path)
        by_label = {each.path: each for each in parameters if each.side is Side.PATH}
        texts = path.text.split("/")[1:]
        for index, (segment, text) in enumerate(
            zip(operation_fields.operation.segments, texts, strict=False)
        ):
            field = resolved.id_field(index)
            for name in segment.names:
                variable = by_label[f"{{{name}}}"]
                # A recorded value never looks like the template: it would have been percent-encoded.
                decision = _decision_for_pair(variable.decision, is_kept=text != segment.text)
                if field in refused:
                    reason = f"{decision.reason}; in the path alone, because it is no valid {field}"
                    decision = decision._replace(reason=reason)
                yield ExplainedPart(variable.path, decision, present=True)

    def _query(self, parameters: Sequence[ParameterField]) -> Iterator[ExplainedPart]:
        sent = split_query(self._url.query)
        recorded = split_query((self._event.raw.uri or "").partition("?")[2])
        declared = [each for each in parameters if each.side is Side.QUERY]
        for parameter in declared:
            present = parameter.pair in sent
            decision = parameter.decision
            if present:
                decision = _decision_for_pair(decision, is_kept=_is_in_query(parameter, recorded))
            yield ExplainedPart(parameter.path, decision, present=present)
        # Names that are not declared come from the traffic, so one line stands for all of them.
        if sent.keys() - {each.pair for each in declared}:
            yield ExplainedPart("(not declared)", dropped(13, "not declared", ""), present=True)

    def _path_names_account(self, operation_fields: OperationFields) -> bool:
        path = operation_fields.resolved.path(self._segments.decoded, strict=self._strict)
        return operation_fields.resolved.account_id(path) is not None

    def _request_body(self, operation_fields: OperationFields) -> ExplainedBody:
        explained = ExplainedBody(Side.REQUEST, None, None, receipt=self._event.receipt.request)
        bodies = operation_fields.request_bodies(strict=self._strict)
        recorded = _recorded(self._event.resource.request)
        return self._body(explained, bodies, self._capture.request, self._request, recorded)

    def _response_body(self, operation_fields: OperationFields) -> ExplainedBody:
        side, status = self._response_side(), str(self._status)
        explained = ExplainedBody(side, status, None, receipt=self._event.receipt.response)
        bodies = operation_fields.response_bodies(self._status)
        recorded = _recorded(self._event.resource.response)
        return self._body(explained, bodies, self._capture.response, self._response, recorded)

    def _body(
        self,
        explained: ExplainedBody,
        bodies: Iterable[Body],
        message: CapturedRequest | CapturedResponse,
        headers: HeaderFields,
        recorded: Sequence[Json],
    ) -> ExplainedBody:
        """Return `explained` completed by what the document declares and by what became of the body's parts."""
        body = _selected_body(bodies, media_type(headers))
        if body is None:
            return explained
        explained = replace(
            explained,
            status=body.status,
            media_type=body.media_type,
            pointer=body.pointer,
            closed=body.closed,
        )
        receipt = explained.receipt
        if body.root is None or receipt is None or receipt.kept is None:
            # There was no body, or the redactor did not read it: the receipt says why, and there is no tree.
            return explained
        # The event holds NDJSON as an array of lines, and an envelope as the value of one property; the tree starts
        # at the root of the schema, which is one line and the whole envelope.
        if format_of(media_type(headers) or body.media_type) is Format.LINES:
            recorded = _lines_of(recorded)
        if body.envelope is not None:
            recorded = [{body.envelope: content} for content in recorded]
        return replace(explained, tree=self._tree(body.root, message, headers, recorded))

    def _tree(
        self,
        root: Position,
        message: CapturedRequest | CapturedResponse,
        headers: HeaderFields,
        recorded: Sequence[Json],
    ) -> Node:
        """Return the tree of a body that the redactor read, as its format demands."""
        body_format = format_of(media_type(headers) or "application/json")
        if body_format in (Format.FORM, Format.MULTIPART):
            return node_of_form(root, recorded)
        limits = self._document_fields.config.limits
        text = decode_content(body_bytes(message) or b"", content_codings(headers), limits.body_bytes_max)
        if body_format is Format.LINES:
            lines = read_json_lines(text, limits.depth_max, limits.lines_max)
            return node_of_values(root, lines, recorded)
        return node_of_values(root, [read_json(text, limits.depth_max)], recorded)


def _recorded(raw: msgspec.Raw | msgspec.UnsetType) -> list[Json]:
    """Return what an event holds of a body: one value, or none."""
    return [] if isinstance(raw, msgspec.UnsetType) else [read_json(bytes(raw), 256)]


def _lines_of(recorded: Sequence[Json]) -> list[Json]:
    """Return the recorded lines of an NDJSON body, which an event holds as one array."""
    return [line for array in recorded if isinstance(array, list) for line in array]


def _without_values(receipt: Receipt) -> Receipt:
    """Return the receipt without what a token's claims say."""
    said = receipt.identity
    if said is None:
        return receipt
    return structs.replace(receipt, identity=Identity(said.source, said.reason, said.issuer, said.kind))


def _selected_body(bodies: Iterable[Body], essence: str | None) -> Body | None:
    """Return the body whose media type applies. The redactor's own selection is asked, with the names as plans."""
    by_essence = {each.media_type.partition(";")[0].strip().lower(): each for each in bodies}
    selected = select_body_plan({name: BodyPlan(DROP, name) for name in by_essence}, essence)
    return by_essence[selected.envelope or ""] if isinstance(selected, BodyPlan) else None


def _decision_for_pair(decision: Decision, *, is_kept: bool) -> Decision:
    """Return what became of a parameter in one pair; `decision` is what its declaration says."""
    is_expected = is_kept == (decision.outcome is not Outcome.DROPPED)
    if is_expected:
        return decision
    if is_kept:
        return decision._replace(outcome=Outcome.KEPT)
    return dropped(13, "the value does not fit its schema, its style or the size limit", decision.pointer)


def _is_in_query(parameter: ParameterField, recorded: Mapping[str, Sequence[QueryPair]]) -> bool:
    """Whether a recorded query holds a parameter; for an object in one pair, whether it holds that property."""
    pairs = recorded.get(parameter.pair, ())
    if parameter.inner is None:
        return bool(pairs)
    # Names and values alternate: `filter=name,x,colour,y`.
    return any(pair.value is not None and parameter.inner in pair.value.split(",")[::2] for pair in pairs)
