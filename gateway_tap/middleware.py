"""The tap for ASGI applications: copies each request/response pair aside and sends it to the collector.

Runs inside other people's services, so it needs the standard library alone, and its first rule is that the user never
notices it: nothing is awaited besides the application's own calls, every buffer is bounded, what cannot be taken is
dropped and counted, and a failure of its own is swallowed and counted. Nothing of a pair is ever logged.

Every request gets a number when it begins. Heartbeats tell the collector how far has been counted, what is on its way
and what was dropped; a small file keeps the count, so that the next start can say how far one had come that was killed.

    app = AuditTapMiddleware(app, collector="unix:/run/auditap/collector.sock", tap_id="orders-api")
"""

from __future__ import annotations

import asyncio
import atexit
import base64
import fcntl
import gzip
import http.client
import ipaddress
import itertools
import json
import logging
import math
import mmap
import os
import random
import re
import socket
import ssl
import struct
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import quote, urlsplit

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
RawHeaders = list[tuple[bytes, bytes]]

REQUEST_HEADERS: Final = (
    "user-agent",
    "host",
    "cf-ray",
    "x-request-id",
    "content-type",
    "content-encoding",
    "x-http-method-override",
    "x-http-method",
    "x-method-override",
)
RESPONSE_HEADERS: Final = ("x-actor-*", "x-account-id", "content-type", "content-encoding")
METHODS_WITHOUT_BODIES: Final = ("GET", "HEAD", "OPTIONS", "TRACE", "CONNECT")

DEFAULT_STATE_DIR: Final = "~/.local/state/auditap"

_PATH: Final = "/v1/captures"
_HEARTBEATS_PATH: Final = "/v1/heartbeats"
_DROPPED_HEADER: Final = "Auditap-Dropped"
# The redactor keeps nothing of these, and streams among them never end.
_MEDIA_NEVER_KEPT: Final = (b"text/event-stream", b"image/", b"audio/", b"video/", b"font/")
# With these an application hands its server a file to send, which would pass by unseen.
_UNSEEN_BODIES: Final = frozenset({"http.response.pathsend", "http.response.zerocopysend"})
_PAIR_BYTES: Final = 1_024  # what a queued pair takes besides its bodies, headers and URL
_HEADER_VALUE_BYTES_MAX: Final = 4_096
_HEADER_LINES_MAX: Final = 64
_URL_CHARS_MAX: Final = 65_536
_ANSWER_BYTES_MAX: Final = 4 * 1024 * 1024
_RETRY_DELAY_S: Final = 0.05
_RETRY_DELAY_S_MAX: Final = 5.0
_RETRIED_STATUS: Final = frozenset({401, 403, 408, 425, 429})
_CLIENT_CLOSED: Final = 499
_EPOCH_RANDOM_BITS: Final = 20
_LEASE_MS_MIN: Final = 100
_LEASE_MS_MAX: Final = 86_400_000
_RANGES_MAX: Final = 4_096  # of dropped numbers, in memory
_RANGES_SENT_MAX: Final = 1_000  # in one heartbeat
_CLOCK_STEP_MS_MAX: Final = 5_000
_FORMER_MAX: Final = 64  # starts that were cut off, reported by one start
_BOOT_ID_FILE: Final = "/proc/sys/kernel/random/boot_id"
_MAGIC: Final = b"auditap1"
_STATE: Final = struct.Struct(
    "<8s36s4xQQQ"
)  # magic, the machine's start, when the epoch began, the lease, the count
_COUNT: Final = struct.Struct("<Q")
_COUNT_AT: Final = _STATE.size - _COUNT.size
_BUFFER_FULL: Final = "buffer_full"
_COLLECTOR_AWAY: Final = "collector_away"
_REJECTED: Final = "rejected"
_REFUSED: Final = "refused"
_FAILED: Final = "failed"
_CLOSING: Final = "closing"
_UNKNOWN_HOST: Final = "unknown.invalid"
_TAP_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:\-]{0,63}")
_HOST: Final = re.compile(rb"(?:[A-Za-z0-9._\-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
_URL_SAFE: Final = "!$%&'()*+,/:;=@[]~"

_log = logging.getLogger("auditap.tap")


class TapStats(NamedTuple):
    """What became of the pairs since the tap's last start. `failed`: the tap's own failures, which no user saw."""

    captured: int = 0
    accepted: int = 0
    refused: int = 0
    dropped: int = 0
    failed: int = 0


@dataclass(frozen=True)
class _Settings:
    collector: _Collector
    tap_id: str
    headers: dict[str, str]
    queue_bytes_max: int
    body_bytes_max: int
    batch_pairs_max: int
    batch_bytes_max: int
    linger_s: float
    retry_s_max: float
    close_s_max: float
    heartbeat_s: float
    lease_ms: int
    state_dir: Path | None
    compress: bool
    request_headers: _HeaderChoice
    response_headers: _HeaderChoice
    methods_without_bodies: frozenset[str]


class AuditTapMiddleware:
    """ASGI middleware that taps HTTP requests; WebSockets and lifespan pass through.

    - `collector`: `unix:/path/collector.sock`, `http://127.0.0.1:8400` (loopback only) or `https://host:port`.
    - `tap_id`: this service's name among the taps. `token`: the bearer token, needed over TCP.
    - `queue_bytes_max`: copies of pairs in memory, in flight and waiting. `body_bytes_max`: a longer body is not kept,
      and marked `truncated`.
    - `batch_pairs_max`, `batch_bytes_max`, `linger_ms`: when a batch is full, and how long it waits to be.
    - `timeout_ms`: for one answer of the collector; `retry_ms_max`: how long one batch is tried again;
      `close_ms_max`: how long `close` may take to send what is left.
    - `heartbeat_ms`: how often the tap says how far it has counted; `lease_ms`: after how long without that it counts as
      gone. `state_dir`: the folder, on a local disk, where the count of each start is kept, in a file of a hundred bytes;
      None, or a folder that cannot be used: in memory alone.
    - `exclude_paths`: these paths, and all below them, are not tapped.
    - `request_headers`, `response_headers`: names besides REQUEST_HEADERS and RESPONSE_HEADERS to copy, `x-tenant-*`
      for all with that beginning. Any other header, cookies and authorization among them, is never copied.
    - `methods_without_bodies`: of these no body is copied, in either direction.

    A client that goes away is noticed if the application listens for it, or if the server lets `send` fail.
    Raises ValueError, one sentence, where a setting is wrong.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        collector: str,
        tap_id: str,
        token: str | None = None,
        ssl_context: ssl.SSLContext | None = None,
        queue_bytes_max: int = 64 * 1024 * 1024,
        body_bytes_max: int = 256 * 1024,
        batch_pairs_max: int = 100,
        batch_bytes_max: int = 4 * 1024 * 1024,
        linger_ms: int = 50,
        timeout_ms: int = 5_000,
        retry_ms_max: int = 300_000,
        close_ms_max: int = 2_000,
        heartbeat_ms: int = 5_000,
        lease_ms: int = 30_000,
        state_dir: str | os.PathLike[str] | None = DEFAULT_STATE_DIR,
        compress: bool = False,
        exclude_paths: Iterable[str] = (),
        request_headers: Iterable[str] = (),
        response_headers: Iterable[str] = (),
        methods_without_bodies: Iterable[str] = METHODS_WITHOUT_BODIES,
    ) -> None:
        if not _TAP_ID.fullmatch(tap_id):
            raise ValueError(
                "tap_id must be 1 to 64 letters, digits and _ . : - and begin with one of the first two"
            )
        if not 0 < heartbeat_ms < lease_ms <= _LEASE_MS_MAX or lease_ms < _LEASE_MS_MIN:
            raise ValueError("lease_ms must be 100 to 86400000, and heartbeat_ms less than it")
        self._app = app
        self._settings = _Settings(
            collector=_collector(collector, ssl_context, timeout_ms / 1000),
            tap_id=tap_id,
            headers=_static_headers(token, compress=compress),
            queue_bytes_max=queue_bytes_max,
            body_bytes_max=body_bytes_max,
            batch_pairs_max=batch_pairs_max,
            batch_bytes_max=batch_bytes_max,
            linger_s=linger_ms / 1000,
            retry_s_max=retry_ms_max / 1000,
            close_s_max=close_ms_max / 1000,
            heartbeat_s=heartbeat_ms / 1000,
            lease_ms=lease_ms,
            state_dir=None if state_dir is None else Path(state_dir),
            compress=compress,
            request_headers=_HeaderChoice((*REQUEST_HEADERS, *request_headers)),
            response_headers=_HeaderChoice((*RESPONSE_HEADERS, *response_headers)),
            methods_without_bodies=frozenset(methods_without_bodies),
        )
        self._excluded = tuple(path.rstrip("/") for path in exclude_paths)
        self._tap: _Tap | None = None
        self._failed = 0

    @property
    def stats(self) -> TapStats:
        """Counts since the tap's last start in this process."""
        tap = self._tap
        counted = tap.queue.stats() if tap is not None else TapStats()
        return counted._replace(failed=counted.failed + self._failed)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection scope of ASGI."""
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
            return
        exchange = self._begin(scope, receive, send) if scope["type"] == "http" else None
        if exchange is None:
            await self._app(scope, receive, send)
            return
        try:
            await self._app(_without_unseen_bodies(scope), exchange.receive, exchange.send)
        finally:
            exchange.end()

    def close(self) -> None:
        """Send what is left, for `close_ms_max` at most, and stop. A later request starts the tap again."""
        tap = self._tap
        if tap is not None and tap.pid == os.getpid():
            tap.close()
            atexit.unregister(self.close)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_and_close(message: Message) -> None:
            if message["type"] in ("lifespan.shutdown.complete", "lifespan.shutdown.failed"):
                await self._close_aside()
            await send(message)

        await self._app(scope, receive, send_and_close)

    async def _close_aside(self) -> None:
        try:
            await asyncio.to_thread(self.close)
        except Exception:  # noqa: BLE001  # no asyncio, or no thread to be had: it is bounded here too
            self.close()

    def _begin(self, scope: Scope, receive: Receive, send: Send) -> _Exchange | None:
        try:
            path: str = scope["path"]
            if any(path == below or path.startswith(f"{below}/") for below in self._excluded):
                return None
            return _Exchange(self._running_tap(), scope, receive, send)
        except Exception:  # noqa: BLE001  # the user's request goes on without the tap
            self._failed += 1
            return None

    def _running_tap(self) -> _Tap:
        tap = self._tap
        # Threads do not survive a fork, and two processes must not count in one epoch.
        if tap is None or tap.closed or tap.pid != os.getpid():
            if tap is not None and tap.pid != os.getpid():
                tap.leave_to_parent()
            tap = self._tap = _Tap(self._settings)
            atexit.unregister(self.close)
            atexit.register(self.close)
        return tap


def _static_headers(token: str | None, *, compress: bool) -> dict[str, str]:
    headers = {"Content-Type": "application/x-ndjson"}
    if token is not None:
        if not token.isascii() or not token.isprintable():
            raise ValueError("token must be printable ASCII")
        headers["Authorization"] = f"Bearer {token}"
    if compress:
        headers["Content-Encoding"] = "gzip"
    return headers


def _without_unseen_bodies(scope: Scope) -> Scope:
    """Return the scope itself, which outer layers may share, unless it offers what would go by unseen."""
    extensions = scope.get("extensions")
    if not extensions or _UNSEEN_BODIES.isdisjoint(extensions):
        return scope
    seen = {name: value for name, value in extensions.items() if name not in _UNSEEN_BODIES}
    return {**scope, "extensions": seen}


class _HeaderChoice:
    """Which headers are copied: exact names, and beginnings written `name-*`."""

    def __init__(self, names: Iterable[str]) -> None:
        lowered = [name.lower().encode("latin-1") for name in names]
        self._names = frozenset(name for name in lowered if not name.endswith(b"*"))
        self._beginnings = tuple(name[:-1] for name in lowered if name.endswith(b"*"))

    def of(self, headers: Iterable[tuple[bytes, bytes]]) -> RawHeaders:
        """Return the chosen header lines, in order and repeated as they stand; long values are cut."""
        chosen: RawHeaders = []
        for name, value in headers:
            lowered = name.lower()
            if lowered in self._names or (self._beginnings and lowered.startswith(self._beginnings)):
                chosen.append((bytes(lowered), bytes(value[:_HEADER_VALUE_BYTES_MAX])))
        return chosen[:_HEADER_LINES_MAX]


class _Body:
    """A bounded copy of a body. One that does not fit is given up at once: no part of it would be kept later."""

    __slots__ = ("_bytes_max", "_queue", "_wanted", "data", "truncated")

    def __init__(self, queue: _Queue, bytes_max: int, *, wanted: bool) -> None:
        self._queue = queue
        self._bytes_max = bytes_max
        self._wanted = wanted
        self.data = bytearray()
        self.truncated = False

    def add(self, chunk: bytes) -> None:
        if not chunk or self.truncated or not self._wanted:
            return
        if len(self.data) + len(chunk) > self._bytes_max or not self._queue.take(len(chunk)):
            self.give_up()
        else:
            self.data += chunk

    def give_up(self) -> None:
        if self._wanted:
            self.truncated = True
            self._queue.give(len(self.data))
            self.data = bytearray()

    def fields(self) -> dict[str, Any]:
        """Return the capture's fields for it."""
        if self.truncated:
            return {"truncated": True}
        if not self.data:
            return {}
        try:
            return {"body": self.data.decode()}
        except UnicodeDecodeError:
            return {"body_base64": base64.b64encode(self.data).decode()}


class _Pair:
    """One request and its response, as they were seen. Shows nothing of itself."""

    __slots__ = (
        "at_ms",
        "client",
        "complete",
        "duration_ms",
        "host",
        "id",
        "method",
        "path",
        "query",
        "request_body",
        "request_headers",
        "response_body",
        "response_headers",
        "scheme",
        "seq",
        "server",
        "size_bytes",
        "status",
    )

    def __init__(self, scope: Scope, headers: RawHeaders) -> None:
        self.at_ms = 0
        self.id = ""
        self.seq = 0
        self.client = scope.get("client")
        self.server = scope.get("server")
        self.scheme: str = scope.get("scheme") or "http"
        self.method: str = scope["method"]
        self.path: bytes | str = scope.get("raw_path") or scope["path"]
        self.query: bytes = scope.get("query_string") or b""
        self.host = [value for name, value in headers if name == b"host"]
        self.request_headers = headers
        self.response_headers: RawHeaders = []
        self.request_body: _Body
        self.response_body: _Body
        self.status: int | None = None
        self.complete = False
        self.duration_ms = 0.0
        self.size_bytes = 0

    def __repr__(self) -> str:
        return "<pair>"

    def begin(self, numbers: _Numbers) -> None:
        """Take number, time and id."""
        self.seq, self.at_ms = numbers.take()
        self.id = _uuid7(self.at_ms)

    def size_besides_bodies(self) -> int:
        headers = itertools.chain(self.request_headers, self.response_headers)
        return _PAIR_BYTES + len(self.path) + len(self.query) + sum(len(n) + len(v) for n, v in headers)


def _uuid7(at_ms: int) -> str:
    """Return a UUIDv7 with exactly this time: `uuid.uuid7` of Python 3.14 takes its own."""
    drawn = int.from_bytes(os.urandom(10), "big")
    head = at_ms << 80 | 0x7 << 76 | (drawn >> 64 & 0xFFF) << 64
    return f"{head | 0b10 << 62 | drawn & (1 << 62) - 1:032x}"


class _Exchange:
    """Stands between application and server for one request and looks at what passes."""

    __slots__ = (
        "_disconnected",
        "_handed_over",
        "_pair",
        "_receive",
        "_request_ended",
        "_send",
        "_started_s",
        "_tap",
        "_trailers",
    )

    def __init__(self, tap: _Tap, scope: Scope, receive: Receive, send: Send) -> None:
        self._tap = tap
        self._receive = receive
        self._send = send
        settings = tap.settings
        headers = settings.request_headers.of(scope["headers"])
        self._started_s = time.perf_counter()
        self._pair = pair = _Pair(scope, headers)
        wanted = pair.method not in settings.methods_without_bodies
        pair.request_body = _Body(tap.queue, settings.body_bytes_max, wanted=wanted)
        pair.response_body = _Body(tap.queue, settings.body_bytes_max, wanted=wanted)
        if _is_never_kept(headers):
            pair.request_body.give_up()
        self._request_ended = _has_no_body(scope)
        self._disconnected = False
        self._trailers = False
        self._handed_over = False
        # Last, because a number that was taken must be accounted for.
        pair.begin(tap.numbers)

    async def receive(self) -> Message:
        message = await self._receive()
        self._look_at_request(message)
        return message

    async def send(self, message: Message) -> None:
        # Looked at before it is sent: outer layers rewrite messages in place. The response has ended only once
        # the server took its last message; a disconnect seen by then, and not one that follows from it, counts.
        last = self._look_at_response(message)
        complete = not self._disconnected
        await self._send(message)
        if last:
            self._hand_over(complete=complete)

    def end(self) -> None:
        """The application has returned or raised: what has not ended by now never will."""
        if not self._handed_over:
            self._hand_over(complete=False)

    def _look_at_request(self, message: Message) -> None:
        try:
            if self._handed_over:
                return
            if message["type"] == "http.request":
                self._pair.request_body.add(message.get("body", b""))
                if not message.get("more_body", False):
                    self._request_ended = True
            elif message["type"] == "http.disconnect":
                self._disconnected = True
        except Exception:  # noqa: BLE001  # the user must not notice
            self._tap.queue.count_failed()

    def _look_at_response(self, message: Message) -> bool:
        """Return whether the message is the response's last."""
        try:
            return not self._handed_over and self._response_ends_with(message)
        except Exception:  # noqa: BLE001  # the user must not notice
            self._tap.queue.count_failed()
            return False

    def _response_ends_with(self, message: Message) -> bool:
        kind = message["type"]
        pair = self._pair
        if kind == "http.response.body":
            pair.response_body.add(message.get("body", b""))
            return not message.get("more_body", False) and not self._trailers
        if kind == "http.response.start":
            pair.status = int(message["status"])
            pair.response_headers = self._tap.settings.response_headers.of(message.get("headers", ()))
            self._trailers = bool(message.get("trailers", False))
            if _is_never_kept(pair.response_headers):
                pair.response_body.give_up()
        elif kind == "http.response.trailers":
            return not message.get("more_trailers", False)
        elif kind in _UNSEEN_BODIES:
            pair.response_body.give_up()
            return not message.get("more_body", False) and not self._trailers
        # Early hints and server push belong to no pair.
        return False

    def _hand_over(self, *, complete: bool) -> None:
        self._handed_over = True
        try:
            pair = self._pair
            pair.complete = complete
            pair.duration_ms = (time.perf_counter() - self._started_s) * 1000
            if pair.status is None:
                # The server answers for an application that did not, unless nobody waits any more.
                pair.status = _CLIENT_CLOSED if self._disconnected else 500
            if not self._request_ended:
                pair.request_body.give_up()
            if not self._tap.queue.put(pair):
                self._tap.numbers.drop((pair.seq,), _CLOSING if self._tap.closed else _BUFFER_FULL)
        except Exception:  # noqa: BLE001  # the user must not notice
            self._tap.queue.count_failed()
            self._tap.numbers.drop((self._pair.seq,), _FAILED)


def _has_no_body(scope: Scope) -> bool:
    """Tell whether HTTP/1 rules out that a body comes, whether the application asks for it or not."""
    return scope.get("http_version") in ("1.0", "1.1") and not any(
        name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
        for name, value in scope["headers"]
    )


def _is_never_kept(headers: RawHeaders) -> bool:
    return any(
        name == b"content-type" and value.lstrip().lower().startswith(_MEDIA_NEVER_KEPT)
        for name, value in headers
    )


class _Queue:
    """Pairs on their way to the sender, bounded in bytes, those in flight included; and every count."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._pairs: deque[_Pair] = deque()
        # Held for a few instructions at a time, never while anything else is waited for.
        self._lock = threading.Lock()
        self._captured = self._accepted = self._refused = self._dropped = self._failed = 0
        self._drops_reported = 0
        self._closed = False
        self.filled = threading.Event()

    def take(self, size_bytes: int) -> bool:
        """Hold so many bytes more, if they fit."""
        with self._lock:
            if self._bytes + size_bytes > self._bytes_max:
                return False
            self._bytes += size_bytes
            return True

    def give(self, size_bytes: int) -> None:
        with self._lock:
            self._bytes -= size_bytes

    def put(self, pair: _Pair) -> bool:
        """Take the pair, or drop and count it, and return whether it was taken; never waits."""
        bodies_bytes = len(pair.request_body.data) + len(pair.response_body.data)
        own_bytes = pair.size_besides_bodies()
        with self._lock:
            self._captured += 1
            taken = not self._closed and self._bytes + own_bytes <= self._bytes_max
            if not taken:
                self._bytes -= bodies_bytes
                self._dropped += 1
            else:
                self._bytes += own_bytes
                pair.size_bytes = own_bytes + bodies_bytes
                self._pairs.append(pair)
        if not self.filled.is_set():
            self.filled.set()
        return taken

    def get(self) -> _Pair | None:
        return self._pairs.popleft() if self._pairs else None

    def close(self) -> None:
        """Take nothing more, drop what is left and count it."""
        with self._lock:
            self._closed = True
            self._dropped += len(self._pairs)
            self._pairs.clear()

    def count_dropped(self, pairs: int) -> None:
        with self._lock:
            self._dropped += pairs

    def count_failed(self) -> None:
        with self._lock:
            self._failed += 1

    def count_sent(self, accepted: int, refused: int, drops_reported: int) -> None:
        with self._lock:
            self._accepted += accepted
            self._refused += refused
            self._drops_reported += drops_reported

    def drops_to_report(self) -> int:
        with self._lock:
            return self._dropped - self._drops_reported

    def stats(self) -> TapStats:
        with self._lock:
            return TapStats(self._captured, self._accepted, self._refused, self._dropped, self._failed)


class _Numbers:
    """The numbers of one start: how far it has counted, which are on their way, which were dropped.

    A number is on its way from the beginning of its request until a collector has acknowledged it or it is dropped.
    Numbers rise with time, unless the clock goes back far.
    """

    def __init__(self) -> None:
        # Held for a few instructions at a time, never while anything else is waited for.
        self._lock = threading.Lock()
        self._highest = 0
        self._latest_ms = 0
        self._pending: dict[int, int] = {}
        self._kept: bytearray | mmap.mmap = bytearray(_STATE.size)
        self._drops: dict[str, _Ranges] = {}
        self._telling: list[dict[str, Any]] = []
        self._unordered = False
        self.stepped = False
        """Whether the clock went back far since the last heartbeat."""

    def take(self) -> tuple[int, int]:
        """Return the next number and the time (Unix ms)."""
        now_ms = time.time_ns() // 1_000_000
        with self._lock:
            if now_ms < self._latest_ms:
                now_ms = self._after_step(now_ms)
            self._latest_ms = now_ms
            self._highest = number = self._highest + 1
            self._pending[number] = now_ms
            _COUNT.pack_into(self._kept, _COUNT_AT, number)
        return number, now_ms

    def _after_step(self, now_ms: int) -> int:
        """Return the time to go on with: a small step back is not followed, of a large one heartbeats tell."""
        if self._latest_ms - now_ms <= _CLOCK_STEP_MS_MAX:
            return self._latest_ms
        self._unordered = self.stepped = True
        return now_ms

    def done(self, numbers: Iterable[int]) -> None:
        """Note numbers as acknowledged."""
        with self._lock:
            for number in numbers:
                self._pending.pop(number, None)

    def drop(self, numbers: Iterable[int], cause: str) -> None:
        """Note numbers as dropped, those that are on their way still."""
        with self._lock:
            for number in numbers:
                at_ms = self._pending.pop(number, None)
                if at_ms is not None:
                    self._drops.setdefault(cause, _Ranges()).add(number, at_ms)

    def drop_all(self, cause: str) -> None:
        """Note all numbers that are on their way as dropped."""
        with self._lock:
            pending = list(self._pending)
        self.drop(pending, cause)

    def keep_in(self, kept: mmap.mmap) -> None:
        """Keep the count in this memory from here on."""
        with self._lock:
            _COUNT.pack_into(kept, _COUNT_AT, self._highest)
            self._kept = kept

    def let_go(self) -> None:
        """Keep the count in this process alone. Takes no lock, which a fork may have left taken."""
        self._kept = bytearray(_STATE.size)

    def tell(self) -> dict[str, Any]:
        """Return a heartbeat's fields. What was dropped is told again until `told` is called."""
        with self._lock:
            now_ms = time.time_ns() // 1_000_000
            if now_ms < self._latest_ms:
                now_ms = self._after_step(now_ms)
            self._latest_ms = now_ms
            self.stepped = False
            pending = self._pending
            first = next(iter(pending), self._highest + 1)
            since_ms = pending.get(first, now_ms)
            if self._unordered:
                since_ms = min(now_ms, *pending.values()) if pending else now_ms
            for cause, drops in self._drops.items():
                self._telling += drops.take(cause, _RANGES_SENT_MAX - len(self._telling))
            return {
                "at_ms": now_ms,
                "highest": self._highest,
                "pending_from": first,
                "pending_since_ms": since_ms,
                "dropped": list(self._telling),
            }

    def told(self, ranges: int) -> None:
        """Forget the first ranges that were told: the collector has them."""
        with self._lock:
            del self._telling[:ranges]


class _Ranges:
    """Numbers without order as ranges, each with the times of its first and last request. Bounded: what would need more
    ranges is left out, and missing without a cause.
    """

    __slots__ = ("_by_first", "_by_last")

    def __init__(self) -> None:
        self._by_first: dict[int, list[int]] = {}
        self._by_last: dict[int, list[int]] = {}

    def add(self, number: int, at_ms: int) -> None:
        before, after = self._by_last.pop(number - 1, None), self._by_first.pop(number + 1, None)
        if before is None and after is None and len(self._by_first) >= _RANGES_MAX:
            return
        first, last, from_ms, to_ms = number, number, at_ms, at_ms
        if before is not None:
            first, from_ms, to_ms = before[0], min(from_ms, before[2]), max(to_ms, before[3])
        if after is not None:
            last, from_ms, to_ms = after[1], min(from_ms, after[2]), max(to_ms, after[3])
            del self._by_last[last]
        self._by_first[first] = self._by_last[last] = [first, last, from_ms, to_ms]

    def take(self, cause: str, ranges_max: int) -> list[dict[str, Any]]:
        """Remove and return so many ranges as heartbeats tell them."""
        taken = sorted(self._by_first.values())[: max(ranges_max, 0)]
        for first, last, _, _ in taken:
            del self._by_first[first], self._by_last[last]
        return [
            {"first": first, "last": last, "cause": cause, "from_ms": from_ms, "to_ms": to_ms}
            for first, last, from_ms, to_ms in taken
        ]


class _Former(NamedTuple):
    """A start that was cut off: what its file says, and the descriptor that keeps the file ours."""

    path: Path
    descriptor: int
    epoch: int
    started_ms: int
    lease_ms: int
    highest: int
    same_boot: bool


class _StateFiles:
    """The files in which starts of one tap keep their counts: `<tap id>.<epoch>`, locked as long as their process lives."""

    def __init__(self, folder: Path, tap_id: str) -> None:
        self._folder = folder
        self._tap_id = tap_id
        self._boot_id = _boot_id()
        self._path: Path | None = None
        self._descriptor: int | None = None

    def make(self, epoch: int, started_ms: int, lease_ms: int) -> mmap.mmap | None:
        """Return the memory of a new file; None where the epoch is taken. Raises OSError where there can be no file."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{self._tap_id}.{epoch}"
        unnamed = self._folder / f".{path.name}.{os.getpid()}"
        descriptor = os.open(unnamed, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            # Locked before it has its name: whoever sees it and is not refused knows that its process has ended.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.write(descriptor, _STATE.pack(_MAGIC, self._boot_id, started_ms, lease_ms, 0))
            # A page that has no place on the disk would end the process when it is written to.
            os.posix_fallocate(descriptor, 0, mmap.PAGESIZE)
            memory = mmap.mmap(descriptor, mmap.PAGESIZE)
            os.link(unnamed, path)
        except FileExistsError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        finally:
            unnamed.unlink(missing_ok=True)
        self._path, self._descriptor = path, descriptor
        return memory

    def former(self) -> list[_Former]:
        """Return starts of this tap whose processes have ended without saying so."""
        found: list[_Former] = []
        prefix = f"{self._tap_id}."
        with os.scandir(self._folder) as entries:
            names = sorted(entry.name for entry in entries if entry.name.startswith(prefix))
        for name in names:
            epoch = name.removeprefix(prefix)
            if len(found) == _FORMER_MAX:
                break
            if epoch.isascii() and epoch.isdecimal() and self._folder / name != self._path:
                found += self._opened(self._folder / name, int(epoch))
        return found

    def _opened(self, path: Path, epoch: int) -> list[_Former]:
        descriptor = -1
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            magic, boot_id, started_ms, lease_ms, highest = _STATE.unpack(
                os.pread(descriptor, _STATE.size, 0)
            )
            if magic == _MAGIC:
                same = boot_id == self._boot_id
                return [_Former(path, descriptor, epoch, started_ms, lease_ms, highest, same)]
        except (OSError, struct.error):
            pass
        if descriptor >= 0:
            os.close(descriptor)
        return []

    def remove(self) -> None:
        """Remove the file of this start: nobody need speak for it."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Leave the file to whoever comes next."""
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._path = self._descriptor = None


def _boot_id() -> bytes:
    try:
        return Path(_BOOT_ID_FILE).read_bytes().strip()[:36]
    except OSError:
        return b""


class _Tap:
    """One start of the tap in one process: its epoch, its numbers, its queue, and the thread that sends.

    A thread and not a task: encoding and a slow collector stay off the user's event loop, whichever loop it is.
    """

    def __init__(self, settings: _Settings) -> None:
        self.settings = settings
        self.pid = os.getpid()
        self.queue = _Queue(settings.queue_bytes_max)
        self.numbers = _Numbers()
        self._started_ms = time.time_ns() // 1_000_000
        self.epoch = _new_epoch(self._started_ms)
        self._files: _StateFiles | None = None
        self._formers: list[_Former] = []
        self._beats = 0
        self._next_beat_s = 0.0
        self._closing = threading.Event()
        self._give_up_s: float | None = None
        self._connection: http.client.HTTPConnection | None = None
        self._away = False
        self._thread = threading.Thread(target=self._run, name="auditap-tap", daemon=True)
        self._thread.start()

    @property
    def closed(self) -> bool:
        return self._closing.is_set()

    def leave_to_parent(self) -> None:
        """In a forked process: this start is the parent's, and its file is locked by the parent alone."""
        self.numbers.let_go()
        if self._files is not None:
            self._files.close()

    def close(self) -> None:
        if not self._closing.is_set():
            self._give_up_s = time.monotonic() + self.settings.close_s_max
            self._closing.set()
            self.queue.filled.set()
        self._thread.join(self.settings.close_s_max)

    def _run(self) -> None:
        self._guarded(self._keep_count)
        while not self._closing.is_set():
            self._guarded(self._beat_when_due)
            if self.queue.filled.wait(self._until_beat_s()):
                self._closing.wait(self.settings.linger_s)
                self.queue.filled.clear()
                self._guarded(self._send_all)
        self._guarded(self._send_all)
        self.queue.close()
        self.numbers.drop_all(_CLOSING)
        self._guarded(self._end_count)
        self._disconnect()

    def _guarded(self, step: Callable[[], None]) -> None:
        try:
            step()
        except Exception:  # noqa: BLE001  # the thread must live on
            self.queue.count_failed()

    def _keep_count(self) -> None:
        """Keep the count in a file, and find those of starts that were cut off."""
        folder = self.settings.state_dir
        if folder is None:
            return
        try:
            files = _StateFiles(folder.expanduser(), self.settings.tap_id)
            while (memory := files.make(self.epoch, self._started_ms, self.settings.lease_ms)) is None:
                # Nothing was sent under it yet.
                self.epoch = _new_epoch(self._started_ms)
            self.numbers.keep_in(memory)
            self._files = files
            self._formers = files.former()
        except (OSError, RuntimeError) as failure:
            _log.warning(
                "the audit tap keeps its count in memory alone: its state folder cannot be used (%s)",
                type(failure).__name__,
            )

    def _until_beat_s(self) -> float | None:
        return None if self._next_beat_s == math.inf else max(self._next_beat_s - time.monotonic(), 0.0)

    def _beat_when_due(self) -> None:
        if time.monotonic() < self._next_beat_s and not self.numbers.stepped:
            return
        self._next_beat_s = time.monotonic() + self.settings.heartbeat_s
        self._beat("alive")

    def _beat(self, state: str) -> bool:
        """Send a heartbeat, with those for starts that were cut off; return whether the collector has it."""
        self._beats += 1
        told = self.numbers.tell()
        own = {
            "tap": {"id": self.settings.tap_id, "epoch": self.epoch},
            "beat": self._beats,
            "started_ms": min(self._started_ms, told["pending_since_ms"]),
            "lease_ms": self.settings.lease_ms,
            "state": state,
            **told,
        }
        beats = [own, *(_former_beat(each, self.settings.tap_id) for each in self._formers)]
        body = b"".join(json.dumps(each, separators=(",", ":")).encode() + b"\n" for each in beats)
        status, _, answer = self._post(_HEARTBEATS_PATH, self._packed(body), 0)
        if status == 404:
            # A collector from before there were heartbeats.
            self._next_beat_s = math.inf
        # What is refused now will be refused again: saying it for ever would help nobody.
        if status == 0 or _may_succeed_later(status):
            return False
        self.numbers.told(len(told["dropped"]))
        for former in self._formers:
            former.path.unlink(missing_ok=True)
            os.close(former.descriptor)
        self._formers = []
        return 200 <= status < 300 and not _refused(answer)

    def _end_count(self) -> None:
        """Say that this start is over; where nobody hears it, the next one says how far it came."""
        ended = self._beat("ended")
        if self._files is None:
            return
        self.numbers.let_go()
        if ended:
            self._files.remove()
        else:
            self._files.close()

    def _send_all(self) -> None:
        while self._give_up_s is None or time.monotonic() < self._give_up_s:
            lines, numbers, size_bytes = self._next_batch()
            if not lines and not self.queue.drops_to_report():
                return
            delivered = self._deliver(lines, numbers)
            self.queue.give(size_bytes)
            if not delivered and not lines:
                return
            self._beat_when_due()

    def _next_batch(self) -> tuple[list[bytes], list[int], int]:
        """Return the lines of a batch, their numbers, and how much the queue held for them."""
        lines: list[bytes] = []
        numbers: list[int] = []
        held_bytes = encoded_bytes = 0
        while len(lines) < self.settings.batch_pairs_max and encoded_bytes < self.settings.batch_bytes_max:
            pair = self.queue.get()
            if pair is None:
                break
            held_bytes += pair.size_bytes
            try:
                lines.append(_encode(pair, self.settings.tap_id, self.epoch))
                numbers.append(pair.seq)
                encoded_bytes += len(lines[-1])
            except Exception:  # noqa: BLE001  # one pair that cannot be written must not cost the others
                self.queue.count_failed()
                self.queue.count_dropped(1)
                self.numbers.drop((pair.seq,), _FAILED)
        return lines, numbers, held_bytes

    def _deliver(self, lines: list[bytes], numbers: list[int]) -> bool:
        """Send one batch until it is taken, or refused as a whole, or its time is up; return whether it was taken."""
        body = self._packed(b"".join(lines))
        dropped = self.queue.drops_to_report()
        give_up_s = time.monotonic() + self.settings.retry_s_max
        delay_s = _RETRY_DELAY_S
        while True:
            status, retry_after_s, answer = self._post(_PATH, body, dropped)
            if 200 <= status < 300:
                refused = _refused(answer)
                self.queue.count_sent(len(lines) - len(refused), len(refused), dropped)
                self.numbers.drop((numbers[place] for place in refused if place < len(numbers)), _REFUSED)
                self.numbers.done(numbers)
                return True
            pause_s = min(max(delay_s * random.uniform(0.5, 1.5), retry_after_s), _RETRY_DELAY_S_MAX)  # noqa: S311
            until_s = min(give_up_s, self._give_up_s or give_up_s)
            if not _may_succeed_later(status) or time.monotonic() + pause_s > until_s:
                self.queue.count_dropped(len(lines))
                self.numbers.drop(numbers, _COLLECTOR_AWAY if _may_succeed_later(status) else _REJECTED)
                return False
            self._pause(pause_s)
            self._beat_when_due()
            delay_s *= 2

    def _pause(self, pause_s: float) -> None:
        if self._closing.is_set():
            time.sleep(pause_s)
        else:
            self._closing.wait(pause_s)

    def _packed(self, body: bytes) -> bytes:
        return gzip.compress(body, compresslevel=1) if self.settings.compress else body

    def _post(self, path: str, body: bytes, dropped: int) -> tuple[int, float, bytes]:
        """Return status, Retry-After in seconds and answer; status 0 where the collector cannot be reached."""
        headers = dict(self.settings.headers)
        if dropped:
            headers[_DROPPED_HEADER] = str(dropped)
        try:
            if self._connection is None:
                self._connection = self.settings.collector.connect()
            self._connection.request("POST", path, body, headers)
            response = self._connection.getresponse()
            answer = response.read(_ANSWER_BYTES_MAX)
            retry_after = response.headers.get("Retry-After", "")
            if not response.isclosed():
                self._disconnect()
        except Exception as failure:  # noqa: BLE001  # whatever it is, the thread must live on
            self._disconnect()
            self._say(f"cannot be reached ({type(failure).__name__})")
            return 0, 0.0, b""
        self._say(None if response.status < 300 else f"answers {response.status}")
        return response.status, float(retry_after) if retry_after.isdecimal() else 0.0, answer

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _say(self, trouble: str | None) -> None:
        """Log once that the collector is away, and once that it is back."""
        if trouble is not None and not self._away:
            _log.warning("the audit collector %s; audit captures wait, and are dropped when full", trouble)
        elif trouble is None and self._away:
            _log.warning("the audit collector takes captures again")
        self._away = trouble is not None


def _may_succeed_later(status: int) -> bool:
    return status == 0 or status >= 500 or status in _RETRIED_STATUS


def _refused(answer: bytes) -> list[int]:
    """Return the places of refused lines."""
    try:
        return [int(each["index"]) for each in json.loads(answer)["refused"]]
    except (ValueError, TypeError, KeyError, RecursionError):
        return []


def _new_epoch(started_ms: int) -> int:
    """Return a number for a start: seconds and a drawn number, below 2**53 for clients whose numbers are floats.

    Worker processes with the same tap id start in the same moment, containers even with the same process id.
    """
    drawn = int.from_bytes(os.urandom(4), "big") >> (32 - _EPOCH_RANDOM_BITS)
    return started_ms // 1000 << _EPOCH_RANDOM_BITS | drawn


def _former_beat(former: _Former, tap_id: str) -> dict[str, Any]:
    """Return the heartbeat that speaks for a start that was cut off."""
    return {
        "tap": {"id": tap_id, "epoch": former.epoch},
        "beat": 0,
        "at_ms": time.time_ns() // 1_000_000,
        "started_ms": former.started_ms,
        "highest": former.highest,
        "pending_from": former.highest + 1,
        "pending_since_ms": former.started_ms,
        "lease_ms": former.lease_ms,
        # What a machine took with it includes the last changes of its files.
        "state": "killed" if former.same_boot else "lost",
    }


@dataclass(frozen=True)
class _Collector:
    """Where the collector is, and how to connect to it."""

    path: str | None
    host: str
    port: int
    ssl_context: ssl.SSLContext | None
    timeout_s: float

    def connect(self) -> http.client.HTTPConnection:
        if self.path is not None:
            return _UnixConnection(self.path, self.timeout_s)
        if self.ssl_context is not None:
            return http.client.HTTPSConnection(
                self.host, self.port, timeout=self.timeout_s, context=self.ssl_context
            )
        return http.client.HTTPConnection(self.host, self.port, timeout=self.timeout_s)


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


def _collector(url: str, ssl_context: ssl.SSLContext | None, timeout_s: float) -> _Collector:
    if url.startswith("unix:"):
        path = url.removeprefix("unix:")
        if not path:
            raise ValueError("collector needs a path after unix:")
        return _Collector(path, "", 0, None, timeout_s)
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/") or parts.query:
        raise ValueError("collector must be unix:/path/of/socket, http://127.0.0.1:8400 or https://host:port")
    if parts.scheme == "https":
        context = ssl_context or ssl.create_default_context()
        return _Collector(None, parts.hostname, parts.port or 443, context, timeout_s)
    if not _is_loopback(parts.hostname):
        raise ValueError("collector must be https unless it is on loopback: captures are not redacted yet")
    return _Collector(None, parts.hostname, parts.port or 80, None, timeout_s)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _encode(pair: _Pair, tap_id: str, epoch: int) -> bytes:
    """Return the pair as one line of NDJSON."""
    capture: dict[str, Any] = {
        "id": pair.id,
        "tap": {"id": tap_id, "epoch": epoch, "seq": pair.seq},
        "captured_at": datetime.fromtimestamp(pair.at_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        + f".{pair.at_ms % 1000:03d}Z",
        "duration_ms": round(pair.duration_ms, 3),
        "request": {
            "method": pair.method[:64],
            "url": _url(pair),
            "headers": _header_fields(pair.request_headers),
            **pair.request_body.fields(),
        },
        "response": {
            "status": pair.status,
            "headers": _header_fields(pair.response_headers),
            **pair.response_body.fields(),
            "complete": pair.complete,
        },
    }
    if pair.client and pair.client[0]:
        capture["client_ip"] = str(pair.client[0])[:64]
    return json.dumps(capture, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _header_fields(headers: RawHeaders) -> dict[str, str | list[str]]:
    fields: dict[str, str | list[str]] = {}
    for raw_name, raw_value in headers:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        before = fields.get(name)
        if before is None:
            fields[name] = value
        elif isinstance(before, str):
            fields[name] = [before, value]
        else:
            before.append(value)
    return fields


def _url(pair: _Pair) -> str:
    """Return the URL, always absolute, so that neither a path nor a Host header can pass for another part of it."""
    path = pair.path.partition(b"?")[0] if isinstance(pair.path, bytes) else pair.path
    url = f"{pair.scheme}://{_authority(pair)}/{quote(path, safe=_URL_SAFE).removeprefix('/')}"
    if len(url) > _URL_CHARS_MAX:
        # A path cut short could be another operation's; one with this segment is none's.
        return f"{url[: _URL_CHARS_MAX // 2]}/.."
    if not pair.query:
        return url
    query = quote(pair.query, safe=_URL_SAFE + "?")
    room = _URL_CHARS_MAX - len(url) - 1
    # Whole parameters only: a value cut short would be another value.
    return f"{url}?{query if len(query) <= room else query[:room].rpartition('&')[0]}"


def _authority(pair: _Pair) -> str:
    if len(pair.host) == 1 and _HOST.fullmatch(pair.host[0]):
        return pair.host[0].decode("ascii")
    if pair.host or not pair.server or pair.server[1] is None:
        return _UNKNOWN_HOST
    host, port = pair.server
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
