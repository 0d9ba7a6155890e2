"""The enricher's ports: the service it asks, with one contract suite for every side of it, and what it completes."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Protocol
from uuid import UUID

import msgspec

KEY_CHARS_MAX = 256
"""A longer key is never asked for; it bounds what one entry of a cache may weigh."""


class Kind(StrEnum):
    """What an id names."""

    ACCOUNT = "account"
    ZONE = "zone"
    USER = "user"
    TOKEN = "token"  # noqa: S105 - the name of a kind, no secret


class _Unprintable(msgspec.Struct, frozen=True):
    """A struct whose repr shows nothing: names and e-mail addresses belong into records alone."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """Show nothing to rich either."""
        return []


class Found(_Unprintable, frozen=True):
    """What a service knows of an id it knows; a field is None where it has none, or where the kind has not that field.

    Account and token give `name`; a zone `name`, `account_id` and perhaps `account_name`; a user `email`.
    """

    name: str | None = None
    account_id: str | None = None
    account_name: str | None = None
    email: str | None = None


class Absent(_Unprintable, frozen=True):
    """The service answered that it does not know the id, or the id is none that it could know."""


FIELDS: dict[Kind, tuple[str, ...]] = {
    Kind.ACCOUNT: ("name",),
    Kind.ZONE: ("name", "account_id", "account_name"),
    Kind.USER: ("email",),
    Kind.TOKEN: ("name",),
}
"""The fields of `Found` that each kind can give."""

FIELDS_THAT_MAY_BE_LEFT_OUT = frozenset({"account_name", "email"})
"""An answer may leave these out; any other that is asked for is there, if only as null."""


class LookUp(Protocol):
    """A service that knows names."""

    async def look_up(self, kind: Kind, key: str) -> Found | Absent:
        """Return what the service knows of `key`, within a bounded time.

        `key` comes from traffic and may be anything: one that is no id of this kind is `Absent` and never sent.
        Raises RetryableError, whose message holds neither key nor answer, where the service is down or slow or
        its answer cannot be trusted (too large, not JSON, of another shape). May be called concurrently;
        cancelling a call leaves nothing behind.
        """


def may_be_asked(key: str) -> bool:
    """Tell whether `key` is short enough, and text enough (no lone surrogate), to be held and asked for at all."""
    if not 0 < len(key) <= KEY_CHARS_MAX:
        return False
    try:
        key.encode()
    except UnicodeEncodeError:
        return False
    return True


class Incomplete(Protocol):
    """The ids of a record and what is there already: a `Record`, or a row of those left partial."""

    @property
    def id(self) -> UUID:
        """The record's id."""

    @property
    def account_id(self) -> str | None:
        """Whose resource was acted on; None where that is the zone's account."""

    @property
    def account_name(self) -> str | None:
        """None or empty: to be found, as for every field below that is no id."""

    @property
    def zone_id(self) -> str | None:
        """The zone acted in."""

    @property
    def zone_name(self) -> str | None:
        """Its name."""

    @property
    def actor_id(self) -> str | None:
        """Who acted."""

    @property
    def actor_type(self) -> str | None:
        """What kind of actor; only a `user` has an e-mail address."""

    @property
    def actor_email(self) -> str | None:
        """The user's e-mail address."""

    @property
    def actor_token_id(self) -> str | None:
        """The token that was presented."""

    @property
    def actor_token_name(self) -> str | None:
        """Its name."""
