"""The payload of a stored alert: one shape for the log API, channels and the command line."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from schemas.identity import rfc3339_ms

_decode = msgspec.json.Decoder().decode


def alert_payload(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the payload of a row of the table `alerts`. Times are RFC 3339 with milliseconds, ids hex."""
    acknowledged = None
    if row["acknowledged_at"] is not None:
        acknowledged = {
            "at": _timestamp(row["acknowledged_at"]),
            "by": row["acknowledged_by"],
            "note": row["note"],
        }
    return {
        "id": row["id"].hex,
        "rule": row["rule"],
        "severity": row["severity"],
        "title": row["title"],
        "account": {"id": row["account_id"]},
        "key": _decode(row["key"]),
        "window": window(row["window_start_ms"], row["window_ms"]),
        "records": row["records"],
        "record": _decode(row["record"]),
        "raised_at": _timestamp(row["raised_at"]),
        "acknowledged": acknowledged,
    }


def window(start_ms: int, size_ms: int) -> dict[str, str]:
    return {"start": rfc3339_ms(start_ms), "end": rfc3339_ms(start_ms + size_ms)}


def _timestamp(at: datetime) -> str:
    return rfc3339_ms(int(at.timestamp() * 1000))
