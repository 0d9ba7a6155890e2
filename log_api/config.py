"""What an operator decides about the log API."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from schemas.errors import StartupError

_CURSOR_KEY_BYTES_MIN = 32
_PAGE_RECORDS_MAX = 1000


@dataclass(frozen=True, slots=True)
class LogApiConfig:
    """Every bound of the log API. Raises StartupError where a value cannot work."""

    cursor_key: bytes = field(repr=False)
    """Authenticates cursors; processes that share an address share it. At least 32 bytes."""
    prefix: str = "/client/v4"
    page_records_max: int = _PAGE_RECORDS_MAX
    page_bytes_max: int = 16 << 20
    """A page ends early, with a cursor, once its bodies and receipts exceed this."""
    fetch_records_max: int = 128
    """Rows taken from the database at once."""
    query_bytes_max: int = 16_384
    statement_timeout_ms: int = 10_000
    connections_max: int = 10
    connect_timeout_ms: int = 5_000
    acquire_timeout_ms: int = 2_000
    """How long a request waits for a free connection."""
    token_cache_ms: int = 2_000
    """How long a revoked token may still work."""
    tokens_cached_max: int = 10_000
    retry_after_s: int = 2
    product_categories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The products of each category; a category's name in lower case."""

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
        if self.page_records_max > _PAGE_RECORDS_MAX:
            raise StartupError(f"The log API's page_records_max must be at most {_PAGE_RECORDS_MAX}.")
        if any(name != name.lower() for name in self.product_categories):
            raise StartupError("The log API's product categories must be named in lower case.")
