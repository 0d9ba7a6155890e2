"""What an operator decides about the log API."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from schemas.errors import StartupError

_CURSOR_KEY_BYTES_MIN = 32
_PAGE_RECORDS_MAX = 1000


@dataclass(frozen=True, slots=True)
class ProductCategory:
    """Products under one name. `products`: the label of each value of `resource.product`."""

    label: str
    products: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class LogApiConfig:
    """Every bound of the log API. Raises StartupError where a value cannot work."""

    cursor_key: bytes = field(repr=False)
    """Authenticates cursors; processes that share an address share it. At least 32 bytes."""
    prefix: str = "/client/v4"
    page_records_max: int = _PAGE_RECORDS_MAX
    page_bytes_max: int = 16 << 20
    """A page ends early, with a cursor, once its bodies and receipts exceed this."""
    page_time_ms: int = 2_000
    """A page that holds something ends, with a cursor, once finding more takes longer than this."""
    numbered_records_max: int = 100_000
    """How far page numbers reach; beyond it there are cursors and exports."""
    fetch_records_max: int = 128
    """Whole records taken from the database at once, four times as many where the last ones were small."""
    query_bytes_max: int = 16_384
    statement_timeout_ms: int = 10_000
    """How long a page is looked for that holds nothing yet, and any other statement takes."""
    connections_max: int = 10
    partitions_read_max: int = 32
    """Partitions that one statement may touch: it locks each with its indexes, and the server's table of locks is finite."""
    connect_timeout_ms: int = 5_000
    acquire_timeout_ms: int = 2_000
    """How long a request waits for a free connection."""
    token_cache_ms: int = 2_000
    """How long a revoked token may still work."""
    tokens_cached_max: int = 10_000
    requests_per_s: float = 50
    """What one token may ask, unless it has a rate of its own, …"""
    requests_burst: int = 200
    """… and how many at once after a pause."""
    retry_after_s: int = 2
    streams_max: int = 32
    """Exports and tails under way at a time, in one process."""
    export_records: int = 1_000
    """Records that an export holds in memory at a time."""
    export_retries: int = 5
    """How often an export waits `retry_after_s` for a database that is away before it breaks off."""
    tail_interval_ms: int = 1_000
    tail_lookback_ms: int = 30_000
    """Records that arrive later than this after their action are left to the list."""
    tail_records_max: int = 10_000
    """Ids of records that one tail remembers to have sent."""
    tail_heartbeat_ms: int = 15_000
    tail_time_ms: int = 3_600_000
    """After this a tail ends; clients go on from the last event's id."""
    summary_buckets_max: int = 1_000
    product_categories: Mapping[str, ProductCategory] = field(default_factory=dict)
    """By their value, in lower case."""
    organizations: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The accounts of each organization."""

    def __post_init__(self) -> None:
        if len(self.cursor_key) < _CURSOR_KEY_BYTES_MIN:
            raise StartupError(f"The log API's cursor key must have at least {_CURSOR_KEY_BYTES_MIN} bytes.")
        if self.prefix and (not self.prefix.startswith("/") or self.prefix.endswith("/")):
            raise StartupError("The log API's prefix must begin with a slash and not end with one.")
        if "{" in self.prefix or "}" in self.prefix:
            raise StartupError("The log API's prefix must not hold braces.")
        for one in fields(self):
            value = getattr(self, one.name)
            if isinstance(value, int) and value < 1:
                raise StartupError(f"The log API's {one.name} must be at least 1.")
        if self.requests_per_s <= 0:
            raise StartupError("The log API's requests_per_s must be more than 0.")
        if self.page_records_max > _PAGE_RECORDS_MAX:
            raise StartupError(f"The log API's page_records_max must be at most {_PAGE_RECORDS_MAX}.")
        if any(name != name.lower() for name in self.product_categories):
            raise StartupError("The log API's product categories must be named in lower case.")
        if not all(self.organizations.values()):
            raise StartupError("The log API's organizations must have at least one account each.")
