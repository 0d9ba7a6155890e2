"""Issuers of signed tokens for tests: key pairs, JWKS, and tokens that are right unless a test makes them wrong."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from functools import cache
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from redactor.identity.signing_keys import SigningKeys, read_jwks
from redactor.identity.tokens import TokenVerifier
from redactor.issuer_config import IssuerConfig

ISSUER: Final = "https://login.example.com/"
OTHER_ISSUER: Final = "https://team.cloudflareaccess.com"
AUDIENCE: Final = "https://api.example.com"
AT_MS: Final = 1_769_192_714_749
"""The time of the captures that the tokens belong to."""
AT_S: Final = AT_MS // 1000


def private_key(name: str, algorithm: str = "RS256") -> Any:
    """Return the private key with this name, always the same one."""
    return _elliptic_key(name) if algorithm.startswith("ES") else _rsa_key(name)


@cache
def _elliptic_key(_name: str) -> Any:
    return ec.generate_private_key(ec.SECP256R1())


@cache
def _rsa_key(_name: str) -> Any:
    return rsa.generate_private_key(public_exponent=65_537, key_size=2_048)


def jwk(name: str, algorithm: str = "RS256", **members: Any) -> dict[str, Any]:
    """Return the public key with this name as a JWK; its name is its id."""
    public = private_key(name, algorithm).public_key()
    of_type: Any = ECAlgorithm if algorithm.startswith("ES") else RSAAlgorithm
    return {**of_type.to_jwk(public, as_dict=True), "kid": name, "use": "sig", **members}


def jwks(*keys: Mapping[str, Any]) -> bytes:
    return json.dumps({"keys": list(keys)}).encode()


def claims(**changed: Any) -> dict[str, Any]:
    """Return the claims of a person's token; None leaves a claim out."""
    all_claims: dict[str, Any] = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "u-1",
        "email": "who@example.com",
        "jti": "t-1",
        "iat": AT_S - 60,
        "nbf": AT_S - 60,
        "exp": AT_S + 600,
    }
    return {name: value for name, value in {**all_claims, **changed}.items() if value is not None}


def token(
    key: str = "rsa-1",
    algorithm: str = "RS256",
    headers: Mapping[str, Any] | None = None,
    **changed: Any,
) -> str:
    """Return a token, signed with the key of this name, whose id it names unless `headers` says otherwise."""
    payload = json.dumps(claims(**changed)).encode()
    # Signed as it stands: `jwt.encode` would refuse claims that no issuer should make.
    return jwt.PyJWS().encode(
        payload, private_key(key, algorithm), algorithm, {"kid": key, **(headers or {})}
    )


def with_parts(signed: str, *, header: Mapping[str, Any] | None = None, payload: Any = None) -> str:
    """Return a token with other parts and the old signature."""
    parts = signed.split(".")
    if header is not None:
        parts[0] = _segment(header)
    if payload is not None:
        parts[1] = _segment(payload)
    return ".".join(parts)


def _segment(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def an_issuer(**changed: Any) -> IssuerConfig:
    settings: dict[str, Any] = {
        "issuer": ISSUER,
        "audiences": (AUDIENCE, "another"),
        "headers": ("authorization",),
        "jwks_url": "https://login.example.com/jwks",
    }
    return IssuerConfig(**{**settings, **changed})


ACCESS: Final = an_issuer(
    issuer=OTHER_ISSUER, audiences=("tag",), headers=("cf-access-jwt-assertion",), algorithms=("RS256",)
)
ISSUERS: Final = (an_issuer(), ACCESS)


def known_keys() -> SigningKeys:
    """Return the keys of both issuers: `rsa-1` and `ec-1` of the first, `access-1` of the second."""
    keys = SigningKeys(each.issuer for each in ISSUERS)
    keys.replace(ISSUER, read_jwks(jwks(jwk("rsa-1"), jwk("ec-1", "ES256"))), AT_MS)
    keys.replace(OTHER_ISSUER, read_jwks(jwks(jwk("access-1"))), AT_MS)
    return keys


def a_verifier(*issuers: IssuerConfig, keys: SigningKeys | None = None) -> TokenVerifier:
    return TokenVerifier(issuers or ISSUERS, keys or known_keys())
