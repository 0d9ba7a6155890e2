from __future__ import annotations

import gzip
import json
import zlib
from typing import Any

import cramjam
import pytest

from redactor.config import Limits
from redactor.decode.content_encodings import decode_content
from redactor.decode.json import Unusable
from schemas.event import BodyReason
from tests.unit.redactor.raw_bodies import recorded_of
from tests.unit.redactor.schemas import MARKED, an_object

SCHEMA = an_object(w=MARKED)
BODY = json.dumps({"w": "1", "x": "s"}).encode()


def raw_deflate(content: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(content) + stream.flush()


def br(content: bytes) -> bytes:
    return bytes(cramjam.brotli.compress(content))


def zstd(content: bytes) -> bytes:
    return bytes(cramjam.zstd.compress(content))


@pytest.mark.parametrize(
    ("codings", "body"),
    [
        ("identity", BODY),
        ("", BODY),
        ("gzip", gzip.compress(BODY)),
        ("X-GZip", gzip.compress(BODY)),
        ("gzip", gzip.compress(BODY[:5]) + gzip.compress(BODY[5:])),
        ("deflate", zlib.compress(BODY)),
        ("deflate", raw_deflate(BODY)),
        ("br", br(BODY)),
        ("zstd", zstd(BODY)),
        ("gzip, br", br(gzip.compress(BODY))),
        ("identity, gzip", gzip.compress(BODY)),
        (["zstd", "deflate"], zlib.compress(zstd(BODY))),
    ],
)
def test_codings_are_undone_in_reverse(codings: str | list[str], body: bytes) -> None:
    assert recorded_of(SCHEMA, body, codings=codings) == {"w": "1"}


@pytest.mark.parametrize(
    ("codings", "body"),
    [
        ("compress", BODY),
        ("gzip;q=1", gzip.compress(BODY)),
        ("gzip", BODY),
        ("gzip", b""),
        ("gzip", gzip.compress(BODY)[:-1]),
        ("gzip", gzip.compress(BODY)[:-8] + bytes(8)),
        ("gzip", gzip.compress(BODY) + b"rest"),
        ("deflate", zlib.compress(BODY) + b"rest"),
        ("deflate", BODY),
        ("br", br(BODY)[:-1]),
        ("zstd", zstd(BODY)[:-1]),
        ("zstd", zstd(BODY) + b"rest"),
        ("br, gzip", br(gzip.compress(BODY))),
        ("gzip, gzip, gzip, gzip, gzip", BODY),
    ],
)  # fmt: skip
def test_what_cannot_be_undone_is_dropped(codings: str, body: bytes) -> None:
    body = body or b"\x00"
    assert recorded_of(SCHEMA, body, codings=codings) is BodyReason.ENCODING


BOMB = bytes(64_000_000)


@pytest.mark.parametrize(
    ("codings", "bomb"),
    [
        (["gzip"], gzip.compress(BOMB)),
        (["gzip"], gzip.compress(bytes(600)) * 2),
        (["deflate"], zlib.compress(BOMB)),
        (["deflate"], raw_deflate(BOMB)),
        (["br"], br(BOMB)),
        (["zstd"], zstd(BOMB)),
        (["zstd"], zstd(bytes(600)) * 2),
        (["gzip", "gzip"], gzip.compress(gzip.compress(bytes(4_000_000)))),
        ([], bytes(1001)),
    ],
)
def test_bombs_are_too_large(codings: list[str], bomb: bytes) -> None:
    with pytest.raises(Unusable) as raised:
        decode_content(bomb, codings, 1000)
    assert raised.value.reason is BodyReason.TOO_LARGE


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
def test_what_just_fits_is_read(coding: str) -> None:
    encode: Any = {"gzip": gzip.compress, "deflate": zlib.compress, "br": br, "zstd": zstd}[coding]
    limits = Limits(body_bytes_max=len(BODY))
    assert recorded_of(SCHEMA, encode(BODY), codings=coding, limits=limits) == {"w": "1"}
    limits = Limits(body_bytes_max=len(BODY) - 1)
    assert recorded_of(SCHEMA, encode(BODY), codings=coding, limits=limits) is BodyReason.TOO_LARGE
