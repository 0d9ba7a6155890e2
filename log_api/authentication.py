"""Authenticates API tokens by their hash, and checks their permissions and accounts."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from typing import NamedTuple

from cachetools import TTLCache
from starlette.datastructures import Headers

from log_api.errors import account_denied, permission_denied, unauthenticated
from log_api.ports import LogDatabase, Token
from log_api.sessions import Purpose, Sessions, require_same_site

# Longer text is no token, and is rejected before it is hashed.
_CHARACTERS_MAX = 512


class Credentials(NamedTuple):
    """The token in a request, and the e-mail address of `X-Auth-Email`, if that was used."""

    token: str
    email: str | None

    def __repr__(self) -> str:
        return "<credentials>"

    @property
    def sha256(self) -> bytes:
        """The hash by which the database knows the token."""
        return hashlib.sha256(self.token.encode()).digest()


class Authenticator:
    """Finds the token of a request in the database, through a cache.

    Unknown tokens have a cache of their own, so that many wrong ones displace no right one. A revoked token is rejected after
    `cache_ms` at the latest, measured by `timer` (monotonic seconds), so that a change of the wall clock does not prolong it.
    `clock_ms` is for expiry.
    """

    def __init__(
        self,
        database: LogDatabase,
        sessions: Sessions,
        clock_ms: Callable[[], int],
        cache_ms: int,
        cached_max: int,
        *,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._sessions = sessions
        self._clock_ms = clock_ms
        self._known: TTLCache[bytes, Token] = TTLCache(cached_max, cache_ms / 1000, timer)
        self._unknown: TTLCache[bytes, None] = TTLCache(cached_max, cache_ms / 1000, timer)

    async def authenticate(self, headers: Headers, method: str) -> Token:
        """Return the valid token of a request: that of its credentials or, without any, that of its session's cookie.

        Raises ApiError (401; 403 if another site may have caused a request with the cookie), RetryableError.
        """
        if not _has_credentials(headers):
            session = self._sessions.of_request(headers)
            if session is None:
                raise unauthenticated()
            require_same_site(method, headers)
            return await self._valid(session.sha256)
        presented = read_credentials(headers)
        if presented is None:
            raise unauthenticated()
        token = await self._valid(presented.sha256)
        if presented.email is not None and presented.email.lower() != (token.email or "").lower():
            raise unauthenticated()
        return token

    async def sign_in(self, headers: Headers) -> Token:
        """Return the valid token of a request for a session, by the token itself or by the code of a sign-in link.

        Raises ApiError (401), RetryableError.
        """
        presented = read_credentials(headers)
        if presented is None:
            raise unauthenticated()
        if presented.email is None:
            link = self._sessions.verify(Purpose.SIGN_IN, presented.token)
            if link is not None:
                return await self._valid(link.sha256)
        return await self.authenticate(headers, "POST")

    async def _valid(self, sha256: bytes) -> Token:
        # By its hash: neither the cache nor the database holds a token that could be stolen.
        token = self._known.get(sha256)
        if token is None and sha256 not in self._unknown:
            token = await self._database.token(sha256)
            if token is None:
                self._unknown[sha256] = None
            else:
                self._known[sha256] = token
        # Checked each time, because a token may expire while it is in the cache.
        if token is None or token.expires_ms <= self._clock_ms():
            raise unauthenticated()
        return token


def _has_credentials(headers: Headers) -> bool:
    return any(name in headers for name in ("authorization", "x-auth-email", "x-auth-key"))


def read_credentials(headers: Headers) -> Credentials | None:
    """Return the credentials in `Authorization: Bearer` or, without that, in `X-Auth-Email` and `X-Auth-Key`.

    None if there are none, if they are malformed, or if a header occurs twice.
    """
    presented = headers.getlist("authorization")
    if presented:
        scheme, _, token = presented[0].partition(" ")
        is_valid = len(presented) == 1 and scheme.lower() == "bearer" and _is_token(token)
        return Credentials(token, None) if is_valid else None
    emails, keys = headers.getlist("x-auth-email"), headers.getlist("x-auth-key")
    if len(emails) == len(keys) == 1 and _is_token(emails[0]) and _is_token(keys[0]):
        return Credentials(keys[0], emails[0])
    return None


def _is_token(text: str) -> bool:
    return 0 < len(text) <= _CHARACTERS_MAX and text.isascii()


def authorize(token: Token, permission: str | None, accounts: tuple[str, ...] | None) -> None:
    """Raise ApiError (403) unless the token has the permission, if any is needed, for each of the accounts.

    `accounts` None stands for all accounts of the token.
    """
    if permission is not None and permission not in token.permissions:
        raise permission_denied(permission)
    if token.accounts is not None and accounts is not None and not token.accounts.issuperset(accounts):
        raise account_denied()
