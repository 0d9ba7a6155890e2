"""One request: stands between server and application, and observes what passes."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from .capture import BodyCopy, Pair, is_never_recorded, repeatable, repeatable_headers
from .run import TapRun
from .sequence import DropCause

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

# With these an application hands its server a file to send, and the tap would not see the body.
UNSEEN_BODIES: Final = frozenset({"http.response.pathsend", "http.response.zerocopysend"})
_CLIENT_CLOSED_REQUEST: Final = 499  # as nginx logs it: no standard status says that the client left
_READ_ON_S_MAX: Final = 1.0  # a body that was sent with its request is there long before


def keep_iterators_of(scope: Scope) -> None:
    """Replace the iterators in a scope that the tap reads, which are empty afterwards, by lists of what they give.

    In place, because outer layers may share the scope.
    """
    headers = scope.get("headers", ())
    kept = repeatable_headers(headers)
    if kept is not headers:
        scope["headers"] = kept
    for name in ("client", "server"):
        address = scope.get(name)
        if address is not None and (kept := repeatable(address)) is not address:
            scope[name] = kept


class Exchange:
    """Wraps `receive` and `send` for one request. Whatever fails in here, the application does not notice."""

    __slots__ = (
        "_captured",
        "_complete",
        "_disconnected",
        "_give_up",
        "_may_read_on",
        "_pair",
        "_receive",
        "_request_ended",
        "_run",
        "_send",
        "_started_s",
        "_trailers",
    )

    def __init__(self, run: TapRun, scope: Scope, receive: Receive, send: Send) -> None:
        self._run = run
        self._receive = receive
        self._send = send
        config = run.config
        self._started_s = time.perf_counter()
        headers = config.request_headers.select(scope["headers"])
        copied = scope["method"] not in config.methods_without_bodies
        self._pair = pair = Pair(
            scope,
            headers,
            BodyCopy(run.buffer, config.body_bytes_max, copied=copied),
            BodyCopy(run.buffer, config.body_bytes_max, copied=copied),
        )
        if is_never_recorded(headers):
            # At once, so that an upload does not fill the buffer.
            pair.request_body.discard()
        self._request_ended = _has_no_body(scope)
        self._may_read_on = copied and not self._request_ended and not _expects_continue(scope)
        self._disconnected = False
        self._trailers = False
        self._complete = False
        self._captured = False
        self._give_up: asyncio.TimerHandle | None = None
        # Last, because a number that was assigned must be accounted for.
        pair.assign(*run.numbers.assign())

    async def receive(self) -> Message:
        message = await self._receive()
        self._observe_request(message)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            message = _with_repeatable_headers(message)
        # Observed before it is sent, because outer layers rewrite messages in place. But the response is complete only
        # once the server has accepted its last message, and a disconnect that the server reports after that is none.
        is_last = self._observe_response(message)
        complete = not self._disconnected
        await self._send(message)
        if is_last:
            self._complete = complete
            self._capture_or_read_on()

    def end(self) -> None:
        """Capture what there is: the application has returned or raised, and will send nothing more."""
        if not self._captured:
            self._capture()

    async def read_on(self) -> None:
        """Read what the application, which has returned, left unread of the request's body.

        Bounded: by the bytes of a body, and by the time since the response was complete. Raises nothing of its own.
        """
        if self._captured or self._give_up is None:
            return
        body, until_s = self._pair.request_body, self._give_up.when()
        loop = asyncio.get_running_loop()
        with contextlib.suppress(Exception):
            async with asyncio.timeout_at(until_s):
                # The clock as well, for a server that never makes its caller wait.
                while not self._request_ended and body.takes_more and loop.time() < until_s:
                    message = await self._receive()
                    if message["type"] != "http.request":
                        return
                    self._observe_request(message)

    def _capture_or_read_on(self) -> None:
        """Capture the pair; if the application left a body unread, only once that has been read, or the time is up.

        Not before the application has returned, because two readers would take the body from each other.
        """
        if self._may_read_on and self._complete and not self._request_ended:
            # Without asyncio's loop there is no clock to bound the reading.
            with contextlib.suppress(RuntimeError):
                self._give_up = asyncio.get_running_loop().call_later(_READ_ON_S_MAX, self.end)
                return
        self._capture()

    def _observe_request(self, message: Message) -> None:
        try:
            if self._captured:
                return
            if message["type"] == "http.request":
                self._pair.request_body.append(message.get("body", b""))
                if not message.get("more_body", False):
                    self._request_ended = True
            elif message["type"] == "http.disconnect":
                self._disconnected = True
        except Exception:  # noqa: BLE001  # the user must not notice
            # A copy that lacks a part must not pass for the body.
            self._pair.request_body.discard()
            self._run.buffer.count_failed()

    def _observe_response(self, message: Message) -> bool:
        """Return whether the message is the response's last."""
        try:
            return not self._captured and self._add_to_response(message)
        except Exception:  # noqa: BLE001  # the user must not notice
            self._pair.response_body.discard()
            self._run.buffer.count_failed()
            return False

    def _add_to_response(self, message: Message) -> bool:
        """Add what the message holds to the pair, and return whether it is the response's last."""
        kind = message["type"]
        if kind == "http.response.body":
            self._pair.response_body.append(message.get("body", b""))
            return self._is_last_body(message)
        if kind == "http.response.start":
            self._start_response(message)
        elif kind == "http.response.trailers":
            return not message.get("more_trailers", False)
        elif kind in UNSEEN_BODIES:
            self._pair.response_body.discard()
            return self._is_last_body(message)
        # Early hints and server push belong to no pair.
        return False

    def _is_last_body(self, message: Message) -> bool:
        return not message.get("more_body", False) and not self._trailers

    def _start_response(self, message: Message) -> None:
        pair = self._pair
        pair.status = int(message["status"])
        self._trailers = bool(message.get("trailers", False))
        pair.response_headers = self._run.config.response_headers.select(message.get("headers", ()))
        if is_never_recorded(pair.response_headers):
            pair.response_body.discard()

    def _capture(self) -> None:
        """Put the pair into the buffer; what does not fit is dropped, and its number accounted for."""
        self._captured = True
        if self._give_up is not None:
            self._give_up.cancel()
        run, pair = self._run, self._pair
        try:
            pair.complete = self._complete
            pair.duration_ms = (time.perf_counter() - self._started_s) * 1000
            if pair.status is None:
                # The server responds for an application that did not, unless the client has left.
                pair.status = _CLIENT_CLOSED_REQUEST if self._disconnected else 500
            if not self._request_ended:
                if self._complete or not self._disconnected:
                    pair.request_body.leave_unread()
                else:
                    pair.request_body.discard()
            if not run.buffer.put(pair):
                run.numbers.drop((pair.seq,), DropCause.CLOSING if run.closed else DropCause.BUFFER_FULL)
        except Exception:  # noqa: BLE001  # the user must not notice
            run.buffer.count_failed()
            run.numbers.drop((pair.seq,), DropCause.FAILED)


def _with_repeatable_headers(message: Message) -> Message:
    """Return the message, or a copy if its headers can be read once alone. Raises what reading them raises."""
    headers = message.get("headers", ())
    kept = repeatable_headers(headers)
    return message if kept is headers else {**message, "headers": kept}


def _expects_continue(scope: Scope) -> bool:
    """Return whether the server sends `100 Continue` once the body is read: after the response, that would be wrong."""
    return any(name == b"expect" for name, _ in scope["headers"])


def _has_no_body(scope: Scope) -> bool:
    """Return whether HTTP/1 rules a request body out, so that none is missing if the application reads none."""
    if scope.get("http_version") not in ("1.0", "1.1"):
        return False
    for name, value in scope["headers"]:
        if name == b"transfer-encoding" or (name == b"content-length" and value != b"0"):
            return False
    return True
