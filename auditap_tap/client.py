"""HTTP to the collector, over a Unix socket, loopback or TLS."""

from __future__ import annotations

import gzip
import http.client
import ipaddress
import json
import logging
import socket
import ssl
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Final, NamedTuple
from urllib.parse import urlsplit

CAPTURES_PATH: Final = "/v1/captures"
HEARTBEATS_PATH: Final = "/v1/heartbeats"
TOKEN_CHARS_MIN: Final = 16  # collectors refuse shorter ones
_RETRY_AFTER_DIGITS_MAX: Final = 9
_DROPPED_HEADER: Final = "Auditap-Dropped"
_RESPONSE_BYTES_MAX: Final = 4 * 1024 * 1024  # a refusal of each of 10,000 captures takes less than 1 MiB
# Responses while a token is being rotated, or a proxy is not ready yet.
_RETRIED_STATUS: Final = frozenset({401, 403, 408, 425, 429})

_NOT_READY: Final = 503
# A collector that starts says so until it has reached the log: worth a warning only if it lasts.
_NOT_READY_S_MAX: Final = 10.0

_log = logging.getLogger("auditap.tap")


@dataclass(frozen=True)
class CollectorAddress:
    """Where the collector is. `path` is that of a Unix socket; `host` and `port` count if it is None."""

    path: str | None
    host: str
    port: int
    ssl_context: ssl.SSLContext | None
    timeout_s: float

    @classmethod
    def parse(
        cls,
        url: str,
        ssl_context: ssl.SSLContext | None,
        timeout_s: float,
        *,
        plain_http_allowed: bool = False,
    ) -> CollectorAddress:
        """Return the address that `url` names. Raises ValueError, one sentence, if it names none that is safe to use."""
        if url.startswith("unix:"):
            path = url.removeprefix("unix:")
            if not path:
                raise ValueError("collector needs a path after unix:")
            return cls(path, "", 0, None, timeout_s)
        origin = _Origin.parse(url)
        if origin is None:
            raise ValueError(
                "collector must be unix:/path/of/socket, http://127.0.0.1:8400 or https://host:port"
            )
        host = origin.host
        if origin.scheme == "https":
            return cls(None, host, origin.port or 443, ssl_context or ssl.create_default_context(), timeout_s)
        if not (plain_http_allowed or _is_loopback(host)):
            raise ValueError(
                "collector must be https unless it is on loopback: captures are not redacted yet"
            )
        return cls(None, host, origin.port or 80, None, timeout_s)

    def connect(self) -> http.client.HTTPConnection:
        """Return a connection that opens with its first request."""
        if self.path is not None:
            return _UnixConnection(self.path, self.timeout_s)
        if self.ssl_context is not None:
            return http.client.HTTPSConnection(
                self.host, self.port, timeout=self.timeout_s, context=self.ssl_context
            )
        return http.client.HTTPConnection(self.host, self.port, timeout=self.timeout_s)


class _Origin(NamedTuple):
    scheme: str
    host: str
    port: int | None

    @classmethod
    def parse(cls, url: str) -> _Origin | None:
        """Return scheme, host and port of an HTTP URL that holds nothing else; None for any other text."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:  # its message quotes the URL, where a password may stand in the place of the port
            return None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            return None
        more = parts.path.strip("/") or parts.query or parts.fragment or "@" in parts.netloc
        return None if more else cls(parts.scheme, parts.hostname, port)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path
        self._timeout_s = timeout_s

    def connect(self) -> None:
        connected = socket.socket(socket.AF_UNIX)
        try:
            connected.settimeout(self._timeout_s)
            connected.connect(self._path)
        except BaseException:
            connected.close()
            raise
        self.sock = connected


class Reply(NamedTuple):
    """The collector's response. `status` is 0 if the collector could not be reached."""

    status: int
    retry_after_s: float = 0.0
    body: bytes = b""

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300

    @property
    def may_succeed_later(self) -> bool:
        """Whether it makes sense to send the same again."""
        return self.status == 0 or self.status >= 500 or self.status in _RETRIED_STATUS

    def refused_indexes(self) -> list[int]:
        """Return the indexes of the lines that the collector refused."""
        try:
            return [int(each["index"]) for each in json.loads(self.body)["refused"]]
        except (ValueError, TypeError, KeyError, RecursionError):
            return []


def retry_after_s(header: str, now_s: float) -> float | None:
    """Return how many seconds a `Retry-After` header means: a number of them, or a date. None if it means nothing.

    `now_s`: the time (Unix seconds).
    """
    text = header.strip()
    if text.isascii() and text.isdecimal():
        # A number that no one waits for in any case.
        return float(text[:_RETRY_AFTER_DIGITS_MAX])
    try:
        return max(parsedate_to_datetime(text).timestamp() - now_s, 0.0)
    except (ValueError, TypeError, OverflowError):
        return None


def request_headers(token: str | None, *, compress: bool) -> dict[str, str]:
    """Return the headers of every request. Raises ValueError if `token` is too short or cannot be part of a header."""
    headers = {"Content-Type": "application/x-ndjson"}
    if token is not None:
        if not token.isascii() or not token.isprintable():
            raise ValueError("token must be printable ASCII")
        if len(token.strip()) < TOKEN_CHARS_MIN:
            raise ValueError(f"token must have at least {TOKEN_CHARS_MIN} characters")
        headers["Authorization"] = f"Bearer {token}"
    if compress:
        headers["Content-Encoding"] = "gzip"
    return headers


class CollectorClient:
    """Posts NDJSON over one connection that it keeps open. Belongs to one thread."""

    def __init__(self, address: CollectorAddress, headers: dict[str, str], *, compress: bool) -> None:
        self._address = address
        self._headers = headers
        self._compress = compress
        self._connection: http.client.HTTPConnection | None = None
        self._unavailable = False
        self._not_ready_since_s: float | None = None
        """By `time.monotonic`; None unless the last response was that the collector is not ready."""

    def pack(self, lines: list[bytes]) -> bytes:
        """Return the request body for these lines: their concatenation, compressed with gzip if so configured."""
        body = b"".join(lines)
        return gzip.compress(body, compresslevel=1) if self._compress else body

    def post(self, path: str, body: bytes, dropped: int = 0) -> Reply:
        """Post a packed body, with the number of captures dropped since the last report. Never raises."""
        headers = dict(self._headers)
        if dropped:
            headers[_DROPPED_HEADER] = str(dropped)
        try:
            # http.client and not urllib.request: no proxy from the environment may see captures.
            if self._connection is None:
                self._connection = self._address.connect()
            self._connection.request("POST", path, body, headers)
            response = self._connection.getresponse()
            response_body = response.read(_RESPONSE_BYTES_MAX)
            asked_s = retry_after_s(response.headers.get("Retry-After", ""), time.time())
            # What is left of a longer response would pass for the next one.
            if not response.isclosed():
                self.close()
        except Exception as error:  # noqa: BLE001  # whatever it is, the thread must live on
            self.close()
            self._log_availability(f"cannot be reached ({type(error).__name__})")
            return Reply(0)
        self._log_response(response.status)
        return Reply(response.status, asked_s or 0.0, response_body)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _log_response(self, status: int) -> None:
        if status != _NOT_READY:
            self._not_ready_since_s = None
            self._log_availability(None if status < 300 else f"responds with status {status}")
            return
        now_s = time.monotonic()
        if self._not_ready_since_s is None:
            self._not_ready_since_s = now_s
        if now_s - self._not_ready_since_s >= _NOT_READY_S_MAX:
            self._log_availability(f"has responded with status {status} for some time")

    def _log_availability(self, problem: str | None) -> None:
        """Log changes alone: one line when the collector becomes unavailable, one when it is available again."""
        if problem is not None and not self._unavailable:
            _log.warning(
                "the audit collector %s; audit captures wait, and are dropped when the buffer is full",
                problem,
            )
        elif problem is None and self._unavailable:
            _log.warning("the audit collector accepts captures again")
        self._unavailable = problem is not None
