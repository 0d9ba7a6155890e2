"""The last stage: the one place where an audit event is assembled, from what the other stages recorded."""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import structs

from redactor.compile.derived_fields import action_type_of, valid_resource_id
from redactor.pipeline.bodies import ABSENT, NEVER_READ, is_absent
from redactor.pipeline.event_template import EventTemplate, never_read
from redactor.pipeline.kept_body import KeptBody
from redactor.pipeline.stages import Attribution, RecordedHeaders, RecordedUri
from schemas.capture import Capture
from schemas.event import (
    Action,
    AuditEvent,
    BodyReason,
    BodyReceipt,
    Exchange,
    RawRequest,
    Receipt,
    Resource,
    Tap,
    UnmatchedReason,
)
from schemas.identity import id_ms, rfc3339_ms

METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})
_NO_OPERATION: Final = BodyReceipt(reason=BodyReason.NO_OPERATION)
_ELIDED: Final = "/…"
_SECONDS_MAX: Final = 4_096
_YEAR_10000_S: Final = 253_402_300_800
_MILLISECONDS: Final = tuple(f".{ms:03d}Z" for ms in range(1000))


def bare_event(capture: Capture, event_id: str) -> AuditEvent:
    """Return the event of a pair of which nothing was read: method, status, result, time and tap."""
    method = _method(capture)
    return AuditEvent(
        id=event_id,
        action=_action(capture, event_id),
        raw=RawRequest(method=method, status_code=capture.response.status),
        receipt=Receipt(unmatched=UnmatchedReason.NO_PATH, request=_NO_OPERATION, response=_NO_OPERATION),
        tap=_tap(capture),
    )


class EventWriter:
    """Assembles events and encodes them."""

    def __init__(self) -> None:
        self._encode = msgspec.json.Encoder().encode
        self._seconds: dict[int, str] = {}

    def matched(  # noqa: PLR0917  by position, because that is faster
        self,
        capture: Capture,
        event_id: str,
        template: EventTemplate,
        headers: RecordedHeaders,
        uri: RecordedUri,
        request: KeptBody,
        response: KeptBody,
        exchange: Exchange | None,
    ) -> bytes:
        """Return the event of a pair to which an operation applies."""
        resource_id = uri.resource
        if resource_id is None:
            # An operation looks for the id in one of the two at most.
            resource_id = valid_resource_id(request.id if response.id is None else response.id)
        # By position, in the order of the fields: keywords would take twice as long.
        event = AuditEvent(
            event_id,
            Action(template.result, self._time(event_id), template.action_type, template.description),
            uri.account or headers.account,
            headers.actor,
            RawRequest(headers.request_id, template.method, template.status, uri.uri, headers.user_agent),
            Resource(
                resource_id,
                template.product,
                request.text,
                response.text,
                template.scope,
                template.resource_type,
            ),
            uri.zone,
            Receipt(
                template.digest,
                template.id,
                None,
                request.receipt,
                response.receipt,
                False,
                headers.refused,
                headers.identity,
            ),
            _tap(capture),
            exchange,
        )
        return self._encode(event)

    def unmatched(  # noqa: PLR0917  as above
        self,
        capture: Capture,
        event_id: str,
        headers: RecordedHeaders,
        reason: UnmatchedReason,
        known_path: str,
        exchange: Exchange | None,
    ) -> bytes:
        """Return the event of a pair to which no operation applies: nothing of its bodies, query and variables.

        `known_path` is the literal prefix of the path that the route table holds.
        """
        return self._encode(
            _without_bodies(capture, event_id, headers, reason, known_path + _ELIDED, exchange)
        )

    def attributed(  # noqa: PLR0917  as the others
        self,
        capture: Capture,
        event_id: str,
        headers: RecordedHeaders,
        reason: UnmatchedReason,
        attribution: Attribution,
        uri: RecordedUri,
        exchange: Exchange | None,
    ) -> bytes:
        """Return the event of a pair to which no operation applies as it was sent, with whose action it was.

        It has the operation's names and the recorded path, and nothing of bodies and query: a lenient reading may be wrong.
        """
        operation = attribution.operation
        facts = operation.facts
        event = _without_bodies(capture, event_id, headers, reason, uri.uri, exchange)
        action = event.action
        if capture.request.method.upper() in operation.methods:
            action = structs.replace(action, type=facts.action_type, description=facts.description)
        return self._encode(
            structs.replace(
                event,
                action=action,
                # The service that acted knows better than a reading of the path that it may not share.
                account=headers.account if headers.account.id is not None else uri.account or headers.account,
                resource=Resource(
                    id=uri.resource, product=facts.product, scope=facts.scope, type=facts.resource_type
                ),
                zone=uri.zone,
                receipt=structs.replace(
                    event.receipt,
                    document=operation.digest,
                    operation=operation.id,
                    altered=attribution.is_altered,
                ),
            )
        )

    def _time(self, event_id: str) -> str:
        """Return `action.time`; what is before its milliseconds is remembered, because many pairs share it."""
        second, ms = divmod(id_ms(event_id), 1000)
        text = self._seconds.get(second)
        if text is None:
            if second >= _YEAR_10000_S:
                return rfc3339_ms(id_ms(event_id))
            if len(self._seconds) >= _SECONDS_MAX:
                self._seconds.clear()
            text = self._seconds[second] = rfc3339_ms(second * 1000)[: -len(_MILLISECONDS[0])]
        return text + _MILLISECONDS[ms]


def _without_bodies(  # noqa: PLR0917  as the methods that call it
    capture: Capture,
    event_id: str,
    headers: RecordedHeaders,
    reason: UnmatchedReason,
    uri: str | None,
    exchange: Exchange | None,
) -> AuditEvent:
    """Return the event of a pair that no operation applies to as it was sent."""
    return AuditEvent(
        id=event_id,
        action=_action(capture, event_id),
        account=headers.account,
        actor=headers.actor,
        raw=RawRequest(
            cf_ray_id=headers.request_id,
            method=_method(capture),
            status_code=capture.response.status,
            uri=uri,
            user_agent=headers.user_agent,
        ),
        receipt=Receipt(
            unmatched=reason,
            request=_unmatched_receipt(capture, is_body_absent=is_absent(capture.request)),
            response=_unmatched_receipt(capture, is_body_absent=is_absent(capture.response)),
            refused=headers.refused,
            identity=headers.identity,
        ),
        tap=_tap(capture),
        exchange=exchange,
    )


def _unmatched_receipt(capture: Capture, *, is_body_absent: bool) -> BodyReceipt:
    if never_read(capture):
        return NEVER_READ.receipt
    return ABSENT.receipt if is_body_absent else _NO_OPERATION


def _method(capture: Capture) -> str:
    return capture.request.method if capture.request.method in METHODS else "OTHER"


def _action(capture: Capture, event_id: str) -> Action:
    return Action(
        result="success" if capture.response.status < 400 else "failure",
        time=rfc3339_ms(id_ms(event_id)),
        type=action_type_of(_method(capture)),
    )


def _tap(capture: Capture) -> Tap:
    tap = capture.tap
    # Not the default of the event's field, which would be left out.
    return Tap() if tap is None else Tap(tap.id, tap.epoch, tap.seq)
