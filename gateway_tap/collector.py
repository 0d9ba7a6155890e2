"""The collector's endpoints, `POST /v1/captures` and `/v1/heartbeats`, for taps on the same host and, with a token,
beyond it.

No answer, log line or metric holds anything of a capture.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Final, NamedTuple

import structlog
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from gateway_tap.heartbeats import read_heartbeats
from gateway_tap.identify import identify
from gateway_tap.intake import Batch, IntakeLimits, Refusal, Unusable, UnusableBatch, inflate, read_batch
from gateway_tap.ports import CaptureSink, IdentifiedCapture
from schemas.capture import TapPosition
from schemas.errors import NotDurable, RefusalReason, RefusedCapture
from schemas.explain import validator
from schemas.heartbeat import Heartbeat
from schemas.metric_defs import Metrics

DROPPED_HEADER: Final = "auditap-dropped"
_ANY_TAP: Final = "*"
_RETRY_AFTER_S: Final = 1
_DROPPED_DIGITS_MAX: Final = 12
_STATUS: Final = {
    Unusable.GZIP: 400,
    Unusable.ARRAY: 400,
    Unusable.MEDIA_TYPE: 415,
    Unusable.CONTENT_ENCODING: 415,
    Unusable.BATCH_BYTES: 413,
    Unusable.INFLATED_BYTES: 413,
    Unusable.CAPTURES: 413,
}

_log = structlog.get_logger(__name__)


class TapToken(NamedTuple):
    """A token, known by its SHA-256 alone, and the tap ids it may speak for: names, `fnmatch` patterns or `*`.

    A capture that names no tap needs `*`.
    """

    sha256: bytes
    tap_patterns: tuple[str, ...]

    def may_speak_for(self, tap_id: str | None) -> bool:
        """Tell whether what names this tap, or none, may come in under this token."""
        if tap_id is None:
            return _ANY_TAP in self.tap_patterns
        return any(fnmatchcase(tap_id, pattern) for pattern in self.tap_patterns)


class TapTokens:
    """The tokens that taps may present over TCP."""

    def __init__(self, tokens: Sequence[TapToken]) -> None:
        self._tokens = tuple(tokens)

    def find(self, authorization: str) -> TapToken | None:
        """Return the token that an `Authorization` header presents, if it is one of these."""
        scheme, _, presented = authorization.partition(" ")
        if scheme.lower() != "bearer":
            return None
        digest = hashlib.sha256(presented.strip().encode("utf-8", "surrogateescape")).digest()
        found = None
        # Every token is compared, so that the time tells nothing about which of them was near.
        for token in self._tokens:
            if hmac.compare_digest(token.sha256, digest):
                found = token
        return found


class _Answer(Exception):
    """Ends the handling of a request with this status and sentence."""

    def __init__(self, status: int, sentence: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence
        self.headers = headers


def _unavailable(sentence: str, retry_after_s: int = _RETRY_AFTER_S) -> _Answer:
    return _Answer(503, sentence, {"Retry-After": str(max(1, retry_after_s))})


class _InFlight:
    """How many requests, and how many bytes of their bodies, are in memory."""

    def __init__(self, limits: IntakeLimits) -> None:
        self._limits = limits
        self._requests = 0
        self._bytes = 0

    @contextmanager
    def request(self) -> Iterator[_Held]:
        """Hold one request's place; raises _Answer (503) where there is none."""
        if self._requests >= self._limits.requests_max:
            raise _unavailable("too many requests at once")
        self._requests += 1
        held = _Held(self)
        try:
            yield held
        finally:
            self._requests -= 1
            self._bytes -= held.size_bytes

    def take(self, size_bytes: int) -> None:
        if self._bytes + size_bytes > self._limits.in_flight_bytes_max:
            raise _unavailable("too many bytes at once")
        self._bytes += size_bytes


class _Held:
    """The bytes that one request holds."""

    def __init__(self, in_flight: _InFlight) -> None:
        self._in_flight = in_flight
        self.size_bytes = 0

    def add(self, size_bytes: int) -> None:
        """Hold more; raises _Answer (503) where that is too much."""
        self._in_flight.take(size_bytes)
        self.size_bytes += size_bytes


@dataclass(frozen=True)
class _Collector:
    sink: CaptureSink
    identity_key: bytes
    limits: IntakeLimits
    tokens: TapTokens | None
    metrics: Metrics
    clock_ms: Callable[[], int]
    in_flight: _InFlight

    async def post_captures(self, request: Request) -> JSONResponse:
        return await self._guarded(request, self._captures)

    async def post_heartbeats(self, request: Request) -> JSONResponse:
        return await self._guarded(request, self._heartbeats)

    async def _guarded(
        self, request: Request, answer: Callable[[Request], Awaitable[JSONResponse]]
    ) -> JSONResponse:
        try:
            return await answer(request)
        except _Answer as early:
            return _refusal(request, early)
        except UnusableBatch as unusable:
            return _refusal(request, _Answer(_STATUS[unusable.reason], unusable.reason.value))
        except ClientDisconnect:
            return _refusal(request, _Answer(400, "the body did not arrive"))
        except Exception as failure:  # noqa: BLE001  # its text and traceback may hold the pair: the type must do
            _log.error("collector_failed", error=type(failure).__name__)
        return _refusal(request, _unavailable("the collector failed"))

    async def _captures(self, request: Request) -> JSONResponse:
        token = self._authorize(request)
        with self.in_flight.request() as held:
            body = await self._read(request, held)
            batch = read_batch(body, request.headers.get("content-type", ""), self.limits)
            received_ms = self.clock_ms()
            taken, refusals = self._identify(batch, token, received_ms)
            await self._hand_over(taken, received_ms, batch.refused_positions)
        for refusal in refusals:
            self.metrics.captures_refused.labels(refusal.reason.value).inc()
        # Only an answer acknowledges the count: until then the tap reports it again.
        self.metrics.captures_dropped_by_taps.inc(_dropped(request))
        unknown = batch.with_unknown_fields
        self.metrics.captures_with_unknown_fields.inc(len(unknown))
        return _outcome(len(taken), refusals, unknown)

    async def _heartbeats(self, request: Request) -> JSONResponse:
        token = self._authorize(request)
        with self.in_flight.request() as held:
            body = await self._read(request, held)
            batch = read_heartbeats(body, request.headers.get("content-type", ""), self.limits)
            taken: list[Heartbeat] = []
            for index, heartbeat in batch.heartbeats:
                if token is None or token.may_speak_for(heartbeat.tap.id):
                    taken.append(heartbeat)
                else:
                    batch.refusals.append(Refusal(index, RefusalReason.TAP_NOT_ALLOWED, "tap.id"))
            try:
                await self.sink.report(taken, self.clock_ms())
            except NotDurable as away:
                raise _unavailable("the heartbeats could not be made durable", away.retry_after_s) from None
        self.metrics.heartbeats_accepted.inc(len(taken))
        return _outcome(len(taken), sorted(batch.refusals))

    def _authorize(self, request: Request) -> TapToken | None:
        """Return the token presented, or None where none is needed; raises _Answer (401)."""
        if self.tokens is None:
            return None
        token = self.tokens.find(request.headers.get("authorization", ""))
        if token is None:
            raise _Answer(
                401, "a valid bearer token is needed", {"WWW-Authenticate": 'Bearer realm="auditap"'}
            )
        return token

    async def _read(self, request: Request, held: _Held) -> bytes:
        """Return the inflated body; raises UnusableBatch, _Answer (408, 503) or ClientDisconnect."""
        body = await self._body(request, held)
        inflated = inflate(body, request.headers.get("content-encoding", ""), self.limits)
        if inflated is not body:
            held.add(len(inflated))
        return inflated

    async def _body(self, request: Request, held: _Held) -> bytes:
        if _content_length(request) > self.limits.batch_bytes_max:
            raise UnusableBatch(Unusable.BATCH_BYTES)
        chunks: list[bytes] = []
        try:
            async with asyncio.timeout(self.limits.read_ms_max / 1000):
                async for chunk in request.stream():
                    held.add(len(chunk))
                    if held.size_bytes > self.limits.batch_bytes_max:
                        raise UnusableBatch(Unusable.BATCH_BYTES)
                    chunks.append(chunk)
        except TimeoutError:
            raise _Answer(408, "the body did not arrive in time") from None
        return b"".join(chunks)

    def _identify(
        self, batch: Batch, token: TapToken | None, received_ms: int
    ) -> tuple[list[IdentifiedCapture], list[Refusal]]:
        taken: list[IdentifiedCapture] = []
        refusals = batch.refusals
        if token is not None:
            # Nobody accounts for another's numbers.
            allowed = [each for each in batch.refused_positions if token.may_speak_for(each.id)]
            batch.refused_positions[:] = allowed
        for index, capture in batch.captures:
            if token is not None and not token.may_speak_for(capture.tap.id if capture.tap else None):
                refusals.append(Refusal(index, RefusalReason.TAP_NOT_ALLOWED, "tap.id"))
                continue
            try:
                taken.append(IdentifiedCapture(identify(capture, self.identity_key, received_ms), capture))
            except RefusedCapture as refused:
                refusals.append(Refusal(index, refused.reason, refused.path))
                batch.refused_positions.extend([capture.tap] if capture.tap else [])
        return taken, sorted(refusals)

    async def _hand_over(
        self, taken: list[IdentifiedCapture], received_ms: int, refused: list[TapPosition]
    ) -> None:
        """Return once the sink has taken everything; raises _Answer (503) where it has not."""
        if not taken and not refused:
            return
        try:
            await self.sink.accept(taken, received_ms, refused)
        except NotDurable as away:
            self.metrics.captures_unavailable.inc(len(taken))
            raise _unavailable("the batch could not be made durable", away.retry_after_s) from None
        except Exception:
            self.metrics.captures_unavailable.inc(len(taken))
            raise
        self.metrics.captures_accepted.inc(len(taken))


def collector_app(
    sink: CaptureSink,
    *,
    identity_key: bytes,
    limits: IntakeLimits,
    tokens: TapTokens | None,
    metrics: Metrics,
    clock_ms: Callable[[], int],
) -> Starlette:
    """Return the application with `POST /v1/captures` and `POST /v1/heartbeats`.

    `tokens`: None on a Unix socket that only the right users can open; on TCP the bearer tokens. `identity_key`
    derives ids and must outlive restarts. `clock_ms` gives Unix milliseconds.

    Answers: 200 `{"accepted": n, "refused": [{"index", "reason", "path"}]}` once every accepted capture's event, or
    every accepted heartbeat, is durable, with `"unknown_fields": {"captures": n, "first_index": i}` where captures hold fields that no
    capture has, which are passed over; 400, 408, 413 and 415 where the body as a whole is of no use; 401; 503 with Retry-After where sending
    the same again may succeed. Every other answer has the body `{"error": "one sentence"}`.
    """
    # The contracts' validators are built here and not inside the first request that holds a bad line.
    validator("capture")
    validator("heartbeat")
    collector = _Collector(sink, identity_key, limits, tokens, metrics, clock_ms, _InFlight(limits))
    routes: list[Any] = [
        Route("/v1/captures", collector.post_captures, methods=["POST"]),
        Route("/v1/heartbeats", collector.post_heartbeats, methods=["POST"]),
    ]
    return Starlette(routes=routes)


def _outcome(accepted: int, refusals: Sequence[Refusal], unknown: Sequence[int] = ()) -> JSONResponse:
    refused = [{"index": each.index, "reason": each.reason, "path": each.path} for each in refusals]
    answer: dict[str, Any] = {"accepted": accepted, "refused": refused}
    if unknown:
        answer["unknown_fields"] = {"captures": len(unknown), "first_index": unknown[0]}
    return JSONResponse(answer)


def _refusal(request: Request, answer: _Answer) -> JSONResponse:
    headers = dict(answer.headers or {})
    # The server reads on, to keep the connection, until the body ends; one without a length need never end.
    if "content-length" not in request.headers:
        headers["Connection"] = "close"
    return JSONResponse({"error": answer.sentence}, answer.status, headers)


def _content_length(request: Request) -> int:
    declared = request.headers.get("content-length", "")
    return int(declared) if declared.isdecimal() and len(declared) <= 20 else 0


def _dropped(request: Request) -> int:
    reported = request.headers.get(DROPPED_HEADER, "")
    usable = reported.isascii() and reported.isdecimal() and len(reported) <= _DROPPED_DIGITS_MAX
    return int(reported) if usable else 0
