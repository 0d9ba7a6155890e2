"""A pair as one line of NDJSON: the contract `capture.schema.json`. Runs in the sender's thread."""

from __future__ import annotations

import base64
import json
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

if TYPE_CHECKING:  # a pair encodes itself by this module
    from .capture import BodyCopy, Pair, RawHeaders

_METHOD_CHARS_MAX: Final = 64
_CLIENT_IP_CHARS_MAX: Final = 64
_URL_CHARS_MAX: Final = 65_536
_UNKNOWN_HOST: Final = "unknown.invalid"
_HOST: Final = re.compile(rb"(?:[A-Za-z0-9._\-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
_URL_SAFE: Final = "!$%&'()*+,/:;=@[]~"
_AFTER_PATH: Final = re.compile("[?#]")


def encode_pair(pair: Pair, tap_id: str, epoch: int) -> bytes:
    """Return the pair as one line, line end included."""
    capture: dict[str, Any] = {
        "id": pair.id,
        "tap": {"id": tap_id, "epoch": epoch, "seq": pair.seq},
        "captured_at": _rfc3339(pair.at_ms),
        "duration_ms": round(pair.duration_ms, 3),
        "request": {
            "method": pair.method[:_METHOD_CHARS_MAX],
            "url": _url(pair),
            "headers": _header_fields(pair.request_headers),
            **_body_fields(pair.request_body),
        },
        "response": {
            "status": pair.status,
            "headers": _header_fields(pair.response_headers),
            **_body_fields(pair.response_body),
            "complete": pair.complete,
        },
    }
    if pair.client and pair.client[0]:
        capture["client_ip"] = str(pair.client[0])[:_CLIENT_IP_CHARS_MAX]
    return json.dumps(capture, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _rfc3339(at_ms: int) -> str:
    seconds, ms = divmod(at_ms, 1000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{ms:03d}Z"


def _body_fields(body: BodyCopy) -> dict[str, Any]:
    if body.not_read:
        # Truncated as well, for collectors that do not know `not_read`.
        return {"truncated": True, "not_read": True}
    if body.truncated:
        return {"truncated": True}
    if not body.data:
        return {}
    try:
        return {"body": body.data.decode()}
    except UnicodeDecodeError:
        return {"body_base64": base64.b64encode(body.data).decode()}


def _header_fields(headers: RawHeaders) -> dict[str, str | list[str]]:
    """Return headers by name; a repeated one has a list of values."""
    fields: dict[str, str | list[str]] = {}
    for raw_name, raw_value in headers:
        name, value = raw_name.decode("latin-1"), _header_text(raw_value)
        before = fields.get(name)
        if before is None:
            fields[name] = value
        elif isinstance(before, str):
            fields[name] = [before, value]
        else:
            before.append(value)
    return fields


def _header_text(value: bytes) -> str:
    """Return a header's value. Names of actors arrive as UTF-8, which HTTP does not name; all else is Latin-1."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _url(pair: Pair) -> str:
    """Return the URL. It is always absolute, so that neither path nor Host header can pass for another part of it."""
    path = pair.path.partition(b"?")[0] if isinstance(pair.path, bytes) else pair.path
    url = f"{pair.scheme}://{_authority(pair)}/{quote(path, safe=_URL_SAFE).removeprefix('/')}"
    return bounded_url(f"{url}?{quote(pair.query, safe=_URL_SAFE + '?')}" if pair.query else url)


def bounded_url(url: str) -> str:
    """Return the URL, as `altered_url` does if it is too long for a capture."""
    return url if len(url) <= _URL_CHARS_MAX else altered_url(url)


def altered_url(url: str) -> str:
    """Return the URL of a request of which not all is known, without its query and with the segment `.` at the end of its path.

    What was cut off may ask for another method, or make another path. With this segment, no operation applies as the URL is
    written, so that no bodies are recorded, and the account is still found.
    """
    return f"{_AFTER_PATH.split(url, 1)[0][: _URL_CHARS_MAX // 2]}/."


def _authority(pair: Pair) -> str:
    if len(pair.host) == 1 and _HOST.fullmatch(pair.host[0]):
        return pair.host[0].decode("ascii")
    if pair.host or not pair.server or pair.server[1] is None:
        return _UNKNOWN_HOST
    host, port = pair.server
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
