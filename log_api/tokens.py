"""Who asks: tokens, known by their hash, and what they are good for."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from typing import NamedTuple

from cachetools import TTLCache
from starlette.datastructures import Headers

from log_api.failures import lacks_account, lacks_permission, unauthenticated
from log_api.ports import LogDatabase, Token

_CHARACTERS_MAX = 512


class Credentials(NamedTuple):
    """A token as it was presented, and the e-mail address that came with it, if any."""

    token: str
    email: str | None

    def __repr__(self) -> str:
        return "<credentials>"


class TokenCheck:
    """Tells whose request it is, by the database and a short memory of it.

    The memory, absent tokens included, is bounded in number and age, so that a revoked token ends within `cache_ms`.
    Its age is measured by `timer` (seconds, monotonic), which no change of the clock stretches.
    """

    def __init__(
        self,
        database: LogDatabase,
        clock_ms: Callable[[], int],
        cache_ms: int,
        cached_max: int,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._clock_ms = clock_ms
        self._known: TTLCache[bytes, Token | None] = TTLCache(cached_max, cache_ms / 1000, timer)

    async def authenticate(self, headers: Headers) -> Token:
        """Return the request's token. Raises ApiFailure (401), RetryableError."""
        presented = credentials(headers)
        if presented is None:
            raise unauthenticated()
        sha256 = hashlib.sha256(presented.token.encode()).digest()
        try:
            token = self._known[sha256]
        except KeyError:
            token = self._known[sha256] = await self._database.token(sha256)
        if token is None or token.expires_ms <= self._clock_ms():
            raise unauthenticated()
        if presented.email is not None and presented.email.lower() != (token.email or "").lower():
            raise unauthenticated()
        return token


def credentials(headers: Headers) -> Credentials | None:
    """Return what the request presents: `Authorization: Bearer`, or else `X-Auth-Email` with `X-Auth-Key`.

    None where there is nothing of the kind, or one of them twice.
    """
    presented = headers.getlist("authorization")
    if presented:
        scheme, _, token = presented[0].partition(" ")
        fits = len(presented) == 1 and scheme.lower() == "bearer" and _fits(token)
        return Credentials(token, None) if fits else None
    emails, keys = headers.getlist("x-auth-email"), headers.getlist("x-auth-key")
    if len(emails) == len(keys) == 1 and _fits(emails[0]) and _fits(keys[0]):
        return Credentials(keys[0], emails[0])
    return None


def _fits(text: str) -> bool:
    return 0 < len(text) <= _CHARACTERS_MAX and text.isascii()


def authorize(token: Token, permission: str, accounts: tuple[str, ...] | None) -> None:
    """Raise ApiFailure (403) unless the token has the permission, and for each of the accounts.

    None: those it has, whichever they are.
    """
    if permission not in token.permissions:
        raise lacks_permission(permission)
    if token.accounts is not None and accounts is not None and not token.accounts.issuperset(accounts):
        raise lacks_account()
