"""Bounds of the collector: settings where deployments differ, constants where they do not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from schemas.constants import Constant

CAPTURES_MAX: Final = 10_000
"""Captures in one batch. A decoded capture takes about 1 KiB besides its text, and all of a batch are in memory."""
READ_MS_MAX: Final = 10_000
"""Time for a body to arrive. A tap on a slow link sends small batches; a client that stalls must not keep its place."""


@dataclass(frozen=True)
class IntakeLimits:
    """What one request to the collector, and all requests together, may take."""

    batch_bytes_max: int = 16 * 1024 * 1024
    """Bytes of one request body as it arrives; longer ones are answered 413."""
    inflated_bytes_max: Constant[int] = 32 * 1024 * 1024
    """Bytes of a request body after gzip is undone: twice what an uncompressed one may have, so that compressing pays."""
    line_bytes_max: Constant[int] = 4 * 1024 * 1024
    """Bytes of one capture; longer ones are refused as `too_large`. Room for two bodies of 1 MiB, encoded, and headers."""
    requests_max: Constant[int] = 64
    """Requests in flight at once; more are answered 503. Memory is bounded by bytes; this bounds what waits for the log.
    Of this and of the bytes, each token, and each user on the Unix socket, gets a fair share."""
    in_flight_bytes_max: int = 128 * 1024 * 1024
    """Bytes of all request bodies in memory at once; more are answered 503. A token, or a user on the Unix socket, with several
    requests at once holds at most twice what is left for others."""
