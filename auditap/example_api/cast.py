"""The fictitious accounts, zones, users and tokens that service, directory and traffic share.

The same in every process and at every start: ids are drawn from names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from functools import cache

_COMPANIES = (
    "Alder Freight",
    "Brightwater Studio",
    "Copper Kettle",
    "Dune Observatory",
    "Elmsworth Press",
    "Fennel Foods",
    "Granite Lodge",
    "Harbour Lights",
    "Ivory Coastline",
    "Juniper Clinic",
    "Kestrel Maps",
    "Lantern Theatre",
)
_PEOPLE = ("ada", "bo", "cleo", "dag", "edda", "finn", "gia", "hal", "ines", "jun", "kai", "lio")
_TOKENS = ("deploy pipeline", "dns sync", "cost report")


@dataclass(frozen=True, slots=True)
class Account:
    """A customer."""

    id: str
    name: str


@dataclass(frozen=True, slots=True)
class Zone:
    """A domain of a customer."""

    id: str
    name: str
    account: Account


@dataclass(frozen=True, slots=True)
class Caller:
    """Who may call the example API, with the bearer credential that shows it.

    `type` and `context` are the words that the audit log uses. A person has an e-mail address, a token a name.
    """

    credential: str = field(repr=False)
    user_id: str
    account: Account
    type: str
    context: str
    email: str | None = None
    token_id: str | None = None
    token_name: str | None = None
    read_only: bool = False
    everywhere: bool = False
    """Whether every account lets this caller in, not only its own."""


def fixed_id(*names: str) -> str:
    """Return 32 hex digits that are the same for the same names."""
    return hashlib.blake2b("/".join(names).encode(), digest_size=16).hexdigest()


def member_id(user: Caller) -> str:
    """Return the id of a person's place in their account."""
    return fixed_id("member", user.user_id)


def domain(account: Account) -> str:
    """Return the account's name as a domain that nobody can own."""
    return f"{account.name.lower().replace(' ', '-')}.example"


def identity_headers(caller: Caller, path_params: Container[str]) -> dict[str, str]:
    """Return the response headers that say who acted.

    The account stands among them where the path names neither it nor a zone, whose account the directory knows.
    """
    headers = {"x-actor-id": caller.user_id, "x-actor-type": caller.type, "x-actor-context": caller.context}
    if caller.email:
        headers["x-actor-email"] = caller.email
    if caller.token_id and caller.token_name:
        headers |= {"x-actor-token-id": caller.token_id, "x-actor-token-name": caller.token_name}
    if "account_id" not in path_params and "zone_id" not in path_params:
        headers["x-account-id"] = caller.account.id
    return headers


@cache
def accounts() -> tuple[Account, ...]:
    """Return the twelve accounts."""
    return tuple(Account(fixed_id("account", name), name) for name in _COMPANIES)


@cache
def zones() -> tuple[Zone, ...]:
    """Return the zones, two to an account."""
    return tuple(
        Zone(fixed_id("zone", name), name, account)
        for account in accounts()
        for name in (domain(account), f"shop.{domain(account)}")
    )


@cache
def callers() -> tuple[Caller, ...]:
    """Return everybody who may call: two people and a token to an account, and the platform itself."""
    return (*_people(), *_tokens(), _platform())


@cache
def users() -> tuple[Caller, ...]:
    """Return the callers that are people."""
    return tuple(_people())


@cache
def tokens() -> tuple[Caller, ...]:
    """Return the callers that are tokens."""
    return tuple(_tokens())


def _people() -> Iterator[Caller]:
    for i, account in enumerate(accounts()):
        for j, given_name in enumerate((_PEOPLE[i], _PEOPLE[(i + 5) % len(_PEOPLE)])):
            email = f"{given_name}@{domain(account)}"
            yield Caller(
                credential=f"example-session-{i}-{j}",
                user_id=fixed_id("user", email),
                account=account,
                type="user",
                context="dash",
                email=email,
                read_only=j == 1 and i % 4 == 3,
            )


def _tokens() -> Iterator[Caller]:
    owners = [person for person in _people() if person.credential.endswith("-0")]
    for i, owner in enumerate(owners):
        name = _TOKENS[i % len(_TOKENS)]
        yield Caller(
            credential=f"example-token-{i}",
            user_id=owner.user_id,
            account=owner.account,
            type="account" if i % 3 == 0 else "user",
            context="api_token",
            email=owner.email,
            token_id=fixed_id("token", owner.account.id, name),
            token_name=name,
            read_only=name == "cost report",
        )


def _platform() -> Caller:
    return Caller(
        credential="example-platform",
        user_id=fixed_id("user", "platform"),
        account=accounts()[0],
        type="system",
        context="api",
        everywhere=True,
    )
