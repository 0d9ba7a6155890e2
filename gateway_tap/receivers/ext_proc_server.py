"""A receiver for Envoy: the gRPC service of its external processing filter in observability mode, on a Unix socket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import grpc

from gateway_tap.receivers.ext_proc_messages import decode_part
from gateway_tap.receivers.loop_watch import LoopWatch
from gateway_tap.receivers.processed_exchange import ProcessedExchange
from gateway_tap.receivers.received_tap import ReceivedTap
from gateway_tap.unix_socket import place_for_socket
from schemas.errors import RefusedCapture, StartupError

_METHOD: Final = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
_STREAMS_MAX: Final = 16_384
"""How many requests may be in flight; each takes a few kilobytes beside what the tap's buffer bounds."""
_STREAMS_PER_CONNECTION_MAX: Final = 4_096
_MESSAGE_BYTES_MAX: Final = 16 * 1024 * 1024
"""A piece of a body is as long as Envoy's buffers, 1 MiB unless it is configured otherwise."""
_HANG_S: Final = 0.4
"""Envoy gives up a connection whose pings are not answered within 0.5 seconds (deploy/auditap_gateways/envoy)."""
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", _MESSAGE_BYTES_MAX),
    ("grpc.max_concurrent_streams", _STREAMS_PER_CONNECTION_MAX),
    # Envoy sends pings every second to notice a receiver that hangs. By default gRPC closes such connections.
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.so_reuseport", 0),
)


class ExtProcServer:
    """Takes the streams of all connections to a socket, one for each request, and hands the pairs to a tap. It never answers."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._streams = 0
        self._is_stopping = False
        self._loop_watch = LoopWatch(_HANG_S)

    async def run(self, tap: ReceivedTap) -> None:
        """Hand pairs to `tap` until cancelled. Raises StartupError if it cannot listen."""

        async def process(_: AsyncIterator[bytes], context: Any) -> None:
            await self._process(context, tap)

        server = grpc.aio.server(options=_OPTIONS)
        server.add_generic_rpc_handlers((_Handlers(process),))
        with place_for_socket(self._path, setting="collector.receivers") as place:
            try:
                server.add_insecure_port(f"unix:{place}")
                await server.start()
            except RuntimeError:
                raise StartupError(
                    f"cannot listen at {self._path}: choose another path in collector.receivers"
                ) from None
        try:
            await self._loop_watch.run()
        finally:
            self._is_stopping = True
            await server.stop(grace=None)
            self._path.unlink(missing_ok=True)

    async def _process(self, context: Any, tap: ReceivedTap) -> None:
        """Read one stream."""
        if self._streams >= _STREAMS_MAX:
            # Envoy passes the request on all the same. Its number is missing, so it becomes a gap.
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED)
        self._streams += 1
        exchange = ProcessedExchange(tap)
        try:
            # Once the response has ended, so does this: Envoy would keep the stream open for a while.
            while (data := await context.read()) is not grpc.aio.EOF and not exchange.take(decode_part(data)):
                pass
        except RefusedCapture:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT)
        finally:
            self._streams -= 1
            # When the receiver stops, the run drops what is pending as it closes.
            if not self._is_stopping:
                # A stream ends in the same way when the client leaves and when Envoy gives up the connection.
                exchange.end(is_cut=self._loop_watch.has_hung)


class _Handlers(grpc.GenericRpcHandler):  # type: ignore[misc]  # no types
    """Serves the one method. Messages stay bytes."""

    def __init__(self, process: Any) -> None:
        self._handler = grpc.stream_stream_rpc_method_handler(process)

    def service(self, handler_call_details: Any) -> Any:
        """Return the handler of a method; None if there is none."""
        return self._handler if handler_call_details.method == _METHOD else None
