"""Envoy's messages as bytes, written by protobuf's encoding alone, so that a wrong field number cannot agree with itself."""

from __future__ import annotations

import struct
from collections.abc import Mapping

Headers = Mapping[str, str]


def varint(number: int) -> bytes:
    written = bytearray()
    while number > 127:
        written.append(number & 127 | 128)
        number >>= 7
    written.append(number)
    return bytes(written)


def field(number: int, value: bytes | int) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def _double(number: int, value: float) -> bytes:
    return varint(number << 3 | 1) + struct.pack("<d", value)


def _header_map(headers: Headers, value_field: int) -> bytes:
    return b"".join(
        field(1, field(1, name.encode()) + field(value_field, value.encode()))
        for name, value in headers.items()
    )


def head(
    side: int, headers: Headers, *, is_last: bool = False, value_field: int = 3, rest: bytes = b""
) -> bytes:
    """A head: `side` is 2 for the request's and 3 for the response's."""
    lines = field(1, _header_map(headers, value_field))
    return field(side, lines + (field(3, 1) if is_last else b"")) + rest + field(10, 1)


def body(side: int, data: bytes, *, is_last: bool = False) -> bytes:
    """A piece of a body: `side` is 4 for the request's and 5 for the response's."""
    return field(side, field(1, data) + (field(2, 1) if is_last else b"")) + field(10, 1)


def trailers(side: int) -> bytes:
    """Trailers: `side` is 6 for the request's and 7 for the response's."""
    return field(side, field(1, _header_map({"grpc-status": "0"}, 3)))


def metadata(epoch: float, number: float) -> bytes:
    """The number of a request, as the settings in deploy/auditap_gateways/envoy have Envoy send it."""
    fields = _entry("epoch", _double(2, epoch)) + _entry("number", _double(2, number))
    return field(8, field(1, field(1, b"auditap") + field(2, fields)))


def attributes(**texts: str) -> bytes:
    fields = b"".join(_entry(name.replace("_", "."), field(3, text.encode())) for name, text in texts.items())
    return field(9, field(1, b"envoy.filters.http.ext_proc") + field(2, fields))


def _entry(name: str, value: bytes) -> bytes:
    return field(1, field(1, name.encode()) + field(2, value))
