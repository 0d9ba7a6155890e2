"""AuditRecord: what is stored and served. Mirrors `audit_record.schema.json` and the table `audit_records`.

A `Record` is a row on its way to the store. `COLUMNS` is the order in which COPY writes its fields.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any
from uuid import UUID

import msgspec

from schemas.identity import id_ms_of, with_ms


class EnrichmentState(StrEnum):
    """How far a record is enriched."""

    COMPLETE = "complete"
    PARTIAL = "partial"
    """A lookup failed, or a service does not know an id yet; the enrichment backfill completes the record later."""
    UNRESOLVABLE = "unresolvable"
    """The service does not know one of the ids, and did not learn of it in time."""


class Record(msgspec.Struct, gc=False):
    """One row of `audit_records`. Bodies and receipt are JSON text. Never updated once stored.

    `clamped_from_ms`: the time that the tap claimed (Unix ms), if it was too far ahead and the id has another one.
    """

    # The order of COPY (`COLUMNS`), of the arguments in `ingestor/build.py`, and of the staging table.
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
    exchange_host: str | None = None
    exchange_duration_ms: int | None = None
    exchange_response_bytes: int | None = None


class PartialRecord(msgspec.Struct, frozen=True):
    """A stored record without some of its names: its ids, and the names it has."""

    id: UUID
    account_id: str | None
    account_name: str | None
    zone_id: str | None
    zone_name: str | None
    actor_id: str | None
    actor_type: str | None
    actor_email: str | None
    actor_token_id: str | None
    actor_token_name: str | None


class EnrichmentResult(msgspec.Struct, frozen=True):
    """The values that a record lacked and that lookups found; None where the record had one or none was found.

    If `state` is `partial`, the record should be enriched again later, because a lookup failed or found nothing yet;
    otherwise the result is final.
    """

    id: UUID
    account_id: str | None
    account_name: str | None
    zone_name: str | None
    actor_email: str | None
    actor_token_name: str | None
    state: EnrichmentState
    lookup_failed: bool = False
    """Whether a lookup failed, or was not made in time."""

    # Names and e-mail addresses must not reach logs or tracebacks.
    def __repr__(self) -> str:
        return f"<EnrichmentResult {self.state}>"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return []


STORED_RESULT_FIELDS = tuple(name for name in EnrichmentResult.__struct_fields__ if name != "lookup_failed")
"""The parameters of `store_enrichments.sql`, in their order."""
COLUMNS: tuple[str, ...] = tuple(field.name for field in msgspec.structs.fields(Record))


def event_id_of(record: Record) -> UUID:
    """Return the id of the record's event, which differs from the record's own if the time was clamped."""
    return record.id if record.clamped_from_ms is None else with_ms(record.id, record.clamped_from_ms)


def with_id(record: Record, record_id: UUID) -> Record:
    """Return the record with the id `record_id`. If that is not the event's id, `clamped_from_ms` has the event's time."""
    own = event_id_of(record)
    clamped_from_ms = None if record_id == own else id_ms_of(own)
    return msgspec.structs.replace(record, id=record_id, clamped_from_ms=clamped_from_ms)
