"""Which keys of a JWKS can verify signatures."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from redactor.identity.signing_keys import KEYS_MAX, UnusableKeySet, read_jwks
from tests.signed_tokens import jwk, jwks, private_key

SHORT = rsa.generate_private_key(public_exponent=65_537, key_size=1_024).public_key()  # noqa: S505  it has to be refused
UNUSABLE: list[dict[str, Any]] = [
    {"kty": "oct", "k": "c2VjcmV0", "kid": "a", "alg": "HS256"},
    jwk("rsa-1", use="enc"),
    jwk("rsa-1", key_ops=["encrypt"]),
    jwk("rsa-1", alg="HS256"),
    jwk("rsa-1", alg="ES256"),
    jwk("rsa-1", kid=None),
    jwk("rsa-1", kid=7),
    jwk("rsa-1", kid=""),
    jwk("rsa-1", kid="x" * 513),
    jwk("rsa-1", n="!"),
    jwk("rsa-1", kty="EC"),
    jwk("ec-1", "ES256", crv="secp256k1"),
    {**RSAAlgorithm.to_jwk(private_key("rsa-1"), as_dict=True), "kid": "private", "key_ops": None},
    {**RSAAlgorithm.to_jwk(SHORT, as_dict=True), "kid": "short"},
]


@pytest.mark.parametrize("unusable", UNUSABLE)
def test_a_key_that_can_verify_no_signature_is_left_out(unusable: dict[str, Any]) -> None:
    assert set(read_jwks(jwks(unusable, jwk("rsa-2")))) == {"rsa-2"}
    with pytest.raises(UnusableKeySet):
        read_jwks(jwks(unusable))


def test_a_key_verifies_what_its_type_and_its_own_word_allow() -> None:
    keys = read_jwks(jwks(jwk("rsa-1"), jwk("rsa-2", alg="RS256"), jwk("ec-1", "ES256")))
    assert keys["rsa-1"].algorithms == {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}
    assert keys["rsa-2"].algorithms == {"RS256"}
    assert keys["ec-1"].algorithms == {"ES256"}


def test_keys_that_share_an_id_are_left_out() -> None:
    assert set(read_jwks(jwks(jwk("rsa-1"), jwk("forged", kid="rsa-1"), jwk("rsa-2")))) == {"rsa-2"}


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b'{"keys": {}}',
        b'{"keys": []}',
        b'{"keys": [1]}',
        b"\xff",
        b"[" * 100_000,
    ],
)
def test_what_is_no_jwks_is_an_error(text: bytes) -> None:
    with pytest.raises(UnusableKeySet):
        read_jwks(text)


def test_there_are_only_so_many_keys() -> None:
    many = [jwk("rsa-1", kid=str(number)) for number in range(KEYS_MAX)]
    assert len(read_jwks(jwks(*many))) == KEYS_MAX
    with pytest.raises(UnusableKeySet):
        read_jwks(jwks(*many, jwk("rsa-2")))
