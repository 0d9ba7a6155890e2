"""The routes of the explorer's session: sign in, what the session may do, sign out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import ClassVar

from starlette.requests import Request
from starlette.responses import Response

from log_api.authorized_request import AuthorizedRequest
from log_api.ports import Token
from log_api.responses import result_response
from log_api.sessions import COOKIE, Sessions
from schemas.identity import rfc3339_ms


class SessionRoutes:
    """The handlers by `operationId`. The operation `BEGIN` is authenticated by the token or a sign-in link's code."""

    BEGIN: ClassVar = "beginSession"

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def by_operation(self) -> Mapping[str, Callable[[AuthorizedRequest], Awaitable[Response]]]:
        return {self.BEGIN: self._begin, "showSession": self._show, "endSession": self._end}

    async def _begin(self, request: AuthorizedRequest) -> Response:
        token = request.token
        session = self._sessions.begin(token.sha256, token.expires_ms)
        response = _shown(token, session.expires_ms)
        # Without a path, the browser uses the one that it sees, which a proxy may have prefixed.
        response.set_cookie(
            COOKIE,
            self._sessions.cookie(session),
            path=None,
            secure=_is_https(request.http),
            httponly=True,
            samesite="strict",
        )
        return response

    async def _show(self, request: AuthorizedRequest) -> Response:
        session = self._sessions.of_request(request.http.headers)
        is_by_cookie = session is not None and session.sha256 == request.token.sha256
        expires_ms = session.expires_ms if session and is_by_cookie else request.token.expires_ms
        return _shown(request.token, expires_ms)

    async def _end(self, request: AuthorizedRequest) -> Response:
        response = result_response({})
        response.set_cookie(
            COOKIE,
            "",
            max_age=0,
            path=None,
            secure=_is_https(request.http),
            httponly=True,
            samesite="strict",
        )
        return response


def _shown(token: Token, expires_ms: int) -> Response:
    return result_response(
        {
            "token": {
                "id": token.id.hex,
                "name": token.name,
                "email": token.email,
                "expires_on": rfc3339_ms(token.expires_ms),
                "permissions": sorted(token.permissions),
                "accounts": None if token.accounts is None else sorted(token.accounts),
            },
            "expires_on": rfc3339_ms(expires_ms),
        }
    )


def _is_https(request: Request) -> bool:
    # A client that forges the header only keeps its own cookie from plain HTTP.
    return "https" in (request.url.scheme, request.headers.get("x-forwarded-proto", ""))
