"""AuditEvent: what leaves the redactor, one log record each. Mirrors `audit_event.schema.json`.

Its fields have the names that they have in the record. Its bytes depend on the capture, the OpenAPI document and the
configuration alone, and not on the host or the time of receipt: the same capture sent again gives the same bytes, on which
`event_digest` relies.

`gc=False`: none of these types can be part of a cycle, so the garbage collector need not visit them.
"""

from __future__ import annotations

import hashlib
from enum import StrEnum
from typing import NamedTuple

import msgspec

from schemas.contracts import schema_path_of_first_error
from schemas.errors import DeadLetterReason, UnprocessableEvent
from schemas.identity import parse_id

EVENT_VERSION = 1
DURATION_MS_MAX = (1 << 31) - 1
"""24 days: what a column of type `integer` holds."""
RESPONSE_BYTES_MAX = (1 << 53) - 1
"""Larger numbers are not exact in every JSON reader."""


class BodyReason(StrEnum):
    """Why a body is not in the event. A closed list, in the order of the checks: the first one that fails counts."""

    GET = "get"
    NO_OPERATION = "no_operation"
    OPTED_OUT = "opted_out"
    NO_SCHEMA = "no_schema"
    MEDIA_TYPE = "media_type"
    NOT_READ = "not_read"
    TRUNCATED = "truncated"
    ENCODING = "encoding"
    TOO_LARGE = "too_large"
    MALFORMED = "malformed"
    TOO_DEEP = "too_deep"
    TOO_COMPLEX = "too_complex"
    NO_BRANCH = "no_branch"


class UnmatchedReason(StrEnum):
    """Why no operation of any OpenAPI document applies to the request; a closed list."""

    NO_DOCUMENT = "no_document"
    """No OpenAPI document serves this host."""
    INVALID_PATH = "invalid_path"
    """The path has a segment that may match nothing: empty, a dot segment, or with a control character, for example."""
    NO_PATH = "no_path"
    NO_METHOD = "no_method"
    """Path templates match, but none of them has this method."""
    METHOD_OVERRIDE = "method_override"
    """A header or a field overrides the method of the request line."""
    SYSTEM = "system"
    """Not a request: a login or another action of the system itself."""


class IdentitySource(StrEnum):
    """What says who acted; a closed list."""

    TOKEN = "token"  # noqa: S105  a name
    """A signed token whose signature and claims were verified."""
    HEADERS = "headers"
    """Headers of the response."""
    NONE = "none"


class TokenReason(StrEnum):
    """Why a request's token says nothing about who acted. A closed list, in the order of the checks."""

    SEVERAL = "several"
    """More than one token is genuine, or there are too many to verify."""
    TOO_LARGE = "too_large"
    MALFORMED = "malformed"
    ISSUER = "issuer"
    """The issuer is none that is configured for the token's header."""
    ALGORITHM = "algorithm"
    """The algorithm is not allowed, or not one of the key's."""
    NO_KEYS = "no_keys"
    """There are no keys of the issuer: they could not be fetched."""
    UNKNOWN_KEY = "unknown_key"
    """The token names no key, or none of the issuer's."""
    SIGNATURE = "signature"
    AUDIENCE = "audience"
    CLAIMS = "claims"
    """The token is genuine, and a claim that is needed is missing or unreadable."""
    NOT_YET_VALID = "not_yet_valid"
    EXPIRED = "expired"


class IdentityKind(StrEnum):
    """Whether a verified token is a person's or a machine's."""

    USER = "user"
    MACHINE = "machine"


class Principal(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """Somebody in whose name another acted."""

    id: str | None = None
    email: str | None = None


class Identity(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What says who acted, and what a verified token says beside the actor.

    `client`: the application that the token was issued to. `on_behalf_of`: the subject of a token with an actor claim
    (RFC 8693, `act`); the event's actor is then who acts. `via`: who acted before that actor, the latest first.
    """

    source: IdentitySource
    reason: TokenReason | None = None
    """Set where the request has a token that is not verified; with the source `TOKEN`, another than the one that counts."""
    issuer: str | None = None
    kind: IdentityKind | None = None
    client: str | None = None
    on_behalf_of: Principal | None = None
    via: tuple[str, ...] = ()


class BodyReceipt(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """Either `kept`, the number of scalars written, or the `reason` why the body is absent.

    Neither is set if there was no body. The number of dropped scalars would reveal something about them, so it is not here.
    """

    kept: int | None = None
    reason: BodyReason | None = None


class Receipt(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What the redactor decided by: the OpenAPI document's digest, the operation or why none applies, and each body's outcome."""

    document: str | None = None
    operation: str | None = None
    unmatched: UnmatchedReason | None = None
    request: BodyReceipt = BodyReceipt()
    response: BodyReceipt = BodyReceipt()
    altered: bool = False
    """The operation was found only by reading the request leniently; `unmatched` says why it did not match as written."""
    refused: tuple[str, ...] = ()
    """Fields for which a header, the path, a token or the tap gave what is refused. Each is empty, unless something else fills it."""
    identity: Identity | None = None
    """Set where issuers of signed tokens are configured."""


class Account(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """The account whose resource was acted on. The name comes from enrichment."""

    id: str | None = None
    name: str | None = None


class Action(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What was done, when, and how it ended. `time` is the time in the id, as RFC 3339 in UTC with milliseconds."""

    result: str
    time: str
    type: str
    description: str | None = None


class Actor(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """Who did it, and with which kind of credential."""

    id: str | None = None
    context: str | None = None
    email: str | None = None
    ip_address: str | None = None
    token_id: str | None = None
    token_name: str | None = None
    type: str | None = None


class RawRequest(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """The request as recorded. `uri` is the path, with templates for parameters that are not kept, and the kept query."""

    cf_ray_id: str | None = None
    method: str | None = None
    status_code: int | None = None
    uri: str | None = None
    user_agent: str | None = None


class Resource(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What was acted on. `request` and `response` are the redacted bodies as JSON text; numbers are as the sender wrote them."""

    id: str | None = None
    product: str | None = None
    request: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    response: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    scope: str | None = None
    type: str | None = None


class Zone(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """The zone of the resource. The name comes from enrichment."""

    id: str | None = None
    name: str | None = None


class Tap(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """Which tap captured the pair, and its sequence number within an epoch."""

    id: str | None = None
    epoch: int | None = None
    seq: int | None = None


class Exchange(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What no document can mark of a pair, where the operator lets it leave (`redaction.exchange_facts_kept`). None: not known.

    `host` is a name in lower case, or an address, without its port. `response_bytes`: the length of the body as it was sent.
    """

    host: str | None = None
    duration_ms: int | None = None
    response_bytes: int | None = None


class Truncation(msgspec.Struct, frozen=True, gc=False):
    """The size of an event before it was truncated, and the hex of its `event_digest`."""

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
    exchange: Exchange | None = None
    """Set where the configuration lets it leave."""
    cut: Truncation | None = None
    """Set if the log refused the event because of its size, and this is what is left of it."""
    v: int = EVENT_VERSION
    """The contract's version; left out while it is 1."""


class EncodedEvent(NamedTuple):
    """An event on its way to the log. `received_ms` is the collector's time of receipt (Unix ms).

    That time becomes the timestamp of the log record. It is not in the value, which must not change when the same capture
    is sent again.
    """

    id: str
    value: bytes
    received_ms: int


_decoder = msgspec.json.Decoder(AuditEvent)
_encoder = msgspec.json.Encoder()


def encode_event(event: AuditEvent) -> bytes:
    """Return the event's JSON text: the same bytes for equal events."""
    return _encoder.encode(event)


def decode_event(value: bytes) -> AuditEvent:
    """Return the event in a log record's value.

    Raises UnprocessableEvent: `malformed`, with the schema path of the first error if the value is JSON.
    """
    try:
        return _decoder.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    raise UnprocessableEvent(
        DeadLetterReason.MALFORMED, schema_path_of_first_error("audit_event", value) or ""
    )


def truncate_event(value: bytes) -> bytes | None:
    """Return the event without its bodies; if that is no smaller, with nothing but what identifies it.

    Return None if neither is smaller, or if the value is not an event.
    """
    try:
        event = _decoder.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    # On a second pass, size and digest of the whole event stay.
    cut = event.cut or Truncation(len(value), event_digest(value).hex())
    action = msgspec.structs.replace(event.action, description=None)
    smaller = (
        _encoder.encode(_without_bodies(event, cut)),
        _encoder.encode(AuditEvent(event.id, action, tap=event.tap, cut=cut)),
    )
    return next((each for each in smaller if len(each) < len(value)), None)


def _without_bodies(event: AuditEvent, cut: Truncation) -> AuditEvent:
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
    """Return 16 bytes by which two events with the same id are compared: equal for a repetition, different for a conflict."""
    # Stored in every row, so no longer than needed: an accident cannot make two events with one id agree in 128 bits.
    return hashlib.blake2b(value, digest_size=16).digest()


class _Identified(msgspec.Struct, gc=False):
    id: str


_id_decoder = msgspec.json.Decoder(_Identified)


def event_id(value: bytes) -> str | None:
    """Return the id in an event's bytes; None without a valid one. Whatever else is wrong with the event does not matter."""
    try:
        return parse_id(_id_decoder.decode(value).id)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
