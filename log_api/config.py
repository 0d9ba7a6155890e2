"""Settings and limits of the log API."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from schemas.errors import StartupError

_CURSOR_KEY_BYTES_MIN = 32
# What no client or proxy writes in another way.
_PREFIX_STEP = re.compile(r"[A-Za-z0-9._~-]+")
COMMON_CONNECTIONS = 2
"""Of `connections_max`, for what no token's queries may delay: looking tokens up, the watermark, readiness. Each of these has at
most one statement under way, so with two connections a slow one delays no other."""


@dataclass(frozen=True, slots=True)
class ProductCategory:
    """Products under one name, for the filter `product_category`."""

    label: str
    """Name of the category."""
    products: Mapping[str, str]
    """Label of each product, by the value of `resource.product`."""


class LogApiLimits(NamedTuple):
    """Limits of the log API that operators do not set."""

    page_records_max: int = 1_000
    """The largest `limit`. Clients of the original know no larger one."""
    page_bytes_max: int = 16 << 20
    """A page ends early, with a cursor, once its bodies and receipts exceed this."""
    responses_bytes_max: int = 256 << 20
    """Long responses that clients have not read yet, of all tokens together; one alone has a third of it at most."""
    page_time_ms: int = 2_000
    """A page that holds a record ends, with a cursor, once finding more takes longer."""
    numbered_records_max: int = 100_000
    """How far page numbers reach: page n has to skip all pages before it."""
    fetch_records_max: int = 128
    """Whole records fetched with one statement; four times as many after a batch of small ones."""
    query_bytes_max: int = 16_384
    """Query strings longer than this are rejected. Common servers have the same limit or a lower one."""
    partitions_read_max: int = 32
    """Partitions that one statement may read. It locks each with its indexes, and Postgres' lock table is finite."""
    connect_timeout_ms: int = 5_000
    acquire_timeout_ms: int = 2_000
    """How long a request waits for its turn on a connection before it is answered 429 or 503."""
    requests_waiting_max: int = 1_024
    """Requests that wait for their turn; those of one token are a third of them at most."""
    lookups_waiting_max: int = 10_000
    """Tokens that wait to be looked up."""
    token_cache_ms: int = 2_000
    """How long a revoked token may still be accepted."""
    tokens_cached_max: int = 10_000
    retry_after_s: int = 2
    """The value of Retry-After where the cause does not determine one."""
    export_records: int = 1_000
    """Records that an export holds in memory."""
    export_retries: int = 5
    """How often an export waits `retry_after_s` for the database before it breaks off."""
    tail_lookback_ms: int = 30_000
    """A tail leaves out records that are stored later than this after their action."""
    tail_records_max: int = 10_000
    """Ids of sent records that one tail remembers."""
    tail_heartbeat_ms: int = 15_000
    """Below the 30 s after which common proxies close an idle connection."""
    tail_time_ms: int = 3_600_000
    """After this a tail ends, so that connections move to other processes. Clients reconnect from the last event's id."""
    summary_buckets_max: int = 1_000


@dataclass(frozen=True, slots=True)
class LogApiConfig:
    """Settings of the log API. Raises StartupError for an invalid value."""

    cursor_key: bytes = field(repr=False)
    """Authenticates cursors, at least 32 bytes. Processes behind one address must share it."""
    prefix: str = "/client/v4"
    statement_timeout_ms: int = 10_000
    """The time limit of a statement, and of the search for the first record of a page."""
    connections_max: int = 10
    """Database connections of one process: `COMMON_CONNECTIONS`, and those that tokens share."""
    requests_per_s: float = 50
    """The rate limit of a token that has no limit of its own."""
    requests_burst: int = 200
    """Requests that a token may send at once after a pause."""
    streams_max: int = 32
    """Open exports and tails in one process."""
    tail_interval_ms: int = 1_000
    """How often a tail polls for new records."""
    product_categories: Mapping[str, ProductCategory] = field(default_factory=dict)
    """By value, in lower case."""
    organizations: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The accounts of each organization."""
    keep_unknown_values: bool = False
    """Whether to show values of `actor.context`, `actor.type` and `actor.email` that strict clients do not accept."""
    limits: LogApiLimits = LogApiLimits()  # noqa: RUF009  immutable

    def __post_init__(self) -> None:
        if len(self.cursor_key) < _CURSOR_KEY_BYTES_MIN:
            raise StartupError(f"The log API's cursor key must have at least {_CURSOR_KEY_BYTES_MIN} bytes.")
        _require_prefix(self.prefix)
        for name in (
            "statement_timeout_ms",
            "requests_burst",
            "streams_max",
            "tail_interval_ms",
        ):
            if getattr(self, name) < 1:
                raise StartupError(f"The log API's {name} must be at least 1.")
        if self.connections_max <= COMMON_CONNECTIONS:
            raise StartupError(f"The log API's connections_max must be at least {COMMON_CONNECTIONS + 1}.")
        if self.requests_per_s <= 0:
            raise StartupError("The log API's requests_per_s must be more than 0.")
        if any(name != name.lower() for name in self.product_categories):
            raise StartupError("The log API's product categories must be named in lower case.")
        if not all(each.products for each in self.product_categories.values()):
            raise StartupError("The log API's product categories must have at least one product each.")
        if not all(self.organizations.values()):
            raise StartupError("The log API's organizations must have at least one account each.")


def _require_prefix(prefix: str) -> None:
    if prefix and (not prefix.startswith("/") or prefix.endswith("/")):
        raise StartupError("The log API's prefix must begin with a slash and not end with one.")
    steps = prefix.split("/")[1:]
    if not all(_PREFIX_STEP.fullmatch(each) and each.strip(".") for each in steps):
        raise StartupError(
            "The log API's prefix must be literal, such as /client/v4: of letters, digits and - . _ ~ between its slashes."
        )
