"""Building a record from an event: pure, one event at a time."""

from __future__ import annotations

import re
from functools import lru_cache
from uuid import UUID

import msgspec

from eventlog.ports import LoggedEvent
from ingestor.config import DAY_MS, IngestorConfig
from schemas.addresses import parse_address
from schemas.errors import DeadLetterReason, UnprocessableEvent
from schemas.event import (
    DURATION_MS_MAX,
    RESPONSE_BYTES_MAX,
    AuditEvent,
    Exchange,
    decode_event,
    event_digest,
)
from schemas.identity import id_ms, parse_id, with_ms
from schemas.record import EnrichmentState, Record

_DIGEST = re.compile("[0-9a-f]{32}")
_BIGINT_MAX = (1 << 63) - 1
_RESULTS = frozenset({"success", "failure"})
_TYPES = frozenset({"create", "update", "delete", "view"})
_ADDRESSES_MAX = 8_192
_TEXTS = (
    "account_name",
    "action_description",
    "actor_id",
    "actor_context",
    "actor_email",
    "actor_token_id",
    "actor_token_name",
    "actor_type",
    "raw_cf_ray_id",
    "raw_method",
    "raw_uri",
    "raw_user_agent",
    "resource_id",
    "resource_product",
    "resource_scope",
    "resource_type",
    "zone_name",
    "operation_id",
    "tap_id",
    "exchange_host",
)
_NOT_KNOWN = Exchange()
_encode_json = msgspec.json.Encoder().encode


def build_record(
    source: LoggedEvent, config: IngestorConfig, now_ms: int, *, accept_truncated: bool = False
) -> Record:
    """Return the record of an event, not yet enriched (`partial`). `accept_truncated`: also of one without its bodies.

    An id that is ahead of the time of receipt by more than `clock_ahead_ms_max` gets that time (`clamped_from_ms`).
    Raises UnprocessableEvent: `malformed` if it is no audit event, `expired` by the time in its id, `too_large` if it is
    truncated.
    """
    event = decode_event(source.value)
    _check(event)
    claimed_ms = id_ms(event.id)
    at_ms = _at_ms(claimed_ms, source.received_ms, config, now_ms)
    if event.cut is not None and not accept_truncated:
        raise UnprocessableEvent(DeadLetterReason.TOO_LARGE)
    claimed_id = msgspec.convert(event.id, UUID)
    account, action, actor, raw, resource = (
        event.account,
        event.action,
        event.actor,
        event.raw,
        event.resource,
    )
    tap, zone, exchange = event.tap, event.zone, event.exchange or _NOT_KNOWN
    # Positional, in the order of the columns: that many keyword arguments would cost as much as reading the values.
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
        exchange.host,
        exchange.duration_ms,
        exchange.response_bytes,
    )
    _make_storable(record, source.value, config)
    return record


def _make_storable(record: Record, value: bytes, config: IngestorConfig) -> None:
    """Make every text storable: replace NUL, which Postgres refuses, cut long texts, and leave out impossible ids."""
    # Without an account the record is still in the log; as a dead letter it would be missing from it.
    if not _is_possible_id(record.account_id, config):
        record.account_id = None
    if not _is_possible_id(record.zone_id, config):
        record.zone_id = None
    # Nearly every event ends here: no text is longer than its event, and NUL is always escaped in it.
    if len(value) <= config.text_chars_max and b"\\u0000" not in value:
        return
    for name in _TEXTS:
        text = getattr(record, name)
        if text is not None:
            setattr(record, name, text.replace("\0", "\N{REPLACEMENT CHARACTER}")[: config.text_chars_max])


def _is_possible_id(text: str | None, config: IngestorConfig) -> bool:
    # Ids are not cut: a cut id could be another's.
    return text is None or (len(text) <= config.id_chars_max and "\0" not in text)


def _check(event: AuditEvent) -> None:
    """Check what the types do not. Raises UnprocessableEvent: `malformed` with the schema path."""
    if parse_id(event.id) != event.id:
        raise UnprocessableEvent(DeadLetterReason.MALFORMED, "id: pattern")
    if event.action.result not in _RESULTS:
        raise UnprocessableEvent(DeadLetterReason.MALFORMED, "action.result: enum")
    if event.action.type not in _TYPES:
        raise UnprocessableEvent(DeadLetterReason.MALFORMED, "action.type: enum")
    status = event.raw.status_code
    if status is not None and not 0 <= status <= 999:
        raise UnprocessableEvent(DeadLetterReason.MALFORMED, "raw.status_code: maximum")
    if not (_is_bigint(event.tap.epoch) and _is_bigint(event.tap.seq)):
        raise UnprocessableEvent(DeadLetterReason.MALFORMED, "tap: maximum")
    if event.exchange is not None and not _is_storable(event.exchange):
        raise UnprocessableEvent(DeadLetterReason.MALFORMED, "exchange: maximum")
    if event.cut is not None and not _DIGEST.fullmatch(event.cut.digest):
        raise UnprocessableEvent(DeadLetterReason.MALFORMED, "cut.digest: pattern")


def _is_bigint(number: int | None) -> bool:
    return number is None or 0 <= number <= _BIGINT_MAX


def _is_storable(exchange: Exchange) -> bool:
    return (
        0 <= (exchange.duration_ms or 0) <= DURATION_MS_MAX
        and 0 <= (exchange.response_bytes or 0) <= RESPONSE_BYTES_MAX
    )


def _at_ms(at_ms: int, received_ms: int, config: IngestorConfig, now_ms: int) -> int:
    """Return the time of an event's action (Unix ms) from the time in its id, clamped. Raises UnprocessableEvent: `expired`."""
    oldest_ms = now_ms - config.retention_days * DAY_MS
    if at_ms < oldest_ms:
        raise UnprocessableEvent(DeadLetterReason.EXPIRED)
    # Clamping to the time of receipt gives the same id however late the event is read. A time of receipt that is expired or
    # in the future comes from a collector with a wrong clock.
    reference_ms = received_ms if oldest_ms <= received_ms < now_ms else now_ms
    return reference_ms if at_ms > reference_ms + config.clock_ahead_ms_max else at_ms


def _digest(event: AuditEvent, value: bytes) -> bytes:
    """Return the digest of the whole event, so that a truncated event and the whole one count as the same."""
    if event.cut is None:
        return event_digest(value)
    return bytes.fromhex(event.cut.digest)


@lru_cache(_ADDRESSES_MAX)
def _address(text: str | None) -> str | None:
    if text is None:
        return None
    # Without its zone (`fe80::1%eth0`): Postgres' inet has none.
    address = parse_address(text.partition("%")[0])
    if address is not None:
        return str(address)
    raise UnprocessableEvent(DeadLetterReason.MALFORMED, "actor.ip_address: format")


def _json_text(raw: msgspec.Raw | msgspec.UnsetType) -> str | None:
    return None if isinstance(raw, msgspec.UnsetType) else bytes(raw).decode()
