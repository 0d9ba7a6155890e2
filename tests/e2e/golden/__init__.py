"""The golden record: one capture, the document that describes it, and the record that it becomes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from schemas.identity import new_id, rfc3339_ms

ACCOUNT = "1f0c2b7d9e8a4c3b8d6e5f4a3b2c1d0e"
POLICY = "8a7b6c5d4e3f2a1b0c9d8e7f6a5b4c3d"
DOCUMENT = Path(__file__).parent / "openapi.yaml"


def golden_record() -> dict[str, Any]:
    """Return what the list must show, without id and time, which the capture gives."""
    record: dict[str, Any] = json.loads((Path(__file__).parent / "record.json").read_text())
    return record


def golden_capture(at_ms: int) -> dict[str, Any]:
    """Return the pair as a tap sends it."""
    body = {
        "alert_type": "health_check_status_notification",
        "description": "CANARY-description",
        "enabled": True,
        "filters": {"services": ["a", "b"], "zones": ["c"]},
        "mechanisms": {"email": [{"id": "CANARY-mechanism"}]},
        "name": "Origin down",
    }
    answer = {"result": {"id": POLICY}, "success": True, "errors": [], "messages": []}
    return {
        "id": new_id(at_ms),
        "tap": {"id": "gw-eu-1", "epoch": 1_769_192_714, "seq": 4711},
        "captured_at": rfc3339_ms(at_ms),
        "duration_ms": 12.4,
        "client_ip": "203.0.113.9",
        "request": {
            "method": "PUT",
            "url": f"https://api.example.com/client/v4/accounts/{ACCOUNT}/alerting/v3/policies/{POLICY}?dry=CANARY-query",
            "headers": {
                "User-Agent": "Mozilla/5.0 (X11; Linux x86_64)",
                "CF-Ray": "8e9f1a2b3c4d5e6f",
                "Content-Type": "application/json",
                "Authorization": "Bearer CANARY-authorization",
                "Cookie": "session=CANARY-cookie",
            },
            "body": json.dumps(body),
        },
        "response": {
            "status": 200,
            "headers": {
                "content-type": "application/json; charset=utf-8",
                "x-actor-id": "0a1b2c3d4e5f60718293a4b5c6d7e8f9",
                "x-actor-email": "alex@example.com",
                "x-actor-type": "user",
                "x-actor-context": "dash",
                "set-cookie": ["a=CANARY-cookie-1", "b=CANARY-cookie-2"],
            },
            "body": json.dumps(answer),
        },
    }
