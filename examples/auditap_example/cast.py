"""The fictitious accounts, zones, users and tokens that service, directory and traffic share.

They are the same in every process: ids are hashes of names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container
from dataclasses import dataclass, field, replace
from functools import cache

_COMPANIES = (
    *("Alder Freight", "Brightwater Studio", "Copper Kettle", "Dune Observatory", "Elmsworth Press"),
    *("Fennel Foods", "Granite Lodge", "Harbour Lights", "Ivory Coastline", "Juniper Clinic"),
    *("Kestrel Maps", "Lantern Theatre"),
)
_PEOPLE = ("ada", "bo", "cleo", "dag", "edda", "finn", "gia", "hal", "ines", "jun", "kai", "lio")
_TOKENS = ("deploy pipeline", "dns sync", "cost report")


@dataclass(frozen=True, slots=True)
class Account:
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class Zone:
    id: str
    name: str
    account: Account


@dataclass(frozen=True, slots=True)
class Caller:
    """Who may call the example API, with the bearer credential that shows it.

    `type` and `context` are values of the audit log's actor. A person has an e-mail address, a token a name.
    """

    credential: str = field(repr=False)
    user_id: str
    account: Account
    type: str
    context: str
    email: str | None = None
    token_id: str | None = None
    token_name: str | None = None


def fixed_id(*names: str) -> str:
    """Return 32 hex digits that are the same for the same names."""
    return hashlib.blake2b("/".join(names).encode(), digest_size=16).hexdigest()


def domain(account: Account) -> str:
    """Return the account's name as a domain that nobody can own."""
    return f"{account.name.lower().replace(' ', '-')}.example"


def identity_headers(caller: Caller, path_params: Container[str]) -> dict[str, str]:
    """Return the response headers that name the actor.

    They name the account where the path holds neither an account nor a zone (whose account the directory knows).
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
    platform = Caller("example-platform", fixed_id("user", "platform"), accounts()[0], "system", "api")
    return (*users(), *tokens(), platform)


@cache
def users() -> tuple[Caller, ...]:
    """Return the callers that are people."""
    people = []
    for i, account in enumerate(accounts()):
        for j, name in enumerate((_PEOPLE[i], _PEOPLE[(i + 5) % len(_PEOPLE)])):
            email = f"{name}@{domain(account)}"
            user_id = fixed_id("user", email)
            people.append(Caller(f"example-session-{i}-{j}", user_id, account, "user", "dash", email))
    return tuple(people)


@cache
def tokens() -> tuple[Caller, ...]:
    """Return the callers that are tokens: each acts for the first person of its account."""
    return tuple(
        replace(
            owner,
            credential=f"example-token-{i}",
            type="account" if i % 3 == 0 else "user",
            context="api_token",
            token_id=fixed_id("token", owner.account.id, name),
            token_name=name,
        )
        for i, (owner, name) in enumerate(zip(users()[::2], _TOKENS * 4, strict=True))
    )
