"""Wraps the application of a test in a tap that the environment describes."""

from __future__ import annotations

import os
from typing import Any

from auditap_tap import AuditTapMiddleware, AuditTapWSGIMiddleware

ACTOR = {"x-actor-email": "ops@example.com"}
PARTS = (b'{"id": "w-1", ', b'"name": "bolt"}')


def widget(received_bytes: int) -> dict[str, object]:
    return {"id": "w-1", "name": "bolt", "received_bytes": received_bytes}


def tapped_asgi(app: Any) -> AuditTapMiddleware:
    return AuditTapMiddleware(app, **_settings())


def tapped_wsgi(app: Any) -> AuditTapWSGIMiddleware:
    return AuditTapWSGIMiddleware(app, **_settings())


def _settings() -> dict[str, Any]:
    return {
        "collector": f"unix:{os.environ['COLLECTOR_SOCKET']}",
        "tap_id": "framework",
        "state_dir": os.environ["STATE_DIR"],
        "heartbeat_ms": 200,
    }
