"""The settings of a tap, read once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .capture import HeaderSelection
from .client import CollectorAddress

REQUEST_HEADERS: Final = (
    "user-agent",
    "host",
    "cf-ray",
    "x-request-id",
    "content-type",
    "content-encoding",
    # These show the redactor that another method was asked for, whose operation is another one.
    "x-http-method-override",
    "x-http-method",
    "x-method-override",
    # Which client it was, where proxies stand before the service.
    "x-forwarded-for",
    "forwarded",
)
RESPONSE_HEADERS: Final = ("x-actor-*", "x-account-id", "content-type", "content-encoding", "content-length")
METHODS_WITHOUT_BODIES: Final = ("GET", "HEAD", "OPTIONS", "TRACE", "CONNECT")
DEFAULT_STATE_DIR: Final = "~/.local/state/auditap"


@dataclass(frozen=True)
class TapConfig:
    """What `AuditTapMiddleware` was configured with, checked and converted; its docstring describes each."""

    address: CollectorAddress
    tap_id: str
    headers: dict[str, str]
    queue_bytes_max: int
    body_bytes_max: int
    batch_pairs_max: int
    batch_bytes_max: int
    linger_s: float
    retry_s_max: float
    close_s_max: float
    heartbeat_s: float
    lease_ms: int
    state_dir: Path | None
    compress: bool
    request_headers: HeaderSelection
    response_headers: HeaderSelection
    methods_without_bodies: frozenset[str]
