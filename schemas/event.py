"""AuditEvent: what leaves the redactor, one Kafka record each. Mirrors `audit_event.schema.json`.

Its names are the record's names. Its bytes depend on the capture, the document and the configuration alone (no
time of receipt, no host), so that the same capture sent again gives the same bytes: `event_digest` relies on it.

None of its types can be part of a cycle: the garbage collector need not follow them (`gc=False`).
"""

from __future__ import annotations

import hashlib
from enum import StrEnum
from typing import NamedTuple

import msgspec

from schemas.errors import BuriedEvent, DeadLetterReason
from schemas.explain import schema_path_of_first_error
from schemas.identity import parse_id

EVENT_VERSION = 1


class BodyReason(StrEnum):
    """Why a body is not in the event; closed, and in the order in which the checks are made (REDACTION.md)."""

    GET = "get"
    NO_OPERATION = "no_operation"
    OPTED_OUT = "opted_out"
    NO_SCHEMA = "no_schema"
    MEDIA_TYPE = "media_type"
    TRUNCATED = "truncated"
    ENCODING = "encoding"
    TOO_LARGE = "too_large"
    MALFORMED = "malformed"
    TOO_DEEP = "too_deep"
    NO_BRANCH = "no_branch"


class UnmatchedReason(StrEnum):
    """Why no operation of any document governs the request; closed."""

    NO_DOCUMENT = "no_document"
    """No document serves this host."""
    INVALID_PATH = "invalid_path"
    """The path holds a segment that matches nothing by rule."""
    NO_PATH = "no_path"
    NO_METHOD = "no_method"
    """Templates match the path, none has this method."""
    METHOD_OVERRIDE = "method_override"
    """A header or field asks for another method than the request line."""
    SYSTEM = "system"
    """Not a request: a login or another action of the system itself."""


class BodyReceipt(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """Either `kept`, the number of scalars written, or the one `reason` why the body is not there.

    Both absent: there was no body.
    """

    kept: int | None = None
    reason: BodyReason | None = None


class Receipt(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What decided: the document's digest, the operation (or why none), and what became of each body."""

    document: str | None = None
    operation: str | None = None
    unmatched: UnmatchedReason | None = None
    request: BodyReceipt = BodyReceipt()
    response: BodyReceipt = BodyReceipt()


class Account(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """Whose resource was acted on; the name comes from enrichment."""

    id: str | None = None
    name: str | None = None


class Action(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What was done, when (`time` is the id's) and how it ended."""

    result: str
    time: str
    type: str
    description: str | None = None


class Actor(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """Who did it, and by which kind of credential."""

    id: str | None = None
    context: str | None = None
    email: str | None = None
    ip_address: str | None = None
    token_id: str | None = None
    token_name: str | None = None
    type: str | None = None


class RawRequest(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """The request as it was recorded: path and kept query, never a value that was not kept."""

    cf_ray_id: str | None = None
    method: str | None = None
    status_code: int | None = None
    uri: str | None = None
    user_agent: str | None = None


class Resource(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """`request` and `response` hold the redacted bodies as JSON text, number tokens as they were written."""

    id: str | None = None
    product: str | None = None
    request: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    response: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    scope: str | None = None
    type: str | None = None


class Zone(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """The zone acted in; the name comes from enrichment."""

    id: str | None = None
    name: str | None = None


class Tap(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """Which tap captured the pair, and where in its count."""

    id: str | None = None
    epoch: int | None = None
    seq: int | None = None


class Cut(msgspec.Struct, frozen=True, gc=False):
    """What the event was before it was cut: its size, and the hex of its `event_digest`."""

    size_bytes: int
    digest: str


class AuditEvent(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """One redacted event. `id` is a UUIDv7 of 32 hex digits whose milliseconds are `action.time`."""

    id: str
    action: Action
    account: Account = Account()
    actor: Actor = Actor()
    raw: RawRequest = RawRequest()
    resource: Resource = Resource()
    zone: Zone = Zone()
    receipt: Receipt = Receipt()
    tap: Tap = Tap()
    cut: Cut | None = None
    """Set where the log did not take the event whole and this is what it took of it."""
    v: int = EVENT_VERSION
    """The contract's version; left out while it is 1."""


class EncodedEvent(NamedTuple):
    """An event on its way to the log. `received_ms`: when the collector took it (Unix ms); it travels as the log
    record's timestamp, never in the value.
    """

    id: str
    value: bytes
    received_ms: int


_decoder = msgspec.json.Decoder(AuditEvent)
_encoder = msgspec.json.Encoder()


def encode_event(event: AuditEvent) -> bytes:
    """Return the event's JSON text, the same bytes for the same event."""
    return _encoder.encode(event)


def decode_event(value: bytes) -> AuditEvent:
    """Return the event that a log record's value holds.

    Raises BuriedEvent with `malformed` and, where it is JSON, the path of the first declared field that does not fit.
    """
    try:
        return _decoder.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    raise BuriedEvent(DeadLetterReason.MALFORMED, schema_path_of_first_error("audit_event", value))


def cut_event(value: bytes) -> bytes | None:
    """Return an event without its bodies, or, where that is no smaller, with nothing but what identifies it.

    None where nothing can be left out, or it is no event.
    """
    try:
        event = _decoder.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    cut = event.cut or Cut(len(value), event_digest(value).hex())
    action = msgspec.structs.replace(event.action, description=None)
    smaller = (
        _encoder.encode(_without_bodies(event, cut)),
        _encoder.encode(AuditEvent(event.id, action, tap=event.tap, cut=cut)),
    )
    return next((each for each in smaller if len(each) < len(value)), None)


def _without_bodies(event: AuditEvent, cut: Cut) -> AuditEvent:
    left_out = BodyReceipt(reason=BodyReason.TOO_LARGE)
    resource, receipt = event.resource, event.receipt
    return msgspec.structs.replace(
        event,
        resource=msgspec.structs.replace(resource, request=msgspec.UNSET, response=msgspec.UNSET),
        receipt=msgspec.structs.replace(
            receipt,
            request=receipt.request if isinstance(resource.request, msgspec.UnsetType) else left_out,
            response=receipt.response if isinstance(resource.response, msgspec.UnsetType) else left_out,
        ),
        cut=cut,
    )


def event_digest(value: bytes) -> bytes:
    """Return the 16 bytes that tell two events with the same id apart."""
    return hashlib.blake2b(value, digest_size=16).digest()


class _Identified(msgspec.Struct, gc=False):
    id: str


_id_decoder = msgspec.json.Decoder(_Identified)


def event_id(value: bytes) -> str | None:
    """Return the id in an event's bytes, if there is a valid one, whatever else is wrong with it."""
    try:
        return parse_id(_id_decoder.decode(value).id)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
