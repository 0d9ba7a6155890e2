"""`Content-Encoding` decoded within a bound: gzip, deflate, br, zstd (rule 9).

To support another encoding, add its decoder to `_DECODERS`. A decoder takes the content and the most bytes that it may
produce. It returns the decoded bytes or the reason why there are none, and must neither allocate much beyond that bound
nor accept bytes after the end of the data.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable

import cramjam

from redactor.decode.json import Unusable
from schemas.event import BodyReason

# The sender chooses how many codings it lists, and each may inflate to `bytes_max` again.
_CODINGS_MAX = 4
_GZIP, _RAW_DEFLATE = zlib.MAX_WBITS | 16, -zlib.MAX_WBITS
# cramjam's error for a full buffer; any other one means that the data is broken.
_BUFFER_FULL = "failed to write whole buffer"


def parse_content_codings(values: Iterable[str]) -> list[str]:
    """Return the codings that `Content-Encoding` headers list, in the order they were applied, without `identity`."""
    codings = (coding.strip(" \t").lower() for each in values for coding in each.split(","))
    return [coding for coding in codings if coding not in ("", "identity")]


def decode_content(content: bytes, codings: list[str], bytes_max: int) -> bytes:
    """Undo the codings of a body, the last applied first.

    Raises Unusable: `encoding` for an unknown coding, too many of them, broken data, or data followed by other bytes;
    `too_large` where any step yields more than `bytes_max`.
    """
    # Before any of them is undone, so that no work is done for a body that cannot be read.
    if len(codings) > _CODINGS_MAX or not all(coding in _DECODERS for coding in codings):
        raise Unusable(BodyReason.ENCODING)
    for coding in reversed(codings):
        decoded = _DECODERS[coding](content, bytes_max)
        if isinstance(decoded, BodyReason):
            raise Unusable(decoded)
        content = decoded
    if len(content) > bytes_max:
        raise Unusable(BodyReason.TOO_LARGE)
    return content


# Each stream copies all that follows it: thousands of tiny ones would take quadratic time.
_STREAMS_MAX = 16


def _gunzip(content: bytes, bytes_max: int) -> bytes | BodyReason:
    """Decode gzip, which may hold several streams in a row."""
    whole = b""
    for _ in range(_STREAMS_MAX):
        decoded = _inflate(content, _GZIP, bytes_max - len(whole))
        if isinstance(decoded, BodyReason):
            return decoded
        part, content = decoded
        whole += part
        if not content:
            return whole
    return BodyReason.ENCODING


def _undeflate(content: bytes, bytes_max: int) -> bytes | BodyReason:
    """Decode deflate, with the zlib header that RFC 9110 asks for, or without it, as some clients send it."""
    has_header = len(content) > 1 and content[0] & 15 == 8 and (content[0] << 8 | content[1]) % 31 == 0
    decoded = _inflate(content, zlib.MAX_WBITS if has_header else _RAW_DEFLATE, bytes_max)
    if isinstance(decoded, BodyReason):
        return decoded
    part, rest = decoded
    return BodyReason.ENCODING if rest else part


def _inflate(content: bytes, window_bits: int, bytes_max: int) -> tuple[bytes, bytes] | BodyReason:
    """Return the content of one stream, and the bytes that follow it."""
    stream = zlib.decompressobj(window_bits)
    try:
        # One byte above the bound, because content that just fits must also reach the end of its stream.
        part = stream.decompress(content, bytes_max + 1)
    except zlib.error:
        return BodyReason.ENCODING
    if len(part) > bytes_max:
        return BodyReason.TOO_LARGE
    return (part, stream.unused_data) if stream.eof else BodyReason.ENCODING


def _unbrotli(content: bytes, bytes_max: int) -> bytes | BodyReason:
    """Decode br. The decoder ignores bytes after the stream: they are there if it also succeeds without the last byte."""
    decoded = _BROTLI(content, bytes_max)
    if isinstance(decoded, BodyReason) or isinstance(_BROTLI(content[:-1], bytes_max), BodyReason):
        return decoded
    return BodyReason.ENCODING


def _into_buffer(decode: Callable[[bytes, bytearray], int]) -> Callable[[bytes, int], bytes | BodyReason]:
    def decoder(content: bytes, bytes_max: int) -> bytes | BodyReason:
        # Of a fixed size, because a decoder that allocates by itself is led by the data; one byte more shows that it is
        # too large.
        buffer = bytearray(bytes_max + 1)
        try:
            length = decode(content, buffer)
        except cramjam.DecompressionError as error:
            return BodyReason.TOO_LARGE if str(error) == _BUFFER_FULL else BodyReason.ENCODING
        return BodyReason.TOO_LARGE if length > bytes_max else bytes(buffer[:length])

    return decoder


_BROTLI = _into_buffer(cramjam.brotli.decompress_into)
_DECODERS: dict[str, Callable[[bytes, int], bytes | BodyReason]] = {
    "gzip": _gunzip,
    "x-gzip": _gunzip,
    "deflate": _undeflate,
    "br": _unbrotli,
    "zstd": _into_buffer(cramjam.zstd.decompress_into),
}
