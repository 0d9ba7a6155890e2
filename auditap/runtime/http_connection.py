"""One connection of an HTTP server: uvicorn's protocol on httptools, within `HttpLimits`.

uvicorn bounds neither heads nor times, and httptools joins the parts of a header without end.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Iterator
from enum import Enum, auto
from typing import Any, Final, Protocol

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from auditap.runtime.http_limits import (
    BODY_TIME,
    HEAD_TIME,
    HEADERS,
    HEADERS_BYTES,
    INVALID,
    PIPELINED,
    SMALL_CHUNKS,
    TARGET_BYTES,
    EndReason,
    HttpLimits,
    Refusal,
)

# What the parser holds back is measured after each piece.
_PIECE_BYTES: Final = 16 * 1024
# The line of a chunk's size and the line end after the chunk.
_CHUNK_FRAME_BYTES: Final = 20
_FIELD_FRAME_BYTES: Final = 4
_FRAMING_FIELDS: Final = frozenset({b"content-length", b"transfer-encoding"})
# A sender who is told why must not lose the response because it is still sending.
_LINGER_S: Final = 1.0
_LINGER_BYTES_MAX: Final = 1024 * 1024
# After each read of a body whose response was sent: a few MB/s at most, so that many such bodies leave time for others.
_DISCARD_PAUSE_S: Final = 0.1


class _Phase(Enum):
    """What the connection waits for."""

    REQUEST = auto()
    HEAD = auto()
    BODY = auto()


class ConnectionOwner(Protocol):
    """Who keeps the connections of a listener."""

    def began_to_wait(self, connection: HttpConnection) -> None:
        """Take note that no request is in progress: the connection may be displaced, after those that wait already."""

    def stopped_waiting(self, connection: HttpConnection) -> None:
        """Take note that a request is in progress."""

    def is_surplus(self) -> bool:
        """Whether a connection should end with its response, so that its client connects to a process that has fewer."""

    def ended(self, reason: EndReason) -> None:
        """Count a connection that the server ends."""

    def lost(self, connection: HttpConnection) -> None:
        """Forget the connection."""


class _Refused(Exception):
    """Stops the parser. The refusal itself is in the connection."""


class HttpConnection(HttpToolsProtocol):
    """Serves the requests of a connection one after the other. `check` has to be called about twice a second."""

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        state: dict[str, Any],
        *,
        loop: asyncio.AbstractEventLoop,
        limits: HttpLimits,
        owner: ConnectionOwner,
    ) -> None:
        """`state`: what each request finds in its scope under `state`."""
        super().__init__(config, server_state, state, loop)
        self._limits = limits
        self._owner = owner
        self._phase = _Phase.REQUEST
        self._running: RequestResponseCycle | None = None
        self._refusal: Refusal | None = None
        self._lingering = False
        self._discarded_bytes = 0
        self._headers = self._headers_bytes = 0
        self._chunks = self._body_bytes = 0
        # Bytes parsed that are no part of a body.
        self._beside_bytes = 0
        self._read_deadline_s = self._write_deadline_s = self._close_deadline_s = math.inf
        # Of the request that is read, if it asks for an upgrade and has a body: the fields that say where the body ends.
        self._framing: list[bytes] = []
        self._is_repeating = False
        # While the rest of an answered body is read slowly.
        self._discarding: asyncio.TimerHandle | None = None

    @property
    def is_open(self) -> bool:
        """Whether the connection, with TLS after its handshake, has been handed over by the listener."""
        return self.transport is not None

    # From the transport.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._read_within(self._limits.head_ms_max)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        # uvicorn tells the newest request alone, which with pipelining is not the one that runs.
        self._disconnect_running()
        if self._discarding is not None:
            self._discarding.cancel()
        self._owner.lost(self)

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        if self._lingering:
            self._discard(data)
            return
        if self._phase is _Phase.REQUEST:
            self._begin_head()
        for piece in self._pieces(data):
            self._parse(piece)
            if self._lingering or self.transport.is_closing():
                return
        if self._phase is _Phase.BODY and self.cycle.response_complete:
            self._discard_slowly()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_deadline_s = self.loop.time() + self._limits.write_ms_max / 1000

    def resume_writing(self) -> None:
        super().resume_writing()
        self._write_deadline_s = math.inf

    # From the parser.

    def on_message_begin(self) -> None:
        if self._is_repeating:
            return
        if self._phase is not _Phase.HEAD:
            self._begin_head()
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        if self._is_repeating:
            return
        super().on_url(url)
        if len(self.url) > self._limits.target_bytes_max:
            self._stop_parsing(TARGET_BYTES)

    def on_header(self, name: bytes, value: bytes) -> None:
        # Trailers would become headers of a request that is handled already.
        if self._phase is not _Phase.HEAD:
            return
        self._headers += 1
        self._headers_bytes += len(name) + len(value) + _FIELD_FRAME_BYTES
        if self._headers_bytes > self._limits.headers_bytes_max:
            self._stop_parsing(HEADERS_BYTES)
        if self._headers > self._limits.headers_max:
            self._stop_parsing(HEADERS)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._is_repeating:
            return
        if len(self.pipeline) >= self._limits.pipelined_max:
            self._stop_parsing(PIPELINED)
        super().on_headers_complete()
        self._phase = _Phase.BODY
        self._chunks = self._body_bytes = self._beside_bytes = 0
        self._owner.stopped_waiting(self)
        self._read_within(self._limits.body_ms_max)
        if self.parser.should_upgrade():
            self._framing = [b"%b: %b\r\n" % field for field in self.headers if field[0] in _FRAMING_FIELDS]

    def on_chunk_header(self) -> None:
        self._chunks += 1
        self._beside_bytes -= _CHUNK_FRAME_BYTES
        limits = self._limits
        if (
            self._chunks > limits.small_chunks_max
            and self._body_bytes < self._chunks * limits.chunk_bytes_min
        ):
            self._stop_parsing(SMALL_CHUNKS)

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        self._beside_bytes -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        # To the parser, a request that asks for an upgrade has no body.
        if self._framing and not self._is_repeating:
            return
        super().on_message_complete()
        self._stop_discarding()
        self._phase = _Phase.REQUEST
        self._read_deadline_s = math.inf
        self._wait_if_idle()

    # From the request that runs.

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        if not self.pipeline and self._owner.is_surplus():
            # The response says so, and a client that sends again opens another connection.
            cycle.keep_alive = False
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        if self._running is not None:
            # Nobody reads it any more, and the connection may stay for long.
            self._running.body = bytearray()
        super().on_response_complete()
        if not self._lingering:
            self._wait_if_idle()
        elif not self._is_busy():
            self._answer_refusal()

    # From the listener.

    def displace(self) -> None:
        """Close the connection in favour of a new one, at once: who reads nothing would keep its descriptor open."""
        self._owner.ended(EndReason.DISPLACED)
        self.transport.abort()

    def check(self, now_s: float) -> None:
        """End the connection if its time is up. `now_s`: the loop's time."""
        if self.transport.is_closing():
            # A transport that closes sends its buffer first, and waits without end for who does not read it.
            if self._close_deadline_s == math.inf:
                self._close_deadline_s = now_s + self._limits.write_ms_max / 1000
            elif now_s > self._close_deadline_s:
                self.transport.abort()
        elif now_s > self._write_deadline_s:
            self._owner.ended(EndReason.WRITE_TIME)
            self.transport.abort()
        elif self._read_deadline_s != math.inf and self.flow.read_paused and self._discarding is None:
            # It is not the sender that is late, nor will it be the moment that it may go on.
            self._read_deadline_s = now_s + self._limits.body_ms_max / 1000
        elif now_s > self._read_deadline_s:
            self._read_time_is_up()

    def _read_time_is_up(self) -> None:
        if self._lingering:
            self.transport.close()
        elif self._phase is _Phase.BODY:
            self._refuse(BODY_TIME)
        elif self._phase is _Phase.HEAD and self.scope is not None:
            self._refuse(HEAD_TIME)
        else:
            is_idle = self._phase is _Phase.REQUEST and self.cycle is not None
            self._end(EndReason.IDLE_TIME if is_idle else EndReason.HEAD_TIME)

    def _begin_head(self) -> None:
        self._phase = _Phase.HEAD
        self.scope = None  # type: ignore[assignment]
        self._headers = self._headers_bytes = self._beside_bytes = self._chunks = 0
        if self.cycle is not None:
            self._read_within(self._limits.head_ms_max)
        if not self._is_busy():
            self._owner.began_to_wait(self)

    def _pieces(self, data: bytes) -> Iterator[bytes]:
        """Yield `data`, in pieces as long as the parser may hold some of it back."""
        at = 0
        while at < len(data):
            is_whole = self._phase is _Phase.BODY and not self._chunks
            end = len(data) if is_whole else at + _PIECE_BYTES
            yield data[at:end]
            at = end

    def _parse(self, piece: bytes) -> None:
        self._beside_bytes += len(piece)
        while piece:
            try:
                self.parser.feed_data(piece)
            except httptools.HttpParserUpgrade as upgrade:
                # No other protocol is spoken here: the request is served as it is, and more may follow.
                piece = piece[upgrade.args[0] :]
                if self._framing and not self._repeat_framing():
                    return
                continue
            except httptools.HttpParserError:
                self._refuse(self._refusal or INVALID)
                return
            break
        # Twice, because the exact limits are checked once a field is complete. Here come those that never are, white
        # space that the parser drops, and what surrounds chunks.
        if self._beside_bytes > 2 * self._limits.headers_bytes_max:
            self._refuse(HEADERS_BYTES if self._phase is _Phase.HEAD else SMALL_CHUNKS)

    def _repeat_framing(self) -> bool:
        """Have the body of a request that asked for an upgrade read as one. Return whether that is possible.

        The parser would take it for the next request. To a proxy in front it is a body, and the response to what is in it
        would go to whoever comes next.
        """
        version = self.scope["http_version"].encode()
        head = b"POST / HTTP/%b\r\n%b\r\n" % (version, b"".join(self._framing))
        self.parser = httptools.HttpRequestParser(self)
        # As in the parser that it replaces.
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._is_repeating = True
        try:
            self.parser.feed_data(head)
        except httptools.HttpParserError:
            self._refuse(INVALID)
            return False
        finally:
            self._is_repeating = False
            self._framing = []
        return True

    def _stop_parsing(self, refusal: Refusal) -> None:
        self._refusal = refusal
        raise _Refused

    def _refuse(self, refusal: Refusal) -> None:
        """Read no more requests, answer with the refusal once those before have their responses, and close."""
        self._owner.ended(refusal.reason)
        self._refusal = refusal
        self._lingering = True
        self._read_deadline_s = math.inf
        # Discarded from here on, so that it is noticed when the client leaves.
        self.flow.resume_reading()
        if self._phase is _Phase.BODY and not self._give_up_request():
            self.transport.close()
        elif not self._is_busy():
            self._answer_refusal()

    def _give_up_request(self) -> bool:
        """Drop the request whose body is being read. Return whether it can still be answered."""
        if self._running is not self.cycle:
            # It waits for those before, the newest first.
            self.pipeline.popleft()
            return True
        is_answered = self.cycle.response_started
        self._disconnect_running()
        self._running = None
        return not is_answered

    def _answer_refusal(self) -> None:
        if self._refusal is None or self.transport.is_closing():
            return
        self._owner.began_to_wait(self)
        self._read_deadline_s = self.loop.time() + _LINGER_S
        self.transport.write(self._response_to(self._refusal))
        if self.transport.can_write_eof():
            # The client may have gone, which the loop has not noticed yet.
            with contextlib.suppress(OSError):
                self.transport.write_eof()

    def _response_to(self, refusal: Refusal) -> bytes:
        fields = [
            *self.server_state.default_headers,
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", str(len(refusal.sentence)).encode()),
            (b"connection", b"close"),
        ]
        lines = [name + b": " + value + b"\r\n" for name, value in fields]
        return b"".join((STATUS_LINE[refusal.status], *lines, b"\r\n", refusal.sentence.encode()))

    def _discard_slowly(self) -> None:
        self.flow.pause_reading()
        if self._discarding is None:
            self._discarding = self.loop.call_later(_DISCARD_PAUSE_S, self._stop_discarding)

    def _stop_discarding(self) -> None:
        if self._discarding is not None:
            self._discarding.cancel()
            self._discarding = None
            self.flow.resume_reading()

    def _discard(self, data: bytes) -> None:
        self._discarded_bytes += len(data)
        if self._discarded_bytes > _LINGER_BYTES_MAX:
            self.transport.abort()

    def _end(self, reason: EndReason) -> None:
        self._owner.ended(reason)
        self.transport.close()

    def _read_within(self, limit_ms: int) -> None:
        self._read_deadline_s = self.loop.time() + limit_ms / 1000

    def _is_busy(self) -> bool:
        return bool(self.pipeline) or (self._running is not None and not self._running.response_complete)

    def _wait_if_idle(self) -> None:
        """Begin to wait for a request, once nothing of the last one is under way in either direction."""
        if self._is_busy():
            return
        self._owner.began_to_wait(self)
        if self._phase is _Phase.REQUEST:
            self._read_within(self._limits.idle_ms_max)

    def _disconnect_running(self) -> None:
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()
