"""Records and events made up for tests."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import msgspec

from schemas.event import Action, AuditEvent, RawRequest, encode_event, event_digest
from schemas.identity import new_id, rfc3339_ms
from schemas.record import Record


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
