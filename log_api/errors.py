"""Error responses, in the one shape that clients expect.

A message holds the name of a parameter and the allowed values from the document. It never holds a value that was sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import msgspec
from starlette.responses import Response

_NO_HEADERS: Mapping[str, str] = MappingProxyType({})


class ApiError(Exception):
    """Ends a request with an HTTP status, an error code of the API, a message and response headers."""

    def __init__(
        self, status: int, code: int, message: str, headers: Mapping[str, str] = _NO_HEADERS
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = headers


def unauthenticated() -> ApiError:
    """The request has no token, or an unknown, revoked or expired one."""
    return ApiError(401, 10000, "Authentication error", {"WWW-Authenticate": "Bearer"})


def permission_denied(permission: str) -> ApiError:
    """The token is valid but lacks the route's permission."""
    return ApiError(403, 10000, f"The token lacks the permission {permission}")


def account_denied() -> ApiError:
    """The token is valid but for other accounts."""
    return ApiError(403, 10000, "The token is not for this account")


def not_found() -> ApiError:
    return ApiError(404, 7003, "There is no such route, or no such account")


def method_not_allowed(allow: str) -> ApiError:
    """The route does not have this method. `allow` lists those it has, as in the Allow header."""
    return ApiError(405, 7001, "The method is not available for this route", {"Allow": allow})


def bad_parameter(name: str, allowed: str) -> ApiError:
    """A parameter is missing or invalid. `name` and `allowed` must come from the document, not from the request."""
    return ApiError(400, 10400, f"{name}: {allowed}")


def too_many_requests(retry_after_s: int) -> ApiError:
    """The token exceeds its rate limit."""
    return ApiError(429, 10429, "Too many requests, try again later", {"Retry-After": str(retry_after_s)})


def too_many_at_once(retry_after_s: int) -> ApiError:
    """The token, or all tokens for its accounts together, have their share of queries or streams under way."""
    return ApiError(
        429,
        10429,
        "Too many requests of this token or its accounts at once, try again when some have ended",
        {"Retry-After": str(retry_after_s)},
    )


def busy(retry_after_s: int) -> ApiError:
    """Others use all that there is, though the token has less than its share."""
    return ApiError(503, 10503, "The log API is busy, try again later", {"Retry-After": str(retry_after_s)})


def internal_error() -> ApiError:
    return ApiError(500, 10500, "Internal error")


def unavailable(retry_after_s: int) -> ApiError:
    """The database did not respond in time."""
    return ApiError(
        503, 10503, "The log does not answer in time, try again later", {"Retry-After": str(retry_after_s)}
    )


def error_response(error: ApiError) -> Response:
    body = {
        "success": False,
        "errors": [{"code": error.code, "message": error.message}],
        "messages": [],
        "result": None,
    }
    return Response(
        msgspec.json.encode(body), error.status, dict(error.headers), media_type="application/json"
    )
