"""From an event to a record: pure, one event at a time."""

from __future__ import annotations

import ipaddress
import re
from uuid import UUID

import msgspec

from ingestor.config import DAY_MS, IngestorConfig
from ingestor.ports import SourceEvent
from schemas.errors import BuriedEvent, DeadLetterReason
from schemas.event import AuditEvent, decode_event, event_digest
from schemas.identity import id_ms, parse_id
from schemas.record import EnrichmentState, Record

_DIGEST = re.compile("[0-9a-f]{32}")
_BIGINT_MAX = (1 << 63) - 1
_encode_json = msgspec.json.Encoder().encode


def build_record(
    source: SourceEvent, config: IngestorConfig, now_ms: int, *, cut_too: bool = False
) -> Record:
    """Return the record of an event, its `enrichment` still `partial`. `cut_too`: also of one without its bodies.

    Raises BuriedEvent: `malformed` where it is no audit event, `expired` or `clock_ahead` by the time in its id,
    `too_large` where it was cut.
    """
    event = decode_event(source.value)
    _check(event, config, now_ms)
    if event.cut is not None and not cut_too:
        raise BuriedEvent(DeadLetterReason.TOO_LARGE)
    text = _TextBound(config.text_chars_max)
    name = _IdBound(config.id_chars_max)
    action, actor, raw, resource = event.action, event.actor, event.raw, event.resource
    return Record(
        id=UUID(event.id),
        account_id=name(event.account.id),
        account_name=text(event.account.name),
        action_description=text(action.description),
        action_result=action.result,
        action_type=action.type,
        actor_id=text(actor.id),
        actor_context=text(actor.context),
        actor_email=text(actor.email),
        actor_ip_address=_address(actor.ip_address),
        actor_token_id=text(actor.token_id),
        actor_token_name=text(actor.token_name),
        actor_type=text(actor.type),
        raw_cf_ray_id=text(raw.cf_ray_id),
        raw_method=text(raw.method),
        raw_status_code=raw.status_code,
        raw_uri=text(raw.uri),
        raw_user_agent=text(raw.user_agent),
        resource_id=text(resource.id),
        resource_product=text(resource.product),
        resource_request=_json_text(resource.request),
        resource_response=_json_text(resource.response),
        resource_scope=text(resource.scope),
        resource_type=text(resource.type),
        zone_id=name(event.zone.id),
        zone_name=text(event.zone.name),
        receipt=_encode_json(event.receipt).decode(),
        operation_id=text(event.receipt.operation),
        tap_id=text(event.tap.id),
        tap_epoch=event.tap.epoch,
        tap_seq=event.tap.seq,
        received_ms=source.received_ms,
        event_digest=_digest(event, source.value),
        enrichment=EnrichmentState.PARTIAL,
    )


def _check(event: AuditEvent, config: IngestorConfig, now_ms: int) -> None:
    if parse_id(event.id) != event.id:
        raise BuriedEvent(DeadLetterReason.MALFORMED, "id: pattern")
    if event.action.result not in {"success", "failure"}:
        raise BuriedEvent(DeadLetterReason.MALFORMED, "action.result: enum")
    if event.action.type not in {"create", "update", "delete", "view"}:
        raise BuriedEvent(DeadLetterReason.MALFORMED, "action.type: enum")
    if event.raw.status_code is not None and not 0 <= event.raw.status_code <= 999:
        raise BuriedEvent(DeadLetterReason.MALFORMED, "raw.status_code: maximum")
    for count in (event.tap.epoch, event.tap.seq):
        if count is not None and not 0 <= count <= _BIGINT_MAX:
            raise BuriedEvent(DeadLetterReason.MALFORMED, "tap: maximum")
    if event.cut is not None and not _DIGEST.fullmatch(event.cut.digest):
        raise BuriedEvent(DeadLetterReason.MALFORMED, "cut.digest: pattern")
    at_ms = id_ms(event.id)
    if at_ms < now_ms - config.retention_days * DAY_MS:
        raise BuriedEvent(DeadLetterReason.EXPIRED)
    if at_ms > now_ms + config.clock_ahead_ms_max:
        raise BuriedEvent(DeadLetterReason.CLOCK_AHEAD)


def _digest(event: AuditEvent, value: bytes) -> bytes:
    """Return the digest of the event as it was before it was cut, so that the whole one is a repeat of it."""
    if event.cut is None:
        return event_digest(value)
    return bytes.fromhex(event.cut.digest)


class _TextBound:
    """Makes any text storable: Postgres takes no NUL, and length is bounded."""

    __slots__ = ("_chars_max",)

    def __init__(self, chars_max: int) -> None:
        self._chars_max = chars_max

    def __call__(self, text: str | None) -> str | None:
        if text is None:
            return None
        if "\0" in text:
            text = text.replace("\0", "\N{REPLACEMENT CHARACTER}")
        return text if len(text) <= self._chars_max else text[: self._chars_max]


class _IdBound:
    """Leaves out what cannot be an id: it would be indexed, and a cut id could be another's."""

    __slots__ = ("_chars_max",)

    def __init__(self, chars_max: int) -> None:
        self._chars_max = chars_max

    def __call__(self, text: str | None) -> str | None:
        return None if text is None or "\0" in text or len(text) > self._chars_max else text


def _address(text: str | None) -> str | None:
    if text is None:
        return None
    try:
        return str(ipaddress.ip_address(text.partition("%")[0]))
    except ValueError:
        pass
    raise BuriedEvent(DeadLetterReason.MALFORMED, "actor.ip_address: format")


def _json_text(raw: msgspec.Raw | msgspec.UnsetType) -> str | None:
    return None if isinstance(raw, msgspec.UnsetType) else bytes(raw).decode()
