"""Pairs that every format is asked to carry, as they were on the wire, and the capture that a perfect tap makes of each."""

from __future__ import annotations

import base64
import gzip
import json
from dataclasses import dataclass, replace
from enum import Enum, auto

from schemas.capture import Capture, CapturedRequest, CapturedResponse, Headers
from schemas.identity import rfc3339_ms

BODY = {"status": "shipped", "card_number": "4111111111111111"}
BODY_BYTES = json.dumps(BODY).encode()
JSON_TYPE = ("content-type", "application/json")


class Ability(Enum):
    """What a pair asks of a format, beyond method, URL, headers, status and time."""

    BODIES = auto()
    """Bodies that are UTF-8."""
    ANY_BYTES = auto()
    """Bodies that are not, such as compressed ones."""
    REPEATED_HEADERS = auto()
    CUT_BODIES = auto()
    """Bodies of which the gateway kept the beginning."""
    WRONG_CODING = auto()
    """A request's body that is not in the coding that its header names."""
    INCOMPLETE = auto()
    """Whether the response ended."""


@dataclass(frozen=True)
class Pair:
    """A pair. A body is None if there was none; `request_kept` and `response_kept`: how many bytes of it the gateway kept."""

    name: str
    needs: frozenset[Ability] = frozenset()
    method: str = "POST"
    target: str = "/orders/1042?note=a%20b"
    request_headers: tuple[tuple[str, str], ...] = ()
    request_body: bytes | None = None
    request_kept: int | None = None
    status: int = 200
    response_headers: tuple[tuple[str, str], ...] = ()
    response_body: bytes | None = None
    response_kept: int | None = None
    is_complete: bool = True
    client_ip: str = "203.0.113.9"
    started_ms: int = 1_769_192_714_749
    duration_ms: int = 12
    request_id: str = "5f0c7127f61a4a2f"

    @property
    def sent_request_headers(self) -> list[tuple[str, str]]:
        """The header lines of the request, with those that every pair has."""
        lines = [("host", "api.example.com"), *self.request_headers, ("x-request-id", self.request_id)]
        if self.request_body is not None:
            lines.append(("content-length", str(len(self.request_body))))
        return lines

    @property
    def sent_response_headers(self) -> list[tuple[str, str]]:
        """The header lines of the response."""
        lines = [*self.response_headers, ("x-account-id", "acme"), ("x-actor-id", "bo")]
        if self.status != 204:
            lines.append(("content-length", str(len(self.response_body or b""))))
        return lines

    @property
    def kept_request_body(self) -> bytes | None:
        """What the gateway kept of the request's body."""
        return self.request_body if self.request_body is None else self.request_body[: self.request_kept]

    @property
    def kept_response_body(self) -> bytes | None:
        """What the gateway kept of the response's body."""
        return self.response_body if self.response_body is None else self.response_body[: self.response_kept]

    @property
    def capture(self) -> Capture:
        """The capture that a perfect tap makes of the pair."""
        request = CapturedRequest(
            self.method,
            "https://api.example.com" + self.target,
            joined(self.sent_request_headers),
            *_body(self.kept_request_body),
            truncated=self.kept_request_body != self.request_body,
        )
        response = CapturedResponse(
            self.status,
            joined(self.sent_response_headers),
            *_body(self.kept_response_body),
            truncated=self.kept_response_body != self.response_body,
            complete=self.is_complete,
        )
        return Capture(
            request,
            response,
            captured_at=rfc3339_ms(self.started_ms),
            duration_ms=self.duration_ms,
            client_ip=self.client_ip,
        )


def joined(lines: list[tuple[str, str]]) -> Headers:
    """Return headers, of which one with several lines is a list."""
    values: dict[str, list[str]] = {}
    for name, value in lines:
        values.setdefault(name.lower(), []).append(value)
    return {name: found[0] if len(found) == 1 else found for name, found in values.items()}


def _body(content: bytes | None) -> tuple[str | None, str | None]:
    if content is None:
        return None, None
    try:
        return content.decode(), None
    except UnicodeDecodeError:
        return None, base64.b64encode(content).decode()


_BODIES = frozenset({Ability.BODIES})
_POST = Pair("a JSON POST", _BODIES, request_headers=(JSON_TYPE,), request_body=BODY_BYTES,
             response_headers=(JSON_TYPE,), response_body=BODY_BYTES)  # fmt: skip
_GZIPPED = gzip.compress(BODY_BYTES, mtime=0)
_GZIP_HEADERS = (JSON_TYPE, ("content-encoding", "gzip"))

_PAIRS = [
    _POST,
    Pair("a GET", _BODIES, method="GET", response_headers=(JSON_TYPE,), response_body=BODY_BYTES),
    Pair("an empty body", _BODIES, request_body=b"", response_body=b""),
    replace(_POST, name="a text that is not ASCII", request_body='{"status": "größer 漢字 \\" / \t"}'.encode()),
    replace(_POST, name="control characters", request_body=b'{"status": "\\u0000 \x7f"}\r\n'),
    replace(_POST, name="a binary body", needs=_BODIES | {Ability.ANY_BYTES}, request_body=bytes(range(256))),
    replace(_POST, name="a gzip body", needs=_BODIES | {Ability.ANY_BYTES},
            request_headers=_GZIP_HEADERS, request_body=_GZIPPED,
            response_headers=_GZIP_HEADERS, response_body=_GZIPPED),
    replace(_POST, name="a coding that the client only claims", needs=_BODIES | {Ability.WRONG_CODING},
            request_headers=_GZIP_HEADERS),
    replace(_POST, name="repeated headers", needs=_BODIES | {Ability.REPEATED_HEADERS},
            request_headers=(JSON_TYPE, ("x-forwarded-for", "198.51.100.1"), ("x-forwarded-for", "198.51.100.2")),
            response_headers=(JSON_TYPE, ("set-cookie", "a=1"), ("set-cookie", "b=2"))),
    Pair("a 204", method="DELETE", status=204),
    Pair("a HEAD", method="HEAD", response_headers=(JSON_TYPE,)),
    Pair("a 304", method="GET", status=304),
    replace(_POST, name="a body cut off", needs=_BODIES | {Ability.CUT_BODIES}, request_kept=20, response_kept=20),
    replace(_POST, name="cut inside of a character", needs=_BODIES | {Ability.CUT_BODIES, Ability.ANY_BYTES},
            request_body='{"status": "ü"}'.encode(), request_kept=13),
    replace(_POST, name="bodies kept by no one", needs=_BODIES | {Ability.CUT_BODIES}, request_kept=0, response_kept=0),
    Pair("a URL beyond ASCII", _BODIES, target="/orders/gr%C3%B6%C3%9Fer?note=%E6%BC%A2",
         request_headers=(JSON_TYPE,), request_body=BODY_BYTES),
    replace(_POST, name="an incomplete response", needs=_BODIES | {Ability.INCOMPLETE},
            response_kept=10, is_complete=False),
    replace(_POST, name="a client with an IPv6 address", client_ip="2001:db8::1"),
    replace(_POST, name="a failure", status=503, response_body=b"upstream\n", response_headers=(("content-type", "text/plain"),)),
]  # fmt: skip

PAIRS = [replace(pair, request_id=f"5f0c7127f61a{number:04x}") for number, pair in enumerate(_PAIRS)]
