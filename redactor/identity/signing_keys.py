"""The public keys of issuers: read from a JWKS (RFC 7517), and which of them count at present. No clock, no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import jwt
import msgspec

JWKS_BYTES_MAX: Final = 262_144
KEYS_MAX: Final = 100
RETIRED_MS: Final = 3_600_000
"""How long a key counts after it has disappeared, so that a pair which is sent again gives the same event."""
STALE_MS: Final = 86_400_000
"""How long keys count after the last fetch that succeeded: a day, in which an operator can repair what fails."""
KID_CHARS_MAX: Final = 512
_RSA_BITS_MIN: Final = 2_048  # NIST SP 800-131A: shorter keys no longer protect
_RSA: Final = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
_BY_CURVE: Final = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512", "Ed25519": "EdDSA"}


class UnusableKeySet(Exception):
    """A text is no JWKS with a key that can verify signatures. The message holds nothing of the text."""


@dataclass(frozen=True, slots=True, repr=False)
class SigningKey:
    """One public key, and the algorithms that it can verify."""

    key: Any
    algorithms: frozenset[str]
    thumbprint: bytes
    """Equal for the same key in two versions of a JWKS."""


def read_jwks(text: bytes) -> dict[str, SigningKey]:
    """Return the keys of a JWKS by their id. Raises UnusableKeySet if there is none.

    Keys that share a secret, keys for encryption, private keys, and keys without an id or with one that stands twice are
    left out: none of them can be what a token is verified with.
    """
    try:
        listed = msgspec.json.decode(text).get("keys")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, AttributeError):
        listed = None
    if not isinstance(listed, list):
        raise UnusableKeySet("it is no JWKS")
    if len(listed) > KEYS_MAX:
        raise UnusableKeySet(f"it holds more than {KEYS_MAX} keys")
    keys: dict[str, SigningKey] = {}
    repeated: set[str] = set()
    for each in listed:
        kid = each.get("kid") if isinstance(each, dict) else None
        if not isinstance(kid, str) or not 1 <= len(kid) <= KID_CHARS_MAX:
            continue
        key = _read_key(each)
        if key is not None:
            if kid in keys:
                repeated.add(kid)
            keys[kid] = key
    for kid in repeated:
        del keys[kid]
    if not keys:
        raise UnusableKeySet("it holds no public key for signatures")
    return keys


def _read_key(jwk: Mapping[str, Any]) -> SigningKey | None:
    operations = jwk.get("key_ops")
    is_for_verifying = operations is None or (isinstance(operations, list) and "verify" in operations)
    if jwk.get("use", "sig") != "sig" or not is_for_verifying or "d" in jwk:
        return None
    algorithms = _algorithms_of(jwk)
    if not algorithms:
        return None
    try:
        key = jwt.PyJWK(dict(jwk), min(algorithms)).key
    except (jwt.PyJWTError, ValueError, TypeError):
        return None
    if jwk.get("kty") == "RSA" and key.key_size < _RSA_BITS_MIN:
        return None
    return SigningKey(key, algorithms, msgspec.json.encode(jwk, order="sorted"))


def _algorithms_of(jwk: Mapping[str, Any]) -> frozenset[str]:
    """Return the algorithms of a key by its type, of which it may name one itself; none of a type that is not used."""
    if jwk.get("kty") == "RSA":
        possible = _RSA
    elif jwk.get("kty") in ("EC", "OKP"):
        possible = frozenset({_BY_CURVE.get(str(jwk.get("crv")), "")}) - {""}
    else:
        return frozenset()
    named = jwk.get("alg")
    return possible if named is None else possible & {str(named)}


class _Retired(NamedTuple):
    key: SigningKey
    since_ms: int


class _IssuerKeys:
    def __init__(self) -> None:
        self.current: Mapping[str, SigningKey] = {}
        self.retired: dict[str, _Retired] = {}
        self.fetched_ms: int | None = None


class SigningKeys:
    """The keys of all issuers. `version` changes with them, so that what was verified with others can be forgotten."""

    def __init__(self, issuers: Iterable[str] = ()) -> None:
        self._issuers = {issuer: _IssuerKeys() for issuer in issuers}
        self.version = 0

    def find(self, issuer: str, kid: str) -> SigningKey | None:
        """Return the issuer's key with this id, also one that has disappeared lately."""
        keys = self._issuers[issuer]
        key = keys.current.get(kid)
        if key is None and (retired := keys.retired.get(kid)) is not None:
            return retired.key
        return key

    def has_any(self, issuer: str) -> bool:
        keys = self._issuers[issuer]
        return bool(keys.current or keys.retired)

    def replace(self, issuer: str, found: Mapping[str, SigningKey], now_ms: int) -> None:
        """Replace the issuer's keys by those just fetched. Keys that are no longer among them count for RETIRED_MS more.

        `now_ms`, here as in `expire`: milliseconds of a monotonic clock.
        """
        keys = self._issuers[issuer]
        before = {kid: key.thumbprint for kid, key in keys.current.items()}
        for kid, key in keys.current.items():
            if kid not in found and len(keys.retired) < KEYS_MAX:
                keys.retired[kid] = _Retired(key, now_ms)
        for kid in found:
            keys.retired.pop(kid, None)
        keys.current, keys.fetched_ms = found, now_ms
        if before != {kid: key.thumbprint for kid, key in found.items()}:
            self.version += 1

    def expire(self, now_ms: int) -> None:
        """Forget keys that disappeared RETIRED_MS ago, and all of an issuer whose keys were last fetched STALE_MS ago."""
        for keys in self._issuers.values():
            gone = [kid for kid, each in keys.retired.items() if now_ms - each.since_ms >= RETIRED_MS]
            for kid in gone:
                del keys.retired[kid]
            is_stale = keys.fetched_ms is not None and now_ms - keys.fetched_ms >= STALE_MS
            has_lost_all = is_stale and bool(keys.current)
            if has_lost_all:
                keys.current, keys.retired = {}, {}
            if gone or has_lost_all:
                self.version += 1
