"""Who asks: bearer tokens, known by their hash."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable

from cachetools import TTLCache
from starlette.datastructures import Headers

from log_api.failures import forbidden, unauthenticated
from log_api.ports import READ_AUDIT_LOGS, LogDatabase, Token

_TOKEN_CHARACTERS_MAX = 512


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
        presented = bearer(headers)
        if presented is None:
            raise unauthenticated()
        sha256 = hashlib.sha256(presented.encode()).digest()
        try:
            token = self._known[sha256]
        except KeyError:
            token = self._known[sha256] = await self._database.token(sha256)
        if token is None or token.expires_ms <= self._clock_ms():
            raise unauthenticated()
        return token


def bearer(headers: Headers) -> str | None:
    """Return the token that the one Authorization header holds, None where there is none of that kind."""
    presented = headers.getlist("authorization")
    if len(presented) != 1:
        return None
    scheme, _, token = presented[0].partition(" ")
    fits = scheme.lower() == "bearer" and 0 < len(token) <= _TOKEN_CHARACTERS_MAX and token.isascii()
    return token if fits else None


def authorize(token: Token, account_id: str) -> None:
    """Raise ApiFailure (403) unless the token may read this account's log."""
    if READ_AUDIT_LOGS not in token.permissions:
        raise forbidden()
    if token.accounts is not None and account_id not in token.accounts:
        raise forbidden()
