"""From what was kept of a pair to the audit event that is published."""

from __future__ import annotations

import ipaddress
from contextlib import suppress
from typing import NamedTuple

import msgspec

from redactor.bodies import ABSENT, NEVER_READ, Body, is_absent
from redactor.derive import action_type_of, pointed_at, resource_id
from redactor.governing import Governing, RecordedPath
from redactor.headers import Known
from redactor.plan import DROPPED, Kept, encode_json
from redactor.routes import Match
from schemas.capture import Capture
from schemas.event import (
    Account,
    Action,
    Actor,
    AuditEvent,
    BodyReason,
    BodyReceipt,
    RawRequest,
    Receipt,
    Resource,
    Tap,
    UnmatchedReason,
    Zone,
)
from schemas.identity import id_ms, rfc3339_ms

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})
_METHODS_WITHOUT_BODIES = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "CONNECT"})
_NO_OPERATION = BodyReceipt(reason=BodyReason.NO_OPERATION)
_ELIDED = "/…"


class Matched(NamedTuple):
    """What was kept of a pair that an operation governs."""

    governing: Governing
    path: RecordedPath
    uri: str
    request: Body
    response: Body


def never_read(capture: Capture) -> bool:
    """Tell whether rule 8 forbids to look at the bodies at all."""
    return capture.request.method in _METHODS_WITHOUT_BODIES or capture.response.status == 101


def bare_event(capture: Capture, event_id: str) -> AuditEvent:
    """Return what can be said of a pair that nothing was read from: method, status, result, time and tap."""
    return AuditEvent(
        id=event_id,
        action=_action(capture, event_id, action_type_of(_method(capture)), None),
        raw=RawRequest(method=_method(capture), status_code=capture.response.status),
        receipt=Receipt(unmatched=UnmatchedReason.NO_PATH, request=_NO_OPERATION, response=_NO_OPERATION),
        tap=tap_of(capture),
    )


def unmatched_event(capture: Capture, event_id: str, match: Match, known: Known) -> AuditEvent:
    """Return the event of a pair that no operation governs: nothing of its bodies, query and variables."""

    def receipt(*, absent: bool) -> BodyReceipt:
        if never_read(capture):
            return NEVER_READ.receipt
        return ABSENT.receipt if absent else _NO_OPERATION

    return AuditEvent(
        id=event_id,
        action=_action(capture, event_id, action_type_of(_method(capture)), None),
        account=Account(id=known.account_id),
        actor=actor_of(capture, known),
        raw=_raw(capture, known, match.known_path + _ELIDED),
        receipt=Receipt(
            unmatched=match.unmatched,
            request=receipt(absent=is_absent(capture.request)),
            response=receipt(absent=is_absent(capture.response)),
        ),
        tap=tap_of(capture),
    )


def matched_event(capture: Capture, event_id: str, matched: Matched, known: Known) -> AuditEvent:
    """Return the event of a pair that an operation governs."""
    governing, path, uri, request, response = matched
    facts = governing.facts
    return AuditEvent(
        id=event_id,
        action=_action(capture, event_id, facts.action_type, facts.description),
        account=Account(id=governing.account_id(path) or known.account_id),
        actor=actor_of(capture, known),
        raw=_raw(capture, known, uri),
        resource=Resource(
            id=_resource_id(governing, path, request, response),
            product=facts.product,
            request=_raw_json(request.recorded),
            response=_raw_json(response.recorded),
            scope=facts.scope,
            type=facts.resource_type,
        ),
        zone=Zone(id=governing.zone_id(path)),
        receipt=Receipt(
            document=governing.digest,
            operation=governing.id,
            request=request.receipt,
            response=response.receipt,
        ),
        tap=tap_of(capture),
    )


def _resource_id(governing: Governing, path: RecordedPath, request: Body, response: Body) -> str | None:
    """Return the id in the recorded path, or in what was kept of a body (rule 15)."""
    by_path = governing.resource_id(path)
    if by_path is not None or governing.pointer is None:
        return by_path
    side, steps = governing.pointer
    if governing.id_is_overridden:
        return resource_id(pointed_at(request.whole if side == "request" else response.whole, steps))
    if governing.facts.action_type != "create":
        return None
    return resource_id(pointed_at(response.recorded, steps))


def _method(capture: Capture) -> str:
    return capture.request.method if capture.request.method in METHODS else "OTHER"


def _action(capture: Capture, event_id: str, action_type: str, description: str | None) -> Action:
    return Action(
        result="success" if capture.response.status < 400 else "failure",
        time=rfc3339_ms(id_ms(event_id)),
        type=action_type,
        description=description,
    )


def actor_of(capture: Capture, known: Known) -> Actor:
    """Return who acted, as far as headers and address tell."""
    return Actor(
        id=known.actor_id,
        context=known.actor_context,
        email=known.actor_email,
        ip_address=_ip_address(capture.client_ip),
        token_id=known.actor_token_id,
        token_name=known.actor_token_name,
        type=known.actor_type,
    )


def _ip_address(text: str | None) -> str | None:
    """Return an IP address in its usual form; one with a zone, or that is none, is not kept."""
    if text is None or "%" in text:
        return None
    with suppress(ValueError):
        return str(ipaddress.ip_address(text))
    return None


def _raw(capture: Capture, known: Known, uri: str) -> RawRequest:
    return RawRequest(
        cf_ray_id=known.request_id,
        method=_method(capture),
        status_code=capture.response.status,
        uri=uri,
        user_agent=known.user_agent,
    )


def _raw_json(kept: Kept) -> msgspec.Raw | msgspec.UnsetType:
    return msgspec.UNSET if kept is DROPPED else msgspec.Raw(encode_json(kept))


def tap_of(capture: Capture) -> Tap:
    """Return where the pair stood in its tap's count."""
    return Tap() if capture.tap is None else Tap(capture.tap.id, capture.tap.epoch, capture.tap.seq)
