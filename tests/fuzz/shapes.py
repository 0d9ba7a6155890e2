"""Hostile shapes by name: what a client or service might send, and the clear result that each must have."""

from __future__ import annotations

import base64
import gzip
import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import cramjam
from typing_extensions import Buffer

from redactor.config import RedactionConfig
from redactor.pipeline.redactor import Redactor
from schemas.capture import Capture, CapturedRequest, CapturedResponse, Headers
from schemas.event import BodyReason, UnmatchedReason
from tests.unit.redactor.documents import a_document
from tests.unit.redactor.pairs import a_redactor
from tests.unit.redactor.schemas import MARKED, TEXT, Node, an_object

JSON = "application/json"
NDJSON = "application/x-ndjson"
FORM = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data"

_SCHEMA: Node = an_object(
    name=MARKED,
    count={"type": "number", "x-auditable": True},
    on={"type": "boolean", "x-auditable": True},
    tags={"type": "array", "items": MARKED},
    free={"type": "object", "x-auditable": True},
    labels={"type": "object", "x-auditable": True, "additionalProperties": MARKED},
    tree={"$ref": "#/components/schemas/Tree"},
    secret=TEXT,
    either={"oneOf": [an_object(name=MARKED, kind=TEXT), an_object(name=MARKED, size={"type": "integer"})]},
)
_QUERY: list[Node] = [
    {"name": "q", "in": "query", "schema": MARKED},
    {"name": "tags", "in": "query", "schema": {"type": "array", "items": MARKED}},
    {"name": "list", "in": "query", "explode": False, "schema": {"type": "array", "items": MARKED}},
    {"name": "deep", "in": "query", "style": "deepObject", "schema": an_object(a=MARKED, b=TEXT)},
    {"name": "flat", "in": "query", "explode": False, "schema": an_object(c=MARKED, d=TEXT)},
]


def document() -> Node:
    content = {media: {"schema": _SCHEMA} for media in (JSON, NDJSON, FORM, MULTIPART)}
    operation = {"operationId": "op", "requestBody": {"content": content}, "parameters": _QUERY}
    operation["responses"] = {"default": {"content": content}}
    tree = an_object(name=MARKED, below={"type": "array", "items": {"$ref": "#/components/schemas/Tree"}})
    paths = {
        "/things": {
            "post": operation,
            "put": operation | {"operationId": "replace"},
            "get": {"operationId": "list"},
        },
        "/things/{name}": {"post": operation | {"operationId": "one"}},
    }
    return a_document(paths, components={"schemas": {"Tree": tree}})


def redactor(**settings: Any) -> Redactor:
    """Return a redactor for the document above that does not hide its failures."""
    return a_redactor(document(), **settings)


def config(**settings: Any) -> RedactionConfig:
    return RedactionConfig(**settings)


def capture(
    body: bytes | None = b"{}",
    *,
    method: str = "POST",
    url: str = "/things",
    headers: Headers | None = None,
    media: str = JSON,
    status: int = 200,
) -> Capture:
    """Return a pair whose request and response have the same body."""
    framing: Headers = {"content-type": media, **(headers or {})}
    text = None if body is None else base64.b64encode(body).decode()
    return Capture(
        CapturedRequest(method, url, framing, body_base64=text),
        CapturedResponse(status, framing, body_base64=text),
    )


@dataclass(frozen=True)
class Expected:
    """The clear result: of both bodies, of matching, and the recorded path where that is what matters."""

    reason: BodyReason | None = None
    kept: int | None = None
    unmatched: UnmatchedReason | None = None
    uri: str | None = None


def written(value: Any) -> bytes:
    return json.dumps(value).encode()


def _of_secrets(text: str) -> bytes:
    return f'{{"secret": {text}, "name": "a"}}'.encode()


MALFORMED, TOO_DEEP, TOO_LARGE = BodyReason.MALFORMED, BodyReason.TOO_DEEP, BodyReason.TOO_LARGE
BODIES: Mapping[str, tuple[bytes, Expected]] = {
    "depth 100,000": (b"[" * 100_000 + b"]" * 100_000, Expected(TOO_DEEP)),
    "depth 100,000, never closed": (b"[" * 100_000, Expected(MALFORMED)),
    "depth 100,000 of objects": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, Expected(TOO_DEEP)),
    "depth 100,000 in what is not kept": (_of_secrets("[" * 100_000 + "]" * 100_000), Expected(TOO_DEEP)),
    "depth 100,000 within a string": (_of_secrets(f'"{"[" * 100_000}"'), Expected(kept=1)),
    "depth 64": (b'{"secret":' + b"[" * 63 + b"]" * 63 + b"}", Expected(kept=0)),
    "depth 65": (b'{"secret":' + b"[" * 64 + b"]" * 64 + b"}", Expected(TOO_DEEP)),
    "a number of 50 MB": (b'{"count": ' + b"9" * 50_000_000 + b"}", Expected(TOO_LARGE)),
    "a number of 1 MB": (b'{"count": ' + b"9" * 1_000_000 + b"}", Expected(kept=0)),
    "a number of 1 MB that is not kept": (_of_secrets("-" + "9" * 1_000_000), Expected(kept=1)),
    "an exponent of 1 MB": (b'{"count": 1e' + b"9" * 1_000_000 + b"}", Expected(kept=0)),
    "a key twice, first of another type": (b'{"name": {"x": 1}, "name": "a"}', Expected(kept=1)),
    "a key twice, last of another type": (b'{"name": "a", "name": {"x": 1}}', Expected(kept=0)),
    "a key 100,000 times": (b"{" + b'"name":"a",' * 99_999 + b'"name":1}', Expected(TOO_LARGE)),
    "a key 50,000 times": (b"{" + b'"name":"a",' * 49_999 + b'"name":1}', Expected(kept=0)),
    "a lone high surrogate": (b'{"name": "\\ud800"}', Expected(MALFORMED)),
    "a lone low surrogate": (b'{"name": "\\udc00"}', Expected(MALFORMED)),
    "a lone surrogate in a key that is not kept": (b'{"\\ud800": 1}', Expected(MALFORMED)),
    "a lone surrogate before another escape": (b'{"secret": "\\ud800", "name": "\\n"}', Expected(MALFORMED)),
    "a lone surrogate as bytes": (b'{"name": "\xed\xa0\x80"}', Expected(MALFORMED)),
    "a pair of surrogates": (b'{"name": "\\ud83d\\ude00"}', Expected(kept=1)),
    "NUL, escaped": (b'{"name": "a\\u0000b"}', Expected(kept=1)),
    "NUL, raw": (b'{"name": "a\0b"}', Expected(MALFORMED)),
    "NUL behind the end": (b'{"name": "a"}\0', Expected(MALFORMED)),
    "a BOM": (b'\xef\xbb\xbf{"name": "a"}', Expected(MALFORMED)),
    "UTF-16": ('{"name": "a"}'.encode("utf-16"), Expected(MALFORMED)),
    "UTF-16 without a BOM": ('{"name": "a"}'.encode("utf-16-be"), Expected(MALFORMED)),
    "UTF-32": ('{"name": "a"}'.encode("utf-32"), Expected(MALFORMED)),
    "overlong UTF-8": (b'{"name": "\xc0\xaf"}', Expected(MALFORMED)),
    "NaN": (b'{"count": NaN}', Expected(MALFORMED)),
    "Infinity in what is not kept": (_of_secrets("-Infinity"), Expected(MALFORMED)),
    "a number with a leading zero": (b'{"count": 01}', Expected(MALFORMED)),
    "a trailing comma": (b'{"name": "a",}', Expected(MALFORMED)),
    "a comment": (b'{"name": "a"} // x', Expected(MALFORMED)),
    "two values": (b'{"name": "a"}{"name": "b"}', Expected(MALFORMED)),
    "nothing but spaces": (b" " * 100_000, Expected(MALFORMED)),
    "1 MB of quotes": (b'"' * 1_000_000, Expected(MALFORMED)),
    "1 MB of backslashes": (b'{"name": "' + b"\\" * 1_000_000 + b'"}', Expected(kept=1)),
    "1 MB of surrogate pairs": (b'{"name": "' + b"\\ud83d\\ude00" * 80_000 + b'"}', Expected(kept=1)),
    "100,000 elements of another type": (b'{"tags": [' + b"1," * 99_999 + b"1]}", Expected(kept=0)),
    "50,000 map keys": (
        written({"labels": {f"k{number}": "v" for number in range(50_000)}}),
        Expected(kept=50_000),
    ),
    "a free-form object over its limit": (written({"free": {"a": "x" * 70_000}}), Expected(kept=0)),
    "a tree of depth 60": (b'{"tree":' + b'{"below":[' * 30 + b"]}" * 30 + b"}", Expected(kept=0)),
    "a composed value that no branch fits": (b'{"either": ["a"]}', Expected(kept=0)),
    "an array where an object is due": (b'["a"]', Expected(kept=0)),
    "a scalar where an object is due": (b'"a"', Expected(kept=0)),
    "null": (b"null", Expected(kept=0)),
}


def _bomb(pack: Callable[[bytes], Buffer], bytes_total: int = 200_000_000) -> bytes:
    return bytes(pack(bytes(bytes_total)))


ENCODED: Mapping[str, tuple[str, Callable[[], bytes], Expected]] = {
    "a gzip bomb": ("gzip", lambda: _bomb(lambda text: gzip.compress(text, 1)), Expected(TOO_LARGE)),
    "a deflate bomb": ("deflate", lambda: _bomb(lambda text: zlib.compress(text, 1)), Expected(TOO_LARGE)),
    "a zstd bomb": ("zstd", lambda: _bomb(lambda text: cramjam.zstd.compress(text, 3)), Expected(TOO_LARGE)),
    "a br bomb": ("br", lambda: _bomb(lambda text: cramjam.brotli.compress(text, 1)), Expected(TOO_LARGE)),
    "a gzip bomb within gzip": (
        "gzip, gzip",
        lambda: gzip.compress(_bomb(lambda text: gzip.compress(text, 1))),
        Expected(TOO_LARGE),
    ),
    "gzip that is none": ("gzip", lambda: b"\x1f\x8b\x08 none", Expected(BodyReason.ENCODING)),
    "gzip cut short": ("gzip", lambda: gzip.compress(b'{"name": "a"}')[:-4], Expected(BodyReason.ENCODING)),
    "zstd that is none": ("zstd", lambda: b"\x28\xb5\x2f\xfd none", Expected(BodyReason.ENCODING)),
    "br that is none": ("br", lambda: b"\xff" * 64, Expected(BodyReason.ENCODING)),
    "100 codings": (", ".join(["gzip"] * 100), lambda: b"{}", Expected(BodyReason.ENCODING)),
    "a coding that nobody knows": ("gzip, x-own", lambda: b"{}", Expected(BodyReason.ENCODING)),
    "gzip as it should be": ("gzip", lambda: gzip.compress(b'{"name": "a"}'), Expected(kept=1)),
}

INVALID, NO_PATH = UnmatchedReason.INVALID_PATH, UnmatchedReason.NO_PATH
PATHS: Mapping[str, tuple[str, Expected]] = {
    "..": ("/things/..", Expected(unmatched=INVALID)),
    ".. before": ("/x/../things", Expected(unmatched=INVALID)),
    "%2e%2e": ("/things/%2e%2e", Expected(unmatched=INVALID)),
    "%2E": ("/%2E/things", Expected(unmatched=INVALID)),
    "%252e%252e": ("/things/%252e%252e", Expected(unmatched=INVALID)),
    ";v=1": ("/things;v=1", Expected(unmatched=INVALID)),
    ";v=1 in a variable": ("/things/a;v=1", Expected(unmatched=INVALID)),
    "%3Bv=1": ("/things/a%3Bv=1", Expected(unmatched=INVALID)),
    "//": ("//things", Expected(unmatched=INVALID)),
    "// within": ("/things//a", Expected(unmatched=INVALID)),
    "a trailing slash": ("/things/", Expected(unmatched=INVALID)),
    "mixed case": ("/Things", Expected(unmatched=NO_PATH)),
    "a slash encoded": ("/things%2Fa", Expected(unmatched=INVALID)),
    "a backslash": ("/things\\a", Expected(unmatched=INVALID)),
    "a backslash encoded": ("/things/a%5Cb", Expected(unmatched=INVALID)),
    "NUL encoded": ("/things/a%00", Expected(unmatched=INVALID)),
    "a line end encoded": ("/things/a%0d%0aX: y", Expected(unmatched=INVALID)),
    "an escape that is none": ("/things/%zz", Expected(unmatched=INVALID)),
    "an escape that is not UTF-8": ("/things/%ff", Expected(unmatched=INVALID)),
    "overlong UTF-8 for a dot": ("/things/%c0%ae", Expected(unmatched=INVALID)),
    "full-width letters": ("/\uff54hings", Expected(unmatched=NO_PATH)),
    "letters encoded": ("/%74hings", Expected(kept=1, uri="/things")),
    "a query in the path": ("/things%3Fq=1", Expected(unmatched=NO_PATH)),
    "no path": ("?q=1", Expected(unmatched=INVALID)),
    "a path that does not begin": ("things", Expected(unmatched=INVALID)),
    "64 KB of path": ("/" + "a/" * 32_000, Expected(unmatched=INVALID)),
    "60 KB of one segment": ("/things/" + "a" * 60_000, Expected(kept=1, uri="/things/{name}")),
    "20,000 dots": ("/things/" + "." * 20_000, Expected(kept=1, uri="/things/{name}")),
}

OVERRIDE = Expected(unmatched=UnmatchedReason.METHOD_OVERRIDE)
HEADERS: Mapping[str, tuple[Headers, Expected]] = {
    "a method override": ({"X-HTTP-Method-Override": "GET"}, OVERRIDE),
    "a method override in other case": ({"x-hTTP-mETHOD": "GET"}, OVERRIDE),
    "two content types": ({"Content-Type": "text/plain"}, Expected(BodyReason.MEDIA_TYPE)),
    "a content type twice": ({"content-type": [JSON, JSON]}, Expected(BodyReason.MEDIA_TYPE)),
    "a content type with a line end": ({"content-type": f"{JSON}\r\nx: y"}, Expected(BodyReason.MEDIA_TYPE)),
    "a content type of 1 MB": ({"content-type": "a" * 1_000_000}, Expected(BodyReason.MEDIA_TYPE)),
    "a content type with parameters": ({"content-type": f"{JSON};" + "a=b;" * 10_000}, Expected(kept=1)),
    "10,000 headers": ({f"x-{number}": "v" for number in range(10_000)}, Expected(kept=1)),
    "a header 10,000 times": ({"x-request-id": ["a"] * 10_000}, Expected(kept=1)),
    "a header's name with a line end": ({"x-request-id\r\nx": "v", "": "v", "\0": "v"}, Expected(kept=1)),
    "a letter that is lowered to k": ({"x-re\u212auest-id": "v", "user-agent\u0130": "v"}, Expected(kept=1)),
}
INJECTED = ["a\r\nx-actor-id: root", "a\nb", "a\0b", "a\x1b[31mb", "\x85", "\ud800", "a" * 2_000]

QUERIES: Mapping[str, tuple[str, str]] = {
    "a scalar": ("q=a%20b", "q=a%20b"),
    "a scalar twice": ("q=a&q=b", ""),
    "a scalar twice, once encoded": ("q=a&%71=b", ""),
    "a scalar and its brackets": ("q=a&q[]=b", "q=a"),
    "a semicolon": ("q=a;secret=b", ""),
    "a semicolon encoded": ("q=a%3Bsecret=b", ""),
    "an escape that is none": ("q=%zz", ""),
    "not UTF-8": ("q=%ff", ""),
    "NUL": ("q=%00", "q=%00"),
    "an ampersand encoded": ("q=a%26secret=b", "q=a%26secret%3Db"),
    "elements": ("tags=a&tags=b", "tags=a&tags=b"),
    "elements between commas": ("tags=a,b", ""),
    "a list": ("list=a,b", "list=a%2Cb"),
    "a list with a comma encoded": ("list=a%2Cb,c", ""),
    "a list between pipes": ("list=a|b", ""),
    "a deep object": ("deep[a]=x&deep[b]=y&deep[c]=z", "deep%5Ba%5D=x"),
    "a deeper object": ("deep[a][b]=x", ""),
    "a deep object that never closes": ("deep[a=x", ""),
    "a flat object": ("flat=c,x,d,y", "flat=c,x"),
    "a flat object with a name twice": ("flat=c,x,c,y", ""),
    "a flat object cut short": ("flat=c,x,d", ""),
    "an override": ("_method=GET", ""),
    "60 KB of ampersands": ("&" * 60_000, ""),
    "30,000 equals signs": ("q" + "=" * 30_000, ""),
}


@dataclass(frozen=True)
class Scaled:
    """A shape that can be made of any size, to see that its time grows no faster than its size."""

    make: Callable[[int], bytes]
    media: str = JSON
    headers: Headers = field(default_factory=dict)


_B = "B" * 20
SCALED: Mapping[str, Scaled] = {
    "brackets": Scaled(lambda n: b"[" * (n // 2) + b"]" * (n // 2)),
    "brackets never closed": Scaled(lambda n: b"[" * n),
    "quotes": Scaled(lambda n: b'"' * n),
    "backslashes": Scaled(lambda n: b'{"name": "' + b"\\" * (n // 2 * 2) + b'"}'),
    "escaped quotes, too deep": Scaled(lambda n: b"[" * 70 + b'"' + b'\\"' * (n // 2)),
    "surrogates": Scaled(lambda n: b'{"name": "' + b"\\ud83d\\ude00" * (n // 12) + b'"}'),
    "digits": Scaled(lambda n: b'{"count": ' + b"9" * n + b"}"),
    "digits too deep": Scaled(lambda n: b"[" * 70 + b"9" * n + b"]" * 70),
    "a key repeated": Scaled(lambda n: b"{" + b'"name":1,' * (n // 9) + b'"name":1}'),
    "keys unknown": Scaled(lambda n: written({f"key{number}": 1 for number in range(n // 15)})),
    "map keys": Scaled(lambda n: written({"labels": {f"key{number}": "v" for number in range(n // 16)}})),
    "a free form": Scaled(lambda n: written({"free": {f"key{number}": "v" for number in range(n // 16)}})),
    "elements": Scaled(lambda n: written({"tags": ["a"] * (n // 5)})),
    "a wide tree": Scaled(lambda n: written({"tree": {"below": [{"name": "a"}] * (n // 15)}})),
    "composed": Scaled(
        lambda n: written({"either": {"name": "a", **{f"key{number}": 1 for number in range(n // 14)}}})
    ),
    "spaces": Scaled(lambda n: b"{" + b" " * n + b"}"),
    "lines": Scaled(lambda n: b'{"name":"a"}\n' * (n // 13), NDJSON),
    "blank lines": Scaled(lambda n: b"\n" * n, NDJSON),
    "form fields": Scaled(lambda n: b"name=a&" * (n // 7), FORM),
    "form separators": Scaled(lambda n: b"&" * n, FORM),
    "form escapes": Scaled(lambda n: b"name=" + b"%41" * (n // 3), FORM),
    "parts": Scaled(
        lambda n: (
            (f'--{_B}\r\nContent-Disposition: form-data; name="name"\r\n\r\na\r\n' * (n // 80)).encode()
            + f"--{_B}--\r\n".encode()
        ),
        f"{MULTIPART}; boundary={_B}",
    ),
    "boundaries alone": Scaled(lambda n: f"--{_B}\r\n".encode() * (n // 24), f"{MULTIPART}; boundary={_B}"),
    "dashes": Scaled(lambda n: b"-" * n, f"{MULTIPART}; boundary={'-' * 60}"),
    "part headers": Scaled(
        lambda n: f"--{_B}\r\n".encode() + b"a: b\r\n" * (n // 6) + f"\r\n--{_B}--\r\n".encode(),
        f"{MULTIPART}; boundary={_B}",
    ),
    "a disposition": Scaled(
        lambda n: (
            f"--{_B}\r\nContent-Disposition: form-data".encode()
            + b'; a="b' * (n // 6)
            + f"\r\n\r\n\r\n--{_B}--".encode()
        ),
        f"{MULTIPART}; boundary={_B}",
    ),
    "gzip members": Scaled(lambda n: gzip.compress(b"", 1) * (n // 20), headers={"content-encoding": "gzip"}),
    "zstd frames": Scaled(
        lambda n: bytes(cramjam.zstd.compress(b"")) * (n // 13), headers={"content-encoding": "zstd"}
    ),
}
