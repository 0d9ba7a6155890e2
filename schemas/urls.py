"""URLs in which a login stands: DSNs, and the addresses that operators configure."""

from __future__ import annotations

import re
from typing import Final

PERCENT_ENCODE: Final = (
    "percent-encode / @ # ? and [ ] in its user and password (/ is %2F, @ is %40, # is %23, ? is %3F)"
)
"""What to do about an unencoded login, as the end of a sentence."""

_CHANNEL_BINDING: Final = re.compile(r"[?&]channel_binding=")
_END_OF_AUTHORITY: Final = re.compile(r"[/?#]")


def has_unencoded_login(url: str) -> bool:
    """Return whether user or password of a URL seem to hold a character that has to be percent-encoded.

    Such a URL names another host than its author means, and a message about that host would show a piece of the password.
    An `@` further on that belongs to no login is taken for one if a port or a login stands before it.
    """
    rest = url.partition("://")[2]
    authority = _END_OF_AUTHORITY.split(rest, maxsplit=1)[0]
    login, _, _ = authority.rpartition("@")
    if "@" in login or "[" in login or "]" in login:
        return True
    # The `@` that ends the login is the last one. What looks like a port before it is the beginning of a password.
    return rest.rfind("@") > len(authority) and ":" in authority


def dsn_rule(dsn: str) -> str | None:
    """Return what a Postgres DSN has to be, and is not, as the end of a sentence; None if nothing is wrong with it."""
    if not dsn.startswith(("postgresql://", "postgres://")):
        return "begin it with postgresql://"
    if has_unencoded_login(dsn):
        return PERCENT_ENCODE
    # The client library would send it to the server as a setting, which no server knows.
    if _CHANNEL_BINDING.search(dsn):
        return "leave out channel_binding, which auditap cannot do; with sslmode=verify-full TLS authenticates the server"
    return None
