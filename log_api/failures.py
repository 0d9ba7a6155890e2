"""Every answer that is not a success, in the one shape that clients know.

A message holds a parameter's name and what is allowed, never what was sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import msgspec
from starlette.responses import Response

_NO_HEADERS: Mapping[str, str] = MappingProxyType({})


class ApiFailure(Exception):
    """A request ends with this status, code and message."""

    def __init__(
        self, status: int, code: int, message: str, headers: Mapping[str, str] = _NO_HEADERS
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = headers


def unauthenticated() -> ApiFailure:
    """No token, or none that works."""
    return ApiFailure(401, 10000, "Authentication error", {"WWW-Authenticate": "Bearer"})


def lacks_permission(permission: str) -> ApiFailure:
    """A token that works, but not for this. `permission` is the route's."""
    return ApiFailure(403, 10000, f"The token lacks the permission {permission}")


def lacks_account() -> ApiFailure:
    """A token that works, but for other accounts."""
    return ApiFailure(403, 10000, "The token is not for this account")


def not_found() -> ApiFailure:
    """No such route or account."""
    return ApiFailure(404, 7003, "There is no such route, or no such account")


def method_not_allowed(allow: str) -> ApiFailure:
    """The path exists, but not with this method. `allow`: those it has, as the Allow header spells them."""
    return ApiFailure(405, 7001, "The method is not available for this route", {"Allow": allow})


def bad_parameter(name: str, allowed: str) -> ApiFailure:
    """A parameter that is missing or not allowed. `name` and `allowed` come from the document."""
    return ApiFailure(400, 10400, f"{name}: {allowed}")


def too_many_requests(retry_after_s: int) -> ApiFailure:
    """The token asks too often, or too many streams are under way."""
    return ApiFailure(429, 10429, "Too many requests, try again later", {"Retry-After": str(retry_after_s)})


def failed() -> ApiFailure:
    """A fault of ours."""
    return ApiFailure(500, 10500, "Internal error")


def unavailable(retry_after_s: int) -> ApiFailure:
    """The database does not answer in time."""
    return ApiFailure(
        503, 10503, "The log does not answer in time, try again later", {"Retry-After": str(retry_after_s)}
    )


def failure_response(failure: ApiFailure) -> Response:
    """Return the failure as an answer."""
    body = {
        "success": False,
        "errors": [{"code": failure.code, "message": failure.message}],
        "messages": [],
        "result": None,
    }
    return Response(
        msgspec.json.encode(body), failure.status, dict(failure.headers), media_type="application/json"
    )
