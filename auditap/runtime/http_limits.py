"""Limits of the HTTP servers. They hold before a sender has shown a token ([ADR 0034](../../docs/adr/0034-limits-around-uvicorn.md))."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, NamedTuple

from pydantic import Field

from schemas.constants import Constant


@dataclass(frozen=True)
class HttpLimits:
    """Limits of every HTTP server: connections here, bytes and times as constants."""

    connections_max: Annotated[int, Field(ge=1)] = 1_024
    """Connections of one listener, fewer where the limit of open files asks for it. Beyond it, a new connection takes the
    place of one that waits for a request, of the address that has most of them; if none waits, it is closed."""
    connections_per_address_max: Annotated[int, Field(ge=1)] = 256
    """Connections from one IP address (IPv6: one network of 64 bits), likewise. Raise it to `connections_max` behind a
    proxy that brings all clients from one address."""

    # Twice what common proxies pass on, so that none of their requests is refused here.
    headers_bytes_max: Constant[int] = 64 * 1024
    headers_max: Constant[int] = 128
    # Twice the 8 KiB that RFC 9110 asks for: a log API's filters may name hundreds of ids.
    target_bytes_max: Constant[int] = 16 * 1024
    # A head is a few packets. Counted from the connection, or from the first byte of a later request.
    head_ms_max: Constant[int] = 10_000
    # Above `READ_MS_MAX` of the collector, which answers first.
    body_ms_max: Constant[int] = 30_000
    # Above the 60 s for which common proxies keep a connection: they close it, so none of their requests meets a closed one.
    idle_ms_max: Constant[int] = 75_000
    # Without any of 48 KiB read: slower than 1.6 KB/s.
    write_ms_max: Constant[int] = 30_000
    handshake_ms_max: Constant[int] = 10_000
    # Requests that wait for the response before theirs. Most clients send none.
    pipelined_max: Constant[int] = 16
    # The first chunks may be as small as they like; on average, chunks have at least so many bytes.
    small_chunks_max: Constant[int] = 1_024
    chunk_bytes_min: Constant[int] = 64


class EndReason(StrEnum):
    """Why the server ended a connection: a label of `auditap_http_connections_ended_total`."""

    DISPLACED = "displaced"
    HEADERS_BYTES = "headers_bytes"
    HEADERS = "headers"
    TARGET_BYTES = "target_bytes"
    HEAD_TIME = "head_time"
    BODY_TIME = "body_time"
    IDLE_TIME = "idle_time"
    WRITE_TIME = "write_time"
    TLS_HANDSHAKE = "tls_handshake"
    PIPELINED = "pipelined"
    SMALL_CHUNKS = "small_chunks"
    INVALID = "invalid"


class RefusalReason(StrEnum):
    """Why the server closed a connection as soon as it had come: a label of `auditap_http_connections_refused_total`."""

    CONNECTIONS = "connections_max"
    ADDRESS = "connections_per_address_max"
    DESCRIPTORS = "descriptors"


class Refusal(NamedTuple):
    """Why a request is not served, and the response, which is a constant."""

    reason: EndReason
    status: int
    sentence: str


HEADERS_BYTES = Refusal(EndReason.HEADERS_BYTES, 431, "The header fields are too long")
HEADERS = Refusal(EndReason.HEADERS, 431, "There are too many header fields")
TARGET_BYTES = Refusal(EndReason.TARGET_BYTES, 414, "The request target is too long")
HEAD_TIME = Refusal(EndReason.HEAD_TIME, 408, "The request did not arrive in time")
BODY_TIME = Refusal(EndReason.BODY_TIME, 408, "The body did not arrive in time")
PIPELINED = Refusal(EndReason.PIPELINED, 400, "Too many requests are pipelined")
SMALL_CHUNKS = Refusal(
    EndReason.SMALL_CHUNKS, 400, "The chunks of the body are too small, or hold too much beside it"
)
INVALID = Refusal(EndReason.INVALID, 400, "This is not an HTTP request")
