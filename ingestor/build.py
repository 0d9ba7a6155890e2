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
    claimed_ms = id_ms(event.id)
    at_ms = _at_ms(claimed_ms, source.received_ms, config, now_ms)
    if event.cut is not None and not cut_too:
        raise BuriedEvent(DeadLetterReason.TOO_LARGE)
    claimed_id = msgspec.convert(event.id, UUID)
    account, action, actor, raw, resource = (
        event.account,
        event.action,
        event.actor,
        event.raw,
        event.resource,
    )
    tap, zone = event.tap, event.zone
    # In the order of the columns: so many names would cost as much as finding out what stands behind them.
    record = Record(
        claimed_id if at_ms == claimed_ms else with_ms(claimed_id, at_ms),
        account.id,
        account.name,
        action.description,
        action.result,
        action.type,
        actor.id,
        actor.context,
        actor.email,
        _address(actor.ip_address),
        actor.token_id,
        actor.token_name,
        actor.type,
        raw.cf_ray_id,
        raw.method,
        raw.status_code,
        raw.uri,
        raw.user_agent,
        resource.id,
        resource.product,
        _json_text(resource.request),
        _json_text(resource.response),
        resource.scope,
        resource.type,
        zone.id,
        zone.name,
        _encode_json(event.receipt).decode(),
        event.receipt.operation,
        tap.id,
        tap.epoch,
        tap.seq,
        source.received_ms,
        _digest(event, source.value),
        EnrichmentState.PARTIAL,
        None if at_ms == claimed_ms else claimed_ms,
    )
    _make_storable(record, source.value, config)
    return record


def _make_storable(record: Record, value: bytes, config: IngestorConfig) -> None:
    """Make any text storable: Postgres takes no NUL, lengths are bounded, and what cannot be an id is left out."""
    # They would be indexed, and a cut id could be another's.
    if (found := record.account_id) is not None and (len(found) > config.id_chars_max or "\0" in found):
        record.account_id = None
    if (found := record.zone_id) is not None and (len(found) > config.id_chars_max or "\0" in found):
        record.zone_id = None
    # No text can be longer than the event, nor hold what is not escaped in it.
    if len(value) <= config.text_chars_max and b"\\u0000" not in value:
        return
    for name in _TEXTS:
        found = getattr(record, name)
        if found is not None:
            setattr(record, name, found.replace("\0", "\N{REPLACEMENT CHARACTER}")[: config.text_chars_max])


def _check(event: AuditEvent) -> None:
    action, status, tap = event.action, event.raw.status_code, event.tap
    if parse_id(event.id) != event.id:
        raise BuriedEvent(DeadLetterReason.MALFORMED, "id: pattern")
    if action.result not in {"success", "failure"}:
        raise BuriedEvent(DeadLetterReason.MALFORMED, "action.result: enum")
    if action.type not in {"create", "update", "delete", "view"}:
        raise BuriedEvent(DeadLetterReason.MALFORMED, "action.type: enum")
    if status is not None and not 0 <= status <= 999:
        raise BuriedEvent(DeadLetterReason.MALFORMED, "raw.status_code: maximum")
    if not (0 <= (tap.epoch or 0) <= _BIGINT_MAX and 0 <= (tap.seq or 0) <= _BIGINT_MAX):
        raise BuriedEvent(DeadLetterReason.MALFORMED, "tap: maximum")
    if event.cut is not None and not _DIGEST.fullmatch(event.cut.digest):
        raise BuriedEvent(DeadLetterReason.MALFORMED, "cut.digest: pattern")


def _at_ms(at_ms: int, received_ms: int, config: IngestorConfig, now_ms: int) -> int:
    """Return the time of an event's action (Unix ms), given what its id says. Raises BuriedEvent: `expired`."""
    oldest_ms = now_ms - config.retention_days * DAY_MS
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
