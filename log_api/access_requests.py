"""Authentication logs: a view of the records of logins.

A login enters as any other capture does, of the identity provider's endpoint; its document says `x-audit-product: access`
and `x-audit-resource-type: login` or `logout`, and marks the fields of the body that are shown here.
"""

from __future__ import annotations

from typing import Any

import msgspec

from log_api.records import AuditRecord

ACTIONS = ("login", "logout")
FIELDS = (
    "user_email",
    "ip_address",
    "app_uid",
    "app_domain",
    "app_type",
    "action",
    "connection",
    "allowed",
    "created_at",
    "country",
    "ray_id",
)
_FROM_BODIES = ("app_domain", "app_type", "connection", "country")


def access_request(record: AuditRecord, fields: frozenset[str]) -> dict[str, Any]:
    """Return a login's entry, with the fields that are asked for."""
    kept = {**_kept(record.resource.response), **_kept(record.resource.request)}
    entry = {
        "user_email": record.actor.email,
        "ip_address": record.actor.ip_address,
        "app_uid": record.resource.id,
        "action": record.resource.type,
        "allowed": record.action.result == "success",
        "created_at": record.action.time,
        "ray_id": record.raw.cf_ray_id,
        **{name: kept.get(name) for name in _FROM_BODIES},
    }
    return {name: entry[name] for name in FIELDS if name in fields}


def _kept(body: msgspec.Raw | msgspec.UnsetType) -> dict[str, str]:
    """Return the texts at the top of what was kept of a body."""
    if not isinstance(body, msgspec.Raw):
        return {}
    try:
        kept = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return {}
    if not isinstance(kept, dict):
        return {}
    return {name: value for name, value in kept.items() if isinstance(value, str)}
