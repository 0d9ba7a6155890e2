"""What surrounds every answer: its headers, its line in the log, its figures, and an end for faults of ours."""

from __future__ import annotations

import time
import traceback
from collections.abc import Mapping
from typing import Any

import structlog
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from log_api.failures import failed, failure_response
from schemas.metric_defs import Metrics

UNMATCHED = "unmatched"
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}
# The key of the request's state that holds its Token.
TOKEN = "token"  # noqa: S105

_log = structlog.get_logger(__name__)


class AccessLog:
    """Wraps the routes. Logs method, route template, status, time and token id; never path, query or header."""

    def __init__(self, app: ASGIApp, metrics: Metrics, routes: Mapping[Any, str]) -> None:
        self._app = app
        self._metrics = metrics
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        scope.setdefault("state", {})
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except Exception as error:  # noqa: BLE001  # the last resort: its message may quote what was sent
            place = traceback.extract_tb(error.__traceback__)[-1]
            _log.error("request_failed", error=type(error).__name__, at=f"{place.filename}:{place.lineno}")
            if status == 0:
                await failure_response(failed())(scope, receive, send_with_headers)
        finally:
            self._note(scope, status, time.perf_counter() - started)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        route = self._routes.get(scope.get("endpoint"), UNMATCHED)
        token = scope["state"].get(TOKEN)
        self._metrics.queries.labels(route, str(status)).inc()
        self._metrics.query_seconds.labels(route).observe(seconds)
        _log.info(
            "request",
            method=scope["method"] if scope["method"] in _METHODS else "other",
            route=route,
            status=status,
            ms=round(seconds * 1000, 1),
            token_id=None if token is None else str(token.id),
        )
