"""Records and events made up for tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import msgspec

from schemas.event import Action, AuditEvent, RawRequest, encode_event, event_digest
from schemas.identity import new_id, rfc3339_ms
from schemas.record import Record

# A request that updated a policy: the values that a redacted capture and enrichment can give a record.
POLICY_UPDATE: Mapping[str, Any] = {
    "account_name": "Acme",
    "action_description": "Update a policy",
    "actor_context": "dash",
    "actor_email": "one@example.com",
    "actor_id": "u1",
    "actor_ip_address": "203.0.113.9",
    "actor_type": "user",
    "raw_cf_ray_id": "ray1",
    "raw_method": "PUT",
    "raw_status_code": 200,
    "raw_uri": "/accounts/x/alerting/v3/policies/1",
    "raw_user_agent": "curl",
    "resource_id": "p1",
    "resource_product": "alerting",
    "resource_request": '{"enabled":true}',
    "resource_response": '{"id":"p1"}',
    "resource_scope": "accounts",
    "resource_type": "policies",
}


def event(at_ms: int, **changes: Any) -> AuditEvent:
    """A small event at a time; `changes` replace its top-level fields."""
    event_id = changes.pop("id", None) or new_id(at_ms)
    action = Action(result="success", time=rfc3339_ms(at_ms), type="update")
    return AuditEvent(
        **{"id": event_id, "action": action, "raw": RawRequest(method="PUT", status_code=200), **changes}
    )


def record(at_ms: int, **changes: Any) -> Record:
    """A small record at a time; `changes` replace its columns."""
    value = encode_event(event(at_ms))
    fields: dict[str, Any] = {field.name: None for field in msgspec.structs.fields(Record)}
    fields |= {
        "id": UUID(new_id(at_ms)),
        "action_result": "success",
        "action_type": "update",
        "receipt": "{}",
        "received_ms": at_ms,
        "event_digest": event_digest(value),
        "enrichment": "partial",
    }
    return Record(**{**fields, **changes})
