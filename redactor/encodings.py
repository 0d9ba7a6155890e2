"""Content codings undone within a bound: gzip, deflate, br, zstd (rule 9). No bomb grows beyond the bound."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable

import cramjam

from redactor.wellformed import Unusable
from schemas.event import BodyReason

_CODINGS_MAX = 4
_GZIP, _RAW_DEFLATE = zlib.MAX_WBITS | 16, -zlib.MAX_WBITS
# The one error that a decoder makes of a bound that is reached; any other says that the data is broken.
_FULL = "failed to write whole buffer"


def listed_codings(values: Iterable[str]) -> list[str]:
    """Return the codings that `Content-Encoding` headers list, as they were applied; `identity` is none."""
    codings = (coding.strip(" \t").lower() for each in values for coding in each.split(","))
    return [coding for coding in codings if coding not in ("", "identity")]


def decode_content(content: bytes, codings: list[str], bytes_max: int) -> bytes:
    """Return what `content` was before the codings were applied, one after the other.

    Raises Unusable: `encoding` for a coding that is not known, or data that does not end where it should;
    `too_large` where that, or what one of them makes, is more than `bytes_max`.
    """
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


_STREAMS_MAX = 16


def _gunzip(content: bytes, bytes_max: int) -> bytes | BodyReason:
    """Decode gzip, which may be a few streams in a row; each more copies all that is left."""
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
    """Decode deflate: with the header that the standard asks for, or without, as some send it."""
    has_header = len(content) > 1 and content[0] & 15 == 8 and (content[0] << 8 | content[1]) % 31 == 0
    decoded = _inflate(content, zlib.MAX_WBITS if has_header else _RAW_DEFLATE, bytes_max)
    if isinstance(decoded, BodyReason):
        return decoded
    part, rest = decoded
    return BodyReason.ENCODING if rest else part


def _inflate(content: bytes, window_bits: int, bytes_max: int) -> tuple[bytes, bytes] | BodyReason:
    """Return one stream's content and what follows it."""
    stream = zlib.decompressobj(window_bits)
    try:
        # One byte more than may be, so that what just fits also ends.
        part = stream.decompress(content, bytes_max + 1)
    except zlib.error:
        return BodyReason.ENCODING
    if len(part) > bytes_max:
        return BodyReason.TOO_LARGE
    return (part, stream.unused_data) if stream.eof else BodyReason.ENCODING


def _unbrotli(content: bytes, bytes_max: int) -> bytes | BodyReason:
    """Decode br. Its decoder says nothing of what follows the stream: then the stream ends without the last byte, too."""
    decoded = _BROTLI(content, bytes_max)
    if isinstance(decoded, BodyReason) or isinstance(_BROTLI(content[:-1], bytes_max), BodyReason):
        return decoded
    return BodyReason.ENCODING


def _into_buffer(decode: Callable[[bytes, bytearray], int]) -> Callable[[bytes, int], bytes | BodyReason]:
    def decoder(content: bytes, bytes_max: int) -> bytes | BodyReason:
        buffer = bytearray(bytes_max + 1)
        try:
            length = decode(content, buffer)
        except cramjam.DecompressionError as error:
            return BodyReason.TOO_LARGE if str(error) == _FULL else BodyReason.ENCODING
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
