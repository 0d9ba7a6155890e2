"""The limit of open files, and how it is shared out.

A new descriptor has the lowest number that is free. So a connection whose number is near the limit shows, whatever else
is open in the process, how few are left.
"""

from __future__ import annotations

import resource
from typing import Final, NamedTuple

from schemas.errors import StartupError

_WANTED: Final = 8_192
_LEAST: Final = 128
# Connections to Kafka and Postgres, lookups, the spool, documents.
_OWN: Final = 128
# The Unix socket, and the health routes where they have an address of their own.
_RESERVED: Final = 384


class DescriptorShares(NamedTuple):
    """The numbers below which descriptors are for connections."""

    public: int
    """Of listeners that anyone may reach."""
    reserved: int
    """Of the Unix socket and of the health routes' own address."""


def raise_descriptor_limit() -> None:
    """Raise the soft limit of open files as far as the hard one allows, and no further than is of use here."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _WANTED if hard == resource.RLIM_INFINITY else min(hard, _WANTED)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def descriptor_shares() -> DescriptorShares:
    """Return how descriptors are shared out under the limit that is in force. Raises StartupError if it is too low."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        limit = 1 << 30
    if limit < _LEAST:
        raise StartupError(f"The limit of open files is {limit}: raise it to 1,024 or more (ulimit -n).")
    own = min(_OWN, limit // 4)
    return DescriptorShares(limit - own - min(_RESERVED, limit // 4), limit - own)
