"""What an alert shows of its record: fields of the record, nothing else."""

from __future__ import annotations

from typing import Any

import msgspec

from alerting.engine import Alert
from schemas.alert import window
from schemas.identity import rfc3339_ms
from schemas.record import Record

_decode = msgspec.json.Decoder().decode


def record_summary(record: Record) -> dict[str, Any]:
    """Return the part of a record that its alerts hold, under the names of the log API, without absent fields."""
    groups: dict[str, dict[str, Any]] = {
        "action": {
            "type": record.action_type,
            "result": record.action_result,
            "description": record.action_description,
            "time": rfc3339_ms(record.id.int >> 80),
        },
        "actor": {
            "id": record.actor_id,
            "email": record.actor_email,
            "ip_address": record.actor_ip_address,
            "token_id": record.actor_token_id,
            "token_name": record.actor_token_name,
            "type": record.actor_type,
        },
        "resource": {
            "id": record.resource_id,
            "product": record.resource_product,
            "type": record.resource_type,
        },
        "zone": {"id": record.zone_id, "name": record.zone_name},
    }
    summary: dict[str, Any] = {"id": record.id.hex}
    for name, group in groups.items():
        present = {field: value for field, value in group.items() if value is not None}
        if present:
            summary[name] = present
    return summary


def raised_payload(alert: Alert) -> dict[str, Any]:
    """Return the payload of an alert that is not stored: that of `schemas.alert` without what storing adds."""
    return {
        "id": alert.id.hex,
        "rule": alert.rule,
        "severity": alert.severity,
        "title": alert.title,
        "account": {"id": alert.account_id},
        "key": _decode(alert.key),
        "window": window(alert.window_start_ms, alert.window_ms),
        "records": alert.records,
        "record": record_summary(alert.record),
    }
