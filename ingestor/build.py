"""From an event to a record: pure, one event at a time."""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from uuid import UUID

import msgspec

from ingestor.config import DAY_MS, IngestorConfig
from ingestor.ports import SourceEvent
from schemas.errors import BuriedEvent, DeadLetterReason
from schemas.event import AuditEvent, decode_event, event_digest
from schemas.identity import id_ms, parse_id, with_ms
from schemas.record import EnrichmentState, Record

_DIGEST = re.compile("[0-9a-f]{32}")
_BIGINT_MAX = (1 << 63) - 1
_ADDRESSES_MAX = 8_192
_TEXTS = (
    *("account_name", "action_description", "actor_id", "actor_context", "actor_email", "actor_token_id"),
    *("actor_token_name", "actor_type", "raw_cf_ray_id", "raw_method", "raw_uri", "raw_user_agent"),
    *(
        "resource_id",
        "resource_product",
        "resource_scope",
        "resource_type",
        "zone_name",
        "operation_id",
        "tap_id",
    ),
)
_encode_json = msgspec.json.Encoder().encode


def build_record(
    source: SourceEvent, config: IngestorConfig, now_ms: int, *, cut_too: bool = False
) -> Record:
    """Return the record of an event, its `enrichment` still `partial`. `cut_too`: also of one without its bodies.

    An id ahead of the time of receipt, or of our own, by more than the bound gets that time (`clamped_from_ms`).
    Raises BuriedEvent: `malformed` where it is no audit event, `expired` by the time in its id, `too_large` where it
    was cut.
    """
    event = decode_event(source.value)
    _check(event)
    at_ms = _at_ms(event, source.received_ms, config, now_ms)
    if event.cut is not None and not cut_too:
        raise BuriedEvent(DeadLetterReason.TOO_LARGE)
    action, actor, raw, resource = event.action, event.actor, event.raw, event.resource
    record = Record(
        id=with_ms(UUID(event.id), at_ms),
        account_id=event.account.id,
        account_name=event.account.name,
        action_description=action.description,
        action_result=action.result,
        action_type=action.type,
        actor_id=actor.id,
        actor_context=actor.context,
        actor_email=actor.email,
        actor_ip_address=_address(actor.ip_address),
        actor_token_id=actor.token_id,
        actor_token_name=actor.token_name,
        actor_type=actor.type,
        raw_cf_ray_id=raw.cf_ray_id,
        raw_method=raw.method,
        raw_status_code=raw.status_code,
        raw_uri=raw.uri,
        raw_user_agent=raw.user_agent,
        resource_id=resource.id,
        resource_product=resource.product,
        resource_request=_json_text(resource.request),
        resource_response=_json_text(resource.response),
        resource_scope=resource.scope,
        resource_type=resource.type,
        zone_id=event.zone.id,
        zone_name=event.zone.name,
        receipt=_encode_json(event.receipt).decode(),
        operation_id=event.receipt.operation,
        tap_id=event.tap.id,
        tap_epoch=event.tap.epoch,
        tap_seq=event.tap.seq,
        received_ms=source.received_ms,
        event_digest=_digest(event, source.value),
        enrichment=EnrichmentState.PARTIAL,
        clamped_from_ms=None if at_ms == id_ms(event.id) else id_ms(event.id),
    )
    _make_storable(record, source.value, config)
    return record


def _make_storable(record: Record, value: bytes, config: IngestorConfig) -> None:
    """Make any text storable: Postgres takes no NUL, lengths are bounded, and what cannot be an id is left out."""
    for name in ("account_id", "zone_id"):
        found = getattr(record, name)
        # It would be indexed, and a cut id could be another's.
        if found is not None and (len(found) > config.id_chars_max or "\0" in found):
            setattr(record, name, None)
    # No text can be longer than the event, nor hold what is not escaped in it.
    if len(value) <= config.text_chars_max and b"\\u0000" not in value:
        return
    for name in _TEXTS:
        found = getattr(record, name)
        if found is not None:
            setattr(record, name, found.replace("\0", "\N{REPLACEMENT CHARACTER}")[: config.text_chars_max])


def _check(event: AuditEvent) -> None:
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


def _at_ms(event: AuditEvent, received_ms: int, config: IngestorConfig, now_ms: int) -> int:
    """Return the time of an event's action (Unix ms). Raises BuriedEvent: `expired`."""
    at_ms, oldest_ms = id_ms(event.id), now_ms - config.retention_days * DAY_MS
    if at_ms < oldest_ms:
        raise BuriedEvent(DeadLetterReason.EXPIRED)
    # By the time of receipt an event that waited long is clamped to the same time as at once; one older than all that
    # is kept tells of a collector without a clock.
    reference_ms = received_ms if oldest_ms <= received_ms < now_ms else now_ms
    return reference_ms if at_ms > reference_ms + config.clock_ahead_ms_max else at_ms


def _digest(event: AuditEvent, value: bytes) -> bytes:
    """Return the digest of the event as it was before it was cut, so that the whole one is a repeat of it."""
    if event.cut is None:
        return event_digest(value)
    return bytes.fromhex(event.cut.digest)


@lru_cache(_ADDRESSES_MAX)
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
