"""Sessions of the explorer and codes of its sign-in links: signed texts that stand for an API token by its SHA-256.

They are stateless, so any process that shares the cursor key accepts them. The token itself is looked up for each request, so
revoking it ends its sessions.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from enum import StrEnum
from typing import NamedTuple

import jwt
from starlette.datastructures import Headers

from log_api.errors import ApiError

COOKIE = "auditap_session"
CSRF_HEADER = "x-auditap-request"
"""A request with the cookie that changes something must have it. A page of another site cannot send it."""

_SESSION_MS_MAX = 12 * 3_600_000
_SIGN_IN_MS = 15 * 60_000
_ALGORITHM = "HS256"
# Signed texts have about 250 characters.
_CHARACTERS_MAX = 512
# `same-site` is refused too: it may be another host of the same domain.
_OTHER_SITES = frozenset({"cross-site", "same-site"})


class Purpose(StrEnum):
    """What a signed text is for. One for another purpose is not accepted."""

    SESSION = "auditap-session"
    SIGN_IN = "auditap-sign-in"


class SignedToken(NamedTuple):
    """What a signed text says: the SHA-256 of an API token, and until when (Unix ms) the text stands for it."""

    sha256: bytes
    expires_ms: int


class Sessions:
    """Signs and verifies, with a key derived from the cursor key. `clock_ms` returns Unix milliseconds."""

    def __init__(self, cursor_key: bytes, clock_ms: Callable[[], int]) -> None:
        self._key = hmac.digest(cursor_key, b"auditap sessions", hashlib.sha256)
        self._clock_ms = clock_ms

    def begin(self, sha256: bytes, token_expires_ms: int) -> SignedToken:
        """Return the session that a token gets now: 12 hours, or until the token expires."""
        return SignedToken(sha256, min(self._clock_ms() + _SESSION_MS_MAX, token_expires_ms))

    def cookie(self, session: SignedToken) -> str:
        return self._sign(Purpose.SESSION, session)

    def sign_in_code(self, sha256: bytes) -> str:
        """Return a code that can be exchanged for a session within 15 minutes."""
        return self._sign(Purpose.SIGN_IN, SignedToken(sha256, self._clock_ms() + _SIGN_IN_MS))

    def verify(self, purpose: Purpose, text: str) -> SignedToken | None:
        """Return what a text says; None if it was not signed with this key, is for another purpose or has expired."""
        if len(text) > _CHARACTERS_MAX:
            return None
        try:
            claims = jwt.decode(
                text,
                self._key,
                algorithms=[_ALGORITHM],
                audience=purpose,
                # Its times are whole seconds by the machine's clock; ours are compared below.
                options={"require": ["aud", "sub", "expires_ms"], "verify_sub": False},
            )
        except jwt.PyJWTError:
            return None
        signed = SignedToken(bytes.fromhex(claims["sub"]), claims["expires_ms"])
        return signed if signed.expires_ms > self._clock_ms() else None

    def of_request(self, headers: Headers) -> SignedToken | None:
        """Return the session of a request's cookie; None if there is none, or more than one."""
        values = _cookie_values(headers)
        # Of two, another host of the domain may have set one, to sign the user in as somebody else.
        return self.verify(Purpose.SESSION, values[0]) if len(values) == 1 else None

    def _sign(self, purpose: Purpose, signed: SignedToken) -> str:
        claims = {"aud": purpose.value, "sub": signed.sha256.hex(), "expires_ms": signed.expires_ms}
        return jwt.encode(claims, self._key, _ALGORITHM)


def has_session_cookie(headers: Headers) -> bool:
    return bool(_cookie_values(headers))


def require_same_site(method: str, headers: Headers) -> None:
    """Raise ApiError (403) if another site may have caused a request with the session's cookie."""
    if headers.get("sec-fetch-site", "") in _OTHER_SITES:
        raise _cross_site()
    if method != "GET" and CSRF_HEADER not in headers:
        raise _cross_site()


def _cross_site() -> ApiError:
    return ApiError(403, 10000, "With the session's cookie, a request must come from the explorer's own page")


def _cookie_values(headers: Headers) -> list[str]:
    pairs = (
        pair.strip().partition("=") for header in headers.getlist("cookie") for pair in header.split(";")
    )
    return [value for name, _, value in pairs if name == COOKIE]
