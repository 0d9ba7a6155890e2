"""AuditRecord: what is stored and served. Mirrors `audit_record.schema.json` and the table `audit_records`.

A `Record` is a row on its way to the store; `COLUMNS` is the order in which COPY writes it.
"""

from __future__ import annotations

from enum import StrEnum
from uuid import UUID

import msgspec

from schemas.identity import id_ms_of, with_ms


class EnrichmentState(StrEnum):
    """What enrichment knows of a record."""

    COMPLETE = "complete"
    PARTIAL = "partial"
    """A look-up failed; a later pass completes it."""
    UNRESOLVABLE = "unresolvable"
    """The service answered that it does not know one of the ids."""


class Record(msgspec.Struct, gc=False):
    """One row of `audit_records`. Bodies and receipt are JSON text. Never updated once stored.

    `clamped_from_ms`: the time that its tap claimed and that is not the id's, because it lay too far ahead (Unix ms).
    """

    id: UUID
    account_id: str | None
    account_name: str | None
    action_description: str | None
    action_result: str
    action_type: str
    actor_id: str | None
    actor_context: str | None
    actor_email: str | None
    actor_ip_address: str | None
    actor_token_id: str | None
    actor_token_name: str | None
    actor_type: str | None
    raw_cf_ray_id: str | None
    raw_method: str | None
    raw_status_code: int | None
    raw_uri: str | None
    raw_user_agent: str | None
    resource_id: str | None
    resource_product: str | None
    resource_request: str | None
    resource_response: str | None
    resource_scope: str | None
    resource_type: str | None
    zone_id: str | None
    zone_name: str | None
    receipt: str
    operation_id: str | None
    tap_id: str | None
    tap_epoch: int | None
    tap_seq: int | None
    received_ms: int
    event_digest: bytes
    enrichment: str = EnrichmentState.PARTIAL
    clamped_from_ms: int | None = None


COLUMNS: tuple[str, ...] = tuple(field.name for field in msgspec.structs.fields(Record))


def event_id_of(record: Record) -> UUID:
    """Return the id that the record's event has."""
    return record.id if record.clamped_from_ms is None else with_ms(record.id, record.clamped_from_ms)


def under_id(record: Record, record_id: UUID) -> Record:
    """Return the record of the same event with another id, marked where that is not the event's own."""
    own = event_id_of(record)
    clamped_from_ms = None if record_id == own else id_ms_of(own)
    return msgspec.structs.replace(record, id=record_id, clamped_from_ms=clamped_from_ms)
