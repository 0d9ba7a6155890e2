"""From a captured pair to the bytes of its audit event, stage by stage.

Every stage has two implementations. The reference defines what is recorded. The fast one gives the same for the pairs it
recognizes and calls the reference for the others, so a pair falls back in one stage alone: a body that only the reference
can read leaves route, headers and URI on the fast path.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from msgspec import structs

from redactor.compile.denied_headers import NO_HEADERS, DeniedHeaders
from redactor.config import RedactionConfig
from redactor.decode.url import query_overrides_method
from redactor.openapi.routes import Route, Routes
from redactor.pipeline.bodies import (
    ABSENT,
    NEVER_READ,
    OF_UNKNOWN_METHOD,
    OVERRIDES_METHOD,
    FastBodies,
    ReferenceBodies,
    is_absent,
)
from redactor.pipeline.event_template import EventTemplate, never_read
from redactor.pipeline.events import EventWriter
from redactor.pipeline.exchanges import FastExchanges, ReferenceExchanges
from redactor.pipeline.headers import FastHeaders, ReferenceHeaders
from redactor.pipeline.identities import Identities
from redactor.pipeline.kept_body import KeptBody
from redactor.pipeline.resolved_operation import ResolvedOperation
from redactor.pipeline.routing import FastRouting, ReferenceRouting
from redactor.pipeline.stages import RecordedHeaders, RecordedUri, RoutedRequest
from redactor.pipeline.uris import FastUris, ReferenceUris
from schemas.capture import Capture
from schemas.event import Exchange, Identity, IdentitySource, TokenReason, UnmatchedReason


class Stages(NamedTuple):
    """One implementation of every stage."""

    headers: ReferenceHeaders
    routing: ReferenceRouting
    uris: ReferenceUris
    bodies: ReferenceBodies
    exchanges: ReferenceExchanges | None
    """None where the configuration lets nothing of the exchange leave."""


Resolve = Callable[[tuple[Route, ...]], ResolvedOperation]


def reference_stages(config: RedactionConfig, routes: Routes, resolve: Resolve) -> Stages:
    """Return the stages that define what is recorded. `resolve` compiles the operations that routes lead to."""
    return Stages(
        ReferenceHeaders(config.headers, config.client_addresses),
        ReferenceRouting(routes, resolve),
        ReferenceUris(config.limits.uri_bytes_max),
        ReferenceBodies(config.limits),
        ReferenceExchanges() if config.exchange_facts_kept else None,
    )


def fast_stages(config: RedactionConfig, routes: Routes, resolve: Resolve) -> Stages:
    """Return the stages that give the same, faster."""
    return Stages(
        FastHeaders(config.headers, config.client_addresses),
        FastRouting(routes, resolve),
        FastUris(config.limits.uri_bytes_max),
        FastBodies(config.limits),
        FastExchanges() if config.exchange_facts_kept else None,
    )


class Observer(Protocol):
    """Counts what becomes of pairs. It gets names from closed lists alone, and nothing of a pair."""

    def unmatched(self, reason: UnmatchedReason, *, altered: bool) -> None:
        """A request matches no operation as it is written. `altered`: but one if it is read leniently."""
        ...

    def refused(self, fields: Sequence[str]) -> None:
        """The pair gives something for these fields of an event that is refused."""
        ...

    def token(self, reason: TokenReason | None) -> None:
        """The request carries a token that says who acts (None), or one that does not, and why."""
        ...

    def without_account(self) -> None:
        """An operation applies, and neither path nor response names the account, or a zone to find it by."""
        ...


class NoObserver:
    """Counts nothing."""

    def unmatched(self, reason: UnmatchedReason, *, altered: bool) -> None:
        """See `Observer`."""

    def refused(self, fields: Sequence[str]) -> None:
        """See `Observer`."""

    def token(self, reason: TokenReason | None) -> None:
        """See `Observer`."""

    def without_account(self) -> None:
        """See `Observer`."""


class Pipeline:
    """Joins the stages. Holds nothing of a pair but what its stages may remember: names, and values that were kept."""

    def __init__(
        self, stages: Stages, observer: Observer | None = None, identities: Identities | None = None
    ) -> None:
        """`identities`: how tokens are read; None where no issuers are configured."""
        self.stages = stages
        self._observer = observer or NoObserver()
        self._identities = identities
        self._headers = stages.headers
        self._routing = stages.routing
        self._uris = stages.uris
        self._bodies = stages.bodies
        self._exchanges = stages.exchanges
        self._events = EventWriter()

    def event(self, capture: Capture, event_id: str) -> bytes | None:
        """Return the audit event's JSON text, or None where the operation is excluded by configuration.

        May raise anything; an error's message, cause and frames may then hold the pair.
        """
        headers = self._headers.record(capture)
        routed = self._routing.route(capture)
        template = routed.template
        denied = None if template is None else template.denied_headers
        if denied is not None:
            headers = self._headers.record_without(capture, denied)
        if self._identities is not None:
            self._identities.apply(headers, capture, event_id, denied or NO_HEADERS)
        # Before anything is kept: the operation of the request line would be the wrong allow-list.
        method = capture.request.method
        if headers.overrides_method or (routed.query and query_overrides_method(routed.query, method)):
            return self._unmatched(capture, event_id, headers, routed, UnmatchedReason.METHOD_OVERRIDE)
        if template is None or template.is_excluded:
            return self._without_operation(capture, event_id, headers, routed)
        request, response = self._read_bodies(capture, template, headers)
        if request is OVERRIDES_METHOD:
            return self._unmatched(capture, event_id, headers, routed, UnmatchedReason.METHOD_OVERRIDE)
        uri = self._uris.record(routed, template)
        if request.hides_method:
            uri = _without_query(uri)
        if uri.refused:
            headers = _refusing(headers, uri)
        self._count(headers, uri)
        exchange = self._exchange(capture, denied)
        return self._events.matched(capture, event_id, template, headers, uri, request, response, exchange)

    def _exchange(self, capture: Capture, denied: DeniedHeaders | None) -> Exchange | None:
        return None if self._exchanges is None else self._exchanges.record(capture, denied or NO_HEADERS)

    def _count(self, headers: RecordedHeaders, uri: RecordedUri) -> None:
        """Tell the observer what an event to which an operation applies lacks."""
        if headers.identity is not None:
            self._count_token(headers.identity)
        if headers.refused:
            self._observer.refused(headers.refused)
        if uri.account is None and headers.account.id is None and uri.zone.id is None:
            self._observer.without_account()

    def _count_token(self, identity: Identity) -> None:
        if identity.source is IdentitySource.TOKEN:
            self._observer.token(None)
        if identity.reason is not None:
            self._observer.token(identity.reason)

    def _read_bodies(
        self, capture: Capture, template: EventTemplate, headers: RecordedHeaders
    ) -> tuple[KeptBody, KeptBody]:
        """Return what is kept of both bodies; OVERRIDES_METHOD for a request that asks for another method."""
        request = response = NEVER_READ
        if template.request.is_read:
            request = self._bodies.read(
                capture.request, template.request, headers.request_type, headers.request_is_encoded
            )
        if request.hides_method:
            response = ABSENT if is_absent(capture.response) else OF_UNKNOWN_METHOD
        elif template.response.is_read and request is not OVERRIDES_METHOD:
            response = self._bodies.read(
                capture.response, template.response, headers.response_type, headers.response_is_encoded
            )
        return request, response

    def _without_operation(
        self, capture: Capture, event_id: str, headers: RecordedHeaders, routed: RoutedRequest
    ) -> bytes | None:
        """Return the event where no operation applies; None where the one that does is excluded."""
        # An excluded operation is no exception: the one that is really meant need not be excluded.
        may_override = capture.request.method == "POST" and not never_read(capture)
        if may_override and self._asks_for_another(capture, headers, routed):
            return self._unmatched(capture, event_id, headers, routed, UnmatchedReason.METHOD_OVERRIDE)
        if routed.unmatched is None:
            return None
        return self._unmatched(capture, event_id, headers, routed, routed.unmatched)

    def _asks_for_another(self, capture: Capture, headers: RecordedHeaders, routed: RoutedRequest) -> bool:
        """Whether the body asks for another method, or may do so for one that is not excluded."""
        if self._bodies.overrides_method(capture.request, headers.request_type):
            return True
        may_be_meant = routed.template is not None and self._routing.has_another_method(capture.request)
        return may_be_meant and self._bodies.hides_method(capture.request, headers.request_type)

    def _unmatched(
        self,
        capture: Capture,
        event_id: str,
        headers: RecordedHeaders,
        routed: RoutedRequest,
        reason: UnmatchedReason,
    ) -> bytes:
        """Return the event of a request to which no operation applies as it is written, with whose action it was."""
        attribution = self._routing.attribution(capture.request, routed, reason)
        self._observer.unmatched(reason, altered=attribution is not None and attribution.is_altered)
        denied = None
        if attribution is not None:
            denied = attribution.operation.denied_headers(capture.response.status)
        if denied is not None:
            headers = self._headers.record_without(capture, denied)
            if self._identities is not None:
                self._identities.apply(headers, capture, event_id, denied)
        if headers.identity is not None:
            self._count_token(headers.identity)
        uri = None
        if attribution is not None:
            uri = self._uris.attributed(attribution, strict=capture.response.status >= 400)
            headers = _refusing(headers, uri)
        if headers.refused:
            self._observer.refused(headers.refused)
        exchange = self._exchange(capture, denied)
        if attribution is None or uri is None:
            known_path = routed.known_path or self._routing.known_path(capture.request)
            return self._events.unmatched(capture, event_id, headers, reason, known_path, exchange)
        return self._events.attributed(capture, event_id, headers, reason, attribution, uri, exchange)


def _without_query(uri: RecordedUri) -> RecordedUri:
    # The marks of the request line's operation may not be those of the operation that is meant.
    return structs.replace(uri, uri=uri.uri.partition("?")[0])


def _refusing(headers: RecordedHeaders, uri: RecordedUri) -> RecordedHeaders:
    """Return the headers with what is no id in the path among the refused fields."""
    # Also where a header fills the field: the path then claims another account than the record's.
    more = [name for name in uri.refused if name not in headers.refused]
    return structs.replace(headers, refused=(*headers.refused, *more)) if more else headers
