"""Signed tokens (JWT): which one a request carries, whether it is genuine, and who acts by it.

A token is a credential. It is read here and goes nowhere else: what is remembered is a digest of it, and what is reported
is one of a closed list of reasons. PyJWT does the parsing and the cryptography; what it raises may hold parts of the token
and is replaced by a reason.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import jwt
from msgspec import structs

from redactor.identity.claims import VerifiedActor, read_claims
from redactor.identity.signing_keys import KID_CHARS_MAX, SigningKeys
from redactor.issuer_config import IssuerConfig, token_headers
from schemas.capture import Headers
from schemas.event import TokenReason

TOKEN_CHARS_MAX: Final = 16_384
"""As much as the ASGI middleware copies of a header."""
TOKENS_MAX: Final = 4
"""How many tokens of one request are verified: more than gateways send, and few enough to cost little."""
_FORGERIES: Final = frozenset({TokenReason.ALGORITHM, TokenReason.SIGNATURE})
_CHECKS: Final = tuple(TokenReason)
_VERIFIED_MAX: Final = 8_192
_NAME_SETS_MAX: Final = 1_024
_NAMES_CHARS_MAX: Final = 4_096
_HEADS_MAX: Final = 1_024
_HEAD_CHARS_MAX: Final = 1_024
_BEARER: Final = "bearer"
_AUTHORIZATION: Final = "authorization"
_UNVERIFIED: Final[Any] = {"verify_signature": False}
_OPTIONS: Final[Any] = {
    # Times are compared with the capture's own: a pair that is sent again has to give the same event.
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
    "verify_sub": False,
    "verify_jti": False,
    "enforce_minimum_key_length": True,
}


class _Refused(Exception):
    def __init__(self, reason: TokenReason) -> None:
        super().__init__(reason.value)
        self.reason = reason


class _Token(NamedTuple):
    header: str
    """The header that carries it."""
    text: str

    def __repr__(self) -> str:
        return "<_Token>"


class _Verified(NamedTuple):
    """What a genuine token says, and when it counts (Unix ms, clock skew included)."""

    from_ms: float
    until_ms: float
    actor: VerifiedActor


class UnknownKey(NamedTuple):
    """The id of a key that a token names, and its issuer. It may be made up, so the repr does not show it."""

    issuer: str
    kid: str

    def __repr__(self) -> str:
        return "<UnknownKey>"


class TokenVerifier:
    """Verifies the tokens of requests with the keys that `keys` holds. Use it from one thread."""

    def __init__(self, issuers: Sequence[IssuerConfig], keys: SigningKeys | None = None) -> None:
        self.issuers = tuple(issuers)
        self.keys = keys or SigningKeys(each.issuer for each in issuers)
        self._headers = token_headers(self.issuers)
        self._by_header = {
            name: tuple(each for each in self.issuers if name in each.headers) for name in self._headers
        }
        self._jws = jwt.PyJWS()
        self._jwt = jwt.PyJWT()
        # Gateways send few different sets of headers.
        self._names: dict[tuple[str, ...], tuple[tuple[str, str], ...]] = {}
        self._verified: dict[bytes, _Verified] = {}
        self._known_heads: set[tuple[str, str]] = set()
        self._version = self.keys.version

    def verify(
        self, headers: Headers, at_ms: int, denied: frozenset[str] = frozenset()
    ) -> VerifiedActor | TokenReason | None:
        """Return who acted by the token in a request's headers, or why it does not count; None where there is none.

        `at_ms`: the time of the action (Unix ms). `denied`: headers that are read as if they were not there.
        """
        tokens = self._tokens(headers, denied)
        if not tokens:
            return None
        if len(tokens) > TOKENS_MAX:
            return TokenReason.SEVERAL
        if len(tokens) == 1:
            return self._verified_at(tokens[0], at_ms)
        return _only_verified([self._verified_at(each, at_ms) for each in tokens])

    def _verified_at(self, token: _Token, at_ms: int) -> VerifiedActor | TokenReason:
        """Return who acted by a token at that time (Unix ms), or why it does not count."""
        try:
            verified = self._genuine(token)
        except _Refused as refused:
            return refused.reason
        if at_ms < verified.from_ms:
            return TokenReason.NOT_YET_VALID
        return TokenReason.EXPIRED if at_ms >= verified.until_ms else verified.actor

    def unknown_keys(self, headers: Headers) -> tuple[UnknownKey, ...]:
        """Return the keys that the request's tokens name and that are not known, to fetch them; mostly none."""
        tokens = self._tokens(headers, frozenset())
        if len(tokens) > TOKENS_MAX:
            return ()
        self._forget_if_keys_changed()
        found = (self._unknown_key(each) for each in tokens)
        return tuple(dict.fromkeys(each for each in found if each is not None))

    def _unknown_key(self, token: _Token) -> UnknownKey | None:
        if len(token.text) > TOKEN_CHARS_MAX:
            return None
        # Tokens that were signed with one key begin alike.
        head = (token.header, token.text.partition(".")[0])
        if head in self._known_heads:
            return None
        try:
            issuer, header, _ = self._read(token)
        except _Refused:
            return None
        kid = header.get("kid")
        if not isinstance(kid, str) or len(kid) > KID_CHARS_MAX:
            return None
        if self.keys.find(issuer.issuer, kid) is None:
            return UnknownKey(issuer.issuer, kid)
        if len(head[1]) <= _HEAD_CHARS_MAX and len(self._by_header[token.header]) == 1:
            if len(self._known_heads) >= _HEADS_MAX:
                self._known_heads.clear()
            self._known_heads.add(head)
        return None

    def _tokens(self, headers: Headers, denied: frozenset[str]) -> list[_Token]:
        """Return the tokens that a request carries, each with its header."""
        found: list[_Token] = []
        for name, written in self._present(headers):
            if name in denied:
                continue
            values = headers[written]
            for value in (values,) if isinstance(values, str) else values:
                text = value.strip()
                # At any blank: some servers take a tab for a space.
                scheme, *rest = text.split(None, 1) or [""]
                if scheme.lower() == _BEARER:
                    text = rest[0] if rest else ""
                elif name == _AUTHORIZATION and _BEARER not in text.lower():
                    # Another scheme, such as Basic, has no token. A value that holds `Bearer` elsewhere, such as a list, counts as a
                    # malformed token, because a service may find one in it.
                    continue
                if text:
                    found.append(_Token(name, text))
        return found

    def _present(self, headers: Headers) -> tuple[tuple[str, str], ...]:
        """Return the headers of a request that may carry tokens, each with its name as it is written."""
        names = tuple(headers)
        present = self._names.get(names)
        if present is None:
            # Lowering other than ASCII could turn a foreign name into a wanted one.
            lowered = ((name.lower() if name.isascii() else "", name) for name in names)
            present = tuple(each for each in lowered if each[0] in self._headers)
            if sum(map(len, names)) <= _NAMES_CHARS_MAX:
                if len(self._names) >= _NAME_SETS_MAX:
                    self._names.clear()
                self._names[names] = present
        return present

    def _genuine(self, token: _Token) -> _Verified:
        """Return what a token says whose signature, issuer and audience are right. Raises _Refused."""
        if len(token.text) > TOKEN_CHARS_MAX:
            raise _Refused(TokenReason.TOO_LARGE)
        if not token.text.isascii():
            raise _Refused(TokenReason.MALFORMED)
        self._forget_if_keys_changed()
        digest = hashlib.blake2b(f"{token.header} {token.text}".encode(), digest_size=32).digest()
        known = self._verified.get(digest)
        if known is None:
            known = self._verify(token)
            # Only what is genuine is remembered, so nobody but an issuer can fill this.
            if len(self._verified) >= _VERIFIED_MAX:
                self._verified.clear()
            self._verified[digest] = known
        return known

    def _forget_if_keys_changed(self) -> None:
        if self._version != self.keys.version:
            self._version = self.keys.version
            self._verified.clear()
            self._known_heads.clear()

    def _read(self, token: _Token) -> tuple[IssuerConfig, Mapping[str, Any], Mapping[str, Any]]:
        """Return a token's issuer, header and claims, none of which is verified yet. Raises _Refused."""
        # PyJWT would skip blanks.
        if len(token.text.split()) != 1:
            raise _Refused(TokenReason.MALFORMED)
        try:
            parts = self._jws.decode_complete(token.text, options=_UNVERIFIED)
            claims = json.loads(parts["payload"])
        except (jwt.PyJWTError, ValueError, RecursionError):
            claims = None
        if not isinstance(claims, dict):
            raise _Refused(TokenReason.MALFORMED)
        named = claims.get("iss")
        for issuer in self._by_header[token.header]:
            if issuer.issuer == named:
                return issuer, parts["header"], claims
        raise _Refused(TokenReason.ISSUER)

    def _verify(self, token: _Token) -> _Verified:
        issuer, header, _ = self._read(token)
        algorithm, kid = header.get("alg"), header.get("kid")
        if algorithm not in issuer.algorithms:
            raise _Refused(TokenReason.ALGORITHM)
        if not self.keys.has_any(issuer.issuer):
            raise _Refused(TokenReason.NO_KEYS)
        # By its id alone, among the issuer's own: keys that a token brings along (`jwk`, `jku`, `x5c`, `x5u`) are never read.
        key = self.keys.find(issuer.issuer, kid) if isinstance(kid, str) else None
        if key is None:
            raise _Refused(TokenReason.UNKNOWN_KEY)
        if algorithm not in key.algorithms:
            raise _Refused(TokenReason.ALGORITHM)
        claims = self._verified_claims(token, key.key, algorithm, issuer)
        until_ms, from_ms = _time_ms(claims.get("exp")), _earliest_ms(claims)
        actor = read_claims(claims, issuer)
        if until_ms is None or from_ms is None or actor is None:
            raise _Refused(TokenReason.CLAIMS)
        return _Verified(from_ms - issuer.clock_skew_ms, until_ms + issuer.clock_skew_ms, actor)

    def _verified_claims(
        self, token: _Token, key: Any, algorithm: str, issuer: IssuerConfig
    ) -> Mapping[str, Any]:
        """Return the claims of a token with this key's signature and this issuer and audience. Raises _Refused."""
        reason = TokenReason.MALFORMED
        try:
            claims: Mapping[str, Any] = self._jwt.decode(
                token.text,
                key,
                algorithms=[algorithm],
                options=_OPTIONS,
                audience=issuer.audiences,
                issuer=issuer.issuer,
            )
        except jwt.InvalidSignatureError:
            reason = TokenReason.SIGNATURE
        except jwt.InvalidAudienceError:
            reason = TokenReason.AUDIENCE
        except jwt.InvalidIssuerError:
            reason = TokenReason.ISSUER
        except jwt.MissingRequiredClaimError as missing:
            reason = TokenReason.AUDIENCE if missing.claim == "aud" else TokenReason.CLAIMS
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
            pass
        else:
            return claims
        # Raised out here, because PyJWT's errors may hold parts of the token.
        raise _Refused(reason)


def _only_verified(found: Sequence[VerifiedActor | TokenReason]) -> VerifiedActor | TokenReason:
    """Return the only actor among what several tokens say, with the reason why another token does not count.

    If two tokens name an actor, neither counts: otherwise a client could choose who it was by adding a token.
    """
    actors = [each for each in found if isinstance(each, VerifiedActor)]
    if len(actors) > 1:
        return TokenReason.SEVERAL
    # A forgery counts first, so that no other token can hide it; then the token that passed the most checks.
    reasons = (each for each in found if not isinstance(each, VerifiedActor))
    reason = max(reasons, key=lambda each: (each in _FORGERIES, _CHECKS.index(each)))
    if not actors:
        return reason
    return actors[0]._replace(identity=structs.replace(actors[0].identity, reason=reason))


def _earliest_ms(claims: Mapping[str, Any]) -> float | None:
    """Return the time from which a token counts: not before `nbf`, nor before it was issued (`iat`). None: unreadable."""
    times = [_time_ms(claims[name]) for name in ("nbf", "iat") if claims.get(name) is not None]
    if None in times:
        return None
    return max((each for each in times if each is not None), default=-math.inf)


def _time_ms(value: Any) -> float | None:
    """Return a NumericDate (RFC 7519, seconds) in milliseconds; None for what is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        time_ms = float(value) * 1000
    except OverflowError:
        return None
    return time_ms if math.isfinite(time_ms) else None
