"""The record as it is served. Mirrors `schemas/audit_record.schema.json`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol
from uuid import UUID

import msgspec

from schemas.event import Account, Action, Actor, RawRequest, Resource, Tap, Zone
from schemas.identity import id_ms, rfc3339_ms

# Clients that check what they get know these values and no others.
ACTOR_CONTEXTS = frozenset({"api", "api_key", "api_token", "dash", "oauth", "origin_ca_key"})
ACTOR_TYPES = frozenset({"account", "cloudflare_admin", "delegated_service", "system", "user"})
ORGANIZATION_ACTOR_TYPES = frozenset({"cloudflare_admin", "system", "user"})


class Row(Protocol):
    """A row of a named query, read by the names of its columns."""

    def __getitem__(self, column: str, /) -> Any: ...


class Provenance(msgspec.Struct, frozen=True, omit_defaults=True):
    """What auditap knows of the record itself. `received_at`: when the collector took the capture.

    `clamped_from`: the time that the tap claimed, where its clock was too far ahead to be believed.
    """

    receipt: msgspec.Raw
    enrichment: str
    tap: Tap
    received_at: str
    operation_id: str | None = None
    clamped_from: str | None = None


class AuditRecord(msgspec.Struct, frozen=True):
    """One record of the answer. What is not known is left out of the part it belongs to; every part is there."""

    id: str
    account: Account
    action: Action
    actor: Actor
    raw: RawRequest
    resource: Resource
    zone: Zone
    auditap: Provenance


class Organization(msgspec.Struct, frozen=True):
    """Whose accounts were rolled up."""

    id: str


class OrganizationRecord(msgspec.Struct, frozen=True):
    """A record in the answer about an organization."""

    id: str
    organization: Organization
    account: Account
    action: Action
    actor: Actor
    raw: RawRequest
    resource: Resource
    zone: Zone
    auditap: Provenance


class Page(NamedTuple):
    """Records in the order asked for, and the id beyond which the next page goes on; None: there is none."""

    records: Sequence[AuditRecord]
    after: UUID | None


def audit_record(row: Row) -> AuditRecord:
    """Return the record that a row of `records_by_id.sql` holds. Bodies and receipt stay the text they are."""
    record_id, clamped_from_ms = row["id"].hex, row["clamped_from_ms"]
    return AuditRecord(
        id=record_id,
        account=Account(row["account_id"], row["account_name"]),
        action=Action(
            result=row["action_result"],
            time=rfc3339_ms(id_ms(record_id)),
            type=row["action_type"],
            description=row["action_description"],
        ),
        actor=_actor(row),
        raw=RawRequest(
            cf_ray_id=row["raw_cf_ray_id"],
            method=row["raw_method"],
            status_code=row["raw_status_code"],
            uri=row["raw_uri"],
            user_agent=row["raw_user_agent"],
        ),
        resource=Resource(
            id=row["resource_id"],
            product=row["resource_product"],
            request=_json_text(row["resource_request"]),
            response=_json_text(row["resource_response"]),
            scope=row["resource_scope"],
            type=row["resource_type"],
        ),
        zone=Zone(row["zone_id"], row["zone_name"]),
        auditap=Provenance(
            receipt=_on_one_line(row["receipt"]),
            enrichment=row["enrichment"],
            tap=Tap(row["tap_id"], row["tap_epoch"], row["tap_seq"]),
            received_at=rfc3339_ms(row["received_ms"]),
            operation_id=row["operation_id"],
            clamped_from=None if clamped_from_ms is None else rfc3339_ms(clamped_from_ms),
        ),
    )


def organization_record(record: AuditRecord, organization_id: str) -> OrganizationRecord:
    """Return the record as an organization's. Clients that check know fewer types of actors there."""
    actor = record.actor
    if actor.type not in ORGANIZATION_ACTOR_TYPES:
        actor = msgspec.structs.replace(actor, type=None)
    return OrganizationRecord(
        record.id,
        Organization(organization_id),
        record.account,
        record.action,
        actor,
        record.raw,
        record.resource,
        record.zone,
        record.auditap,
    )


def _actor(row: Row) -> Actor:
    return Actor(
        id=row["actor_id"],
        context=row["actor_context"] if row["actor_context"] in ACTOR_CONTEXTS else None,
        email=row["actor_email"],
        ip_address=row["actor_ip_address"],
        token_id=row["actor_token_id"],
        token_name=row["actor_token_name"],
        type=row["actor_type"] if row["actor_type"] in ACTOR_TYPES else None,
    )


def _json_text(text: str | None) -> msgspec.Raw | msgspec.UnsetType:
    return msgspec.UNSET if text is None else _on_one_line(text)


def _on_one_line(text: str) -> msgspec.Raw:
    # Between tokens a line end is a space to JSON, and the end of a record to streams.
    if "\n" in text or "\r" in text:
        text = text.replace("\n", " ").replace("\r", " ")
    return msgspec.Raw(text)


def body_bytes(record: AuditRecord) -> int:
    """Return how many bytes of the answer the record's unbounded parts take."""
    parts = (record.resource.request, record.resource.response, record.auditap.receipt)
    return sum(len(part) for part in parts if isinstance(part, msgspec.Raw))


def page_info(count: int, cursor: str | None, complete_before_ms: int | None) -> dict[str, Any]:
    """Return the `result_info` of a page. `cursor` None: the last one. `complete_before_ms`: None where unknown."""
    complete_before = None if complete_before_ms is None else rfc3339_ms(complete_before_ms)
    info = {"count": count, "complete_before": complete_before}
    if cursor is None:
        return info
    # Clients follow one of the two, and stop after a page where theirs is missing.
    return {**info, "cursor": cursor, "cursors": {"after": cursor}}
