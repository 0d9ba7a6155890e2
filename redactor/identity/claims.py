"""What the claims of a verified token say about who acted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from redactor.decode.identifiers import valid_identifier
from redactor.issuer_config import IssuerConfig
from schemas.event import Actor, Identity, IdentityKind, IdentitySource, Principal

ACTORS_BEFORE_MAX: Final = 4
"""How many earlier actors a token may list (RFC 8693): more than any chain of services that pass a request on."""
_ACTOR_TYPES: Final = {IdentityKind.USER: "user", IdentityKind.MACHINE: "system"}


class VerifiedActor(NamedTuple):
    """Who acted by a verified token."""

    actor: Actor
    """Without an address."""
    identity: Identity
    refused: tuple[str, ...]
    """Fields of the event for which a claim holds what is refused."""
    claims: Mapping[str, str]
    """The claim that each field of the event comes from."""


class _Reader:
    """Reads texts of one token, and notes what is refused and where each field comes from."""

    def __init__(self) -> None:
        self.refused: list[str] = []
        self.claims: dict[str, str] = {}

    def text(self, holder: Mapping[str, Any], name: str, field: str, *, path: str = "") -> str | None:
        """Return the text in the claim `name` of `holder` if it is printable; None, and refused, for anything else."""
        value = holder.get(name) if name else None
        if value is None or value == "":
            return None
        kept = valid_identifier(value) if isinstance(value, str) else None
        if kept is None:
            self.refused.append(field)
        else:
            self.claims[field] = path + name
        return kept


def read_claims(claims: Mapping[str, Any], issuer: IssuerConfig) -> VerifiedActor | None:
    """Return who acted by a token's claims; None where they name nobody, or have an actor claim that cannot be read."""
    reader = _Reader()
    acting = claims.get("act")
    if acting is None:
        return _subject_acts(claims, issuer, reader)
    return _other_acts(claims, acting, issuer, reader) if isinstance(acting, dict) else None


def _subject_acts(claims: Mapping[str, Any], issuer: IssuerConfig, reader: _Reader) -> VerifiedActor | None:
    actor_id = reader.text(claims, issuer.claims.id, "actor.id")
    email = _email(claims, issuer.claims.email, reader, "actor.email")
    kind = IdentityKind.USER
    if actor_id is None and "actor.id" not in reader.refused:
        actor_id = reader.text(claims, issuer.machine_claim, "actor.id")
        kind = IdentityKind.MACHINE if actor_id is not None else kind
    elif _is_client(claims.get(issuer.claims.id), claims):
        kind = IdentityKind.MACHINE
    if actor_id is None and email is None:
        return None
    return _verified(claims, issuer, reader, actor_id, email, kind)


def _other_acts(
    claims: Mapping[str, Any], acting: Mapping[str, Any], issuer: IssuerConfig, reader: _Reader
) -> VerifiedActor | None:
    """Return who acts in another's name. The record's actor is who acts: `act`, and not the token's subject."""
    subject = Principal(
        reader.text(claims, issuer.claims.id, "identity.on_behalf_of.id"),
        _email(claims, issuer.claims.email, reader, "identity.on_behalf_of.email"),
    )
    actor_id = reader.text(acting, "sub", "actor.id", path="act.")
    email = _email(acting, "email", reader, "actor.email", path="act.")
    via = _earlier_actors(acting)
    # A record with only a part of the chain would read as if the chain were whole.
    if actor_id is None or via is None or (subject.id is None and subject.email is None):
        return None
    is_machine = _is_client(acting["sub"], claims) or _is_client(acting["sub"], acting)
    kind = IdentityKind.MACHINE if is_machine else IdentityKind.USER
    return _verified(claims, issuer, reader, actor_id, email, kind, subject, via)


def _verified(  # noqa: PLR0917  all of one token
    claims: Mapping[str, Any],
    issuer: IssuerConfig,
    reader: _Reader,
    actor_id: str | None,
    email: str | None,
    kind: IdentityKind,
    on_behalf_of: Principal | None = None,
    via: tuple[str, ...] = (),
) -> VerifiedActor:
    actor = Actor(
        id=actor_id,
        email=email,
        token_id=reader.text(claims, issuer.claims.token_id, "actor.token_id"),
        token_name=reader.text(claims, issuer.claims.token_name, "actor.token_name"),
        type=_ACTOR_TYPES[kind],
    )
    client_claim = "client_id" if claims.get("client_id") else "azp"
    client = reader.text(claims, client_claim, "identity.client")
    identity = Identity(
        IdentitySource.TOKEN,
        issuer=issuer.issuer,
        kind=kind,
        client=client,
        on_behalf_of=on_behalf_of,
        via=via,
    )
    return VerifiedActor(actor, identity, tuple(reader.refused), reader.claims)


def _email(
    holder: Mapping[str, Any], name: str, reader: _Reader, field: str, *, path: str = ""
) -> str | None:
    """Return the e-mail address in the claim `name`, unless the issuer says that it may be somebody else's.

    Whatever `email_verified` holds but `true` says so; some issuers write that as a string.
    """
    verified = holder.get("email_verified", True)
    if verified is not True and verified != "true" and holder.get(name):
        reader.refused.append(field)
        return None
    return reader.text(holder, name, field, path=path)


def _is_client(actor_id: Any, claims: Mapping[str, Any]) -> bool:
    """Whether an id is that of the client which the token was issued to: no person stands behind it (RFC 9068, 2.2)."""
    return isinstance(actor_id, str) and actor_id in (claims.get("client_id"), claims.get("azp"))


def _earlier_actors(acting: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Return the ids of the actors nested in an actor claim, the latest first; None where they cannot be read."""
    found: list[str] = []
    each = acting.get("act")
    while each is not None:
        named = each.get("sub") if isinstance(each, dict) else None
        earlier = valid_identifier(named) if isinstance(named, str) else None
        if earlier is None:
            return None
        if len(found) == ACTORS_BEFORE_MAX:
            return None
        found.append(earlier)
        each = each.get("act")
    return tuple(found)
