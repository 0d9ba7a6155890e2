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


class Row(Protocol):
    """A row of `list_records.sql`, read by the names of its columns."""

    def __getitem__(self, column: str, /) -> Any: ...


class Provenance(msgspec.Struct, frozen=True, omit_defaults=True):
    """What auditap knows of the record itself. `received_at`: when the collector took the capture."""

    receipt: msgspec.Raw
    enrichment: str
    tap: Tap
    received_at: str
    operation_id: str | None = None


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


class Page(NamedTuple):
    """Records in the order asked for, and whether there are more beyond the last."""

    records: Sequence[AuditRecord]
    more: bool

    def last_id(self) -> UUID:
        """Return the id of the last record; there must be one."""
        return UUID(self.records[-1].id)


def audit_record(row: Row) -> AuditRecord:
    """Return the record that a row of `list_records.sql` holds. Bodies and receipt stay the text they are."""
    record_id = row["id"].hex
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
            receipt=msgspec.Raw(row["receipt"]),
            enrichment=row["enrichment"],
            tap=Tap(row["tap_id"], row["tap_epoch"], row["tap_seq"]),
            received_at=rfc3339_ms(row["received_ms"]),
            operation_id=row["operation_id"],
        ),
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
    return msgspec.UNSET if text is None else msgspec.Raw(text)


def body_bytes(record: AuditRecord) -> int:
    """Return how many bytes of the answer the record's unbounded parts take."""
    parts = (record.resource.request, record.resource.response, record.auditap.receipt)
    return sum(len(part) for part in parts if isinstance(part, msgspec.Raw))


def page_body(page: Page, cursor: str | None) -> bytes:
    """Return the answer's JSON text. `cursor` None: the last page."""
    info: dict[str, Any] = {"count": len(page.records)}
    if cursor is not None:
        # Clients follow one of the two, and stop after a page where theirs is missing.
        info |= {"cursor": cursor, "cursors": {"after": cursor}}
    return msgspec.json.encode({"success": True, "errors": [], "result": page.records, "result_info": info})
