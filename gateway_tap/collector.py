"""The collector's endpoints, `POST /v1/captures` (and one beside it for each other format) and `POST /v1/heartbeats`: over a
Unix socket for taps on the same host, and over TCP with a bearer token.

No response, log line or metric holds anything of a capture.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import structlog
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from gateway_tap.body import Refusal, RejectedBody, Rejection, inflate
from gateway_tap.formats.own import OWN
from gateway_tap.formats.routes import CAPTURE_ROUTES, CaptureRoute
from gateway_tap.heartbeats import read_heartbeats
from gateway_tap.in_flight import InFlight, RequestBytes, TooMuchInFlight
from gateway_tap.intake import CaptureBatch, read_into
from gateway_tap.limits import CAPTURES_MAX, READ_MS_MAX, IntakeLimits
from gateway_tap.ports import CaptureSink, IdentifiedCapture
from gateway_tap.tokens import TapToken, TapTokens
from gateway_tap.turns import in_turns
from gateway_tap.unix_socket import PEER_UID
from schemas.capture import TapPosition
from schemas.capture_id import capture_id, is_repeatable
from schemas.contracts import validator
from schemas.errors import NotDurable, RefusalReason, RefusedCapture
from schemas.heartbeat import Heartbeat
from schemas.metric_defs import Metrics

DROPPED_HEADER: Final = "auditap-dropped"
"""How many captures a tap has dropped since its last successful batch. For the metric alone: gaps come from heartbeats."""
_RETRY_AFTER_S: Final = 1
# gzip shrinks to a thousandth at best. A longer body is inflated in a thread: 32 MiB take longer than others should wait.
_INFLATED_AT_ONCE_BYTES_MAX: Final = 8 * 1024
_DROPPED_DIGITS_MAX: Final = 12  # one wrong header must not spoil the metric for good
_UNREPEATABLE: Final = "sent again, they become second records: give each an id, or captured_at with tap.seq or one x-request-id header"
_REJECTION_STATUS: Final = {
    Rejection.GZIP: 400,
    Rejection.ARRAY: 400,
    Rejection.MEDIA_TYPE: 415,
    Rejection.CONTENT_ENCODING: 415,
    Rejection.BATCH_BYTES: 413,
    Rejection.INFLATED_BYTES: 413,
    Rejection.CAPTURES: 413,
}

_log = structlog.get_logger(__name__)


class _ErrorResponse(Exception):
    """Ends the handling of a request with this status, and a sentence for the sender."""

    def __init__(self, status: int, sentence: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence
        self.headers = headers


def _unavailable(sentence: str, retry_after_s: int = _RETRY_AFTER_S) -> _ErrorResponse:
    return _ErrorResponse(503, sentence, {"Retry-After": str(max(1, retry_after_s))})


@dataclass(frozen=True)
class _Collector:
    sink: CaptureSink
    identity_key: bytes
    limits: IntakeLimits
    captures_max: int
    read_ms_max: int
    tokens: TapTokens | None
    metrics: Metrics
    clock_ms: Callable[[], int]
    in_flight: InFlight
    inflating: asyncio.Lock

    async def post_captures(self, route: CaptureRoute, request: Request) -> JSONResponse:
        return await self._handle(request, partial(self._captures, route))

    async def post_heartbeats(self, request: Request) -> JSONResponse:
        return await self._handle(request, self._heartbeats)

    async def _handle(
        self, request: Request, handler: Callable[[Request], Awaitable[JSONResponse]]
    ) -> JSONResponse:
        """Return the handler's response, or the one that its error stands for."""
        try:
            return await handler(request)
        except _ErrorResponse as raised:
            error = raised
        except RejectedBody as rejected:
            error = _ErrorResponse(_REJECTION_STATUS[rejected.reason], rejected.reason.value)
        except TooMuchInFlight as busy:
            self.metrics.intake_busy.labels(busy.bound).inc()
            error = _unavailable(str(busy))
        except ClientDisconnect:
            error = _ErrorResponse(400, "the body did not arrive")
        except Exception as failure:  # noqa: BLE001  # its text and traceback may hold the pair: the type must do
            _log.error("collector_failed", error=type(failure).__name__)
            error = _unavailable("the collector failed")
        return _error_response(request, error)

    async def _captures(self, route: CaptureRoute, request: Request) -> JSONResponse:
        # Before the body is read: whoever has no token takes no memory.
        token = self._authorize(request, route.scheme)
        with self.in_flight.request(_sender(request, token)) as held:
            body = await self._read(request, held)
            content_type = request.headers.get("content-type", "")
            batch = CaptureBatch()
            reading = read_into(
                batch,
                body,
                content_type,
                self.limits,
                gateway_format=route.format,
                captures_max=self.captures_max,
            )
            async for _ in in_turns(reading):
                pass
            if route.format is not OWN and token is not None:
                batch.name_tap(token.only_tap)
            received_ms = self.clock_ms()
            accepted, refusals = await self._identify(batch, token, received_ms)
            refused = {each.index for each in refusals}
            unrepeatable = [
                index
                for index, capture in batch.captures
                if not is_repeatable(capture) and index not in refused
            ]
            # Within the bound on memory: the captures are held until the log has them, and must not make room for
            # others before.
            await self._make_durable(accepted, received_ms, batch.refused_positions)
        for refusal in refusals:
            self.metrics.captures_refused.labels(refusal.reason.value).inc()
        # Only now: the tap reports the number again unless the response is a success.
        self.metrics.captures_dropped_by_taps.inc(_dropped(request))
        self.metrics.captures_with_unknown_fields.inc(len(batch.with_unknown_fields))
        return _success(len(accepted), refusals, batch.with_unknown_fields, unrepeatable)

    async def _heartbeats(self, request: Request) -> JSONResponse:
        token = self._authorize(request)
        with self.in_flight.request(_sender(request, token)) as held:
            body = await self._read(request, held)
            batch = read_heartbeats(body, request.headers.get("content-type", ""))
            accepted: list[Heartbeat] = []
            for index, heartbeat in batch.heartbeats:
                if token is None or token.allows(heartbeat.tap.id):
                    accepted.append(heartbeat)
                else:
                    batch.refusals.append(Refusal(index, RefusalReason.TAP_NOT_ALLOWED, "tap.id"))
            try:
                await self.sink.report(accepted, self.clock_ms())
            except NotDurable as error:
                raise _unavailable("the heartbeats could not be made durable", error.retry_after_s) from None
        self.metrics.heartbeats_accepted.inc(len(accepted))
        return _success(len(accepted), sorted(batch.refusals))

    def _authorize(self, request: Request, scheme: str = "bearer") -> TapToken | None:
        """Return the token presented by this scheme, or None if none is required. Raises _ErrorResponse (401)."""
        if self.tokens is None:
            return None
        token = self.tokens.find(request.headers.get("authorization", ""), scheme)
        if token is None:
            challenge = {"WWW-Authenticate": f'{scheme.capitalize()} realm="auditap"'}
            raise _ErrorResponse(401, f"a valid {scheme} token is required", challenge)
        return token

    async def _read(self, request: Request, held: RequestBytes) -> bytes:
        """Return the inflated body. Raises RejectedBody, TooMuchInFlight, _ErrorResponse (408) or ClientDisconnect."""
        body = await self._receive(request, held)
        encoding = request.headers.get("content-encoding", "")
        if encoding and len(body) > _INFLATED_AT_ONCE_BYTES_MAX:
            # One after the other: what is inflated counts only once it is there.
            async with self.inflating:
                inflated = await asyncio.to_thread(inflate, body, encoding, self.limits.inflated_bytes_max)
        else:
            inflated = inflate(body, encoding, self.limits.inflated_bytes_max)
        # Both are in memory now.
        if inflated is not body:
            held.add(len(inflated))
        return inflated

    async def _receive(self, request: Request, held: RequestBytes) -> bytes:
        # A declared length ends it at once; a wrong or missing one is caught while reading.
        if _content_length(request) > self.limits.batch_bytes_max:
            raise RejectedBody(Rejection.BATCH_BYTES)
        chunks: list[bytes] = []
        try:
            async with asyncio.timeout(self.read_ms_max / 1000):
                async for chunk in request.stream():
                    held.add(len(chunk))
                    if held.size_bytes > self.limits.batch_bytes_max:
                        raise RejectedBody(Rejection.BATCH_BYTES)
                    chunks.append(chunk)
        except TimeoutError:
            raise _ErrorResponse(408, "the body did not arrive in time") from None
        return b"".join(chunks)

    async def _identify(
        self, batch: CaptureBatch, token: TapToken | None, received_ms: int
    ) -> tuple[list[IdentifiedCapture], list[Refusal]]:
        """Return the captures that are accepted, with their ids, and all refusals in the order of their indexes."""
        accepted: list[IdentifiedCapture] = []
        refusals = batch.refusals
        if token is not None:
            # A token may report sequence numbers only for its own taps.
            allowed = [position for position in batch.refused_positions if token.allows(position.id)]
            batch.refused_positions[:] = allowed
        async for index, capture in in_turns(batch.captures):
            if token is not None and not token.allows(capture.tap.id if capture.tap else None):
                path = "tap.id" if capture.tap else "tap.id: required"
                refusals.append(Refusal(index, RefusalReason.TAP_NOT_ALLOWED, path))
                continue
            try:
                event_id = capture_id(capture, self.identity_key, received_ms)
            except RefusedCapture as refused:
                refusals.append(Refusal(index, refused.reason, refused.path))
                if capture.tap is not None:
                    batch.refused_positions.append(capture.tap)
                continue
            accepted.append(IdentifiedCapture(event_id, capture))
        return accepted, sorted(refusals)

    async def _make_durable(
        self, captures: list[IdentifiedCapture], received_ms: int, refused: list[TapPosition]
    ) -> None:
        """Return once the sink has accepted everything. Raises _ErrorResponse (503) if it has not."""
        # Nothing to store, so a log that is away is no reason to refuse.
        if not captures and not refused:
            return
        try:
            await self.sink.accept(captures, received_ms, refused)
        except NotDurable as error:
            self.metrics.captures_unavailable.inc(len(captures))
            raise _unavailable("the batch could not be made durable", error.retry_after_s) from None
        except Exception:
            self.metrics.captures_unavailable.inc(len(captures))
            raise
        self.metrics.captures_accepted.inc(len(captures))


def collector_app(
    sink: CaptureSink,
    *,
    identity_key: bytes,
    limits: IntakeLimits,
    tokens: TapTokens | None,
    metrics: Metrics,
    clock_ms: Callable[[], int],
    in_flight: InFlight | None = None,
    captures_max: int = CAPTURES_MAX,
    read_ms_max: int = READ_MS_MAX,
) -> Starlette:
    """Return the application with the routes for captures, `POST /v1/captures` first, and `POST /v1/heartbeats`.

    `tokens`: the bearer tokens that taps may present over TCP; None on a Unix socket, which its permissions protect.
    `identity_key` derives ids, and must outlive restarts. `clock_ms` returns Unix milliseconds. `in_flight`: what is in
    memory, if other applications of the process share its bounds.

    A sender has its fair share of those bounds. Over TCP that is whoever presents the same token, on a Unix socket the
    processes of one user, whose id the server leaves in the request's state as `PEER_UID`.

    Responses:

    - 200 `{"accepted": n, "refused": [{"index", "reason", "path"}]}`: every accepted capture or heartbeat is durable. With
      `"unknown_fields": {"captures": n, "first_index": i}` if captures have unknown fields, which are ignored; with
      `"unrepeatable": {"captures": n, "first_index": i, "warning": "…"}` if captures become new records when sent again.
    - 400, 408, 413, 415: the body as a whole is rejected; sending it again would not help, except after 408.
    - 401: no valid token.
    - 503 with Retry-After: nothing was accepted, and sending the same again may succeed.

    Every response but 200 has the body `{"error": "one sentence"}`.
    """
    # Built here, because building them inside a request would hold up all others.
    validator("capture")
    validator("heartbeat")
    collector = _Collector(
        sink=sink,
        identity_key=identity_key,
        limits=limits,
        captures_max=captures_max,
        read_ms_max=read_ms_max,
        tokens=tokens,
        metrics=metrics,
        clock_ms=clock_ms,
        in_flight=in_flight or InFlight(limits),
        inflating=asyncio.Lock(),
    )
    routes: list[Any] = [
        Route(route.path, partial(collector.post_captures, route), methods=["POST"])
        for route in CAPTURE_ROUTES
    ]
    return Starlette(routes=[*routes, Route("/v1/heartbeats", collector.post_heartbeats, methods=["POST"])])


def _success(
    accepted: int,
    refusals: Sequence[Refusal],
    unknown_fields: Sequence[int] = (),
    unrepeatable: Sequence[int] = (),
) -> JSONResponse:
    refused = [{"index": each.index, "reason": each.reason, "path": each.path} for each in refusals]
    content: dict[str, Any] = {"accepted": accepted, "refused": refused}
    if unknown_fields:
        content["unknown_fields"] = _counted(unknown_fields)
    if unrepeatable:
        content["unrepeatable"] = {**_counted(unrepeatable), "warning": _UNREPEATABLE}
    return JSONResponse(content)


def _counted(indexes: Sequence[int]) -> dict[str, int]:
    return {"captures": len(indexes), "first_index": indexes[0]}


def _sender(request: Request, token: TapToken | None) -> Hashable:
    """Return whose share of what is in memory a request takes."""
    return token or (PEER_UID, request.scope.get("state", {}).get(PEER_UID))


def _error_response(request: Request, error: _ErrorResponse) -> JSONResponse:
    headers = dict(error.headers or {})
    # To keep the connection, the server would read on until the body ends; one without a length need never end.
    if "content-length" not in request.headers:
        headers["Connection"] = "close"
    return JSONResponse({"error": error.sentence}, error.status, headers)


def _content_length(request: Request) -> int:
    """Return the declared length in bytes; 0 if there is none, so that the body is counted as it arrives."""
    declared = request.headers.get("content-length", "")
    # Longer ones are no lengths, and Python refuses to parse thousands of digits.
    return int(declared) if declared.isdecimal() and len(declared) <= 20 else 0


def _dropped(request: Request) -> int:
    """Return how many captures the tap reports as dropped; 0 if the header is absent or not a number."""
    reported = request.headers.get(DROPPED_HEADER, "")
    usable = reported.isascii() and reported.isdecimal() and len(reported) <= _DROPPED_DIGITS_MAX
    return int(reported) if usable else 0
