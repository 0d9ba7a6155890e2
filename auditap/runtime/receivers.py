"""The receivers of a collector, one for each gateway that sends pairs by itself, to a socket or into a file."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

from auditap.runtime.lifecycle import run_until
from auditap.settings import ReceiverSettings, Settings
from gateway_tap.formats.caddy import CADDY
from gateway_tap.formats.haproxy import HAPROXY
from gateway_tap.formats.port import LineFormat
from gateway_tap.receivers.file_tail import FileTail
from gateway_tap.receivers.line_stream import LineStream
from gateway_tap.receivers.received_tap import ReceivedTap, Receiver
from redactor.config import RedactionConfig
from redactor.decode.headers import recordable_headers
from redactor.issuer_config import token_headers
from schemas.errors import StartupError

_LINE_FORMATS: Final[dict[str, LineFormat]] = {"haproxy": HAPROXY}


class Receivers:
    """All receivers of a process. Each is a tap that sends to the collector's Unix socket."""

    def __init__(self, settings: Settings, receivers: Sequence[ReceiverSettings]) -> None:
        """Make the receivers, and bind their sockets. Raises StartupError."""
        self._settings = settings
        self._receivers = [(each, receiver_of(each)) for each in receivers]

    async def run(self) -> None:
        """Receive until cancelled, or until a receiver fails; then send what is left, for two seconds at most.

        Raises StartupError.
        """
        async with AsyncExitStack() as stack:
            taps = []
            for receiver_settings, _ in self._receivers:
                taps.append(self._tap(receiver_settings))
                stack.push_async_callback(asyncio.to_thread, taps[-1].close)
            receiving = (receiver.run(tap) for (_, receiver), tap in zip(self._receivers, taps, strict=True))
            # The event is never set: this ends by cancellation or a failure, and no receiver runs on while the taps are closed.
            await run_until(asyncio.Event(), *receiving, *(tap.keep_watching() for tap in taps))

    def _tap(self, receiver: ReceiverSettings) -> ReceivedTap:
        of_request, of_response = headers_read(self._settings.redaction)
        try:
            return ReceivedTap(
                receiver.tap_id,
                collector_socket=self._settings.collector_socket,
                state_dir=self._settings.data_dir / "receivers",
                request_headers=of_request,
                response_headers=of_response,
            )
        except OSError:
            raise StartupError(
                f"{self._settings.data_dir / 'receivers'} cannot be used: make the folder writable for auditap"
            ) from None


def headers_read(redaction: RedactionConfig) -> tuple[frozenset[str], frozenset[str]]:
    """Return the headers of a request and of a response that the settings read, whatever they are called."""
    of_request, of_response = recordable_headers(redaction.headers)
    return of_request | token_headers(redaction.issuers), of_response


def receiver_of(receiver: ReceiverSettings) -> Receiver:
    """Return what takes pairs in this format. Raises StartupError."""
    if receiver.format == "envoy":
        return _envoy_receiver(receiver.path)
    if receiver.format == "caddy":
        return FileTail(receiver.path, CADDY)
    return LineStream(receiver.path, _LINE_FORMATS[receiver.format])


def _envoy_receiver(socket: Path) -> Receiver:
    try:
        from gateway_tap.receivers.ext_proc_server import ExtProcServer  # noqa: PLC0415  an extra
    except ImportError:
        raise StartupError(
            "A receiver for Envoy needs grpcio and protobuf: install auditap with its extra, as `auditap[envoy]`."
        ) from None
    return ExtProcServer(socket)
