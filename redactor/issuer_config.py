"""What an operator configures of signed tokens. Immutable; a wrong value raises StartupError when it is constructed."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

from schemas.addresses import parse_address
from schemas.errors import StartupError

Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
"""Signatures with a key pair. With those that share a secret, whoever can verify a token could make one."""
ISSUER_CHARS_MAX: Final = 512
CLOCK_SKEW_MS_MAX: Final = 600_000
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+")
_PRINTABLE: Final = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True, slots=True)
class ClaimNames:
    """The claims of a verified token that fill the fields of an event's actor. An empty name reads none."""

    id: str = "sub"
    """Claim with the actor's id."""
    email: str = "email"
    """Claim with the actor's e-mail address. Not recorded where the token says `email_verified: false`."""
    token_id: str = "jti"  # noqa: S105  a claim's name
    """Claim with the token's id."""
    token_name: str = ""
    """Claim with the token's name."""


@dataclass(frozen=True, slots=True)
class IssuerConfig:
    """An issuer of signed tokens (JWT) that say who acts; see docs/identity.md."""

    issuer: str
    """The claim `iss` of its tokens, letter by letter."""
    audiences: tuple[str, ...]
    """Values of the claim `aud`; a token must have one of them."""
    headers: tuple[str, ...]
    """Request headers that may carry its tokens, in lower case: `authorization` (after `Bearer`), `cf-access-jwt-assertion`,
    `x-goog-iap-jwt-assertion`. The tap has to copy them."""
    jwks_url: str = ""
    """Where its public keys are (JWKS): https, or http on loopback. The collector fetches them every five minutes."""
    jwks_file: Path | None = None
    """File with its public keys (JWKS), in place of `jwks_url`; read again every five minutes."""
    algorithms: tuple[Algorithm, ...] = ("RS256", "ES256")
    """Signature algorithms that its tokens may have."""
    clock_skew_ms: int = 60_000
    """Milliseconds by which the clocks of issuer and tap may differ; at most 600000."""
    machine_claim: str = "common_name"
    """Claim that stands for the id in a machine's token without a subject, as in Cloudflare Access' service tokens."""
    claims: ClaimNames = field(default_factory=ClaimNames)

    def __post_init__(self) -> None:
        self._check_what_tokens_are()
        self._check_keys()

    def _check_what_tokens_are(self) -> None:
        if not _PRINTABLE.fullmatch(self.issuer) or len(self.issuer) > ISSUER_CHARS_MAX:
            raise StartupError(
                "redaction.issuers[].issuer: write the claim `iss` of its tokens, such as https://login.example.com/."
            )
        if not self.audiences or not all(self.audiences):
            raise StartupError(
                f"redaction.issuers[].audiences of {self.issuer}: list the values of `aud` that mean this API; a token"
                " for another service must not count."
            )
        if not self.headers or not all(map(_HEADER_NAME.fullmatch, self.headers)):
            raise StartupError(
                f"redaction.issuers[].headers of {self.issuer}: list request headers in lower case, such as authorization."
            )
        if "cookie" in self.headers:
            raise StartupError(
                f"redaction.issuers[].headers of {self.issuer} names cookie, which is no header with a token: name another."
            )
        if not 0 <= self.clock_skew_ms <= CLOCK_SKEW_MS_MAX:
            raise StartupError(
                f"redaction.issuers[].clock_skew_ms of {self.issuer} must be from 0 to {CLOCK_SKEW_MS_MAX}."
            )

    def _check_keys(self) -> None:
        if bool(self.jwks_url) == (self.jwks_file is not None):
            raise StartupError(
                f"redaction.issuers[] of {self.issuer}: set jwks_url or jwks_file, one of the two."
            )
        if self.jwks_url and not _is_safe_url(self.jwks_url):
            raise StartupError(
                f"redaction.issuers[].jwks_url of {self.issuer}: write an https URL without a login (http on loopback alone):"
                " whoever can change the response can name any actor."
            )
        if not self.algorithms:
            raise StartupError(
                f"redaction.issuers[].algorithms of {self.issuer} is empty: list some, or leave it out."
            )


def check_issuers(issuers: tuple[IssuerConfig, ...], recorded_headers: frozenset[str]) -> None:
    """Raise StartupError where one issuer is listed twice, or a header with tokens is one whose value is recorded."""
    names = [each.issuer for each in issuers]
    if len(set(names)) < len(names):
        raise StartupError("redaction.issuers holds one issuer twice: list all its audiences in one entry.")
    if not recorded_headers.isdisjoint(token_headers(issuers)):
        raise StartupError(
            "redaction.headers names a header that redaction.issuers reads tokens from, which would be recorded: name another."
        )


def token_headers(issuers: tuple[IssuerConfig, ...]) -> frozenset[str]:
    """Return the names of the request headers that may carry tokens."""
    return frozenset(name for each in issuers for name in each.headers)


def _is_safe_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        host, has_login = parts.hostname or "", parts.username is not None
        _ = parts.port
    except ValueError:
        return False
    if not host or has_login or not _PRINTABLE.fullmatch(url):
        return False
    address = parse_address(host)
    is_loopback = host == "localhost" or (address is not None and address.is_loopback)
    return parts.scheme == "https" or (parts.scheme == "http" and is_loopback)
