"""The middleware around all routes: security headers, a request id, a log line and metrics for each request, and a last error handler."""

from __future__ import annotations

import secrets
import time
import traceback
from collections.abc import Mapping
from typing import Any

import structlog
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from log_api.errors import error_response, internal_error
from schemas.metric_defs import Metrics

UNMATCHED = "unmatched"
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}
# Keys in the ASGI scope's state: the request's Token, and headers for its response whatever that is.
TOKEN_STATE = "token"  # noqa: S105
HEADERS_STATE = "headers"

_log = structlog.get_logger(__name__)


class RequestLog:
    """Logs method, route template, status, duration, token id and request id; never path, query or headers.

    The response has the request id as `CF-Ray`, where clients of the original API look for it.
    `routes` maps each endpoint to its route template.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, routes: Mapping[Any, str]) -> None:
        self._app = app
        self._metrics = metrics
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        scope.setdefault("state", {})
        request_id = secrets.token_hex(8)
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["CF-Ray"] = request_id
                for name, value in (_HEADERS | scope["state"].get(HEADERS_STATE, {})).items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except Exception as error:  # noqa: BLE001  # its message may quote the request
            place = traceback.extract_tb(error.__traceback__)[-1]
            _log.error("request_failed", error=type(error).__name__, at=f"{place.filename}:{place.lineno}")
            # Once a response has begun, a second one would end up inside the first.
            if status == 0:
                await error_response(internal_error())(scope, receive, send_with_headers)
        finally:
            self._record(scope, request_id, status, time.perf_counter() - started)

    def _record(self, scope: Scope, request_id: str, status: int, seconds: float) -> None:
        route = self._routes.get(scope.get("endpoint"), UNMATCHED)
        token = scope["state"].get(TOKEN_STATE)
        self._metrics.log_api_requests.labels(route, str(status)).inc()
        self._metrics.log_api_request_duration_seconds.labels(route).observe(seconds)
        _log.info(
            "request",
            # A method is any text that the client likes, and no such text reaches the log.
            method=scope["method"] if scope["method"] in _METHODS else "other",
            route=route,
            status=status,
            ms=round(seconds * 1000, 1),
            token_id=None if token is None else str(token.id),
            request_id=request_id,
        )
