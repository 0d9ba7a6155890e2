"""The record in the shape of audit logs v1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from log_api.changes import Changes, values_after, values_before
from log_api.records import AuditRecord

_NO_VALUE = msgspec.Raw(b"{}")
_ACTOR_TYPES = {"user": "user", "cloudflare_admin": "admin", "system": "Cloudflare"}

CSV_HEADER = (
    "id",
    "when",
    "action.type",
    "action.result",
    "actor.id",
    "actor.email",
    "actor.ip",
    "actor.type",
    "interface",
    "owner.id",
    "resource.type",
    "resource.id",
    "zone.name",
    "newValue",
    "oldValue",
)


class V1Action(msgspec.Struct, frozen=True):
    result: bool
    type: str


class V1Actor(msgspec.Struct, frozen=True, omit_defaults=True):
    """`type` is one of user, admin, Cloudflare."""

    id: str | None = None
    email: str | None = None
    ip: str | None = None
    type: str | None = None


class V1Part(msgspec.Struct, frozen=True, omit_defaults=True):
    """An owner or a resource."""

    id: str | None = None
    type: str | None = None


class V1Record(msgspec.Struct, frozen=True, rename="camel"):
    """A v1 record. The old value holds the values before of what the action changed, as far as they are known."""

    id: str
    action: V1Action
    actor: V1Actor
    interface: str
    metadata: dict[str, Any]
    new_value: str
    new_value_json: msgspec.Raw
    owner: V1Part
    resource: V1Part
    when: str
    old_value: str = ""
    old_value_json: msgspec.Raw = _NO_VALUE


def v1_record(record: AuditRecord, changes: Changes | None = None) -> V1Record:
    """Return the record in this shape. The old value is empty without `changes`; the new value is the request or, without
    one, the values after.
    """
    before = "{}" if changes is None else values_before(changes)
    after = "{}" if changes is None else values_after(changes)
    request = record.resource.request
    new = bytes(request).decode("utf-8", "replace") if isinstance(request, msgspec.Raw) else after
    actor, raw = record.actor, record.raw
    metadata = {
        "description": record.action.description,
        "method": raw.method,
        "status_code": raw.status_code,
        "uri": raw.uri,
        "ray_id": raw.cf_ray_id,
        "product": record.resource.product,
        "zone_id": record.zone.id,
        "zone_name": record.zone.name,
    }
    return V1Record(
        id=record.id,
        action=V1Action(record.action.result == "success", record.action.type),
        actor=V1Actor(actor.id, record.actor_email, actor.ip_address, _ACTOR_TYPES.get(actor.type or "")),
        interface="UI" if actor.context == "dash" else "API",
        metadata={name: value for name, value in metadata.items() if value is not None},
        new_value="" if new == "{}" and request is msgspec.UNSET else new,
        new_value_json=msgspec.Raw(new),
        old_value="" if before == "{}" else before,
        old_value_json=msgspec.Raw(before),
        owner=V1Part(record.account.id),
        resource=V1Part(record.resource.id, record.resource.type),
        when=record.action.time,
    )


def v1_cells(record: AuditRecord) -> Sequence[object]:
    one = v1_record(record)
    return (
        one.id,
        one.when,
        one.action.type,
        str(one.action.result).lower(),
        one.actor.id,
        one.actor.email,
        one.actor.ip,
        one.actor.type,
        one.interface,
        one.owner.id,
        one.resource.type,
        one.resource.id,
        record.zone.name,
        one.new_value,
        one.old_value,
    )
