"""Formats as their gateways write them: the encoders here stand for the gateways, so they share no code with the decoders.

Who adds a format adds its encoder, and one line in `FORMATS`.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from gateway_tap.formats.apisix import APISIX
from gateway_tap.formats.caddy import CADDY
from gateway_tap.formats.haproxy import HAPROXY
from gateway_tap.formats.har import HAR
from gateway_tap.formats.kong import KONG
from gateway_tap.formats.mitmproxy import MITMPROXY
from gateway_tap.formats.own import OWN
from gateway_tap.formats.port import GatewayFormat
from gateway_tap.formats.tnetstrings import parse
from gateway_tap.formats.tyk import TYK
from tests.gateway_formats.pairs import Ability, Pair, joined

ALL = frozenset(Ability)


def _parse_latin(text: bytes) -> Any:
    return json.loads(text.decode("latin-1"))


def _write_latin(value: Any) -> bytes:
    return json.dumps(value).encode()


@dataclass(frozen=True)
class FormatUnderTest:
    """A format, what its gateway makes of a pair, and what this format can carry.

    `join` puts texts together as the gateway does; it returns the body and its content type. `has_origin`: the URL is absolute.
    `is_in_file`: one text alone is not a body. `parse` and `write`: a text as JSON values and back, to change it.
    """

    format: GatewayFormat
    encode: Callable[[Pair], bytes]
    join: Callable[[Sequence[bytes]], tuple[bytes, str]]
    abilities: frozenset[Ability] = ALL
    has_origin: bool = True
    has_client_ip: bool = True
    is_in_file: bool = False
    name: str = ""
    parse: Callable[[bytes], Any] = _parse_latin
    write: Callable[[Any], bytes] = _write_latin

    def __str__(self) -> str:
        return self.name or self.format.name


def _array(texts: Sequence[bytes]) -> tuple[bytes, str]:
    return b"[" + b",".join(texts) + b"]", "application/json"


def _lines(texts: Sequence[bytes]) -> tuple[bytes, str]:
    return b"\n".join(texts), "application/x-ndjson"


# auditap's own


def own(pair: Pair) -> bytes:
    def message(headers: list[tuple[str, str]], content: bytes | None, whole: bytes | None) -> dict[str, Any]:
        encoded = None if content is None else base64.b64encode(content).decode()
        return {"headers": joined(headers), "body_base64": encoded, "truncated": content != whole}

    request = message(pair.sent_request_headers, pair.kept_request_body, pair.request_body)
    response = message(pair.sent_response_headers, pair.kept_response_body, pair.response_body)
    return json.dumps(
        {
            "captured_at": _rfc3339(pair.started_ms),
            "duration_ms": pair.duration_ms,
            "client_ip": pair.client_ip,
            "request": {
                "method": pair.method,
                "url": "https://api.example.com" + pair.target,
                **request,
            },
            "response": {"status": pair.status, "complete": pair.is_complete, **response},
        }
    ).encode()


# Lua in nginx


def cjson(value: Any) -> bytes:
    """Encode as lua-cjson does: strings are bytes, written as they are but for what JSON has to escape, and the slash."""
    if isinstance(value, dict):
        return b"{" + b",".join(cjson(name) + b":" + cjson(each) for name, each in value.items()) + b"}"
    if isinstance(value, list):
        return b"[" + b",".join(map(cjson, value)) + b"]"
    if isinstance(value, str):
        value = value.encode()
    if isinstance(value, bytes):
        escaped = value.replace(b"\\", b"\\\\").replace(b'"', b'\\"').replace(b"/", b"\\/")
        for code in (*range(32), 127):
            escaped = escaped.replace(bytes([code]), b"\\u%04x" % code)
        return b'"' + escaped + b'"'
    return json.dumps(value).encode()


def _nginx_parts(pair: Pair) -> tuple[dict[str, Any], dict[str, Any]]:
    """`request` and `response` of a log entry, without the bodies."""
    request_headers = joined(pair.sent_request_headers)
    response_headers = joined(pair.sent_response_headers)
    request_bytes = _head_bytes(pair.sent_request_headers) + len(f"{pair.method} {pair.target} HTTP/1.1\r\n")
    response_bytes = _head_bytes(pair.sent_response_headers) + len("HTTP/1.1 200 OK\r\nServer: kong\r\n")
    sent = pair.response_body or b""
    if not pair.is_complete:
        response_bytes, sent = 0, pair.kept_response_body or b""
    request = {
        "url": f"https://api.example.com:8443{pair.target}",
        "uri": pair.target,
        "method": pair.method,
        "headers": request_headers,
        "querystring": {},
        "size": request_bytes + len(pair.request_body or b""),
    }
    return request, {
        "status": pair.status,
        "headers": response_headers,
        "size": response_bytes + len(sent),
    }


def _head_bytes(lines: list[tuple[str, str]]) -> int:
    return sum(len(f"{name}: {value}\r\n") for name, value in lines) + 2


def kong(pair: Pair, *, has_bodies: bool = True) -> bytes:
    request, response = _nginx_parts(pair)
    request["id"] = pair.request_id
    if has_bodies and pair.kept_request_body is not None:
        request["body"] = pair.kept_request_body
    if has_bodies and pair.kept_response_body is not None:
        response["body"] = pair.kept_response_body
    entry = {
        "request": request,
        "response": response,
        "latencies": {"kong": 3, "proxy": 8, "request": pair.duration_ms, "receive": 1},
        "route": {"id": "r", "paths": ["/orders"]},
        "service": {"id": "s", "host": "upstream"},
        "client_ip": pair.client_ip,
        "started_at": pair.started_ms,
        "upstream_uri": pair.target,
        "upstream_status": str(pair.status),
        "tries": [{"ip": "10.0.0.1", "port": 80}],
        "workspace": "w",
    }
    return cjson(entry)


def apisix(pair: Pair) -> bytes:
    request, response = _nginx_parts(pair)
    # An empty body is no body to nginx.
    if pair.kept_request_body:
        request["body"] = pair.kept_request_body
    if pair.kept_response_body:
        response["body"] = pair.kept_response_body
    entry = {
        "request": request,
        "response": response,
        "server": {"hostname": "gw", "version": "3.9.0"},
        "upstream": "10.0.0.1:80",
        "service_id": "",
        "route_id": "1",
        "client_ip": pair.client_ip,
        "start_time": pair.started_ms,
        "latency": float(pair.duration_ms),
        "upstream_latency": 8,
        "apisix_latency": 4.0,
    }
    return cjson(entry)


# HAProxy


def haproxy(pair: Pair) -> bytes:
    def message(lines: list[tuple[str, str]], kept: bytes | None, whole: bytes | None) -> dict[str, str]:
        head = "".join(f"{name}: {value}\r\n" for name, value in lines) + "\r\n"
        # What is too long is left out, and how long it was is only known at its end.
        logged = base64.b64encode(kept).decode() if kept and kept == whole else "-"
        ended = str(len(whole or b"")) if kept == whole else "-"
        return {"head": base64.b64encode(head.encode()).decode(), "bytes": ended, "body": logged}

    entry = {
        "number": "17",
        "began": pair.started_ms - 60_000,
        "at": str(pair.started_ms),
        "ms": pair.duration_ms,
        "client": pair.client_ip,
        "tls": 1,
        "method": pair.method,
        "target": base64.b64encode(pair.target.encode()).decode(),
        "status": pair.status,
        "end": "--" if pair.is_complete else "CD",
        "request": message(pair.sent_request_headers, pair.kept_request_body, pair.request_body),
        "response": message(pair.sent_response_headers, pair.kept_response_body, pair.response_body),
    }
    syslog = b"<134>1 2026-01-23T18:25:14.761375+00:00 - haproxy 8 - - "
    return syslog + json.dumps(entry, separators=(",", ":"), ensure_ascii=False).encode()


def _after_syslog(text: bytes) -> Any:
    return json.loads(text[text.index(b"{") :])


def _with_syslog(value: Any) -> bytes:
    return b"<134>1 - - haproxy 8 - - " + json.dumps(value, separators=(",", ":")).encode()


# Go


def tyk(pair: Pair) -> bytes:
    request = f"{pair.method} {pair.target} HTTP/1.1\r\n".encode()
    request += _lines_of(pair.sent_request_headers) + (pair.kept_request_body or b"")
    response = f"HTTP/1.1 {pair.status} Whatever\r\n".encode()
    response += _lines_of(pair.sent_response_headers) + (pair.kept_response_body or b"")
    event = {
        "method": pair.method,
        "path": pair.target.partition("?")[0],
        "response_code": pair.status,
        "api_key": "00000000",
        "time_stamp": _rfc3339(pair.started_ms + pair.duration_ms),
        "api_version": "Non Versioned",
        "api_id": "a",
        "org_id": "o",
        "raw_request": base64.b64encode(request).decode(),
        "request_time": pair.duration_ms,
        "raw_response": base64.b64encode(response).decode(),
        "ip_address": pair.client_ip,
    }
    hec = {"time": pair.started_ms // 1000, "event": dict(sorted(event.items()))}
    return json.dumps(hec, separators=(",", ":"), ensure_ascii=False).encode()


def _lines_of(lines: list[tuple[str, str]]) -> bytes:
    return "".join(f"{name.title()}: {value}\r\n" for name, value in lines).encode() + b"\r\n"


def _rfc3339(at_ms: int) -> str:
    at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=at_ms)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "456Z")


# Caddy


def caddy(pair: Pair) -> bytes:
    def logged(kept: bytes | None) -> str:
        return base64.b64encode(kept or b"").decode()

    def headers(lines: list[tuple[str, str]]) -> dict[str, list[str]]:
        values: dict[str, list[str]] = {}
        for name, value in lines:
            values.setdefault(name.title(), []).append(value)
        return values

    sent = [line for line in pair.sent_request_headers if line[0] != "host"]
    entry = {
        "level": "info",
        "ts": (pair.started_ms + pair.duration_ms) / 1000 + 0.000_000_3,
        "logger": "http.log.access.log0",
        "msg": "handled request",
        "request": {
            "remote_ip": "10.0.0.1",
            "remote_port": "34404",
            "client_ip": pair.client_ip,
            "proto": "HTTP/2.0",
            "method": pair.method,
            "host": "api.example.com",
            "uri": pair.target,
            "headers": headers(sent),
            "tls": {"resumed": False, "version": 772, "proto": "h2", "server_name": "api.example.com"},
        },
        "bytes_read": len(pair.request_body or b""),
        "user_id": "",
        "duration": pair.duration_ms / 1000,
        "size": len(pair.response_body or b"") if pair.is_complete else len(pair.kept_response_body or b""),
        "status": pair.status,
        "resp_headers": headers(pair.sent_response_headers),
        "req_body": logged(pair.kept_request_body),
        "resp_body": logged(pair.kept_response_body),
    }
    return json.dumps(entry, separators=(",", ":"), ensure_ascii=False).encode()


# Files of other tools


def har(pair: Pair) -> bytes:
    """Write an entry as a browser does: bodies inflated, several lines of a header as one, pseudo-headers of HTTP/2."""
    request: dict[str, Any] = {
        "method": pair.method,
        "url": f"https://api.example.com{pair.target}#top",
        "httpVersion": "http/2.0",
        "headers": [
            {"name": ":authority", "value": "api.example.com"},
            *_named(pair.sent_request_headers),
        ],
        "queryString": [],
        "cookies": [],
        "headersSize": -1,
        "bodySize": len(pair.request_body or b""),
    }
    text = _utf8(_inflated(pair.kept_request_body))
    if text is not None:
        types = [value for name, value in pair.sent_request_headers if name == "content-type"]
        request["postData"] = {"mimeType": types[0] if types else "", "text": text}
    response = {
        "status": pair.status,
        "statusText": "",
        "httpVersion": "http/2.0",
        "headers": _named(pair.sent_response_headers),
        "cookies": [],
        "content": _content(_inflated(pair.kept_response_body), _inflated(pair.response_body)),
        "redirectURL": "",
        "headersSize": -1,
        "bodySize": -1,
        "_transferSize": 300,
    }
    entry = {
        "_initiator": {"type": "other"},
        "cache": {},
        "connection": "443",
        "request": request,
        "response": response,
        "serverIPAddress": "[2001:db8::7]",
        "startedDateTime": _rfc3339(pair.started_ms),
        "time": float(pair.duration_ms),
        "timings": {"send": 1, "wait": 10, "receive": 1},
    }
    return json.dumps(entry, indent=2, ensure_ascii=False).encode()


def _content(kept: bytes | None, whole: bytes | None) -> dict[str, Any]:
    content: dict[str, Any] = {"size": len(whole or b""), "mimeType": "x-unknown"}
    text = _utf8(kept)
    if text is not None:
        content["text"] = text
    elif kept is not None:
        content |= {"text": base64.b64encode(kept).decode(), "encoding": "base64"}
    return content


def _inflated(content: bytes | None) -> bytes | None:
    return gzip.decompress(content) if content and content.startswith(b"\x1f\x8b") else content


def _utf8(content: bytes | None) -> str | None:
    try:
        return None if content is None else content.decode()
    except UnicodeDecodeError:
        return None


def _named(lines: list[tuple[str, str]]) -> list[dict[str, str]]:
    merged: dict[str, list[str]] = {}
    for name, value in lines:
        merged.setdefault(name, []).append(value)
    return [{"name": name, "value": "\n".join(values)} for name, values in merged.items()]


def _har_file(texts: Sequence[bytes]) -> tuple[bytes, str]:
    head = b'{ "log": {"version": "1.2", "creator": {"name": "t", "version": "1"}, "pages": [], "entries": ['
    return head + b",\n".join(texts) + b"]}}", "application/json"


def mitmproxy(pair: Pair, *, version: int = 21) -> bytes:
    """Write a flow. mitmproxy has no part of a body: one that it passed on as a stream is not kept."""
    peer = [pair.client_ip, 50_000]
    client: dict[str, Any] = {"peername": peer} if version >= 19 else {"address": [*peer, 0, 0]}
    client |= {"mitmcert": None, "proxy_mode": "regular"}
    at_s = pair.started_ms / 1000
    is_request_kept = pair.kept_request_body == pair.request_body
    is_response_kept = pair.kept_response_body == pair.response_body
    flow = {
        "websocket": None,
        "response": {
            "reason": b"",
            "status_code": pair.status,
            "timestamp_end": at_s + pair.duration_ms / 1000,
            "timestamp_start": at_s,
            "trailers": None,
            "content": (pair.response_body or b"") if is_response_kept else None,
            "headers": [[name.encode(), value.encode()] for name, value in pair.sent_response_headers],
            "http_version": b"HTTP/2.0",
        },
        "request": {
            "path": pair.target.encode(),
            "authority": b"api.example.com" if version >= 9 else None,
            "scheme": b"https",
            "method": pair.method.encode(),
            "port": 443,
            "host": "10.0.0.1" if version > 5 else b"10.0.0.1",
            "timestamp_end": at_s,
            "timestamp_start": at_s,
            "content": (pair.request_body or b"") if is_request_kept else None,
            "trailers": None,
            "headers": [[name.encode(), value.encode()] for name, value in pair.sent_request_headers],
            "http_version": b"HTTP/2.0",
        },
        "client_conn": _connection() | client,
        "server_conn": _connection()
        | {"address": ["10.0.0.1", 443], "timestamp_tcp_setup": 1.5, "via": None},
        "error": None,
        "type": "http",
        "id": "f",
        "intercepted": False,
        "is_replay": None,
        "backup": None,
        "comment": "",
        "timestamp_created": at_s,
        "marked": "" if version >= 13 else False,
        "metadata": {},
        "version": version,
    }
    return tnetstring(flow)


def _connection() -> dict[str, Any]:
    """Return what mitmproxy's version 21 needs of a connection to read it."""
    texts = dict.fromkeys(("cipher", "error", "sni", "timestamp_end", "tls_version"))
    lists: dict[str, Any] = {"alpn_offers": [], "certificate_list": [], "cipher_list": []}
    names = {"id": "c", "transport_protocol": "tcp", "alpn": b"h2", "tls": True}
    places: dict[str, Any] = {"peername": None, "sockname": ["10.0.0.2", 8080]}
    return {**texts, **lists, **names, **places, "timestamp_start": 1.5, "timestamp_tls_setup": 1.5}


def tnetstring(value: Any) -> bytes:
    if isinstance(value, dict):
        content = b"".join(tnetstring(name) + tnetstring(each) for name, each in value.items())
        kind = b"}"
    elif isinstance(value, list):
        content, kind = b"".join(map(tnetstring, value)), b"]"
    elif value is None:
        content, kind = b"", b"~"
    elif isinstance(value, bool):
        content, kind = str(value).lower().encode(), b"!"
    elif isinstance(value, bytes):
        content, kind = value, b","
    elif isinstance(value, str):
        content, kind = value.encode(), b";"
    else:
        content, kind = repr(value).encode(), b"#" if isinstance(value, int) else b"^"
    return str(len(content)).encode() + b":" + content + kind


_MITMPROXY_ABILITIES = ALL - {Ability.CUT_BODIES, Ability.INCOMPLETE}

FORMATS = [
    FormatUnderTest(OWN, own, _lines),
    FormatUnderTest(KONG, kong, _array),
    FormatUnderTest(
        KONG,
        lambda pair: kong(pair, has_bodies=False),
        _array,
        frozenset({Ability.REPEATED_HEADERS}),
        name="kong without bodies",
    ),
    FormatUnderTest(APISIX, apisix, _array),
    FormatUnderTest(APISIX, apisix, lambda texts: (b"\n".join(texts), "text/plain"), name="apisix in lines"),
    FormatUnderTest(
        HAPROXY,
        haproxy,
        _lines,
        ALL - {Ability.CUT_BODIES, Ability.INCOMPLETE},
        parse=_after_syslog,
        write=_with_syslog,
    ),
    FormatUnderTest(
        TYK,
        tyk,
        lambda texts: (b"".join(texts), ""),
        ALL - {Ability.INCOMPLETE},
        has_origin=False,
    ),
    FormatUnderTest(CADDY, caddy, _lines),
    FormatUnderTest(
        HAR,
        har,
        _har_file,
        ALL - {Ability.ANY_BYTES, Ability.WRONG_CODING, Ability.INCOMPLETE},
        has_client_ip=False,
        is_in_file=True,
    ),
    *(
        FormatUnderTest(
            MITMPROXY,
            partial(mitmproxy, version=version),
            lambda texts: (b"".join(texts), ""),
            _MITMPROXY_ABILITIES,
            name=f"mitmproxy {version}",
            parse=parse,
            write=tnetstring,
        )
        for version in (4, 9, 18, 21)
    ),
]
