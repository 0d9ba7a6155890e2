"""The enricher's ports: the lookup service, and the records to enrich. Every `Lookup` passes one contract suite."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Protocol

import msgspec

from schemas.record import PartialRecord, Record

KEY_CHARS_MAX = 256
"""A longer key is never looked up. This bounds the memory of a cache entry."""


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
    """The fields of an id that the service knows. A field is None if the service has no value or the kind has no such field.

    Accounts and tokens have `name`; zones have `name`, `account_id` and optionally `account_name`; users have `email`.
    """

    name: str | None = None
    account_id: str | None = None
    account_name: str | None = None
    email: str | None = None


class Absent(_Unprintable, frozen=True):
    """The service does not know the id, or the text cannot be an id of this kind.

    A directory may learn of an id after it was used, so a later lookup may find it, unless `is_final`.
    """

    unknown_ms: int = 0
    """How long the service has not known it, since the first lookup that a cache remembers."""
    is_final: bool = False
    """The text cannot be an id of this kind."""


NEVER_AN_ID = Absent(is_final=True)


FIELDS: dict[Kind, tuple[str, ...]] = {
    Kind.ACCOUNT: ("name",),
    Kind.ZONE: ("name", "account_id", "account_name"),
    Kind.USER: ("email",),
    Kind.TOKEN: ("name",),
}
"""The fields of `Found` that each kind can have."""

OPTIONAL_FIELDS = frozenset({"account_name", "email"})
"""Fields that a response may leave out. Any other configured field must be present, though it may be null."""


class Lookup(Protocol):
    """Looks up the names for ids."""

    async def look_up(self, kind: Kind, key: str) -> Found | Absent:
        """Return the fields for `key`, within a bounded time.

        `key` comes from traffic and may be any text: what cannot be an id of this kind is `NEVER_AN_ID` and is never sent.
        Raises RetryableError if the service is down or slow, or if its response is invalid (too large, not JSON, of another
        shape). The message holds neither the key nor a part of the response. May be called concurrently. A cancelled call
        leaves nothing behind.
        """


def is_valid_key(key: str) -> bool:
    """Return whether a key is short enough to cache and free of lone surrogates, which cannot be encoded."""
    if not 0 < len(key) <= KEY_CHARS_MAX:
        return False
    try:
        key.encode()
    except UnicodeEncodeError:
        return False
    return True


Enrichable = Record | PartialRecord
"""What can be enriched: a record at ingest, or a partial one that the backfill reads. A name that is not known is None or
empty."""
